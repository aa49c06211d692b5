"""CosyVoice: give it a few seconds of a voice and a text, and it speaks the text in that voice.

    import cosyvoice

    tts = cosyvoice.load()
    voice = tts.clone("reference.wav", transcript="what the reference says")
    tts.say("Hello.", voice=voice, seed=1).save("hello.wav")

Importing is cheap: networks and their libraries are loaded by `load`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosyvoice.errors import (
    AudioError,
    ConfigError,
    CosyVoiceError,
    GenerationError,
    MissingDependencyError,
    ModelError,
    OutputError,
    TextError,
    VoiceError,
)

if TYPE_CHECKING:
    from cosyvoice.engine.guard import Guard
    from cosyvoice.engine.pipeline import TTS
    from cosyvoice.engine.speech import Chunk, Speech
    from cosyvoice.engine.streaming import StreamingConfig
    from cosyvoice.voice.voice import Voice

__version__ = "0.1.0"

__all__ = [
    "TTS",
    "AudioError",
    "Chunk",
    "ConfigError",
    "CosyVoiceError",
    "GenerationError",
    "Guard",
    "MissingDependencyError",
    "ModelError",
    "OutputError",
    "Speech",
    "StreamingConfig",
    "TextError",
    "Voice",
    "VoiceError",
    "__version__",
    "load",
]

DEFAULT_MODEL = Path(__file__).parent / "pretrained" / "mini"
"""The small model that comes with the package."""

_LAZY = {
    "TTS": "cosyvoice.engine.pipeline",
    "Chunk": "cosyvoice.engine.speech",
    "Guard": "cosyvoice.engine.guard",
    "Speech": "cosyvoice.engine.speech",
    "StreamingConfig": "cosyvoice.engine.streaming",
    "Voice": "cosyvoice.voice.voice",
}


def load(model: str | Path | None = None, *, threads: int | None = None, device: str = "cpu") -> TTS:
    """Load a model: a directory, released or our own, or None for the small one that comes with the package.

    `threads` limits the threads of one operation (None: all cores); `device` is where the networks run.

    Raises `ModelError` for files that are missing or damaged, `ConfigError` for settings that this version
    does not know, `MissingDependencyError` where PyTorch is not installed.
    """
    directory = DEFAULT_MODEL if model is None else Path(model).expanduser()
    if model is None and not (directory / "config.json").is_file():
        raise ModelError(
            f"the model that comes with the package is missing from {directory}; install the package again, "
            "or name a model directory"
        )
    try:
        import torch  # noqa: F401 - to tell a missing PyTorch from other missing modules
    except ImportError:
        raise MissingDependencyError(
            "the networks run on PyTorch, which is not installed; install it with: pip install 'cosyvoice[torch]'"
        ) from None
    from cosyvoice.engine.pipeline import TTS
    from cosyvoice.reference.loading import load_reference_model
    from cosyvoice.voice.store import VoiceStore

    return TTS(load_reference_model(directory, threads, device), VoiceStore(presets=directory / "voices"))


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cosyvoice' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
