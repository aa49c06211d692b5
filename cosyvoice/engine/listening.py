"""What can be heard in a recording, whatever the model: when words are said, whether they are, and by how many people.

The networks are those of the small model, which come with the package and load when they are first needed.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from cosyvoice.engine.aligner import Aligner
from cosyvoice.engine.alignment import WordTime
from cosyvoice.engine.several_speakers import SpeakerCheck
from cosyvoice.engine.speech import Speech
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import AudioError, TextError


class Listener:
    """Listens to recordings and speech; safe from many threads."""

    def align(self, speech: Speech | FloatArray, sample_rate: int, text: str) -> list[WordTime]:
        """When each word of English `text` is spoken in `speech`, or mono samples [time] at `sample_rate` Hz.

        The words are those between the blanks of `text`. It takes about a twentieth of the time that is spoken.

        Raises `TextError` for text without words or in another script than Latin, `AudioError` for audio that is
        shorter than the text can be, or longer than an hour.
        """
        samples = speech.samples if isinstance(speech, Speech) else speech
        return self._aligner(samples, sample_rate, text)

    def transcript_score(self, samples: FloatArray, sample_rate: int, transcript: str) -> float | None:
        """Mean score of the words of `transcript` in mono `samples` [time]; below `HEARD` they hardly say it.

        None where nobody can tell: there is no transcript, or it is not English.
        """
        if not transcript.strip():
            return None
        try:
            words = self.align(samples, sample_rate, transcript)
        except (TextError, AudioError):
            return None
        return float(np.mean([word.score for word in words]))

    def check_one_speaker(self, samples: FloatArray, sample_rate: int) -> None:
        """Raise `SeveralSpeakersError` where mono `samples` [time] at `sample_rate` Hz seem to hold several voices.

        `TTS.clone` does not ask, since a voice that is known to be one person's may change more than others do.
        """
        self._one_speaker(samples, sample_rate)

    @cached_property
    def _aligner(self) -> Aligner:
        return Aligner()

    @cached_property
    def _one_speaker(self) -> SpeakerCheck:
        return SpeakerCheck()
