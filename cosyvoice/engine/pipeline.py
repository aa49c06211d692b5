"""Text and a voice in, speech out: the object that a user holds.

It adds to a loaded model what concerns the user: voices by name, checks of everything that was given before
any network runs, and requests. It is not changed by speaking, and may be used from many threads.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path

import numpy as np

from cosyvoice.engine.guard import Guard
from cosyvoice.engine.joining import Joining
from cosyvoice.engine.models import CosyVoice2Model
from cosyvoice.engine.session import Progress, Request, Session, SpeechStream
from cosyvoice.engine.speech import Report, Speech
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.engine.tempo import check_speed
from cosyvoice.errors import ConfigError, VoiceError
from cosyvoice.voice.checks import check_transcript, read_reference, speech_seconds, trim_edges
from cosyvoice.voice.store import VoiceStore, check_name
from cosyvoice.voice.voice import Voice


class TTS:
    """Text to speech with one loaded model.

    Args:
        model: the networks with the rules of their generation.
        store: the presets of the model and the user's voices.
    """

    def __init__(self, model: CosyVoice2Model, store: VoiceStore) -> None:
        self.model = model
        self.store = store

    @property
    def sample_rate(self) -> int:
        """Of all speech, in Hz."""
        return self.model.sample_rate

    def voices(self) -> list[str]:
        """Names of the voices at hand, the model's presets first."""
        return self.store.names()

    def voice(self, name: str | None = None) -> Voice:
        """The voice `name`, or the first preset. Raises `VoiceError` where there is none."""
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
        reference: str | Path,
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
        samples, sample_rate = read_reference(reference)
        samples = trim_edges(samples, sample_rate)
        transcript = transcript.strip()
        if transcript:
            frontend = self.model.stages.text
            frontend.split(transcript)
            phones = frontend.count_phones(transcript)
            check_transcript(phones, speech_seconds(samples, sample_rate), transcript)
        name = check_name(_name_of(reference) if name is None else name)
        features = self.model.encode_reference(samples, sample_rate)
        digest = hashlib.sha256(samples.tobytes()).hexdigest()[:16]
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
            provenance=f"cloned from {Path(reference).name} ({seconds:.1f} s, samples sha256 {digest})",
            model=self.model.config.name,
        )

    def say(
        self,
        text: str,
        voice: Voice | str | None = None,
        *,
        seed: int | None = None,
        speed: float = 1.0,
        instruct: str | None = None,
        streaming: StreamingConfig | None = None,
        guard: Guard | None = None,
        joining: Joining | None = None,
        progress: Progress | None = None,
    ) -> Speech:
        """Speak `text` of any length.

        Args:
            text: what to say; long text is spoken in pieces.
            voice: a voice, the name of one, or None for the model's first.
            seed: the same seed gives the same samples; None draws one, which the report names.
            speed: 0.5 to 2 times the pace of the voice.
            instruct: how to say it, for models that follow instructions.
            streaming: compute in chunks as `stream` does, and give the joined result. None computes each
                piece whole, with attention to all of it.
            guard: limits of what is taken for speech, and how often it is tried again.
            joining: edges of pieces and pauses between them.
            progress: called with the number of pieces spoken and of all.

        Raises `TextError`, `VoiceError` or `ConfigError` before anything is computed, and `GenerationError`
        where the model gave nothing at all.
        """
        session = self._session(text, voice, seed, speed, instruct, streaming, guard, joining, progress)
        samples = np.concatenate([chunk.samples for chunk in session.run()])
        return Speech(samples, self.sample_rate, session.report)

    def stream(
        self,
        text: str,
        voice: Voice | str | None = None,
        *,
        seed: int | None = None,
        speed: float = 1.0,
        instruct: str | None = None,
        streaming: StreamingConfig | None = None,
        guard: Guard | None = None,
        joining: Joining | None = None,
    ) -> SpeechStream:
        """Speak `text` and give out chunks as soon as they are ready; arguments and errors as in `say`.

        Errors in the arguments are raised at once, not with the first chunk. The stream may be abandoned at
        any point. Joined, the chunks are what `say` gives with the same arguments and the same `streaming`.
        """
        streaming = streaming or StreamingConfig()
        session = self._session(text, voice, seed, speed, instruct, streaming, guard, joining, None)
        return SpeechStream(session)

    def _session(
        self,
        text: str,
        voice: Voice | str | None,
        seed: int | None,
        speed: float,
        instruct: str | None,
        streaming: StreamingConfig | None,
        guard: Guard | None,
        joining: Joining | None,
        progress: Progress | None,
    ) -> Session:
        """Everything checked and prepared, nothing computed yet."""
        start = time.perf_counter()
        check_speed(speed)
        seed = _check_seed(seed)
        if streaming is not None:
            streaming.check(self.model.attention_chunk)
        report = Report(seed, self.sample_rate)
        with report.measure("text"):
            pieces = self.model.stages.text.split(text)
            prompt = self.model.prompt(voice if isinstance(voice, Voice) else self.voice(voice), instruct)
        request = Request(pieces, prompt, seed, speed, streaming, guard or Guard(), joining or Joining(), progress)
        report.seconds = time.perf_counter() - start
        return Session(self.model, request, report)


def _check_seed(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(32)
    if seed < 0:
        raise ConfigError(f"the seed {seed} is negative; give a whole number from 0")
    return seed


def _name_of(reference: str | Path) -> str:
    """A name for a voice from the name of its file."""
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in Path(reference).stem).strip("-.")
    return plain[:64] or "reference"
