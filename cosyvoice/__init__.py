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
from typing import TYPE_CHECKING, Any, Literal

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
    from cosyvoice.engine.compat import Compat
    from cosyvoice.engine.guard import Guard
    from cosyvoice.engine.models import CosyVoiceModel
    from cosyvoice.engine.pipeline import TTS
    from cosyvoice.engine.speech import Chunk, Speech
    from cosyvoice.engine.streaming import StreamingConfig
    from cosyvoice.native.options import VocoderOptions
    from cosyvoice.native.solver import FlowOptions
    from cosyvoice.voice.voice import Voice

__version__ = "0.1.0"

__all__ = [
    "TTS",
    "AudioError",
    "Chunk",
    "ConfigError",
    "CosyVoiceError",
    "FlowOptions",
    "GenerationError",
    "Guard",
    "MissingDependencyError",
    "ModelError",
    "OutputError",
    "Speech",
    "StreamingConfig",
    "TextError",
    "VocoderOptions",
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
    "FlowOptions": "cosyvoice.native.solver",
    "Guard": "cosyvoice.engine.guard",
    "Speech": "cosyvoice.engine.speech",
    "StreamingConfig": "cosyvoice.engine.streaming",
    "VocoderOptions": "cosyvoice.native.options",
    "Voice": "cosyvoice.voice.voice",
}


Backend = Literal["auto", "native", "reference"]


def load(
    model: str | Path | None = None,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    device: str = "cpu",
    flow: FlowOptions | None = None,
    vocoder: VocoderOptions | None = None,
    compat: Compat = "corrected",
    variant: str = "",
) -> TTS:
    """Load a model.

    Args:
        model: a bundle, another model directory, or None for the small model that comes with the package.
        backend: `native` runs bundles on ONNX Runtime; `reference` runs any directory in single precision on
            PyTorch; `auto` takes the native engine for bundles and the reference for everything else.
        threads: of one operation; None uses all cores.
        device: where the networks of the reference run, as PyTorch names it.
        flow: solver, steps, guidance and engine of the native flow; None takes those of the model.
        vocoder: engine of the native vocoder; None takes ONNX Runtime.
        compat: `released` brings back what the released code did wrong around its models, for comparison; see
            docs/differences.md.
        variant: other weights of the language model that a released directory brings, "rl" for `llm.rl.pt`; a bundle
            is made of one of them (`cosyvoice convert --variant rl`).

    Raises `ModelError` for files that are missing or damaged, `ConfigError` for settings that this version
    does not know or that do not fit together, `MissingDependencyError` where the reference lacks PyTorch, or
    a stage the engine that was asked for.
    """
    from cosyvoice.config.bundle import is_bundle
    from cosyvoice.engine.compat import check_compat
    from cosyvoice.engine.pipeline import TTS
    from cosyvoice.engine.speakers import bundled_speakers
    from cosyvoice.voice.store import VoiceStore

    check_compat(compat)
    directory = DEFAULT_MODEL if model is None else Path(model).expanduser()
    if model is None and not (directory / "config.json").is_file():
        raise ModelError(
            f"the model that comes with the package is missing from {directory}; install the package again, "
            "or name a model directory"
        )
    if backend not in ("auto", "native", "reference"):
        raise ConfigError(f"no backend {backend!r}; choose 'native' or 'reference', or leave it out")
    native = backend == "native" or (backend == "auto" and is_bundle(directory))
    if native and device != "cpu":
        raise ConfigError(f"the native engine runs on the CPU, not on {device!r}; use backend='reference'")
    if not native and (flow is not None or vocoder is not None):
        cure = "leave out backend='reference'" if backend == "reference" else "'cosyvoice convert' the model first"
        raise ConfigError(f"options of flow and vocoder belong to the native engine; {cure}")
    if native and variant:
        raise ConfigError(
            f"a bundle holds one set of weights; make one of the variant with 'cosyvoice convert --variant {variant}'"
        )
    if native:
        from cosyvoice.native.loading import load_native_model

        loaded = load_native_model(directory, threads, flow, compat=compat, vocoder=vocoder)
        speakers = bundled_speakers(directory, loaded.config)
    else:
        loaded, speakers = _load_reference(directory, threads, device, compat, variant)
    return TTS(loaded, VoiceStore(presets=directory / "voices", built_in=speakers))


def _load_reference(
    directory: Path, threads: int | None, device: str, compat: Compat, variant: str
) -> tuple[CosyVoiceModel, dict[str, Voice]]:
    try:
        import torch  # noqa: F401 - to tell a missing PyTorch from other missing modules
    except ImportError:
        raise MissingDependencyError(
            f"{directory} is no bundle, and what runs it is PyTorch, which is not installed; convert it on another "
            "machine with 'cosyvoice convert', or install PyTorch with: pip install 'cosyvoice[torch]'"
        ) from None
    from cosyvoice.reference.loading import load_reference_model, load_speakers

    loaded = load_reference_model(directory, threads, device, compat, variant)
    return loaded, load_speakers(directory, loaded.config)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cosyvoice' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
