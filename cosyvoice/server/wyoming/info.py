"""What Home Assistant is told of the server when it asks to be described."""

from __future__ import annotations

from typing import Any

import cosyvoice
from cosyvoice.server.service import SpeechService

_ATTRIBUTION = {"name": "CosyVoice", "url": "https://github.com/FunAudioLLM/CosyVoice"}


def describe(service: SpeechService) -> dict[str, Any]:
    """Data of the `info` event: one program with all voices."""
    spoken = list(service.tts.model.languages)
    common = {"attribution": _ATTRIBUTION, "installed": True, "version": cosyvoice.__version__}
    voices = [
        {"name": name, "description": name, "languages": spoken, "speakers": None, **common}
        for name in service.voices.names()
    ]
    program = {
        "name": "cosyvoice",
        "description": f"CosyVoice ({service.model_name})",
        "voices": voices,
        "supports_synthesize_streaming": True,
        **common,
    }
    others = ("asr", "handle", "intent", "wake", "mic", "snd")
    return {"tts": [program], **{name: [] for name in others}}
