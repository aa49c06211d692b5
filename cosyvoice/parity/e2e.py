"""Parity of the whole system: prompt frontend, speech from given tokens, whole and streamed.

Everything goes the way of a user's request, through the pipeline's session and the stages of the implementation
that is checked. Only the language model is replaced, by one whose scores leave no choice but the recorded
speech tokens, and what keeps real speech in order (quality guard, trimming of pieces) is turned off. Flow and
vocoder are observed. A recorded tensor that nothing here reproduces becomes a failing row.

The phase of the source sums F0 over the utterance, and F0 follows the mel down to its last bit. Even another
processor's rounding of the mel (1e-6) can move the waveform by more than 1e-3 after a few seconds. Where it does,
the call of the vocoder is judged by its own: our mel is compared with the recorded one, which then goes in. How far
the waveform from our own mel is from the record stands in the note of such a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.audio.io import read_audio
from cosyvoice.audio.mel import LogMel
from cosyvoice.audio.resample import sinc_resample
from cosyvoice.checkpoint.released import load_spk2info
from cosyvoice.config.model import SamplingConfig
from cosyvoice.engine.guard import Guard, LengthLimits
from cosyvoice.engine.joining import Joining
from cosyvoice.engine.models import CosyVoiceModel, Prompt, ReferenceFeatures, model_of
from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE
from cosyvoice.engine.session import Request, Session
from cosyvoice.engine.speech import Chunk
from cosyvoice.engine.speech import Report as SpeechReport
from cosyvoice.engine.stages import FloatArray, FlowInput
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.errors import ModelError
from cosyvoice.parity.golden import F0_TOLERANCE, ParityFolder, Row, Topic
from cosyvoice.parity.observation import Calls, ForcedLLM, source_tolerance
from cosyvoice.parity.observed_model import Load, Seeds, load_reference
from cosyvoice.parity.report import Report
from cosyvoice.voice.voice import Voice

PROMPT_WAV, SOURCE_WAV = "prompt_24k.wav", "source_16k.wav"
"""Where the record does not name its recordings."""

_CASE = re.compile(r"(zero_shot|cross_lingual|instruct2|sft|vc)(?:_speed(\d+(?:\.\d+)?))?(_stream)?")
_DISTINCT = "distinct_tokens_"
_ANY_LENGTH = LengthLimits(shortest=0.0, longest=1.0, slack_seconds=1e6)
_NO_GUARD = Guard(
    retries=0,
    length=_ANY_LENGTH,
    guessed_length=_ANY_LENGTH,
    longest_period=0,
    silence_seconds=1e6,
    silence_level=0.0,
)
_NO_TRIMMING = Joining(silence=0.0, head=0.0, tail=0.0, fade=0.0, sentence_pause=0.0, clause_pause=0.0)


def check(folder: ParityFolder, generation: str = "v3", load: Load = load_reference) -> Iterator[Row]:
    """One row for every tensor of the topic `vN_e2e`, and for the calls and settings that it describes."""
    report = Report(folder.topic(f"{generation}_e2e"))
    fill(report, folder, generation, load)
    yield from report.finish()


def fill(report: Report, folder: ParityFolder, generation: str, load: Load = load_reference) -> None:
    """Compare everything that the topic of `report` tells of."""
    report.inputs.add("forced_tokens")
    setup = _Setup.load(folder, generation, report.topic, load)
    _frontend(setup, report)
    for case, options in report.options.items():
        if isinstance(options, dict) and "calls" in options and (match := _CASE.fullmatch(case)):
            _speech(setup, report, case, *match.groups())


@dataclass
class _Setup:
    """The loaded model and what is made of the recordings."""

    model: CosyVoiceModel
    calls: Calls
    options: dict[str, Any]
    forced: list[int]
    model_dir: Path
    prompt_wav: Path
    source_wav: Path
    reference: ReferenceFeatures
    """Of the prompt recording, tokens and mel cut to each other."""

    @classmethod
    def load(cls, folder: ParityFolder, generation: str, topic: Topic, load: Load) -> _Setup:
        model_dir = folder.model_dir(generation)
        calls, options = Calls(), topic.meta["options"]
        model = load(model_dir, calls, Seeds(**options.get("seeds", {})))
        wavs = [name.removeprefix(_DISTINCT) for name in options if name.startswith(_DISTINCT)]
        prompt_wav = next((name for name in wavs if name.startswith("prompt")), PROMPT_WAV)
        source_wav = next((name for name in wavs if name.startswith("source")), SOURCE_WAV)
        prompt = folder.root / "wav" / prompt_wav
        return cls(
            model,
            calls,
            options,
            topic["forced_tokens"].tolist(),
            model_dir,
            prompt,
            folder.root / "wav" / source_wav,
            model.encode_reference(*read_audio(prompt)),
        )

    def speech_tokens(self, wav: Path) -> NDArray[np.int32]:
        """All tokens of a recording."""
        samples, rate = read_audio(wav)
        return self.model.stages.speech_tokenizer(sinc_resample(samples, rate, PROMPT_SAMPLE_RATE))

    def flow_input(self, mode: str) -> FlowInput:
        """The conditions of the flow in a mode."""
        features = self.reference
        if mode == "sft":
            empty = np.zeros((0, self.model.config.flow.mel_dim), np.float32)
            return FlowInput(np.zeros(0, np.int32), empty, self.built_in_speaker())
        if mode == "vc":
            samples, rate = read_audio(self.prompt_wav)
            options = self.model.config.mel
            mel = LogMel(options)(sinc_resample(samples, rate, self.model.config.prompt_mel_rate))
            return FlowInput(self.speech_tokens(self.prompt_wav), mel, features.speaker_embedding)
        return FlowInput(features.speech_token, features.mel, features.speaker_embedding)

    def built_in_speaker(self) -> FloatArray:
        """Embedding of the first speaker that the model brings."""
        path = self.model_dir / "spk2info.pt"
        for entries in load_spk2info(path).values():
            if "embedding" in entries:
                return entries["embedding"].reshape(-1).numpy()
        raise ModelError(f"{path} holds no speaker with an embedding; copy the complete model directory")

    def prompt(self, mode: str) -> Prompt:
        """The conditions of an utterance in a mode."""
        text = self.model.stages.text.encode_prompt(self.options["prompt_text"])
        tokens = self.reference.speech_token.tolist()
        # The mode decides what reaches the language model, which here says what it was told to anyway.
        return Prompt(text, tokens if mode == "zero_shot" else (), self.flow_input(mode))

    def tokens(self, mode: str, streamed: bool) -> list[int]:
        """What the language model is to say; voice conversion takes the tokens of its source instead."""
        if mode == "vc":
            return self.speech_tokens(self.source_wav).tolist()
        return self.forced if streamed else self.forced[: self.options["n_forced_non_stream"]]

    def forced_model(self, mode: str, tokens: Sequence[int]) -> tuple[CosyVoiceModel, ForcedLLM]:
        """The model with a language model that says `tokens`."""
        config = self.model.config
        llm = ForcedLLM(tokens, self.model.stop_ids[-1], config.llm.speech_token_size + config.llm.speech_extra_tokens)
        unlimited = config.llm.model_copy(
            update={
                "sampling": SamplingConfig(top_k=1, win_size=1, tau_r=2.0),
                "min_token_text_ratio": 0.0,
                "max_token_text_ratio": 1e6,
            }
        )
        update: dict[str, Any] = {"llm": unlimited}
        if mode == "vc":
            update["silent_tokens"] = ()
        model = model_of(config.model_copy(update=update), replace(self.model.stages, llm=llm))
        return model, llm


def _frontend(setup: _Setup, report: Report) -> None:
    """What is made of the recordings and texts, and what of it each mode uses."""
    features, options = setup.reference, setup.options
    tokens, mel, embedding = features.speech_token, features.mel, features.speaker_embedding
    text = setup.model.stages.text
    ids = {
        "prompt_text": text.encode_prompt(options["prompt_text"]),
        "text": text.encode(text.split(options["tts_text"])[0]),
        "llm_prompt_speech_token": tokens,
        "flow_prompt_speech_token": tokens,
    }
    conversion = setup.flow_input("vc")
    source = setup.tokens("vc", streamed=False)
    for name, values in ids.items():
        _with_length(report.exact, f"frontend.{name}", values)
    _with_length(report.compare, "frontend.prompt_speech_feat", mel)
    for name in ("llm_embedding", "flow_embedding"):
        report.compare(f"frontend.{name}", embedding[None])
    _with_length(report.exact, "frontend_vc.source_speech_token", source)
    _with_length(report.exact, "frontend_vc.flow_prompt_speech_token", conversion.prompt_token)
    _with_length(report.compare, "frontend_vc.prompt_speech_feat", conversion.prompt_mel)
    report.compare("frontend_vc.flow_embedding", conversion.speaker_embedding[None])
    counted = {setup.prompt_wav.name: conversion.prompt_token, setup.source_wav.name: np.asarray(source)}
    for name in list(options):
        if (wav := name.removeprefix(_DISTINCT)) in counted:
            report.settings(**{name: len(np.unique(counted[wav]))})
    if "frontend.prompt_speech_feat_if_22050" in report.topic:
        samples, rate = read_audio(setup.prompt_wav)
        right = setup.model.config.mel
        report.compare(
            "frontend.prompt_speech_feat_if_22050", LogMel(right)(sinc_resample(samples, rate, right.sample_rate))[None]
        )
    for mode in options.get("frontend_keys", {}):
        if mode != "vc":
            _conditions(setup, report, mode)


def _with_length(check_rows: Callable[[str, Any], None], name: str, values: Any) -> None:
    """Rows of a recorded sequence [1, time, ...] and of its length."""
    check_rows(name, np.asarray(values)[None])
    check_rows(f"{name}_len", np.asarray([len(values)]))


def _conditions(setup: _Setup, report: Report, mode: str) -> None:
    """Whether a mode gives tokens of the reference to language model and flow, and the former the speaker."""
    features, built_in = setup.reference, mode in ("sft", "instruct")
    nothing = FlowInput(np.zeros(0, np.int32), features.mel[:0], features.speaker_embedding)
    conditions = nothing if built_in else setup.flow_input(mode)
    voice = Voice(
        "reference",
        conditions.prompt_token,
        conditions.prompt_mel.astype(np.float16),
        conditions.speaker_embedding,
        transcript=setup.options["prompt_text"] if mode == "zero_shot" else "",
    )
    # Whether a model follows instructions may be told by its place, which for a record is another one.
    told = setup.model.config.model_copy(update={"follows_instructions": True})
    prompt = model_of(told, setup.model.stages).prompt(voice, "slowly" if mode.startswith("instruct") else None)
    conditions_of = {
        "llm_prompt_speech_token": len(prompt.speech_token) > 0,
        "flow_prompt_speech_token": len(prompt.flow.prompt_token) > 0,
        "llm_embedding": prompt.speaker_embedding is not None,
    }
    used = [name for name, is_used in conditions_of.items() if is_used]
    report.exact_option("frontend_keys", mode, used, lambda keys: [name for name in conditions_of if name in keys])


def _speech(
    setup: _Setup,
    report: Report,
    case: str,
    mode: str,
    speed: str | None,
    stream: str | None,
) -> None:
    """One request: the samples of each chunk, and every call of flow and vocoder that they took."""
    model, llm = setup.forced_model(mode, setup.tokens(mode, streamed=bool(stream)))
    prompt = setup.prompt(mode)
    request = Request(
        pieces=model.stages.text.split(setup.options["tts_text"]),
        prompt=prompt,
        seed=0,
        speed=float(speed or 1),
        streaming=_streaming(model) if stream else None,
        guard=_NO_GUARD,
        joining=_NO_TRIMMING,
    )
    setup.calls.begin(report.topic, case)
    chunks = list(Session(model, request, SpeechReport(seed=0, sample_rate=model.sample_rate)).run())
    flow, hift = setup.calls.flow, setup.calls.hift

    if mode != "vc":
        seen = llm.inputs[0]
        for name, ids in (("text", seen.text), ("prompt_text", seen.prompt_text)):
            recorded = report.topic.tensors.get(f"frontend.{name}")
            if recorded is not None:
                report.exact(f"{case}.llm.{name}", list(ids), recorded.ravel())
    for index, chunk in enumerate(chunks):
        other = _of_recorded_mel(hift, index, chunk)
        report.compare_either(f"{case}.out{index}", chunk.samples[None], other, F0_TOLERANCE)
    for index, call in enumerate(flow):
        report.exact(f"{case}.flow{index}.token", call["token"])
        if "noise" in call:
            report.compare(f"{case}.flow{index}.noise", call["noise"])
        report.compare_new(f"{case}.flow{index}.mel", call["mel"], call["first"])
    for index, call in enumerate(hift):
        report.compare(f"{case}.hift{index}.mel", call["mel"])
        tolerance = source_tolerance([earlier["source"] for earlier in hift[: index + 1]])
        report.compare(f"{case}.hift{index}.source", call["source"], tolerance)
    report.exact_option(case, "n_chunks", len(chunks))
    report.exact_option(case, "chunk_samples", [len(chunk.samples) for chunk in chunks])
    report.exact_option(case, "calls", [*map(_flow_call, flow), *map(_hift_call, hift)])
    if stream and "token_hop_len_after_stream" in setup.options:
        unfinished = sum(not call["finalize"] for call in flow)
        hop = _hop_after(model, len(prompt.flow.prompt_token), unfinished)
        report.settings(token_hop_len_after_stream=hop)


def _streaming(model: CosyVoiceModel) -> StreamingConfig:
    """The chunks of the released command line."""
    return replace(model.default_streaming, mode="released")


def _of_recorded_mel(hift: Sequence[dict[str, Any]], index: int, chunk: Chunk) -> FloatArray | None:
    """The samples of a chunk that the vocoder made of the recorded mel."""
    if index >= len(hift):
        return None
    samples: FloatArray = hift[index]["samples"]
    return samples[:, samples.shape[1] - len(chunk.samples) :]


def _flow_call(call: dict[str, Any]) -> dict[str, Any]:
    return {
        "call": "flow",
        "n_token": call["token"].shape[1],
        "n_mel": call["mel"].shape[2],
        "streaming": call.get("streaming"),
        "finalize": call.get("finalize"),
    }


def _hift_call(call: dict[str, Any]) -> dict[str, Any]:
    return {
        "call": "hift",
        "n_mel": call["mel"].shape[2],
        "n_wav": call["samples"].shape[1],
        "finalize": call.get("finalize"),
    }


def _hop_after(model: CosyVoiceModel, prompt_tokens: int, chunks: int) -> int:
    """The hop that the schedule has come to after so many chunks."""
    schedule = model.schedule(_streaming(model), prompt_tokens)
    given = model.lookahead
    for _ in range(chunks):
        given = schedule.needed
        schedule.advance()
    return schedule.needed - given
