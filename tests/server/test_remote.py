from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cosyvoice.server import remote
from cosyvoice.server.errors import RequestError
from cosyvoice.server.remote import fetch
from cosyvoice.server.settings import RemoteAudio

ALLOWED = RemoteAudio(hosts=("audio.test", "*.cdn.test"), seconds=0.3)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(0.6)
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        body = b"x" * 5000 if self.path == "/large" else f"{self.headers['Host']}{self.path}".encode()
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the test passes for a public one."""
    public = remote._is_public
    monkeypatch.setattr(remote, "_is_public", lambda address: address == "127.0.0.1" or public(address))


def names(host: str, port: int) -> list[str]:
    return {"audio.test": ["127.0.0.1"], "inside.cdn.test": ["10.0.0.1"]}.get(host, ["127.0.0.1"])


def test_audio_of_an_allowed_host_is_fetched(port: int, reachable: None) -> None:
    url = f"http://audio.test:{port}/a.wav?b=1"
    assert fetch(url, ALLOWED, 1000, names) == f"audio.test:{port}/a.wav?b=1".encode()


@pytest.mark.parametrize(
    "url",
    [
        "http://other.test/a.wav",
        "http://audio.test.evil.org/a.wav",
        "http://cdn.test/a.wav",
        "file:///etc/passwd",
        "ftp://audio.test/a.wav",
        "http://user@audio.test/a.wav",
        "http:///a.wav",
        "http://audio.test:99999/a.wav",
        "http://[::1/a.wav",
        "http://audio.test/a b",
        "http://audio.test/a\r\nX: y",
    ],
)
def test_other_hosts_and_schemes_are_not_asked(url: str) -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    with pytest.raises(RequestError) as caught:
        fetch(url, ALLOWED, 1000, never)
    assert (caught.value.status, caught.value.param) == (422, "ref_audio")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "2002:0a00:0001::", "::ffff:127.0.0.1",
    ],
)  # fmt: skip
def test_private_addresses_are_never_asked(address: str) -> None:
    for found in ([address], ["93.184.216.34", address]):
        with pytest.raises(RequestError, match="not on the public internet"):
            fetch("http://audio.test/a.wav", ALLOWED, 1000, lambda *_, found=found: found)  # type: ignore[misc]


def test_a_redirect_is_checked_like_the_url_itself(port: int, reachable: None) -> None:
    base = f"http://audio.test:{port}"
    assert fetch(f"{base}/to?/b.wav", ALLOWED, 1000, names).endswith(b"/b.wav")
    for target, message in (
        ("http://evil.test/", "not fetched"),
        ("http://inside.cdn.test/", "not on the public"),
        ("file:///etc/passwd", "only plain http"),
        (f"{base}/to?{base}/to?{base}/to?{base}/to?/", "leads from one"),
    ):
        with pytest.raises(RequestError, match=message):
            fetch(f"{base}/to?{target}", ALLOWED, 1000, names)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [("/large", 413, "more than 1000 bytes"), ("/missing", 422, "status 404"), ("/slow", 422, "did not answer")],
)
def test_answers_are_bounded(port: int, reachable: None, path: str, status: int, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        fetch(f"http://audio.test:{port}{path}", ALLOWED, 1000, names)
    assert caught.value.status == status


def test_a_host_without_an_address_is_named() -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise OSError

    with pytest.raises(RequestError, match="has no address"):
        fetch("http://audio.test/a", ALLOWED, 1000, nowhere)
