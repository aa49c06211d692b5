from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cosyvoice.errors import OutputError, VoiceError
from cosyvoice.voice.store import VoiceStore, check_name, default_directory
from cosyvoice.voice.voice import Voice


@pytest.fixture
def store(tmp_path: Path, make_voice: Callable[..., Voice]) -> VoiceStore:
    presets = tmp_path / "presets"
    presets.mkdir()
    make_voice("anna").save(presets / "anna.safetensors")
    return VoiceStore(tmp_path / "home" / "voices", presets)


def test_voices_are_added_listed_and_removed(store: VoiceStore, make_voice: Callable[..., Voice]) -> None:
    assert store.names() == ["anna"]
    store.add(make_voice("joe"))
    assert store.names() == ["anna", "joe"]
    assert store.get("joe").name == "joe"
    store.remove("joe")
    assert store.names() == ["anna"]
    assert list(store.directory.iterdir()) == []


def test_names_are_not_taken_twice(store: VoiceStore, make_voice: Callable[..., Voice]) -> None:
    store.add(make_voice("joe", 1))
    with pytest.raises(VoiceError, match="already"):
        store.add(make_voice("joe", 2))
    store.add(make_voice("joe", 2), overwrite=True)
    assert store.get("joe").speech_token[0] == make_voice("joe", 2).speech_token[0]


def test_presets_are_safe(store: VoiceStore, make_voice: Callable[..., Voice]) -> None:
    with pytest.raises(VoiceError, match="voice of the model"):
        store.add(make_voice("anna"), overwrite=True)
    with pytest.raises(VoiceError, match="cannot be removed"):
        store.remove("anna")


def test_an_unknown_name_suggests_a_known_one(store: VoiceStore) -> None:
    with pytest.raises(VoiceError, match="did you mean 'anna'"):
        store.get("ana")
    with pytest.raises(VoiceError, match="there are: anna"):
        store.get("xyz")
    with pytest.raises(VoiceError, match="none yet"):
        VoiceStore(store.directory).get("xyz")


@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "a/b", "a\\b", ".hidden", "a\n", "a" * 65, "-x", "a."])
def test_unsafe_names_are_refused(store: VoiceStore, make_voice: Callable[..., Voice], name: str) -> None:
    with pytest.raises(VoiceError, match="cannot be the name"):
        store.add(make_voice(name))
    with pytest.raises(VoiceError, match="cannot be the name"):
        store.get(name)
    with pytest.raises(VoiceError, match="cannot be the name"):
        store.remove(name)


@pytest.mark.parametrize("name", ["anna", "Zoë", "voice-2", "a.b_c", "1"])
def test_safe_names_are_kept(name: str) -> None:
    assert check_name(name) == name


def test_a_place_that_is_a_file_is_an_output_error(tmp_path: Path, make_voice: Callable[..., Voice]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="COSYVOICE_HOME"):
        VoiceStore(tmp_path / "file" / "voices").add(make_voice("a"))


def test_the_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COSYVOICE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "voices"
    monkeypatch.delenv("COSYVOICE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cosyvoice" / "voices"
