"""A stand-in for the hubs on loopback: the few addresses that their client libraries ask for, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "a1" * 20
LARGE = 1000
"""Bytes from which on the stand-in lists a file as LFS does, with its SHA-256."""


@dataclass
class StandIn:
    """What the server holds, what it gets wrong, and what it was asked."""

    files: dict[str, bytes]
    address: str = ""
    commit: str = COMMIT
    listed: dict[str, str] = field(default_factory=dict)
    """Names under which files are listed instead of their own."""
    broken_after: dict[str, int] = field(default_factory=dict)
    """Bytes after which the transfer of a file breaks off, every time."""
    damaged: dict[str, int] = field(default_factory=dict)
    """How many times a file arrives with a byte that is another."""
    digests: bool = True
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, file and range of every request for content."""

    def ranges(self, name: str) -> list[str | None]:
        """Ranges in which a file was asked for."""
        return [span for method, asked, span in self.asked if method == "GET" and asked == name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def stand_in(self) -> StandIn:
        return self.server.stand_in  # type: ignore[attr-defined,no-any-return]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def _answer(self, body: bool) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        if path.startswith("/api/models/") and "none" not in path:
            self._json(self._hugging_face_listing())
        elif path.startswith("/api/v1/models/") and path.endswith("/repo/files") and "none" not in path:
            self._json(self._modelscope_listing())
        elif path.startswith("/api/v1/models/") and path.endswith("/repo"):
            self._content(query["FilePath"][0], body)
        elif "/resolve/" in path and len(self._stored(path)) >= LARGE:
            # Large files come from another place.
            self.send_response(302)
            self.send_header("Location", self.path.replace("/resolve/", "/storage/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif "/storage/" in path:
            self._content(path.split("/storage/", 1)[1].split("/", 1)[1], body)
        elif "/resolve/" in path:
            self._content(path.split("/resolve/", 1)[1].split("/", 1)[1], body)
        else:
            self._json({"error": "not found", "Code": 404, "Success": False}, 404, {"X-Error-Code": "RepoNotFound"})

    def _stored(self, path: str) -> bytes:
        return self.stand_in.files[path.split("/resolve/", 1)[1].split("/", 1)[1]]

    def _hugging_face_listing(self) -> dict[str, object]:
        siblings = []
        for name, content in self.stand_in.files.items():
            entry: dict[str, object] = {"rfilename": self.stand_in.listed.get(name, name), "size": len(content)}
            if self.stand_in.digests:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                if len(content) >= LARGE:
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 134}
            siblings.append(entry)
        return {"id": "owner/model", "sha": self.stand_in.commit, "siblings": siblings}

    def _modelscope_listing(self) -> dict[str, object]:
        files = [
            {
                "Path": self.stand_in.listed.get(name, name),
                "Name": name.rsplit("/", 1)[-1],
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest() if self.stand_in.digests else "",
                "Type": "blob",
            }
            for name, content in self.stand_in.files.items()
        ]
        return {"Code": 200, "Success": True, "Message": "success", "Data": {"Files": files}}

    def _json(self, data: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _content(self, name: str, body: bool) -> None:
        server = self.stand_in
        content = server.files[name]
        span = self.headers.get("Range")
        server.asked.append((self.command, name, span))
        begin, end = 0, len(content)
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            begin, end = int(first or 0), int(last) + 1 if last else end
        if body and server.damaged.get(name, 0):
            server.damaged[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(206 if span else 200)
        sha1, sha256 = (hashlib.new(kind, server.files[name]).hexdigest() for kind in ("sha1", "sha256"))
        self.send_header("ETag", f'"{sha256 if len(content) >= LARGE else sha1}"')
        self.send_header("X-Repo-Commit", server.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        if span:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        if name in server.broken_after:
            self.wfile.write(content[begin : max(server.broken_after[name], begin)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content[begin:end])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A running server with a small released directory; the clients are led there."""
    files = {
        "cosyvoice3.yaml": b"llm: 1\n",
        "llm.pt": bytes(range(256)) * 400,
        "flow.pt": b"flow" * 500,
        "hift.pt": b"hift",
        "campplus.onnx": b"onnx",
        "speech_tokenizer_v3.onnx": b"tokens",
        "CosyVoice-BlankEN/config.json": b"{}",
        "CosyVoice-BlankEN/vocab.json": b'{"a": 0}',
        "CosyVoice-BlankEN/model.safetensors": b"not needed" * 200,
        "flow.decoder.estimator.fp32.onnx": b"not needed",
        "llm.rl.pt": b"reinforced" * 200,
        "asset/logo.png": b"not needed",
    }
    state = StandIn(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.stand_in = state  # type: ignore[attr-defined]
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", state.address)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", state.address)
    monkeypatch.delenv("COSYVOICE_HOME", raising=False)
    yield state
    server.shutdown()
    server.server_close()
