"""Downloads through the real client libraries from a stand-in server on loopback."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cosyvoice.checkpoint.download import KNOWN, LOCK_FILE, default_directory, download, repository_of
from cosyvoice.checkpoint.hubs import is_safe, open_hub
from cosyvoice.errors import ConfigError, DownloadError, MissingDependencyError, OutputError

pytest.importorskip("huggingface_hub")
pytest.importorskip("modelscope_hub")
NAME = "Fun-CosyVoice3-0.5B"
SOURCES = ("huggingface", "modelscope")
NEEDED = {
    "cosyvoice3.yaml", "llm.pt", "flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v3.onnx",
    "CosyVoice-BlankEN/config.json", "CosyVoice-BlankEN/vocab.json",
}  # fmt: skip


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients try again at once, and write what arrives in small pieces."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("modelscope_hub._download._DownloadControl.sleep", lambda *_: None)


def _files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("source", SOURCES)
def test_a_model_arrives_with_what_it_needs_and_nothing_else(stand_in: Any, tmp_path: Path, source: Any) -> None:
    told: list[tuple[str, int, int]] = []
    brought = download(NAME, tmp_path / "model", source, progress=lambda *news: told.append(news))
    assert _files(tmp_path / "model") == NEEDED | {LOCK_FILE}
    assert _files(tmp_path) == {f"model/{name}" for name in NEEDED | {LOCK_FILE}}, "nothing is left beside it"
    for name in NEEDED:
        assert (tmp_path / "model" / name).read_bytes() == stand_in.files[name]
    lock = json.loads((tmp_path / "model" / LOCK_FILE).read_text())
    assert lock["repository"] == KNOWN[NAME][source] and lock["source"] == source
    assert lock["revision"] == (stand_in.commit if source == "huggingface" else "master")
    digest = hashlib.sha256(stand_in.files["llm.pt"]).hexdigest()
    assert lock["files"]["llm.pt"] == {"size": 102400, "sha256": digest}
    assert set(brought.fetched) == NEEDED == {name for name, _, _ in told}
    assert brought.size == told[0][2] == sum(len(stand_in.files[name]) for name in NEEDED)


def test_a_model_that_is_there_needs_no_connection(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(NAME, tmp_path / "model")
    asked = len(stand_in.asked)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert download(NAME, tmp_path / "model").fetched == ()
    assert len(stand_in.asked) == asked


def test_damaged_files_are_fetched_again_at_the_same_commit(stand_in: Any, tmp_path: Path) -> None:
    download(NAME, tmp_path / "model")
    (tmp_path / "model" / "flow.pt").write_bytes(b"flow" * 499 + b"wolf")
    stand_in.asked.clear()
    assert download(NAME, tmp_path / "model").fetched == ("flow.pt",)
    assert {name for _, name, _ in stand_in.asked} == {"flow.pt"}
    assert (tmp_path / "model" / "flow.pt").read_bytes() == stand_in.files["flow.pt"]
    assert _files(tmp_path / "model") == NEEDED | {LOCK_FILE}


def test_another_revision_replaces_what_changed(stand_in: Any, tmp_path: Path) -> None:
    download(NAME, tmp_path / "model")
    stand_in.commit, stand_in.files["hift.pt"] = "b2" * 20, b"better"
    del stand_in.files["CosyVoice-BlankEN/vocab.json"]
    assert download(NAME, tmp_path / "model").fetched == (), "the commit is pinned"
    brought = download(NAME, tmp_path / "model", revision="main")
    assert brought.fetched == ("hift.pt",) and brought.lock.revision == "b2" * 20
    assert _files(tmp_path / "model") == (NEEDED | {LOCK_FILE}) - {"CosyVoice-BlankEN/vocab.json"}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("source", SOURCES)
def test_a_broken_transfer_goes_on_where_it_stopped(stand_in: Any, tmp_path: Path, source: Any) -> None:
    stand_in.broken_after["llm.pt"] = 51200
    with pytest.raises(DownloadError, match="run the same command again"):
        download(NAME, tmp_path / "model", source)
    assert not (tmp_path / "model").exists(), "there is no half model"
    del stand_in.broken_after["llm.pt"]
    stand_in.asked.clear()
    brought = download(NAME, tmp_path / "model", source)
    assert stand_in.ranges("llm.pt") == ["bytes=51200-"]
    assert "cosyvoice3.yaml" not in brought.fetched, "what was complete stays"
    assert (tmp_path / "model" / "llm.pt").read_bytes() == stand_in.files["llm.pt"]
    assert _files(tmp_path) == {f"model/{name}" for name in NEEDED | {LOCK_FILE}}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["llm.pt", "hift.pt"])
def test_what_arrives_damaged_is_asked_for_once_more(stand_in: Any, tmp_path: Path, source: Any, name: str) -> None:
    stand_in.damaged[name] = 1
    assert name in download(NAME, tmp_path / "model", source).fetched
    assert (tmp_path / "model" / name).read_bytes() == stand_in.files[name]
    stand_in.damaged[name] = 99
    with pytest.raises(DownloadError, match=f"{name}.* arrived damaged twice"):
        download(NAME, tmp_path / "other", source)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["../evil.pt", "/etc/evil", "a/../../evil", "a\\b", "C:evil"])
def test_names_that_lead_elsewhere_are_refused(stand_in: Any, tmp_path: Path, source: Any, name: str) -> None:
    stand_in.listed["asset/logo.png"] = name
    with pytest.raises(DownloadError, match="not to be trusted"):
        download(NAME, tmp_path / "in" / "model", source)
    assert list(tmp_path.iterdir()) == [] and stand_in.asked == []


@pytest.mark.parametrize("source", SOURCES)
def test_files_without_a_digest_are_refused(stand_in: Any, tmp_path: Path, source: Any) -> None:
    stand_in.digests = False
    with pytest.raises(DownloadError, match="lists no digest"):
        download(NAME, tmp_path / "model", source)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("source", SOURCES)
def test_without_a_connection_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any
) -> None:
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda *_: None)
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"check the connection .* copy the model directory"):
        download(NAME, tmp_path / "model", source)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", SOURCES)
def test_repositories_that_do_not_exist_or_hold_no_model(stand_in: Any, tmp_path: Path, source: Any) -> None:
    with pytest.raises(DownloadError, match="check the name"):
        download("owner/none", tmp_path / "model", source)
    del stand_in.files["llm.pt"]
    with pytest.raises(DownloadError, match="holds no speech model"):
        download("owner/other", tmp_path / "model", source)


def test_further_files_on_request(stand_in: Any, tmp_path: Path) -> None:
    download(NAME, tmp_path / "model")
    assert download(NAME, tmp_path / "model", also=["llm.rl.pt"]).fetched == ("llm.rl.pt",)
    assert (tmp_path / "model" / "llm.rl.pt").is_file()
    with pytest.raises(DownloadError, match=r"has no file 'llm\.gone\.pt'"):
        download(NAME, tmp_path / "model", also=["llm.gone.pt"])


def test_directories_of_something_else_are_left_alone(stand_in: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(OutputError, match="was not downloaded"):
        download(NAME, tmp_path / "mine")
    download(NAME, tmp_path / "model")
    with pytest.raises(OutputError, match="was downloaded from huggingface"):
        download("CosyVoice2-0.5B", tmp_path / "model")
    assert _files(tmp_path / "mine") == {"file"} and stand_in.asked


def test_names_and_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert repository_of("someone/fine-tune", "huggingface") == "someone/fine-tune"
    with pytest.raises(ConfigError, match=r"did you mean 'CosyVoice2-0\.5B'"):
        repository_of("CosyVoice2", "huggingface")
    with pytest.raises(ConfigError, match="no released model"):
        repository_of("../up", "huggingface")
    with pytest.raises(ConfigError, match="choose 'huggingface'"):
        open_hub("elsewhere")  # type: ignore[arg-type]
    monkeypatch.delenv("COSYVOICE_HOME", raising=False)
    assert default_directory(NAME) == Path("pretrained_models") / NAME
    monkeypatch.setenv("COSYVOICE_HOME", str(tmp_path))
    assert default_directory("someone/fine-tune") == tmp_path / "pretrained_models" / "fine-tune"


@pytest.mark.parametrize("source", SOURCES)
def test_without_the_client_library(monkeypatch: pytest.MonkeyPatch, source: Any) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(MissingDependencyError, match=r"cosyvoice\[download\]"):
        open_hub(source)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("llm.pt", True),
        ("a/b.json", True),
        ("a/./b", False),
        ("a//b", False),
        ("", False),
        (".", False),
        ("a\n", False),
    ],
)
def test_safe_names(name: str, safe: bool) -> None:
    assert is_safe(name) is safe
