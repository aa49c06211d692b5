from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import cosyvoice
from cosyvoice.cli import say


def test_version(run: Callable[..., Any]) -> None:
    ran = run("--version")
    assert (ran.code, ran.out.strip()) == (0, cosyvoice.__version__)


def test_help_names_every_command(run: Callable[..., Any]) -> None:
    ran = run("--help")
    assert ran.code == 0
    for command in ("say", "voices", "doctor", "evaluate", "parity"):
        assert command in ran.out


def test_errors_are_one_line_and_exit_code_two(run: Callable[..., Any]) -> None:
    ran = run("say", "Hello.", "-o", "/nonexistent/x.wav")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "cosyvoice: the directory /nonexistent does not exist; create it first\n"


@pytest.mark.parametrize("arguments", [["nonsense"], ["say", "--nonsense"], ["say", "Hi", "--seed", "x", "-o", "a"]])
def test_wrong_usage_is_exit_code_two(run: Callable[..., Any], arguments: list[str]) -> None:
    assert run(*arguments).code == 2


def test_an_interrupt_is_exit_code_130(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(say, "check_output", interrupt)
    assert run("say", "Hello.", "-o", "x.wav").code == 130


def test_the_command_starts_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['cosyvoice', '--help']\n"
        "from cosyvoice.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'onnxruntime', 'matplotlib', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
