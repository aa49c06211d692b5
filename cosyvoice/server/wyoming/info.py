"""What Home Assistant is told of the server when it asks to be described."""

from __future__ import annotations

from typing import Any

import cosyvoice
from cosyvoice.config.model import ModelConfig
from cosyvoice.server.service import SpeechService

_ATTRIBUTION = {"name": "CosyVoice", "url": "https://github.com/FunAudioLLM/CosyVoice"}
_LANGUAGES = {
    "v1": ("zh", "en", "ja", "yue", "ko"),
    "v2": ("zh", "en", "ja", "yue", "ko"),
    "v3": ("zh", "en", "ja", "yue", "ko", "de", "es", "fr", "it", "ru"),
}


def languages(config: ModelConfig) -> list[str]:
    """Codes of the languages that a model speaks; one that reads phones has those of English."""
    return ["en"] if config.tokenizer == "phones" else list(_LANGUAGES[config.generation])


def describe(service: SpeechService) -> dict[str, Any]:
    """Data of the `info` event: one program with all voices."""
    spoken = languages(service.tts.model.config)
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
