"""Parity of the language model of V3: prefill and forced steps, sampled runs, text streaming, training, RAS.

The model is observed where rows enter it, so a check sees exactly what generation feeds and when. A recorded
tensor that nothing here reproduces becomes a failing row.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.model import LLMConfig, SamplingConfig
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
from cosyvoice.errors import GenerationError, ModelError
from cosyvoice.llm.bistream import BistreamSession, Sampler
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.llm.kv_cache import KVCache
from cosyvoice.llm.layout import Kind, SpecialTokens, choose_bistream
from cosyvoice.llm.layout import Row as InputRow
from cosyvoice.llm.randomness import torch_multinomial
from cosyvoice.parity.golden import ParityFolder, Row
from cosyvoice.parity.report import Report

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

    config: LLMConfig
    end_of_prompt_id: int | None
    special: SpecialTokens
    calls: list[Call]

    def embed_rows(self, rows: Sequence[InputRow]) -> Any:
        """Embeddings [1, rows, channels] as they enter the network."""
        ...

    def generate(
        self, text: Sequence[int], sampler: Sampler, prompt_text: Sequence[int], prompt_speech_token: Sequence[int]
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


class ObservedLM(CosyVoice3LM):
    """The language model, keeping a list of its calls."""

    def __init__(self, config: LLMConfig, end_of_prompt_id: int | None) -> None:
        super().__init__(config, end_of_prompt_id)
        self.calls: list[Call] = []

    def feed(self, rows: Sequence[InputRow], cache: KVCache) -> NDArray[np.float32]:
        past = cache.length
        scores = super().feed(rows, cache)
        self.calls.append(Call(list(rows), past, scores.copy()))
        return scores


def load_llm(folder: ParityFolder, generation: str, **overrides: Any) -> ObservedLM:
    """The language model of a released directory; `overrides` replace fields of its configuration."""
    if generation != "v3":
        raise ModelError(f"the language model of {generation} cannot be checked; there is one for v3 only")
    directory = folder.model_dir(generation)
    config = read_model_config(directory)
    model = ObservedLM(config.llm.model_copy(update=overrides), config.end_of_prompt_id)
    model.load_state_dict(load_state_dict(directory / "llm.pt"), strict=True)
    return model.eval()


def check(folder: ParityFolder, generation: str = "v3") -> Iterator[Row]:
    """Rows of the topics `vN_llm`, `vN_llm_train`, `vN_bistream` and `ras`, as far as the folder has them."""
    topics = speaking_topics(generation, partial(load_llm, folder, generation))
    topics[f"{generation}_llm_train"] = partial(_training, folder, generation)
    yield from check_topics(folder, topics)


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
    for case in [name.removesuffix(".lm_input") for name in report.topic.tensors if name.endswith(".lm_input")]:
        _decoding_case(model, case, report)


def _decoding_case(model: LanguageModel, case: str, report: Report) -> None:
    report.inputs.add(f"{case}.embedding")  # this generation does without the speaker embedding
    text = report.ids(f"{case}.text")
    prompt = (report.ids(f"{case}.prompt_text"), report.ids(f"{case}.prompt_speech_token"))
    forced = chain(report.ids(f"{case}.forced"), [model.special.eos])
    blocked = []

    def force(scores: NDArray[np.float32], history: Sequence[int]) -> int:
        blocked.append(bool(np.isneginf(scores[model.config.speech_token_size])))
        return next(forced)

    model.calls.clear()
    for _ in model.generate(text, force, *prompt):
        pass
    report.compare(f"{case}.lm_input", model.embed_rows(model.calls[0].rows))
    report.compare(f"{case}.logp", np.stack([call.scores for call in model.calls]))
    report.exact(f"{case}.eos_masked", blocked)
    report.settings(**{f"{case}_n_positions_fed": [len(call.rows) for call in model.calls]})

    if f"{case}.sampled" in report.topic:
        generator = torch.Generator().manual_seed(report.options[f"{case}_sampled_manual_seed"])
        sampler = RASSampler(model.config.sampling, torch_multinomial(generator))
        sampled = islice(model.generate(text, sampler, *prompt), LONGEST_SAMPLED_RUN)
        report.exact(f"{case}.sampled", list(sampled))


def _training(folder: ParityFolder, generation: str, report: Report) -> None:
    model = load_llm(folder, generation)
    report.settings(
        lsm_weight=model.config.label_smoothing,
        length_normalized_loss=model.config.length_normalized_loss,
        mix_ratio=model.config.mix_ratio,
    )
    names = [name for name in report.topic.tensors if name.startswith("batch.")]
    report.inputs.update(names)
    batch = {name.removeprefix("batch."): torch.from_numpy(report.topic[name]) for name in names}
    batch.pop("embedding", None)
    lengths = batch["text_token_len"].tolist(), batch["speech_token_len"].tolist()
    for case, uniforms in report.options["random_values"].items():
        # One number was recorded for a batch whose items all drew the same.
        drawn = list(islice(cycle(uniforms), len(lengths[0])))
        flags = choose_bistream(*lengths, model.config.mix_ratio, drawn)
        with torch.inference_mode():
            output = model(**batch, use_bistream=flags)
            packed = output.batch
            report.compare(f"{case}.lm_input", model.embed(packed.kinds, packed.ids))
            logits = model.llm_decoder(output.hidden)
        report.exact(f"{case}.lm_input_len", packed.lengths)
        report.exact(f"{case}.lm_target", packed.targets)
        report.compare(f"{case}.loss", output.loss)
        report.compare(f"{case}.acc", output.accuracy)
        if f"{case}.logits" in report.topic:
            # What a padded position computes is nobody's concern.
            real = (packed.kinds != Kind.PAD).numpy()
            report.compare(f"{case}.logits", logits.numpy()[real], recorded=report.topic[f"{case}.logits"][real])
        layout = [
            [_named(InputRow(Kind(kind), id_), model.special) for kind, id_ in zip(kinds, ids, strict=True) if kind]
            for kinds, ids in zip(packed.kinds.tolist(), packed.ids.tolist(), strict=True)
        ]
        report.settings(**{f"{case}_layout": layout})


def _streaming(load: Callable[..., LanguageModel], report: Report) -> None:
    model = load()
    report.settings(
        mix_ratio=model.config.mix_ratio,
        fill_token=model.special.fill,
        eos_token=model.special.eos,
        speech_token_size=model.config.speech_token_size,
        eop_id=model.end_of_prompt_id,
    )
    for case, options in report.options.items():
        if isinstance(options, dict) and "calls" in options:
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
    report.exact(f"{case}.error", failed, options.get("error") is not None)
    report.exact(f"{case}.yielded", yielded)
    fed = [[_named(row, model.special) for row in call.rows] for call in model.calls]
    report.exact(f"{case}.calls", fed, options["calls"])
    report.exact(f"{case}.past_len", [call.past for call in model.calls], options["past_len"])
    if f"{case}.logp" in report.topic:
        report.compare(f"{case}.logp", np.stack([call.scores for call in model.calls]))


def _named(row: InputRow, special: SpecialTokens) -> list[Any]:
    """A row as the recordings write it: `[kind, id]`, special rows by their name."""
    if row.kind != Kind.SPECIAL:
        return [row.kind.name.lower(), row.id]
    return ["sos" if row.id == special.sos else "task", row.id]


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
