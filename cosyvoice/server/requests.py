"""What every front door asks of the service, in its own words translated to these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cosyvoice.engine.sampling import Sampling
from cosyvoice.engine.tempo import check_speed
from cosyvoice.errors import CosyVoiceError
from cosyvoice.server.errors import RequestError
from cosyvoice.server.feed import TextFeed
from cosyvoice.server.settings import Limits
from cosyvoice.server.voices import Reference

LONGEST_PIECE = 600
"""Characters; models speak pieces of about a hundred well."""
LOUDEST = 4.0
"""Twelve decibels up; more would only clip."""


@dataclass(frozen=True)
class SpeechRequest:
    """A text to be spoken. `check` it before anything is done for it."""

    text: str | TextFeed
    """The text, or one that is still being written."""
    voice: str | None = None
    """Name or alias of a voice; None: that of `reference`, or the first of the model."""
    reference: Reference | None = None
    """Speak like this recording."""
    instruct: str | None = None
    """How to say it, for models that follow instructions."""
    language: str | None = None
    """Code of the language of the text, one that the model reads; None: told from the text."""
    speed: float = 1.0
    volume: float = 1.0
    """Factor of the samples."""
    seed: int | None = None
    """The same seed gives the same samples; None draws one, which the timings name."""
    chunk_tokens: int | None = None
    """Speech tokens of the first chunk; None: the model's own."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    """The speech ends after as much of it as so many speech tokens make; None: with the text."""
    normalise: bool = True
    """False reads the text as it stands, in one piece."""
    client: str = "anonymous"
    """Whose limits count."""
    request_id: str = ""

    def check(self, limits: Limits) -> None:
        """Raise `RequestError` for what no model could do."""
        if isinstance(self.text, str) and not self.text.strip():
            raise RequestError("the input is empty; send a text", status=422, param="input", code="empty_input")
        if isinstance(self.text, str) and len(self.text) > limits.text_characters:
            raise too_long(len(self.text), limits, "input")
        if not self.normalise and len(self.text) > LONGEST_PIECE:
            raise RequestError(
                f"a text that is read as it stands, in one piece, has at most {LONGEST_PIECE} characters; split it",
                param="normalization_options", code="string_above_max_length",
            )  # fmt: skip
        try:
            check_speed(self.speed)
        except CosyVoiceError as error:
            raise RequestError(str(error), param="speed", code="invalid_value") from None
        if not (math.isfinite(self.volume) and 0 <= self.volume <= LOUDEST):
            raise RequestError(
                f"the volume {self.volume:g} is out of range; choose one from 0 to {LOUDEST:g}",
                param="volume_multiplier", code="invalid_value",
            )  # fmt: skip
        if self.seed is not None and self.seed < 0:
            raise RequestError(
                f"the seed {self.seed} is negative; give a whole number from 0", param="seed", code="invalid_value"
            )
        if self.voice is not None and self.reference is not None:
            raise RequestError(
                "voice and ref_audio are two voices; send one of them", param="voice", code="invalid_value"
            )


def too_long(length: int, limits: Limits, param: str) -> RequestError:
    """The refusal of a text of `length` characters."""
    return RequestError(
        f"the text has {length} characters, at most {limits.text_characters} are taken; split it",
        param=param, code="string_above_max_length",
    )  # fmt: skip


@dataclass(frozen=True)
class Timings:
    """What a request cost, in seconds."""

    request_id: str
    seed: int
    queue: float
    """In the queue."""
    time_to_first_audio: float
    """From admission to the first samples."""
    total: float
    """From admission to the last samples."""
    audio: float
    """Length of the speech."""
    rtf: float
    """Seconds of work a second of speech."""
    retries: int
    stages: dict[str, float]
    """Work of text, llm, flow and vocoder."""
    warnings: list[str]
    """What the client should know, such as an instruction that the model was not trained on."""
