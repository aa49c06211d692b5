"""Recording the reference on any model in the released layout, to be checked later with any engine.

The plan of a record is made of the model: texts through its tokenizer, a reference through its prompt encoders, speech
tokens at random, lengths of chunks that its geometry asks for. The checks then compute what the plan names and leave it
in the record.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.audio.io import read_audio, write_audio
from cosyvoice.checkpoint.released import load_spk2info
from cosyvoice.config.model import MaskedDiffConfig
from cosyvoice.config.released import detect_generation
from cosyvoice.engine.models import CosyVoiceModel, Prompt, ReferenceFeatures
from cosyvoice.errors import ConfigError, GenerationError, ModelError, OutputError
from cosyvoice.parity import e2e, hift
from cosyvoice.parity.flow import load_flow
from cosyvoice.parity.flow_cases import check_cases
from cosyvoice.parity.golden import ParityFolder, Topic
from cosyvoice.parity.llm import load_llm, reference_topics, sampled_run
from cosyvoice.parity.llm_training import ENCODED_TEXT
from cosyvoice.parity.recording import Recording, planned, write_topic
from cosyvoice.reference.loading import load_reference_model
from cosyvoice.voice.checks import read_reference
from cosyvoice.voice.voice import Voice

Progress = Callable[[str], None]
"""Called with what is recorded next."""
Arrays = dict[str, NDArray[Any]]

TEXT = "Nothing is so practical as a good theory, and a clear voice."
TRANSCRIPT = "The sun was warm."
"""What the generated reference is said to say."""
INSTRUCTION = "Speak slowly."
FORCED_TOKENS = 12
"""Speech tokens that the language model is told to continue with."""
PROMPT_TOKENS, NEW_TOKENS = 20, 30
SEEDS = range(1001, 1101)
"""Of sampled runs: the first with which the model keeps to speech tokens, which one with random weights often does
not."""
VOCODER_FRAMES = 24
_LAYERS = ("conv_pre", "ups", "source_downs", "source_resblocks", "conv_post")
"""Of the vocoder, whose outputs are recorded."""


def record(
    model_dir: Path,
    out: Path,
    prompt: Path | None = None,
    transcript: str = "",
    progress: Progress | None = None,
    seed: int = 1,
) -> dict[str, int]:
    """Record every stage of the reference on the model in `model_dir` into the parity folder `out`.

    Args:
        model_dir: in the released layout; the folder refers to it and does not copy it.
        out: is made where there is none; may hold records of other generations.
        prompt: a recording of 1 to 30 s as the reference; None: a tone that is generated.
        transcript: what it says; needed with `prompt`.
        progress: told what is recorded next.
        seed: of the random speech tokens.

    Returns the number of tensors of each topic.

    Raises:
        ModelError: the directory is incomplete, damaged, or in another layout.
        AudioError: the recording cannot be used.
        ConfigError: a recording without its transcript.
        OutputError: `out` holds records of this generation already, or cannot be written.
    """
    model_dir, out, say = Path(model_dir), Path(out), progress or (lambda _: None)
    generation = detect_generation(model_dir) if model_dir.is_dir() else None
    if generation is None:
        raise ModelError(
            f"{model_dir} is no model directory in the released layout; make one with 'cosyvoice convert --to pt'"
        )
    if (out.exists() and not out.is_dir()) or any(out.glob(f"golden/{generation}_*")) or (out / generation).exists():
        raise OutputError(f"{out} holds records of {generation} already; choose another folder")
    if prompt is not None and not transcript.strip():
        raise ConfigError("a recording needs its transcript; say what the recording of --prompt says")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".recording-", dir=out) as directory:
            folder = _folder(Path(directory), model_dir, generation)
            wavs = _write_recordings(folder, generation, prompt)
            say("encoding the reference")
            plan = _Plan.of(folder, generation, wavs, transcript.strip() or TRANSCRIPT, seed)
            topics = []
            for name, fill in (("llm", _llm), ("flow", _flow), ("hift", _hift), ("e2e", _e2e)):
                say(f"{generation} {name}")
                topics += fill(plan)
            for topic in topics:
                write_topic(topic, folder.root / "golden", generation)
            _move(folder.root, out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}); choose another place") from None
    return {topic.name: len(topic.tensors) for topic in topics}


def _folder(root: Path, model_dir: Path, generation: str) -> ParityFolder:
    """An empty parity folder that refers to the model."""
    for name in ("golden", "wav", generation):
        (root / name).mkdir()
    place = root / generation / "model"
    try:
        place.symlink_to(model_dir.resolve(), target_is_directory=True)
    except OSError:
        # Some systems let only their administrators make links.
        place.write_text(str(model_dir.resolve()) + "\n", encoding="utf-8")
    return ParityFolder(root)


def _write_recordings(folder: ParityFolder, generation: str, prompt: Path | None) -> tuple[str, str]:
    """Put a reference and a source of voice conversion into `wav`; their names."""
    reference = f"prompt_{generation}{prompt.suffix if prompt else '.wav'}"
    source = f"source_{generation}.wav"
    if prompt is None:
        write_audio(folder.root / "wav" / reference, tone(1.64, 24000, 140.0), 24000)
    else:
        read_reference(prompt)
        shutil.copyfile(prompt, folder.root / "wav" / reference)
    write_audio(folder.root / "wav" / source, tone(1.0, 16000, 210.0), 16000)
    return reference, source


def tone(seconds: float, rate: int, pitch: float) -> NDArray[np.float32]:
    """Mono samples [time]: harmonics of a gliding `pitch` in Hz, in syllables of 0.2 s, with a little noise."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * (pitch * t + 12.0 * np.sin(2 * np.pi * 0.9 * t))
    voiced = sum(np.sin(h * phase + h) / h for h in range(1, 12))
    noise = np.random.default_rng(0).standard_normal(len(t)) * 0.05
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 5 * t)
    samples = (voiced / np.abs(voiced).max() + noise) * syllables
    return (0.3 * samples / np.abs(samples).max()).astype(np.float32)


@dataclass
class _Plan:
    """The model, what it makes of the texts and recordings, and what else goes into the record."""

    folder: ParityFolder
    generation: str
    wavs: tuple[str, str]
    model: CosyVoiceModel
    reference: ReferenceFeatures
    transcript: str
    random: np.random.Generator

    @classmethod
    def of(cls, folder: ParityFolder, generation: str, wavs: tuple[str, str], transcript: str, seed: int) -> _Plan:
        model = load_reference_model(folder.model_dir(generation), compat="released")
        reference = model.encode_reference(*read_audio(folder.root / "wav" / wavs[0]))
        return cls(folder, generation, wavs, model, reference, transcript, np.random.default_rng(seed))

    def speech_tokens(self, count: int) -> NDArray[np.int64]:
        """Speech tokens [count] at random."""
        return self.random.integers(0, self.model.config.llm.speech_token_size, count)

    def prompt(self, transcript: str = "", instruct: str | None = None) -> Prompt:
        """What the language model reads before a text."""
        features = self.reference
        mel = features.mel.astype(np.float16)
        voice = Voice("reference", features.speech_token, mel, features.speaker_embedding, transcript=transcript)
        return self.model.prompt(voice, instruct)


def _llm(plan: _Plan) -> list[Topic]:
    """Prefill, forced steps and a sampled run; streamed text where the model reads it."""
    name, text = f"{plan.generation}_llm", plan.model.stages.text
    prompts = {"zero_shot": plan.prompt(plan.transcript), "cross_lingual": plan.prompt()}
    if plan.model.follows_instructions:
        prompts["instruct"] = plan.prompt(instruct=INSTRUCTION)
    spoken = _ids(text.encode(text.split(TEXT)[0]))
    config = plan.model.config.llm
    options: dict[str, Any] = {"min_ratio": config.min_token_text_ratio, "max_ratio": config.max_token_text_ratio}
    inputs: Arrays = {}
    outputs: list[str] = []
    model = load_llm(plan.folder, plan.generation)
    for case, prompt in prompts.items():
        speaker = prompt.speaker_embedding
        size = plan.model.config.flow.speaker_embedding_dim
        inputs[f"{case}.embedding"] = np.zeros((0, size), np.float32) if speaker is None else speaker[None]
        inputs[f"{case}.text"] = spoken
        inputs[f"{case}.prompt_text"] = _ids(prompt.text)
        inputs[f"{case}.prompt_speech_token"] = _ids(prompt.speech_token)
        inputs[f"{case}.forced"] = plan.speech_tokens(FORCED_TOKENS)
        seed = _fluent_seed(model, spoken[0].tolist(), prompt)
        outputs += [f"{case}.{tensor}" for tensor in ("lm_input", "logp", "eos_masked")]
        outputs += [f"{case}{ENCODED_TEXT}"] if hasattr(model, "encode_text") else []
        if seed is not None:
            options[f"{case}_sampled_manual_seed"] = seed
            outputs.append(f"{case}.sampled")
    del model
    topics = [planned(name, "language model: prefill, forced steps, sampled run", inputs, outputs, options)]
    if plan.model.reads_arriving_text:
        topics.append(_bistream(plan, spoken[0].tolist()))
    checks = reference_topics(plan.folder, plan.generation)
    for topic in topics:
        report = Recording(topic)
        checks[topic.name](report)
        report.finish()
    return topics


def _fluent_seed(model: Any, text: list[int], prompt: Prompt) -> int | None:
    """A seed with which the model says something that it may; None where there is none."""
    for seed in SEEDS:
        try:
            sampled_run(model, seed, text, prompt.text, prompt.speech_token, prompt.speaker_embedding)
        except GenerationError:
            continue
        return seed
    return None


def _bistream(plan: _Plan, text: list[int]) -> Topic:
    """Streamed text behind a reference and without one; the tokens that are sampled are planned."""
    block, speech = getattr(plan.model.config.llm, "mix_ratio")  # noqa: B009
    inputs: Arrays = {}
    options: dict[str, Any] = {}
    outputs: list[str] = []
    for case, prompt in (("prompt", plan.prompt(plan.transcript)), ("no_prompt", plan.prompt())):
        inputs[f"{case}.prompt_text"] = _ids(prompt.text)
        inputs[f"{case}.prompt_speech_token"] = _ids(prompt.speech_token)
        blocks = (len(prompt.text) + len(text)) // block + 2
        options[case] = {
            "text_chunks": [text[start : start + 4] for start in range(0, len(text), 4)],
            "sampler_plan": plan.speech_tokens(blocks * speech).tolist(),
        }
        outputs += [f"{case}.yielded", f"{case}.logp"]
    return planned(f"{plan.generation}_bistream", "language model: text that arrives", inputs, outputs, options)


def _flow(plan: _Plan) -> list[Topic]:
    """The mel of whole utterances and of chunks, with what goes into the first and the last call of the estimator."""
    config = plan.model.config.flow
    inputs: Arrays = {}
    options: dict[str, Any] = {}
    if isinstance(config, MaskedDiffConfig):
        cases = _overlapped_cases(plan, config, inputs, options)
    else:
        cases = _causal_cases(plan, inputs, options)
    topic = planned(
        f"{plan.generation}_flow", "flow: speech tokens to mel", inputs, [f"{case}.mel" for case in cases], options
    )
    if not isinstance(config, MaskedDiffConfig):
        topic.tensors["rand_noise_head"] = np.zeros((1, config.mel_dim, 160), np.float32)
    report = Recording(topic)
    check_cases(report, load_flow(plan.folder, plan.generation))
    report.finish()
    return [topic]


def _causal_cases(plan: _Plan, inputs: Arrays, options: dict[str, Any]) -> list[str]:
    """Every combination of streaming and end that is used, with and without a reference."""
    model = plan.model
    cases = {
        "offline_prompt": (True, False, True),
        "offline_noprompt": (False, False, True),
        "offline_nofinal": (True, False, False),
        "stream_chunk": (True, True, False),
        "stream_final": (True, True, True),
    }
    known = min(PROMPT_TOKENS, len(plan.reference.speech_token))
    # So many that the chunks of a stream end where the last token does.
    new = (-known % model.attention_chunk or model.attention_chunk) + model.lookahead + model.attention_chunk
    for case, (prompted, streaming, finalize) in cases.items():
        inputs[f"{case}.token"] = plan.speech_tokens(new)[None].astype(np.int32)
        _put_reference(plan, inputs, case, known if prompted else 0)
        options[case] = {"streaming": streaming, "finalize": finalize}
    return list(cases)


def _overlapped_cases(plan: _Plan, config: MaskedDiffConfig, inputs: Arrays, options: dict[str, Any]) -> list[str]:
    """Whole utterances with and without a reference, and a stream of three overlapping chunks."""
    known = min(PROMPT_TOKENS, len(plan.reference.speech_token))
    for case, count in (("offline_prompt", known), ("offline_short", 0)):
        inputs[f"{case}.token"] = plan.speech_tokens(NEW_TOKENS)[None].astype(np.int32)
        _put_reference(plan, inputs, case, count)
        options[f"{case}_manual_seed"] = 300
    overlap, chunks = config.overlap_tokens, 3
    tokens = plan.speech_tokens(overlap + chunks * NEW_TOKENS)[None].astype(np.int32)
    inputs["stream.token"] = tokens
    _put_reference(plan, inputs, "stream", known)
    names = [f"stream.chunk{index}" for index in range(chunks)]
    for index, name in enumerate(names):
        start = index * NEW_TOKENS
        inputs[f"{name}.token"] = tokens[:, start : start + NEW_TOKENS + overlap].copy()
        options[f"{name}_manual_seed"] = 300 + index
    return ["offline_prompt", "offline_short", *names]


def _put_reference(plan: _Plan, inputs: Arrays, case: str, tokens: int) -> None:
    """The first `tokens` of the reference, with their mel, as the conditions of a case."""
    features = plan.reference
    frames = int(tokens * plan.model.config.frames_per_token)
    inputs[f"{case}.prompt_token"] = features.speech_token[None, :tokens].astype(np.int32)
    inputs[f"{case}.prompt_feat"] = np.ascontiguousarray(features.mel[None, :frames], np.float32)
    inputs[f"{case}.embedding"] = features.speaker_embedding[None]


def _hift(plan: _Plan) -> list[Topic]:
    """F0, source, samples, chunks of a causal vocoder, and the layers of the decoder."""
    vocoder = hift.load_vocoder(plan.folder, plan.generation)
    config, hop = plan.model.config.hift, vocoder.generator.hop
    mel = np.ascontiguousarray(plan.reference.mel[:VOCODER_FRAMES].T[None], np.float32)
    frames = mel.shape[2]
    outputs = ["f0", "source", "wav"]
    descriptions: dict[str, str] = {}
    if config.causal:
        lengths = sorted({frames // 2 + 1, frames * 3 // 4})
        outputs += ["f0_nofinal", "rand_ini", "sine_noise", *(f"chunk{length}.wav" for length in lengths)]
    else:
        descriptions = {"source": "manual_seed(60) before the call", "cache.source": "manual_seed(61) before the call"}
    topic = planned(
        f"{plan.generation}_hift",
        "vocoder: mel to samples",
        {"mel": mel},
        outputs,
        {"upsample_total": hop},
        descriptions,
    )
    report = Recording(topic)
    hift.fill(report, vocoder)
    # What the decoder and a chunk with a past are fed is a source that was made just now.
    topic.tensors["decode.source"] = topic["source"][:, :, : frames // 3 * hop].copy()
    layers = [f"decode.{name}" for name, _ in vocoder.generator.named_modules() if _is_recorded(name)]
    more = ["decode.wav", "decode.stft_real", "decode.stft_imag", *layers]
    if not config.causal:
        topic.tensors["cache.cache_source"] = topic["source"][:, :, : frames // 3 * hop].copy()
        more += ["cache.source", "cache.wav"]
    topic.tensors.update(planned("", "", {}, more).tensors)
    hift.fill(report, vocoder)
    report.finish()
    return [topic]


def _is_recorded(layer: str) -> bool:
    """Whether a layer is one of the recorded ones as a whole."""
    name, _, number = layer.partition(".")
    return name in _LAYERS and ((number == "") == name.startswith("conv")) and (number == "" or number.isdecimal())


def _e2e(plan: _Plan) -> list[Topic]:
    """Requests through the whole system, the language model told what to say."""
    model, (prompt_wav, source_wav) = plan.model, plan.wavs
    streaming = model.default_streaming
    modes = ["zero_shot", "cross_lingual"]
    modes += ["instruct2"] if model.follows_instructions else []
    cases = ["zero_shot", "zero_shot_speed1.2", "zero_shot_stream", "cross_lingual", "vc"]
    if _has_built_in_speaker(plan.folder.model_dir(plan.generation)):
        modes.append("sft")
        cases.append("sft")
    options: dict[str, Any] = {
        f"distinct_tokens_{prompt_wav}": None,
        f"distinct_tokens_{source_wav}": None,
        "n_forced_non_stream": NEW_TOKENS,
        "tts_text": TEXT,
        "prompt_text": model.transcript_text(plan.transcript),
        "seeds": {"flow": 9000, "hift": 9100},
        "frontend_keys": {mode: [] for mode in modes},
        **{case: {"calls": []} for case in cases},
    }
    if streaming.growth != 1:
        options["token_hop_len_after_stream"] = None
    # A stream of three chunks at least.
    forced = plan.speech_tokens(2 * streaming.hop + model.lookahead + 2 * NEW_TOKENS)
    topic = planned(
        f"{plan.generation}_e2e", "requests through the whole system", {"forced_tokens": forced}, [], options
    )
    report = Recording(topic)
    e2e.fill(report, plan.folder, plan.generation)
    report.finish()
    return [topic]


def _has_built_in_speaker(model_dir: Path) -> bool:
    path = model_dir / "spk2info.pt"
    return path.is_file() and any("embedding" in entries for entries in load_spk2info(path).values())


def _ids(values: Any) -> NDArray[np.int32]:
    """Ids [1, count]."""
    return np.asarray(values, np.int32).reshape(1, -1)


def _move(fresh: Path, out: Path) -> None:
    """Put a complete record into its folder."""
    for directory in sorted(path for path in fresh.iterdir() if path.is_dir()):
        (out / directory.name).mkdir(exist_ok=True)
        for path in sorted(directory.iterdir()):
            path.replace(out / directory.name / path.name)
