"""Routes of the released FastAPI server: form fields in, bare 16-bit samples out.

Its example client sends the form in the body of a GET request, which few other clients can; POST does the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.responses import Response

from cosyvoice.server.answers import audio_stream, begin
from cosyvoice.server.released import prompt_request, speaker_request
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.routes.common import SPEECH_ERRORS, Client, RequestId, Service
from cosyvoice.server.service import SpeechService
from cosyvoice.server.uploads import check_size
from cosyvoice.server.voices import Reference

router = APIRouter(tags=["released"])
RATE_HEADER = "x-sample-rate"

Text = Annotated[str, Form(min_length=1, description="The text to speak.")]
Speaker = Annotated[str, Form(min_length=1, max_length=64, description="A voice of the server.")]
PromptText = Annotated[str, Form(max_length=4096, description="What the recording says.")]
PromptWav = Annotated[UploadFile, File(description="A recording of 1 to 30 s to speak like.")]
InstructText = Annotated[str, Form(min_length=1, max_length=4096, description="How to say it.")]

_PCM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"16-bit little-endian mono samples; `{RATE_HEADER}` says how many a second.",
        "content": {"audio/pcm": {"schema": {"type": "string", "format": "binary"}}},
    }
}
Handler = Callable[..., Awaitable[Response]]


def _route(path: str) -> Callable[[Handler], Handler]:
    def add(handler: Handler) -> Handler:
        router.post(path, response_class=Response, responses={**_PCM, **SPEECH_ERRORS})(handler)
        router.get(path, response_class=Response, responses={**_PCM, **SPEECH_ERRORS})(handler)
        return handler

    return add


@_route("/inference_sft")
async def inference_sft(
    http: Request, service: Service, client: Client, request_id: RequestId, tts_text: Text, spk_id: Speaker
) -> Response:
    """Speak with a stored voice."""
    return await _stream(service, http, speaker_request(service, tts_text, spk_id, None, client, request_id))


@_route("/inference_zero_shot")
async def inference_zero_shot(
    http: Request,
    service: Service,
    client: Client,
    request_id: RequestId,
    tts_text: Text,
    prompt_wav: PromptWav,
    prompt_text: PromptText = "",
) -> Response:
    """Speak like a recording whose words are known."""
    prompt = Reference(await _read(service, prompt_wav), prompt_text)
    return await _stream(service, http, prompt_request(service, tts_text, prompt, None, client, request_id))


@_route("/inference_cross_lingual")
async def inference_cross_lingual(
    http: Request, service: Service, client: Client, request_id: RequestId, tts_text: Text, prompt_wav: PromptWav
) -> Response:
    """Speak like a recording in another language than that of the recording."""
    prompt = Reference(await _read(service, prompt_wav))
    return await _stream(service, http, prompt_request(service, tts_text, prompt, None, client, request_id))


@_route("/inference_instruct")
async def inference_instruct(
    http: Request,
    service: Service,
    client: Client,
    request_id: RequestId,
    tts_text: Text,
    spk_id: Speaker,
    instruct_text: InstructText,
) -> Response:
    """Speak with a stored voice, as an instruction says."""
    return await _stream(service, http, speaker_request(service, tts_text, spk_id, instruct_text, client, request_id))


@_route("/inference_instruct2")
async def inference_instruct2(
    http: Request,
    service: Service,
    client: Client,
    request_id: RequestId,
    tts_text: Text,
    instruct_text: InstructText,
    prompt_wav: PromptWav,
) -> Response:
    """Speak like a recording, as an instruction says."""
    prompt = Reference(await _read(service, prompt_wav))
    return await _stream(service, http, prompt_request(service, tts_text, prompt, instruct_text, client, request_id))


async def _read(service: SpeechService, upload: UploadFile) -> bytes:
    limits = service.settings.limits
    if upload.size is not None:
        check_size(upload.size, limits)
    return await upload.read(limits.upload_bytes + 1)


async def _stream(service: SpeechService, http: Request, asked: SpeechRequest) -> Response:
    job = await begin(service, asked, http)
    return audio_stream(job, "pcm", service.sample_rate, {RATE_HEADER: str(service.sample_rate)})
