"""What the README shows works: its Python runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cosyvoice
from cosyvoice.cli.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    transcript = re.findall(r'transcript="(.*?)"', README)[0]
    cosyvoice.load().say(transcript, voice="ryan", seed=1).save("reference.wav")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert Path("hello.wav").stat().st_size > 1000
    assert Path("cloned.wav").stat().st_size > 1000
    assert Path("friend.safetensors").stat().st_size > 1000


def test_the_commands_of_the_documents_exist() -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    named = set(
        re.findall(r"(?<!\.)cosyvoice ([a-z]+)\b(?! =)", "\n".join(re.findall(r"`[^`]*`|^cosyvoice .*$", text, re.M)))
    )
    assert {"say", "voices", "doctor", "parity", "evaluate", "corpus", "train", "convert", "bench"} <= named
    for command in named:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^make ([a-z]+)", "\n".join(blocks("sh")), re.M))
    assert targets == {"say", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / link).exists(), link
