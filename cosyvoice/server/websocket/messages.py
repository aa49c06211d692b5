"""Messages of the WebSocket: what a client may send, read strictly, and what it is answered.

Names are those that other servers of this path use, with `input.flush` and `input.cancel` beside them. Fields that are
not known are passed over; a `type` that is not known is an error, since its sender waits for something.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from cosyvoice.server.answers import usage_of
from cosyvoice.server.encoding import AudioFormat
from cosyvoice.server.errors import Problem, RequestError
from cosyvoice.server.schemas import SpeechOptions
from cosyvoice.server.websocket.generation import Generation, Outcome

GenerationId = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class SessionConfig(SpeechOptions):
    """How the generations that begin from now on are spoken; replaces the configuration before it."""

    type: Literal["session.config"] = "session.config"
    model: str | None = Field(None, max_length=256)
    response_format: AudioFormat | None = Field(None, description="pcm where it is left out.")


class InputText(BaseModel):
    """More of the text of a generation; the first one begins it."""

    type: Literal["input.text"]
    text: str
    generation_id: GenerationId | None = None


class InputFlush(BaseModel):
    """The text of this generation is complete."""

    type: Literal["input.flush"]


class InputCancel(BaseModel):
    """Stop one generation, or all."""

    type: Literal["input.cancel"]
    generation_id: GenerationId | None = None


class InputDone(BaseModel):
    """The text is complete; tell when everything has been spoken."""

    type: Literal["input.done"]


class SessionClose(BaseModel):
    """The same, and close the connection then."""

    type: Literal["session.close"]


ClientMessage = SessionConfig | InputText | InputFlush | InputCancel | InputDone | SessionClose

_MESSAGES: dict[str, type[ClientMessage]] = {
    "session.config": SessionConfig,
    "input.text": InputText,
    "input.flush": InputFlush,
    "input.cancel": InputCancel,
    "input.done": InputDone,
    "session.close": SessionClose,
}


def parse(text: str) -> ClientMessage:
    """The message in a text frame. Raises `RequestError` for everything that is none."""
    try:
        # Stricter than the standard library: no halves of surrogate pairs, which could not be sent back either.
        data = from_json(text)
    except ValueError:
        raise RequestError("the frame is no JSON; send one JSON object a frame", code="invalid_json") from None
    if not isinstance(data, dict):
        raise RequestError("the frame is no JSON object; send one with a type", code="invalid_json")
    kind = data.get("type")
    message = _MESSAGES.get(kind) if isinstance(kind, str) else None
    if message is None:
        raise RequestError(
            f"there is no such message; the types are {', '.join(_MESSAGES)}", param="type", code="unknown_message"
        )
    try:
        return message.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        raise RequestError(f"{field or kind}: {first['msg']}", param=field, code="invalid_value") from None


def start_message(generation: Generation, sample_rate: int) -> dict[str, Any]:
    """Goes before the first audio of a generation."""
    return {
        "type": "audio.start",
        "generation_id": generation.name,
        "sentence_index": generation.index,
        "sentence_text": generation.begins,
        "format": generation.audio_format,
        "sample_rate": sample_rate,
    }


def done_message(generation: Generation, outcome: Outcome, sent: int) -> dict[str, Any]:
    """The end of a generation of which `sent` bytes of audio went out; what it cost, where it is complete."""
    message: dict[str, Any] = {
        "type": "audio.done",
        "generation_id": generation.name,
        "sentence_index": generation.index,
        "status": outcome,
        "error": outcome == "failed",
        "total_bytes": sent,
    }
    if generation.job is not None and outcome == "ok":
        message |= {"usage": usage_of(generation.job), "timings": asdict(generation.job.timings)}
    return message


def error_message(problem: Problem, generation_id: str | None) -> dict[str, Any]:
    """OpenAI's error object in a message, and its text where other servers have it."""
    return {"type": "error", "message": problem.message, **problem.body(), "generation_id": generation_id}
