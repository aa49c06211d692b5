"""OpenAI's fields and their extensions as a `SpeechRequest`."""

from __future__ import annotations

import asyncio
import base64
import binascii

from cosyvoice.engine.sampling import Sampling
from cosyvoice.server.errors import UNPROCESSABLE, RequestError
from cosyvoice.server.remote import fetch
from cosyvoice.server.requests import SpeechRequest
from cosyvoice.server.schemas import SpeechOptions, VoiceId
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import Settings
from cosyvoice.server.uploads import check_size
from cosyvoice.server.voices import Reference
from cosyvoice.text.languages import language_code, language_name

IGNORED_HEADER = "x-cosyvoice-ignored"


def check_model(service: SpeechService, model: str | None) -> None:
    """Raise `RequestError` (404) for a model that is not served here."""
    if model is not None and model not in (service.model_name, *service.settings.model_aliases):
        raise RequestError(
            f"there is no model {model[:64]!r}; this server has {service.model_name!r}",
            status=404, param="model", code="model_not_found",
        )  # fmt: skip


async def speech_request(
    service: SpeechService, text: str, options: SpeechOptions, client: str, request_id: str
) -> SpeechRequest:
    """What is asked of the service. Raises `RequestError` for fields that do not fit together."""
    reference = await reference_of(service.settings, options)
    voice = options.voice.id if isinstance(options.voice, VoiceId) else options.voice
    if reference is not None and voice is not None:
        # Clients of OpenAI cannot leave the voice out, so the recording counts.
        voice = None
    _check_task(options, voice, reference)
    language = _language(service, options.language)
    instruct = (options.instructions or "").strip() or None
    if instruct is not None and not service.follows_instructions:
        if options.task_type == "instruct":
            raise _unprocessable(f"the model {service.model_name!r} follows no instructions", "instructions")
        instruct = None
    return SpeechRequest(
        text=text,
        voice=voice,
        reference=reference,
        instruct=instruct,
        language=language,
        speed=1.0 if options.speed is None else options.speed,
        volume=1.0 if options.volume_multiplier is None else options.volume_multiplier,
        seed=options.seed,
        chunk_tokens=options.chunk_tokens,
        sampling=Sampling(options.top_k, options.top_p, 1.0 if options.temperature is None else options.temperature),
        max_tokens=options.max_new_tokens,
        normalise=options.normalization_options is None or options.normalization_options.normalize is not False,
        client=client,
        request_id=request_id,
    )


def ignored(service: SpeechService, options: SpeechOptions) -> dict[str, str]:
    """A header that names the fields which have no effect with this model."""
    names = []
    if (options.instructions or "").strip() and not service.follows_instructions:
        names.append("instructions")
    language = _language(service, options.language)
    if language is not None and not service.tts.model.language_mark(language):
        names.append("language")
    if options.return_download_link:
        names.append("return_download_link")
    return {IGNORED_HEADER: ", ".join(names)} if names else {}


def _language(service: SpeechService, name: str | None) -> str | None:
    """The code of a language that the model reads; None for `auto`. Raises `RequestError` for any other."""
    code = language_code(name or "auto")
    if code == "auto":
        return None
    known = service.tts.model.languages
    if code not in known:
        asked = "that language" if code is None else language_name(code)
        raise RequestError(
            f"the model {service.model_name!r} does not read {asked}; name one of "
            f"{', '.join(map(language_name, known))} or its code, or auto",
            status=UNPROCESSABLE, param="language", code="unsupported_language",
        )  # fmt: skip
    return code


async def reference_of(settings: Settings, options: SpeechOptions) -> Reference | None:
    """The recording that comes with a request. Raises `RequestError` where it cannot be had."""
    if options.ref_audio is None:
        if options.ref_text:
            raise _unprocessable("ref_text belongs to a recording; send it with ref_audio", "ref_text")
        return None
    transcript = options.ref_text or ""
    if options.x_vector_only_mode or options.task_type == "cross_lingual":
        transcript = ""
    limits = settings.limits
    if options.ref_audio.lower().startswith(("http://", "https://")):
        audio = await asyncio.to_thread(fetch, options.ref_audio, settings.remote_audio, limits.upload_bytes)
    else:
        audio = decode_base64(options.ref_audio)
    check_size(len(audio), limits)
    return Reference(audio, transcript)


def decode_base64(text: str) -> bytes:
    """The bytes of base64 or of a data URL. Raises `RequestError`."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise _unprocessable("ref_audio is no data URL in base64; write data:audio/wav;base64,…", "ref_audio")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _unprocessable("ref_audio is no base64, data URL or http(s) URL; encode the file", "ref_audio") from None


def _check_task(options: SpeechOptions, voice: str | None, reference: Reference | None) -> None:
    task = options.task_type
    if task == "VoiceDesign":
        raise _unprocessable("voices are not designed from words; send ref_audio, or choose a voice", "task_type")
    if task in ("Base", "zero_shot") and reference is None and voice is None:
        raise _unprocessable(f"{task} speaks like a recording; send ref_audio", "ref_audio")
    if task == "zero_shot" and reference is not None and not reference.transcript.strip():
        raise _unprocessable("zero_shot needs what the recording says; send ref_text", "ref_text")
    if task in ("CustomVoice", "sft") and reference is not None:
        raise _unprocessable(f"{task} speaks with a stored voice; leave ref_audio out", "ref_audio")
    if task == "instruct" and not (options.instructions or "").strip():
        raise _unprocessable("instruct needs to know how to speak; send instructions", "instructions")


def _unprocessable(message: str, param: str) -> RequestError:
    return RequestError(message, status=UNPROCESSABLE, param=param, code="invalid_value")
