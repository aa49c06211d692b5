"""The aligner that comes with the package: phones recognised in audio, and with a text the times of its words.

It works on audio alone, so the one of the small model serves speech of every model, and recordings too, as long as
they are English: its phones are, and so is what finds the phones of a text. On its path are the speech tokenizer and
the recogniser that the tokenizer was trained through; both are a few megabytes and load when first needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosyvoice.audio.resample import sinc_resample
from cosyvoice.engine.alignment import WordTime, align_words
from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE, LazySession, OnnxSpeechTokenizer
from cosyvoice.errors import AudioError
from cosyvoice.text.phone_frontend import PhoneFrontend
from cosyvoice.text.written_words import written_words

SHIPPED = Path(__file__).parent.parent / "pretrained" / "mini"
ALIGNER = "aligner.onnx"
FRAME_RATE = 50
"""Frames of the recogniser a second."""
MAX_SECONDS = 3600.0

_SAMPLES_PER_TOKEN = 640
_FRAMES_PER_TOKEN = 2
# Long audio is heard in blocks, so that memory stays bounded; what the edges of a block cannot see is cut off.
_BLOCK_TOKENS = 1500
_CONTEXT_TOKENS = 40


class TokenPhones:
    """Speech tokens [tokens] to log-probabilities of phone classes [frames at 50 Hz, classes].

    `directory` has the recogniser that its tokenizer was trained through; `purpose` is named where it is missing.
    """

    def __init__(self, directory: Path, threads: int | None, purpose: str) -> None:
        self._session = LazySession(directory / ALIGNER, threads, purpose)

    def __call__(self, tokens: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Raises `ModelError` for a file that is missing or damaged."""
        log_probs: NDArray[np.float32] = self._session.run(np.asarray(tokens, np.int32)[None])[0]
        return log_probs


class PhoneRecogniser:
    """Samples [time] at 16 kHz to log-probabilities of phone classes [frames at 50 Hz, classes]."""

    def __init__(self, directory: Path = SHIPPED, threads: int | None = None) -> None:
        self._tokenizer = OnnxSpeechTokenizer(directory / "speech_tokenizer.onnx", threads)
        self._phones = TokenPhones(directory, threads, "placing words in time")

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raises `AudioError` for too few samples, `ModelError` for a damaged file."""
        block, context = (n * _SAMPLES_PER_TOKEN for n in (_BLOCK_TOKENS, _CONTEXT_TOKENS))
        heard = []
        for start in range(0, max(len(samples) - context, 1), block):
            first = max(start - context, 0)
            # The last block takes what is left, which would be too short for one of its own.
            last = len(samples) if start + block + context >= len(samples) else start + block
            part = self._hear(samples[first : min(last + context, len(samples))])
            skip = (start - first) // _SAMPLES_PER_TOKEN * _FRAMES_PER_TOKEN
            count = len(part) if last == len(samples) else skip + _BLOCK_TOKENS * _FRAMES_PER_TOKEN
            heard.append(part[skip:count])
        return np.concatenate(heard)

    def _hear(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._phones(self._tokenizer(samples))


class Aligner:
    """Audio and what it says, in; words with their times, out. Not changed by use, and safe from many threads."""

    def __init__(self, recogniser: PhoneRecogniser | None = None, frontend: PhoneFrontend | None = None) -> None:
        self._recognise = recogniser or PhoneRecogniser()
        self._frontend = frontend or PhoneFrontend()

    def __call__(self, samples: NDArray[np.float32], sample_rate: int, text: str) -> list[WordTime]:
        """Words of English `text` in mono `samples` [time], which say it from beginning to end.

        Words are those between the blanks of `text`, as written; "$5" is one word though two are spoken.

        Raises `TextError` for text without words or in another script than Latin, `AudioError` for audio that is
        not mono, shorter than the text can be, or longer than an hour.
        """
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise AudioError("words can be placed in finite mono samples [time] only; average the channels")
        seconds = len(samples) / sample_rate
        if seconds > MAX_SECONDS:
            raise AudioError(f"the audio lasts {seconds:.0f} s, more than {MAX_SECONDS:.0f} s; cut it and the text")
        words = written_words(self._frontend, text)
        at_16k = sinc_resample(samples, sample_rate, PROMPT_SAMPLE_RATE)
        placed = align_words(self._recognise(at_16k), [word.phones for word in words])
        return [
            WordTime(word.text, frames.start / FRAME_RATE, min(frames.end / FRAME_RATE, seconds), frames.score)
            for word, frames in zip(words, placed, strict=True)
        ]
