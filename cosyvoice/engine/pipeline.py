"""Text and a voice in, speech out: the object that a user holds.

It adds to a loaded model what concerns the user: voices by name, checks of everything that was given before
any network runs, and requests. It is not changed by speaking, and may be used from many threads.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cosyvoice.audio.io import read_audio
from cosyvoice.audio.resample import sinc_resample
from cosyvoice.engine.conversion import cut_recording
from cosyvoice.engine.frontends import check_speakable
from cosyvoice.engine.guard import Guard
from cosyvoice.engine.joining import Joining
from cosyvoice.engine.listening import Listener
from cosyvoice.engine.models import CosyVoiceModel, Prompt, ReferenceFeatures
from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE
from cosyvoice.engine.sampling import Sampling
from cosyvoice.engine.session import ArrivingText, Piece, Progress, RecordedTokens, Request, Session, SpeechStream
from cosyvoice.engine.speech import Report, Speech
from cosyvoice.engine.stages import FloatArray, RemembersVoices
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.engine.tempo import check_speed
from cosyvoice.errors import AudioError, ConfigError, TextError, VoiceError
from cosyvoice.text.incremental import whole_sentences
from cosyvoice.voice.checks import check_reference, check_transcript, read_reference, speech_seconds, trim_edges
from cosyvoice.voice.store import VoiceStore, check_name
from cosyvoice.voice.voice import Voice

Audio = str | Path | BinaryIO | tuple[FloatArray, int]
"""A recording: a file, an open file, or mono samples [time] in [-1, 1] with their rate in Hz."""

_NO_PAUSES = Joining(silence=0.0, head=0.0, tail=0.0, fade=0.0, sentence_pause=0.0, clause_pause=0.0)
_LONGEST_SOURCE_SECONDS = 3600.0
_REMEMBERED_REFERENCES = 16


class TTS(Listener):
    """Text to speech with one loaded model.

    Args:
        model: the networks with the rules of their generation.
        store: the presets of the model and the user's voices.
    """

    def __init__(self, model: CosyVoiceModel, store: VoiceStore) -> None:
        self.model = model
        self.store = store
        self._encoded: OrderedDict[tuple[str, int], ReferenceFeatures] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def sample_rate(self) -> int:
        """Of all speech, in Hz."""
        return self.model.sample_rate

    def voices(self) -> list[str]:
        """Names of the voices at hand, the model's presets first."""
        return self.store.names()

    def voice(self, name: Voice | str | None = None) -> Voice:
        """The voice `name`, or the first preset; a voice itself. Raises `VoiceError` where there is none."""
        if isinstance(name, Voice):
            return name
        if name is None:
            names = self.voices()
            if not names:
                raise VoiceError(
                    "this model brings no voice; give a reference recording, or make a voice with "
                    "'cosyvoice voices add NAME FILE'"
                )
            name = names[0]
        return self.store.get(name)

    def clone(
        self,
        reference: Audio,
        transcript: str = "",
        *,
        name: str | None = None,
        gender: str = "",
        description: str = "",
        consent: str = "",
    ) -> Voice:
        """A voice from a recording of 1 to 30 s (3 to 15 s are best).

        With `transcript`, what the recording says, the model also takes over the manner of speaking. Without
        it the voice works across languages, with less likeness.

        Raises `AudioError` for a recording that is missing, unreadable, silent, clipped, too short, too long
        or of too low a rate; `VoiceError` for a transcript that does not fit it; `TextError` for one that
        cannot be read.
        """
        if isinstance(reference, tuple):
            samples, sample_rate = reference
            check_reference(samples, sample_rate)
        else:
            samples, sample_rate = read_reference(reference)
        samples = trim_edges(samples, sample_rate)
        transcript = transcript.strip()
        if transcript:
            frontend = self.model.stages.text
            frontend.split(transcript)
            phones = frontend.count_phones(transcript)
            check_transcript(phones, speech_seconds(samples, sample_rate), transcript)
        name = check_name(_name_of(reference) if name is None else name)
        digest = hashlib.sha256(samples.tobytes()).hexdigest()[:16]
        features = self._encode(samples, sample_rate, digest)
        seconds = len(samples) / sample_rate
        return Voice(
            name=name,
            speech_token=features.speech_token,
            mel=features.mel.astype(np.float16),
            speaker_embedding=features.speaker_embedding,
            transcript=transcript,
            gender=gender,
            description=description,
            consent=consent,
            provenance=f"cloned from {_title(reference)} ({seconds:.1f} s, samples sha256 {digest})",
            model=self.model.config.name,
        )

    def _encode(self, samples: FloatArray, sample_rate: int, digest: str) -> ReferenceFeatures:
        """What the prompt encoders make of a reference; of the latest references it is remembered."""
        key = digest, sample_rate
        with self._lock:
            if key in self._encoded:
                self._encoded.move_to_end(key)
                return self._encoded[key]
        features = self.model.encode_reference(samples, sample_rate)
        with self._lock:
            self._encoded[key] = features
            while len(self._encoded) > _REMEMBERED_REFERENCES:
                self._encoded.popitem(last=False)
        return features

    def forget(self, speaker_embedding: FloatArray) -> None:
        """Drop all that is kept in memory of a voice with this embedding, such as one that was deleted.

        Requests that speak with it go on; call this again when they have ended.
        """
        with self._lock:
            kept = self._encoded.items()
            for key in [key for key, made in kept if np.array_equal(made.speaker_embedding, speaker_embedding)]:
                del self._encoded[key]
        if isinstance(self.model.stages.flow, RemembersVoices):
            self.model.stages.flow.forget(speaker_embedding)

    def say(
        self,
        text: str | Iterable[str],
        voice: Voice | str | None = None,
        *,
        seed: int | None = None,
        speed: float = 1.0,
        instruct: str | None = None,
        streaming: StreamingConfig | None = None,
        guard: Guard | None = None,
        joining: Joining | None = None,
        sampling: Sampling | None = None,
        normalise: bool = True,
        language: str | None = None,
        progress: Progress | None = None,
    ) -> Speech:
        """Speak `text` of any length.

        Args:
            text: what to say; long text is spoken in pieces.
            voice: a voice, the name of one, or None for the model's first.
            seed: the same seed gives the same samples; None draws one, which the report names.
            speed: times the pace of the voice, 0.25 to 4; what lies within 0.5 and 2 sounds natural.
            instruct: how to say it, for models that follow instructions.
            streaming: compute in chunks as `stream` does, and give the joined result. None computes each
                piece whole, with attention to all of it.
            guard: limits of what is taken for speech, and how often it is tried again.
            joining: edges of pieces and pauses between them.
            sampling: how tokens are drawn; None: as the model was tuned for.
            normalise: False reads the text as it stands, in one piece, without spelling out its numbers.
            language: code of the language of `text`, one of `model.languages`; None tells it from the text. The first
                generation reads it as a mark before the text; to the others it makes no difference.
            progress: called with the number of pieces spoken and of all.

        Raises `TextError`, `VoiceError` or `ConfigError` before anything is computed, and `GenerationError`
        where the model gave nothing at all.
        """
        session = self._session(
            text, voice, seed, speed, instruct, streaming, guard, joining, sampling, normalise, language, progress
        )
        return _joined(session)

    def stream(
        self,
        text: str | Iterable[str],
        voice: Voice | str | None = None,
        *,
        seed: int | None = None,
        speed: float = 1.0,
        instruct: str | None = None,
        streaming: StreamingConfig | None = None,
        guard: Guard | None = None,
        joining: Joining | None = None,
        sampling: Sampling | None = None,
        normalise: bool = True,
        language: str | None = None,
    ) -> SpeechStream:
        """Speak `text` and give out chunks as soon as they are ready; arguments and errors as in `say`.

        `text` may also be an iterable of parts of any length, as a language model writes them. Models that were
        trained for it speak while a sentence is still arriving (its numbers are not spelled out then); others take
        each sentence when it is complete.

        Errors in the arguments are raised at once, not with the first chunk. The stream may be abandoned at
        any point. Joined, the chunks are what `say` gives with the same arguments and the same `streaming`.
        """
        streaming = streaming or self.model.default_streaming
        session = self._session(
            text, voice, seed, speed, instruct, streaming, guard, joining, sampling, normalise, language, None
        )
        return SpeechStream(session)

    def pieces(
        self,
        text: str | Iterable[str],
        voice: Voice | str | None = None,
        *,
        seed: int | None = None,
        speed: float = 1.0,
        instruct: str | None = None,
        guard: Guard | None = None,
        joining: Joining | None = None,
        sampling: Sampling | None = None,
        normalise: bool = True,
        language: str | None = None,
    ) -> SpeechStream:
        """Speak `text` and give out each piece, computed whole, as soon as it is ready; arguments as in `say`.

        Joined, the chunks are what `say` gives. The first one comes later than that of `stream`.
        """
        session = self._session(
            text, voice, seed, speed, instruct, None, guard, joining, sampling, normalise, language, None
        )
        return SpeechStream(session)

    def convert(
        self,
        source: Audio,
        voice: Voice | str | None = None,
        *,
        seed: int | None = None,
        speed: float = 1.0,
        streaming: StreamingConfig | None = None,
        progress: Progress | None = None,
    ) -> Speech:
        """Voice conversion: what the recording `source` says, spoken by `voice`; arguments as in `say`.

        Raises `AudioError` for a recording that cannot be read or holds no speech, `VoiceError` and `ConfigError` as
        `say` does.
        """
        return _joined(self._conversion(source, voice, seed, speed, streaming, progress))

    def stream_conversion(
        self,
        source: Audio,
        voice: Voice | str | None = None,
        *,
        seed: int | None = None,
        speed: float = 1.0,
        streaming: StreamingConfig | None = None,
    ) -> SpeechStream:
        """The same in chunks, given out as soon as they are ready."""
        streaming = streaming or self.model.default_streaming
        return SpeechStream(self._conversion(source, voice, seed, speed, streaming, None))

    def _conversion(
        self,
        source: Audio,
        voice: Voice | str | None,
        seed: int | None,
        speed: float,
        streaming: StreamingConfig | None,
        progress: Progress | None,
    ) -> Session:
        start = time.perf_counter()
        seed = self._check(seed, speed, streaming)
        report = Report(seed, self.sample_rate)
        target = self.voice(voice)
        self.model.check_voice(target)
        if isinstance(source, tuple):
            samples, sample_rate = source
        else:
            samples, sample_rate = read_audio(source, max_seconds=_LONGEST_SOURCE_SECONDS)
        if speech_seconds(samples, sample_rate) < 0.1:
            raise AudioError("the source holds no speech; give a recording of somebody speaking")
        with report.measure("tokenizer"):
            parts = cut_recording(sinc_resample(samples, sample_rate, PROMPT_SAMPLE_RATE))
            pieces = [RecordedTokens(self.model.stages.speech_tokenizer(part).tolist()) for part in parts]
        prompt = Prompt((), (), self.model.flow_input(target))
        request = Request(pieces, prompt, seed, speed, streaming, guard=Guard(), joining=_NO_PAUSES, progress=progress)
        report.seconds = time.perf_counter() - start
        return Session(self.model, request, report)

    def _session(
        self,
        text: str | Iterable[str],
        voice: Voice | str | None,
        seed: int | None,
        speed: float,
        instruct: str | None,
        streaming: StreamingConfig | None,
        guard: Guard | None,
        joining: Joining | None,
        sampling: Sampling | None,
        normalise: bool,
        language: str | None,
        progress: Progress | None,
    ) -> Session:
        """Everything checked and prepared, nothing computed yet."""
        start = time.perf_counter()
        seed = self._check(seed, speed, streaming)
        if language is not None:
            self.model.check_language(language)
        report = Report(seed, self.sample_rate)
        pieces: Iterable[Piece]
        with report.measure("text"):
            if not isinstance(text, str):
                pieces = self._arriving(iter(text))
            elif normalise:
                pieces = self.model.stages.text.split(text)
            else:
                check_speakable(text)
                pieces = [text]
            prompt = self.model.prompt(self.voice(voice), instruct, text if isinstance(text, str) else "")
            mark = self.model.language_mark(language) if language is not None else ""
            if mark:
                prompt = replace(prompt, opening=self.model.stages.text.encode(mark))
        report.warnings += prompt.warnings
        request = Request(
            pieces,
            prompt,
            seed,
            speed,
            streaming,
            guard or Guard(),
            joining or Joining(),
            progress,
            sampling or Sampling(),
        )
        report.seconds = time.perf_counter() - start
        return Session(self.model, request, report)

    def _check(self, seed: int | None, speed: float, streaming: StreamingConfig | None) -> int:
        """The seed to use; raises `ConfigError` for settings that are out of range."""
        check_speed(speed)
        if streaming is not None:
            self.model.check_streaming(streaming)
        return _check_seed(seed)

    def _arriving(self, parts: Iterator[str]) -> Iterator[Piece]:
        """Text that is still being written, as pieces."""
        if self.model.reads_arriving_text:
            yield ArrivingText(parts)
            return
        for sentence in whole_sentences(parts):
            yield from self._readable(sentence)

    def _readable(self, sentence: str) -> list[str]:
        """The pieces of a sentence; none where there is nothing to speak in it."""
        try:
            check_speakable(sentence)
        except TextError:
            return []
        return self.model.stages.text.split(sentence)


def _joined(session: Session) -> Speech:
    samples = np.concatenate([chunk.samples for chunk in session.run()])
    return Speech(samples, session.report.sample_rate, session.report)


def _check_seed(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(32)
    if seed < 0:
        raise ConfigError(f"the seed {seed} is negative; give a whole number from 0")
    return seed


def _title(reference: Audio) -> str:
    """What a recording is called."""
    if isinstance(reference, (str, Path)):
        return Path(reference).name
    return Path(str(getattr(reference, "name", "a recording"))).name


def _name_of(reference: Audio) -> str:
    """A name for a voice from the name of its file."""
    stem = Path(_title(reference)).stem
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in stem).strip("-.")
    return plain[:64] or "reference"
