"""The classes that programs written for the released package use, as a thin skin over the engine.

`CosyVoice`, `CosyVoice2`, `CosyVoice3` and `AutoModel` take a released model directory (or a bundle) and yield
`{"tts_speech": tensor [1, samples]}`, one a sentence or, with `stream=True`, one a chunk. Prompts are accepted as path,
open file, or tensor [1, samples] at 16 kHz, since both forms were in use. There is no second pipeline: every method
prepares a voice and hands over to `TTS`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from cosyvoice import load
from cosyvoice.checkpoint.download import download, hub_of
from cosyvoice.checkpoint.released import write_spk2info
from cosyvoice.checkpoint.speakers import SPEAKERS_FILE, write_speakers
from cosyvoice.cli.frontend import FrontEnd
from cosyvoice.config.bundle import is_bundle
from cosyvoice.config.released import detect_generation, read_model_config
from cosyvoice.engine.compat import Compat
from cosyvoice.engine.session import SpeechStream
from cosyvoice.engine.speech import Chunk
from cosyvoice.errors import AudioError, ConfigError, ModelError
from cosyvoice.voice.speaker_table import speakers_of_voices
from cosyvoice.voice.voice import Voice

if TYPE_CHECKING:
    from cosyvoice.engine.pipeline import TTS, Audio

PROMPT_SAMPLE_RATE = 16000
"""Hz, of prompts that are given as tensors."""

_log = logging.getLogger(__name__)
Prompt = str | Path | BinaryIO | Tensor
_NO_IDS = np.zeros(0, np.int32)
Output = dict[str, Tensor]


class CosyVoice:
    """A model directory of the first generation.

    Args:
        model_dir: the directory, or the repository of a released model (`iic/CosyVoice-300M`), which is downloaded to
            where `cosyvoice download` puts it unless it is there already.
        load_jit, load_trt, load_vllm, load_onnx: accelerators of the released package. They change no sample, so they
            are passed over with a warning; what makes speech fast here is a bundle (`cosyvoice convert`).
        fp16: accepted and without effect; the reference computes in single precision.
        trt_concurrent: accepted and without effect.
        compat: "released" brings back what the released code did wrong; see docs/differences.md.
        variant: other weights of the language model, "rl" for `llm.rl.pt`.

    Raises `ModelError` for a directory that is missing, damaged or of another generation, `DownloadError` for a
    repository that cannot be reached.
    """

    generations: ClassVar[tuple[str, ...]] = ("v1",)

    def __init__(
        self,
        model_dir: str | Path,
        load_jit: bool = False,
        load_trt: bool = False,
        fp16: bool = False,
        trt_concurrent: int = 1,
        load_vllm: bool = False,
        load_onnx: bool = False,
        compat: Compat = "corrected",
        variant: str = "",
    ) -> None:
        accelerators = {"load_jit": load_jit, "load_trt": load_trt, "load_vllm": load_vllm, "load_onnx": load_onnx}
        if asked := [name for name, wanted in accelerators.items() if wanted]:
            _log.warning(
                "%s: accelerators of the released package have no effect; convert the model with 'cosyvoice convert' "
                "and give the directory of the bundle instead",
                ", ".join(asked),
            )
        directory = _directory(model_dir)
        self.model_dir, self.fp16 = str(directory), fp16
        generation = read_model_config(directory).generation
        if generation not in self.generations:
            raise ModelError(
                f"{directory} holds a model of generation {generation}, {type(self).__name__} loads "
                f"{', '.join(self.generations)}; use AutoModel"
            )
        self.tts: TTS = load(directory, compat=compat, variant=variant)
        store = self.tts.store
        self.frontend = FrontEnd({name: store.get(name) for name in store.preset_names()}, self.tts.model)

    @property
    def sample_rate(self) -> int:
        """Of the speech, in Hz."""
        return self.tts.sample_rate

    def list_available_spks(self) -> list[str]:
        """Names that `spk_id` and `zero_shot_spk_id` take."""
        return list(self.frontend.voices)

    list_avaliable_spks = list_available_spks
    """The spelling of the first release."""

    def add_zero_shot_spk(self, prompt_text: str, prompt_wav: Prompt, zero_shot_spk_id: str) -> bool:
        """Remember a voice under a name; `save_spkinfo` writes it down."""
        if not zero_shot_spk_id:
            raise ConfigError("zero_shot_spk_id is empty; give the voice a name")
        self.frontend.voices[zero_shot_spk_id] = self._clone(prompt_wav, prompt_text)
        return True

    def save_spkinfo(self) -> None:
        """Write all speakers to `spk2info.pt` in the model directory, complete or not at all.

        Directories in our own layouts keep them as `speakers.safetensors`, beside voices that are files.
        """
        directory, table = Path(self.model_dir), self.frontend.spk2info
        if detect_generation(directory) is not None:
            voices = [table.with_token_ids(name) for name in table]
            write_spk2info(directory / "spk2info.pt", speakers_of_voices(voices))
            return
        files = set(self.tts.store.preset_names()) - set(self.tts.store.built_in)
        voices = [table.with_token_ids(name) for name in table if name not in files]
        write_speakers(directory / SPEAKERS_FILE, speakers_of_voices(voices))

    def inference_sft(
        self,
        tts_text: str | Iterable[str],
        spk_id: str,
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Iterator[Output]:
        """Speak with a built-in speaker."""
        return self._speak(tts_text, self.frontend.speaker(spk_id), stream, speed, text_frontend)

    def inference_zero_shot(
        self,
        tts_text: str | Iterable[str],
        prompt_text: str = "",
        prompt_wav: Prompt | None = None,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
        prompt_speech_16k: Prompt | None = None,
    ) -> Iterator[Output]:
        """Speak with the voice of a recording and its transcript, or with a saved one."""
        voice = self._prompted(zero_shot_spk_id, prompt_wav, prompt_speech_16k, prompt_text)
        return self._speak(tts_text, voice, stream, speed, text_frontend)

    def inference_cross_lingual(
        self,
        tts_text: str | Iterable[str],
        prompt_wav: Prompt | None = None,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
        prompt_speech_16k: Prompt | None = None,
    ) -> Iterator[Output]:
        """Speak with the voice of a recording in another language than it speaks.

        Raises `ConfigError` for a model of the first generation that follows instructions, as the release does.
        """
        if self.generations == ("v1",) and self.frontend.instruct:
            raise ConfigError(
                f"{self.model_dir} was trained on instructions, not across languages; use CosyVoice-300M, or "
                "inference_instruct"
            )
        voice = self._prompted(zero_shot_spk_id, prompt_wav, prompt_speech_16k, "")
        return self._speak(
            tts_text, replace(voice, transcript="", prompt_text_token=_NO_IDS), stream, speed, text_frontend
        )

    def inference_instruct(
        self,
        tts_text: str | Iterable[str],
        spk_id: str,
        instruct_text: str,
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Iterator[Output]:
        """Speak with a built-in speaker, as an instruction says.

        Raises `ConfigError` for a model without instructions: any whose path does not hold '-Instruct'.
        """
        if not self.frontend.instruct:
            raise ConfigError(
                f"{self.model_dir} follows no instructions; use CosyVoice-300M-Instruct, in a directory whose name "
                "says so"
            )
        return self._speak(tts_text, self.frontend.speaker(spk_id), stream, speed, text_frontend, instruct_text)

    def inference_vc(
        self,
        source_wav: Prompt | None = None,
        prompt_wav: Prompt | None = None,
        stream: bool = False,
        speed: float = 1.0,
        source_speech_16k: Prompt | None = None,
        prompt_speech_16k: Prompt | None = None,
    ) -> Iterator[Output]:
        """What one recording says with the voice of another."""
        source = _given("source_wav", source_wav, source_speech_16k)
        voice = self._prompted("", prompt_wav, prompt_speech_16k, "")
        seed = _seed()
        if stream:
            return _chunks(self.tts.stream_conversion(source, voice, seed=seed, speed=speed))
        speech = self.tts.convert(source, voice, seed=seed, speed=speed)
        return iter([_output(speech.samples)])

    def _speak(
        self,
        text: str | Iterable[str],
        voice: Voice,
        stream: bool,
        speed: float,
        text_frontend: bool,
        instruct: str | None = None,
    ) -> Iterator[Output]:
        options: dict[str, Any] = {"seed": _seed(), "speed": speed, "instruct": instruct, "normalise": text_frontend}
        if stream:
            return _chunks(self.tts.stream(text, voice, **options))
        return _pieces(self.tts.pieces(text, voice, **options))

    def _prompted(self, saved: str, prompt: Prompt | None, prompt_16k: Prompt | None, transcript: str) -> Voice:
        """The voice that a call asks for: a saved one by name, or that of a recording."""
        if saved:
            return self.frontend.speaker(saved)
        return self._clone(_given("prompt_wav", prompt, prompt_16k), transcript)

    def _clone(self, prompt: Prompt | Audio, transcript: str) -> Voice:
        return self.tts.clone(_audio(prompt), transcript, name="prompt")


class CosyVoice2(CosyVoice):
    """A model directory of the second generation; adds instructions for any voice."""

    generations = ("v2",)

    def inference_instruct(self, *args: Any, **options: Any) -> Iterator[Output]:
        """Not for this generation: raises `ConfigError`."""
        raise ConfigError("inference_instruct belongs to CosyVoice-300M-Instruct; use inference_instruct2")

    def inference_instruct2(
        self,
        tts_text: str | Iterable[str],
        instruct_text: str,
        prompt_wav: Prompt | None = None,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
        prompt_speech_16k: Prompt | None = None,
    ) -> Iterator[Output]:
        """Speak with the voice of a recording, as an instruction says."""
        voice = self._prompted(zero_shot_spk_id, prompt_wav, prompt_speech_16k, "")
        return self._speak(tts_text, voice, stream, speed, text_frontend, instruct_text)


class CosyVoice3(CosyVoice2):
    """A model directory of the third generation."""

    generations = ("v3",)


_CLASSES: dict[str, type[CosyVoice]] = {"v1": CosyVoice, "v2": CosyVoice2, "v3": CosyVoice3}


def AutoModel(model_dir: str | Path, **options: Any) -> CosyVoice:
    """The class that fits the directory, or the repository."""
    directory = _directory(model_dir)
    if not is_bundle(directory) and detect_generation(directory) is None and not (directory / "config.json").is_file():
        raise ModelError(f"{directory} is no model directory; download one with 'cosyvoice download'")
    return _CLASSES[read_model_config(directory).generation](directory, **options)


def _directory(model_dir: str | Path) -> Path:
    """`model_dir` itself, or where the repository of that name was downloaded to."""
    directory = Path(model_dir)
    hub = None if directory.exists() else hub_of(str(model_dir))
    if hub is None:
        return directory
    _log.info("%s is no directory here; taking it from %s", model_dir, hub)
    return download(str(model_dir), source=hub).directory


def _given(name: str, *candidates: Prompt | None) -> Audio:
    """The first recording that was given, under whichever name."""
    for candidate in candidates:
        if candidate is not None:
            return _audio(candidate)
    raise ConfigError(f"{name} is missing; give a recording as path or as tensor [1, samples] at 16 kHz")


def _audio(prompt: Prompt | Audio) -> Audio:
    if isinstance(prompt, Tensor):
        if prompt.ndim not in (1, 2) or (prompt.ndim == 2 and prompt.shape[0] != 1):
            raise AudioError(
                f"the recording is a tensor {list(prompt.shape)}; give one [1, samples] at 16 kHz, as load_wav makes it"
            )
        return prompt.detach().cpu().numpy().reshape(-1).astype(np.float32), PROMPT_SAMPLE_RATE
    return prompt


def _seed() -> int:
    """From the process's generator, which programs seed when they want the same speech again."""
    return int(torch.randint(2**31 - 1, (1,)))


def _output(samples: np.ndarray) -> Output:
    return {"tts_speech": torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None]}


def _chunks(stream: SpeechStream) -> Iterator[Output]:
    try:
        for chunk in stream:
            yield _output(chunk.samples)
    finally:
        stream.close()


def _pieces(chunks: Iterator[Chunk]) -> Iterator[Output]:
    for _, group in groupby(chunks, key=lambda chunk: chunk.piece):
        yield _output(np.concatenate([chunk.samples for chunk in group]))
