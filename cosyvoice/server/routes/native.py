"""`POST /synthesize` and `GET /speakers`: the requests of the native server that clients of the fork send.

A prompt is a stored voice, or audio that comes with the request. A path on the server's disk is refused, unless the
operator names a folder; then it is looked for in there and nowhere else.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from cosyvoice.server.answers import begin, collect, unless_disconnected
from cosyvoice.server.encoding import encode_whole
from cosyvoice.server.errors import UNPROCESSABLE, RequestError
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.routes.common import SPEECH_ERRORS, Client, RequestId, Service, errors
from cosyvoice.server.schemas import Text
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import Settings
from cosyvoice.server.translate import decode_base64
from cosyvoice.server.uploads import check_size
from cosyvoice.server.voices import Reference

router = APIRouter(tags=["native"])
_LONGEST_PATH = 1024
"""Characters; a recording takes many more in base64."""
_WAV: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "WAV, 16 bit, mono; `x-audio-duration` says how many seconds.",
        "content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class SynthesizeBody(BaseModel):
    """A text, and whose voice: `speaker`, `prompt_audio` as base64 or in the operator's folder, or the first voice."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    text: Text
    prompt_audio: Text | None = Field(None, description="Base64, a data URL, a voice, or a path in the allowed folder.")
    prompt_text: str | None = Field(None, max_length=4096, description="What the prompt says.")
    speaker: Text | None = Field(None, description="A voice; of a prompt without prompt_text, how to speak.")
    speed: float = Field(1.0, ge=0.25, le=4.0)


class Speakers(BaseModel):
    """Names of all voices."""

    speakers: list[str]


@router.post("/synthesize", response_class=Response, responses={**_WAV, **SPEECH_ERRORS})
async def synthesize(
    body: SynthesizeBody, http: Request, service: Service, client: Client, request_id: RequestId
) -> Response:
    """Speak a text; the answer is a complete file."""
    voice, reference = await asyncio.to_thread(_prompt, service, body)
    instruct = None
    if body.prompt_audio is None:
        voice = body.speaker
    elif body.prompt_text is None and body.speaker is not None and service.follows_instructions:
        instruct = body.speaker
    asked = SpeechRequest(
        body.text, voice, reference, instruct, speed=body.speed, client=client, request_id=request_id
    )  # fmt: skip
    job = await begin(service, asked, http)
    try:
        samples = await unless_disconnected(http, collect(job))
    finally:
        await job.aclose()
    return Response(
        encode_whole(samples, "wav", service.sample_rate),
        media_type="audio/wav",
        headers={"x-audio-duration": f"{len(samples) / service.sample_rate:.3f}"},
    )


@router.get("/speakers", responses=errors())
def speakers(service: Service) -> Speakers:
    """Names of all voices."""
    return Speakers(speakers=service.voices.names())


def _prompt(service: SpeechService, body: SynthesizeBody) -> tuple[str | None, Reference | None]:
    """The voice or the recording that `prompt_audio` means."""
    prompt = body.prompt_audio
    if prompt is None:
        return None, None
    if prompt in service.voices.names():
        return prompt, None
    if len(prompt) <= _LONGEST_PATH and not prompt.startswith("data:"):
        audio = read_prompt(service.settings, prompt)
    else:
        audio = decode_base64(prompt)
    check_size(len(audio), service.settings.limits)
    return None, Reference(audio, body.prompt_text or "")


def read_prompt(settings: Settings, name: str) -> bytes:
    """A recording in the operator's folder. Raises `RequestError` for everything that does not lie in it."""
    refusal = RequestError(
        "prompt_audio by path is not allowed here; send the audio in base64, or name a voice",
        status=UNPROCESSABLE, param="prompt_audio", code="path_not_allowed",
    )  # fmt: skip
    if settings.prompt_folder is None or "\0" in name:
        raise refusal
    folder = settings.prompt_folder.resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise refusal
    try:
        if not path.is_file():
            raise FileNotFoundError
        check_size(path.stat().st_size, settings.limits)
        return path.read_bytes()
    except OSError:
        raise RequestError(
            "there is no such prompt in the folder of the server", status=404, param="prompt_audio", code="not_found"
        ) from None
