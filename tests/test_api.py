from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cosyvoice
from cosyvoice.errors import MissingDependencyError, ModelError


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_loads_no_network_library() -> None:
    heavy = run(
        "import sys, cosyvoice; print([m for m in ('torch', 'onnxruntime', 'numpy', 'pydantic') if m in sys.modules])"
    )
    assert heavy == "[]"


def test_the_engine_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import cosyvoice\n"
        "cosyvoice.TTS, cosyvoice.Voice, cosyvoice.Speech, cosyvoice.Guard, cosyvoice.StreamingConfig\n"
        "try: cosyvoice.load(sys.argv[0] or '.')\n"
        "except cosyvoice.MissingDependencyError as error: print(error)"
    )
    assert "pip install 'cosyvoice[torch]'" in run(code)


def test_importing_is_quick() -> None:
    # Processor time, since other work of the machine would show in the clock.
    seconds = float(run("import time; s = time.process_time(); import cosyvoice; print(time.process_time() - s)"))
    assert seconds < 0.4


def test_every_public_name_exists() -> None:
    for name in cosyvoice.__all__:
        assert getattr(cosyvoice, name) is not None
    assert set(cosyvoice.__all__) <= set(dir(cosyvoice))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cosyvoice.nonsense


def test_the_version_is_that_of_the_project() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert found is not None and cosyvoice.__version__ == found[1]


def test_missing_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        cosyvoice.load(tmp_path / "none")
    monkeypatch.setattr(cosyvoice, "DEFAULT_MODEL", tmp_path)
    with pytest.raises(ModelError, match="comes with the package is missing"):
        cosyvoice.load()


def test_missing_torch_is_named(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cosyvoice\[torch\]'"):
        cosyvoice.load(tiny_model_dir)


def test_the_example_of_the_description(tiny_model_dir: Path, reference_wav: Path, tmp_path: Path) -> None:
    tts = cosyvoice.load(tiny_model_dir, threads=1)
    voice = tts.clone(reference_wav, transcript="what is said")
    speech = tts.say("Hello.", voice=voice, seed=1)
    assert isinstance(speech, cosyvoice.Speech) and isinstance(voice, cosyvoice.Voice)
    assert speech.save(tmp_path / "hello.wav").stat().st_size > 1000
    assert all(isinstance(chunk.samples, np.ndarray) for chunk in tts.stream("Hello.", "anna", seed=1))


def test_speaking_needs_neither_pytorch_nor_the_packages_of_conversion(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'onnx', 'tokenizers', 'matplotlib')))\n"
        "import cosyvoice\n"
        "cosyvoice.load().say('One.', seed=1).save(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "one.wav")], check=True, timeout=120)
    assert (tmp_path / "one.wav").stat().st_size > 1000
