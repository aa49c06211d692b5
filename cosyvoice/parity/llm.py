"""Parity of the language models: prefill and forced steps, sampled runs, text streaming, RAS; training is beside it.

The model is observed where rows enter it, so a check sees exactly what generation feeds and when. A recorded
tensor that nothing here reproduces becomes a failing row.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.model import LLMConfig, SamplingConfig, TransformerLMConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.sampling import (
    Draw,
    RASSampler,
    count_in_window,
    is_repeated,
    nucleus,
    ras_draw,
    softmax,
)
from cosyvoice.errors import GenerationError
from cosyvoice.llm.bistream import BistreamSession, Sampler
from cosyvoice.llm.kinds import speech_lm_class
from cosyvoice.llm.layout import Row as InputRow
from cosyvoice.llm.layout import SpecialTokens
from cosyvoice.llm.randomness import torch_multinomial
from cosyvoice.llm.speech_lm import SpeechLM
from cosyvoice.parity import llm_training
from cosyvoice.parity.golden import ParityFolder, Row
from cosyvoice.parity.llm_training import named
from cosyvoice.parity.report import Report
from cosyvoice.transformer.kv_cache import KVCache

LONGEST_SAMPLED_RUN = 60
"""Sampled runs were recorded up to this many tokens."""


@dataclass(frozen=True)
class Call:
    """One pass through the network: the rows fed, the rows already in the cache, the resulting scores."""

    rows: list[InputRow]
    past: int
    scores: NDArray[np.float32]


class LanguageModel(Protocol):
    """What is checked: an implementation of the language model that keeps a list of its calls."""

    config: LLMConfig | TransformerLMConfig
    end_of_prompt_id: int | None
    special: SpecialTokens
    calls: list[Call]

    def embedded(self, rows: Sequence[InputRow], speaker_embedding: NDArray[np.float32] | None) -> Any:
        """Embeddings [1, rows, channels] as they enter the decoder."""
        ...

    def generate(
        self,
        text: Sequence[int],
        sampler: Sampler,
        prompt_text: Sequence[int],
        prompt_speech_token: Sequence[int],
        speaker_embedding: NDArray[np.float32] | None,
    ) -> Iterator[int]:
        """Speech tokens of `text`."""
        ...

    def bistream(
        self, sampler: Sampler, prompt_text: Sequence[int], prompt_speech_token: Sequence[int]
    ) -> BistreamSession:
        """A session that takes text piece by piece."""
        ...


Topics = dict[str, Callable[[Report], None]]
"""What fills in the report of a topic, by its name."""


class Observed(SpeechLM):
    """A language model that keeps a list of its calls; to be inherited beside the class of one."""

    def __init__(self, config: Any, end_of_prompt_id: int | None) -> None:
        super().__init__(config, end_of_prompt_id)
        self.calls: list[Call] = []

    def feed(
        self, rows: Sequence[InputRow], cache: KVCache, speaker_embedding: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        past = cache.length
        scores = super().feed(rows, cache, speaker_embedding)
        self.calls.append(Call(list(rows), past, scores.copy()))
        return scores

    @torch.inference_mode()
    def embedded(self, rows: Sequence[InputRow], speaker_embedding: NDArray[np.float32] | None) -> torch.Tensor:
        """See `LanguageModel`."""
        return self.embed_rows(rows, None if speaker_embedding is None else torch.tensor(speaker_embedding))


def load_llm(folder: ParityFolder, generation: str, **overrides: Any) -> Any:
    """The language model of a released directory, observed; `overrides` replace fields of its configuration."""
    directory = folder.model_dir(generation)
    config = read_model_config(directory)
    kind = speech_lm_class(config.llm)
    observed = type(f"Observed{kind.__name__}", (Observed, kind), {})
    model = observed(config.llm.model_copy(update=overrides), config.end_of_prompt_id)
    model.load_state_dict(load_state_dict(directory / "llm.pt"), strict=True)
    return model.eval()


def check(folder: ParityFolder, generation: str = "v3") -> Iterator[Row]:
    """Rows of the topics `vN_llm`, `vN_llm_train`, `vN_bistream` and `ras`, as far as the folder has them."""
    yield from check_topics(folder, reference_topics(folder, generation))


def reference_topics(folder: ParityFolder, generation: str) -> Topics:
    """Checks of the reference's language model, training included."""
    load = partial(load_llm, folder, generation)
    topics = speaking_topics(generation, load)
    speaking = topics[f"{generation}_llm"]

    def speaking_and_text(report: Report) -> None:
        speaking(report)
        llm_training.check_text_encoder(load(), report)

    topics[f"{generation}_llm"] = speaking_and_text
    topics[f"{generation}_llm_train"] = lambda report: llm_training.check_training(load(), report)
    return topics


def speaking_topics(generation: str, load: Callable[..., LanguageModel]) -> Topics:
    """Checks of everything that takes no training; `load` takes changes to the configuration as keywords."""
    return {
        f"{generation}_llm": partial(_decoding, load),
        f"{generation}_bistream": partial(_streaming, load),
        "ras": _sampling,
    }


def check_topics(folder: ParityFolder, topics: Topics, left_out: Container[str] = ()) -> Iterator[Row]:
    """Rows of those `topics` that the folder has, without recorded tensors that are `left_out`."""
    for name, check_topic in topics.items():
        if folder.has(name):
            report = Report(folder.topic(name))
            check_topic(report)
            yield from report.finish(left_out)


def _decoding(load: Callable[..., LanguageModel], report: Report) -> None:
    ratios = {"min_token_text_ratio": "min_ratio", "max_token_text_ratio": "max_ratio"}
    recorded = {ours: report.options[theirs] for ours, theirs in ratios.items() if theirs in report.options}
    model = load(**recorded)
    report.settings(
        speech_token_size=model.config.speech_token_size,
        eop_id=model.end_of_prompt_id,
        sampling=model.config.sampling.model_dump(),
    )
    for case in [name.removesuffix(".forced") for name in report.topic.tensors if name.endswith(".forced")]:
        _decoding_case(model, case, report)


def _decoding_case(model: LanguageModel, case: str, report: Report) -> None:
    embeddings = report.input(f"{case}.embedding")
    speaker = embeddings[0] if len(embeddings) else None
    text = report.ids(f"{case}.text")
    prompt = (report.ids(f"{case}.prompt_text"), report.ids(f"{case}.prompt_speech_token"))
    forced = chain(report.ids(f"{case}.forced"), [model.special.eos])
    blocked = []

    def force(scores: NDArray[np.float32], history: Sequence[int]) -> int:
        blocked.append(bool(np.isneginf(scores[model.config.speech_token_size])))
        return next(forced)

    model.calls.clear()
    for _ in model.generate(text, force, *prompt, speaker):
        pass
    report.compare(f"{case}.lm_input", model.embedded(model.calls[0].rows, speaker))
    report.compare(f"{case}.logp", np.stack([call.scores for call in model.calls]))
    report.exact(f"{case}.eos_masked", blocked)
    report.settings(**{f"{case}_n_positions_fed": [len(call.rows) for call in model.calls]})

    if f"{case}.sampled" in report.topic:
        seed = report.options[f"{case}_sampled_manual_seed"]
        report.exact(f"{case}.sampled", sampled_run(model, seed, text, *prompt, speaker))


def sampled_run(
    model: LanguageModel,
    seed: int,
    text: Sequence[int],
    prompt_text: Sequence[int],
    prompt_speech_token: Sequence[int],
    speaker_embedding: NDArray[np.float32] | None,
) -> list[int]:
    """Tokens drawn with a generator of PyTorch that begins at `seed`, as far as they are recorded."""
    sampler = RASSampler(model.config.sampling, torch_multinomial(torch.Generator().manual_seed(seed)))
    tokens = model.generate(text, sampler, prompt_text, prompt_speech_token, speaker_embedding)
    return list(islice(tokens, LONGEST_SAMPLED_RUN))


def _streaming(load: Callable[..., LanguageModel], report: Report) -> None:
    model = load()
    report.settings(
        mix_ratio=getattr(model.config, "mix_ratio", None),
        fill_token=model.special.fill,
        eos_token=model.special.eos,
        speech_token_size=model.config.speech_token_size,
        eop_id=model.end_of_prompt_id,
    )
    for case, options in report.options.items():
        if isinstance(options, dict) and "text_chunks" in options:
            _streaming_case(model, case, options, report)


def _streaming_case(model: LanguageModel, case: str, options: dict[str, Any], report: Report) -> None:
    plan = chain(options["sampler_plan"], [model.special.eos])
    prompt = report.ids(f"{case}.prompt_text"), report.ids(f"{case}.prompt_speech_token")
    model.calls.clear()
    yielded: list[int] = []
    failed = False
    try:
        session = model.bistream(lambda scores, history: next(plan), *prompt)
        for chunk in options["text_chunks"]:
            yielded.extend(session.push(chunk))
        yielded.extend(session.finish())
    except GenerationError:
        failed = True
    report.exact_option(case, "error", failed, bool)
    report.exact(f"{case}.yielded", yielded)
    fed = [[named(row, model.special) for row in call.rows] for call in model.calls]
    report.exact_option(case, "calls", fed)
    report.exact_option(case, "past_len", [call.past for call in model.calls])
    if f"{case}.logp" in report.topic:
        report.compare(f"{case}.logp", np.stack([call.scores for call in model.calls]))


def _sampling(report: Report) -> None:
    report.inputs.add("logp")
    for index, (case, scores) in enumerate(zip(report.options["cases"], report.topic["logp"], strict=True)):
        config = SamplingConfig(**{name: case[name] for name in SamplingConfig.model_fields})
        history = case["history"]
        candidates = nucleus(softmax(scores), config.top_p, config.top_k)
        multinomial = torch_multinomial(torch.Generator().manual_seed(case["manual_seed"]))
        draw: Draw = ras_draw(scores, history, config, multinomial)
        ours = {
            "candidates": candidates.ids,
            "count_in_window": [count_in_window(int(i), history, config.win_size) for i in candidates.ids],
            "fallback_if_drawn": [is_repeated(int(i), history, config) for i in candidates.ids],
            "result": draw.token,
            "fell_back": draw.fell_back,
        }
        for name, value in ours.items():
            report.exact(f"case{index}.{name}", value, case[name])
        probabilities = {
            "probs_raw": candidates.probabilities,
            "probs_renorm": candidates.probabilities / candidates.probabilities.sum(),
        }
        for name, value in probabilities.items():
            report.compare(f"case{index}.{name}", value, recorded=np.array(case[name]))
        given = {*SamplingConfig.model_fields, "history", "manual_seed"}
        for name in case.keys() - ours.keys() - probabilities.keys() - given:
            report.rows[f"case{index}.{name}"] = Row("ras", f"case{index}.{name}", float("inf"), 0.0, "not reproduced")
