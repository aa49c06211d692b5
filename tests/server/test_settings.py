from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.errors import ConfigError
from cosyvoice.server.addresses import is_loopback
from cosyvoice.server.settings import digest_of, hash_key, load_settings


def test_flags_come_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nthreads: 3\nlimits:\n  queue: 1\n  running: 2\n  voices: 9\n")
    monkeypatch.setenv("COSYVOICE_PORT", "2")
    monkeypatch.setenv("COSYVOICE_LIMITS__QUEUE", "22")
    monkeypatch.setenv("COSYVOICE_LIMITS__RUNNING", "23")
    settings = load_settings(file, {"limits": {"running": 33}})
    assert (settings.port, settings.threads) == (2, 3)
    assert (settings.limits.voices, settings.limits.queue, settings.limits.running) == (9, 22, 33)
    assert load_settings(file, {"port": 3}).port == 3


def test_keys_are_held_as_digests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSYVOICE_API_KEYS", f"first, {hash_key('second')}")
    settings = load_settings()
    assert settings.api_keys == (hash_key("first"), hash_key("second"))
    assert "first" not in repr(settings)
    assert digest_of(hash_key("second")) == hash_key("second") != hash_key(hash_key("second"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_a_public_address_needs_a_key_or_permission(host: str) -> None:
    with pytest.raises(ConfigError, match="no API key is set"):
        load_settings(None, {"host": host})
    assert load_settings(None, {"host": host, "api_keys": ["k"]}).host == host
    assert load_settings(None, {"host": host, "allow_public": True}).host == host


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("", False)])
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot: 8", "prot: Extra inputs"),
        ("limits: {queues: 8}", "limits.queues"),
        ("port: many", "port: "),
        ("- 1", "holds no settings"),
        ("a: [", "no YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_settings(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml")


def test_names_may_be_a_list_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("remote_audio: {hosts: [a.org, '*.b.org']}\nmodel_aliases: x\n")
    settings = load_settings(file)
    assert settings.remote_audio.hosts == ("a.org", "*.b.org")
    assert settings.model_aliases == ("x",)
