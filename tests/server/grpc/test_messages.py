from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import cosyvoice.server.grpc.messages as messages
from cosyvoice.server.grpc.messages import PAYLOAD, Request, Response, file_descriptor


def test_the_file_for_clients_describes_the_same_messages(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    folder = Path(messages.__file__).parent
    command = ["-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={tmp_path / 'set'}", "cosyvoice.proto"]
    subprocess.run([sys.executable, *command], check=True)
    compiled = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file[0]
    described = file_descriptor()
    assert described.package == compiled.package and described.service == compiled.service
    assert {m.name: m for m in described.message_type} == {m.name: m for m in compiled.message_type}


def test_bytes_of_the_released_format_are_read() -> None:
    request = Request.FromString(b"\x0a\x0b\x0a\x04anna\x12\x03one")
    assert request.WhichOneof(PAYLOAD) == "sft_request"
    assert (request.sft_request.spk_id, request.sft_request.tts_text) == ("anna", "one")
    assert Response(tts_audio=b"\x01\x02").SerializeToString() == b"\x0a\x02\x01\x02"
