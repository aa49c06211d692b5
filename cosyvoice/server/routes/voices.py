"""Voices: listed, uploaded with consent and provenance, and deleted."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile

from cosyvoice.errors import AudioError
from cosyvoice.server.errors import UNPROCESSABLE, RequestError, problem_of
from cosyvoice.server.routes.common import Service, errors
from cosyvoice.server.schemas import UploadedVoice, VoiceAdded, VoiceDeleted, VoiceItem, VoiceList
from cosyvoice.server.uploads import check_size
from cosyvoice.server.voices import Reference, Upload
from cosyvoice.voice.voice import Voice

router = APIRouter(tags=["voices"])


@router.get("/v1/audio/voices", responses=errors())
def list_voices(service: Service) -> VoiceList:
    """All voices, OpenAI's names among the aliases."""
    voices = service.voices
    names = [*voices.names(), *voices.aliases]
    return VoiceList(
        voices=[VoiceItem(id=name, name=name) for name in names],
        uploaded_voices=[_shown(voice, size) for voice, size in voices.uploads()],
        aliases=voices.aliases,
    )


@router.post("/v1/audio/voices", responses=errors(409, 500), status_code=200)
async def add_voice(
    service: Service,
    audio_sample: Annotated[UploadFile, File(description="A recording of 1 to 30 s, 3 to 15 s are best.")],
    name: Annotated[str, Form(min_length=1, max_length=64)],
    consent: Annotated[str, Form(min_length=1, max_length=4096, description="Who allowed its use, and for what.")],
    provenance: Annotated[
        str | None, Form(max_length=4096, description="Where the recording came from; the file's name otherwise.")
    ] = None,
    ref_text: Annotated[str, Form(max_length=4096, description="What the recording says.")] = "",
    speaker_description: Annotated[str, Form(max_length=4096)] = "",
    gender: Annotated[str, Form(max_length=64)] = "",
) -> VoiceAdded:
    """Keep a voice."""
    limits = service.settings.limits
    if audio_sample.size is not None:
        check_size(audio_sample.size, limits)
    audio = await audio_sample.read(limits.upload_bytes + 1)
    source = provenance or (f"uploaded as {audio_sample.filename}" if audio_sample.filename else "")
    upload = Upload(name, Reference(audio, ref_text), consent, source, speaker_description, gender)
    try:
        added = await asyncio.to_thread(service.voices.add, upload)
    except AudioError as error:
        code = problem_of(error).code
        raise RequestError(str(error), status=UNPROCESSABLE, param="audio_sample", code=code) from None
    return VoiceAdded(voice=_shown(added.voice, added.size), warnings=added.warnings)


@router.delete("/v1/audio/voices/{name}", responses=errors(403, 404))
def delete_voice(name: str, service: Service) -> VoiceDeleted:
    """Delete an uploaded voice for good."""
    service.voices.remove(name)
    return VoiceDeleted(message=f"the voice {name!r} is deleted")


def _shown(voice: Voice, size: int) -> UploadedVoice:
    return UploadedVoice(
        name=voice.name,
        consent=voice.consent,
        provenance=voice.provenance,
        ref_text=voice.transcript,
        speaker_description=voice.description,
        gender=voice.gender,
        file_size=size,
    )
