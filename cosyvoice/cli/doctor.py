"""`cosyvoice doctor`: what is installed, what is missing, and whether it speaks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from cosyvoice.cli.player import PROGRAMS
from cosyvoice.errors import CosyVoiceError

_NEEDED = (
    "numpy", "onnxruntime", "safetensors", "soundfile", "soxr", "threadpoolctl", "wetext", "pydantic", "typer", "rich",
)  # fmt: skip
_OPTIONAL = {
    "tokenizers": "text of released models: pip install 'cosyvoice[released]'",
    "matplotlib": "spectrograms: pip install 'cosyvoice[plot]'",
    "pocketsphinx": "evaluation: pip install 'cosyvoice[evaluate]'; transcripts on the page: 'cosyvoice[webui]'",
    "gradio": "the page: pip install 'cosyvoice[webui]'",
    "hydra-core": "training: pip install 'cosyvoice[train]'",
}
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
_MODEL_FILES = {
    "llm.safetensors": "speaking",
    "flow.safetensors": "speaking",
    "hift.safetensors": "speaking",
    "speech_tokenizer.onnx": "cloning",
    "campplus.onnx": "cloning",
}
_SENTENCE = "This is a test."


class Verdict(str, Enum):
    """Of one line."""

    OK = "ok"
    NOTE = "note"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Line:
    """One finding."""

    topic: str
    verdict: Verdict
    finding: str


def doctor(
    model: Annotated[Path | None, typer.Option(help="Model directory; the model of the package otherwise.")] = None,
    synthesis: Annotated[bool, typer.Option(help="Also speak a sentence.")] = True,
) -> None:
    """Check the installation. Exits with 1 where something that is needed is missing."""
    import cosyvoice

    failed = False
    for line in examine(model or cosyvoice.DEFAULT_MODEL, synthesis):
        failed = failed or line.verdict is Verdict.FAIL
        typer.echo(f"{line.verdict.value:<5} {line.topic:<12} {line.finding}")
    if failed:
        raise typer.Exit(1)


def examine(model: Path, synthesis: bool = True) -> Iterator[Line]:
    """All findings, each as soon as it is known."""
    import cosyvoice

    yield Line("cosyvoice", Verdict.OK, f"{cosyvoice.__version__}, {Path(cosyvoice.__file__).parent}")
    fine = sys.version_info >= (3, 10)
    yield Line("python", Verdict.OK if fine else Verdict.FAIL, f"{platform.python_version()}, 3.10 or later is needed")
    yield Line("system", Verdict.OK, f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_features()}")
    yield from _packages()
    yield _torch()
    yield from _model(model)
    yield _programs("player", tuple(PROGRAMS), "for --play")
    yield _programs("synthesisers", ("flite", "text2wave"), "to build a training corpus")
    if synthesis:
        yield _synthesis(model)


def _packages() -> Iterator[Line]:
    for name in _NEEDED:
        found = _version(name)
        if found is None:
            yield Line(name, Verdict.FAIL, f"missing; install it with: pip install {name}")
        else:
            yield Line(name, Verdict.OK, found)
    for name, purpose in _OPTIONAL.items():
        found = _version(name)
        yield Line(name, Verdict.OK if found else Verdict.NOTE, found or f"not installed ({purpose})")


def _torch() -> Line:
    try:
        import torch
    except ImportError:
        purpose = "conversion, training and models that are not converted: pip install 'cosyvoice[torch]'"
        return Line("torch", Verdict.NOTE, f"not installed ({purpose})")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return Line("torch", Verdict.OK, f"{torch.__version__}, {device}, {torch.get_num_threads()} threads")


def _model(directory: Path) -> Iterator[Line]:
    from cosyvoice.config.bundle import is_bundle, read_bundle
    from cosyvoice.config.released import detect_generation, read_model_config
    from cosyvoice.voice.store import VoiceStore

    try:
        config = read_model_config(directory)
    except CosyVoiceError as error:
        yield Line("model", Verdict.FAIL, str(error))
        return
    kind = f"released {config.generation}" if detect_generation(directory) else "our own layout"
    yield Line("model", Verdict.OK, f"{config.name} ({kind}), {directory}")
    if detect_generation(directory) is None:
        for name, purpose in _MODEL_FILES.items():
            path = directory / name
            if path.is_file():
                yield Line("", Verdict.OK, f"{name}, {path.stat().st_size / 1e6:.1f} MB")
            else:
                yield Line("", Verdict.FAIL, f"{name} is missing, which {purpose} needs; copy the model again")
    if is_bundle(directory):
        try:
            bundle = read_bundle(directory)
        except CosyVoiceError as error:
            yield Line("", Verdict.FAIL, str(error))
        else:
            yield Line("", Verdict.OK, f"converted for the native engine, {bundle.precision}")
    else:
        yield Line("", Verdict.NOTE, "not converted: it runs on PyTorch; see 'cosyvoice convert'")
    store = VoiceStore(presets=directory / "voices")
    presets, own = store.preset_names(), store.own_names()
    yield Line("voices", Verdict.OK, f"{len(presets)} of the model, {len(own)} of your own in {store.directory}")
    yield from _speakers(directory)


def _speakers(directory: Path) -> Iterator[Line]:
    """The speakers that a model brings in a table; nothing for a model without one."""
    from cosyvoice.checkpoint.speakers import SPEAKERS_FILE, read_speakers

    table, released = directory / SPEAKERS_FILE, directory / "spk2info.pt"
    try:
        if table.is_file():
            names = list(read_speakers(table))
        elif released.is_file():
            from cosyvoice.checkpoint.released import load_spk2info

            names = list(load_spk2info(released))
        else:
            return
    except ImportError:
        yield Line("speakers", Verdict.NOTE, f"{released.name} is there, and PyTorch, which reads it, is not installed")
    except CosyVoiceError as error:
        yield Line("speakers", Verdict.FAIL, str(error))
    else:
        yield Line("speakers", Verdict.OK, f"{len(names)} in {table.name if table.is_file() else released.name}")


def _synthesis(directory: Path) -> Line:
    """A sentence spoken with the first voice."""
    try:
        import cosyvoice

        tts = cosyvoice.load(directory)
        if not tts.voices():
            return Line("speech", Verdict.NOTE, "not tried: the model brings no voice")
        speech = tts.say(_SENTENCE, seed=0)
    except CosyVoiceError as error:
        return Line("speech", Verdict.FAIL, str(error))
    doubtful = speech.report.doubtful
    finding = f"{speech.duration:.2f} s, RTF {speech.report.rtf:.2f}"
    if doubtful:
        return Line("speech", Verdict.NOTE, f"{finding}, but {doubtful[0].faults[-1].value} was noticed")
    return Line("speech", Verdict.OK, finding)


def _programs(topic: str, names: tuple[str, ...], purpose: str) -> Line:
    found = [name for name in names if shutil.which(name)]
    if found:
        return Line(topic, Verdict.OK, ", ".join(found))
    return Line(topic, Verdict.NOTE, f"none of {', '.join(names)} is installed ({purpose})")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _features() -> str:
    """Instruction sets that matter for speed, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "instruction sets unknown"
    known = set(text.split())
    found = [name for name in _INSTRUCTIONS if name in known]
    return ", ".join(found) if found else "no vector instructions found"
