"""Requests of the released servers, whose five kinds came over HTTP and gRPC alike.

Their clients ask for the speakers of the first released models by default. Where the model has no such speaker, a
preset of the same gender answers to the name, as one does to the names of OpenAI.
"""

from __future__ import annotations

import numpy as np

from cosyvoice.server.encoding import wav_header
from cosyvoice.server.errors import UNPROCESSABLE, RequestError
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.service import SpeechService
from cosyvoice.server.voices import Reference

PROMPT_RATE = 16_000
"""Hz, of recordings that are sent as bare samples."""
RELEASED_SPEAKERS = {
    "中文女": "alloy", "中文男": "ash", "日语男": "echo", "粤语女": "coral", "英文女": "nova", "英文男": "onyx",
    "韩语女": "sage",
}  # fmt: skip
"""Speakers of the first released models, and the name of OpenAI whose voice stands in."""


def speaker_request(
    service: SpeechService, text: str, speaker: str, instruct: str | None, client: str, request_id: str
) -> SpeechRequest:
    """Speak with a stored voice, as an instruction says where there is one.

    Raises `RequestError` for an unknown speaker, and an instruction that the model cannot follow.
    """
    _check_instruct(service, instruct)
    voice = RELEASED_SPEAKERS.get(speaker) if speaker not in service.voices.names() else None
    try:
        name = service.voices.canonical(voice or speaker)
    except RequestError as error:
        raise RequestError(str(error), status=error.status, kind=error.kind, param="spk_id", code=error.code) from None
    return SpeechRequest(text, voice=name, instruct=instruct, client=client, request_id=request_id)


def prompt_request(
    service: SpeechService, text: str, prompt: Reference, instruct: str | None, client: str, request_id: str
) -> SpeechRequest:
    """Speak like a recording, as an instruction says where there is one. Raises `RequestError` as above."""
    _check_instruct(service, instruct)
    return SpeechRequest(text, reference=prompt, instruct=instruct, client=client, request_id=request_id)


def reference_of_samples(samples: bytes, transcript: str) -> Reference:
    """A recording from 16-bit little-endian samples at 16 kHz. Raises `RequestError` for half a sample."""
    if len(samples) % np.dtype("<i2").itemsize:
        raise RequestError(
            f"prompt_audio has {len(samples)} bytes, which is half a sample too many; send 16-bit samples at 16 kHz",
            status=UNPROCESSABLE, param="prompt_audio", code="invalid_audio",
        )  # fmt: skip
    return Reference(wav_header(PROMPT_RATE, len(samples)) + samples, transcript)


def _check_instruct(service: SpeechService, instruct: str | None) -> None:
    if instruct is None:
        return
    if not instruct.strip():
        raise RequestError(
            "the instruction is empty; say how to speak",
            status=UNPROCESSABLE,
            param="instruct_text",
            code="invalid_value",
        )
    if not service.follows_instructions:
        raise RequestError(
            f"the model {service.model_name!r} follows no instructions; ask without one, or serve one that does",
            status=UNPROCESSABLE, param="instruct_text", code="invalid_value",
        )  # fmt: skip
