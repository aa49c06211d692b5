"""The messages of `cosyvoice.proto` as classes, described here rather than generated.

They live in a pool of their own, so that a program may hold the generated modules of the released package, which claim
the same names, beside this one. A test compiles the file and compares.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import (  # type: ignore[import-untyped]
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]
from google.protobuf.message_factory import GetMessageClass  # type: ignore[import-untyped]

PACKAGE = "cosyvoice"
SERVICE = f"{PACKAGE}.CosyVoice"
METHOD = "Inference"
PAYLOAD = "RequestPayload"

_STRING, _BYTES, _MESSAGE = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_MESSAGE,
)
# Fields in the order of their numbers, which begin at 1.
_PAYLOADS = {
    "sftRequest": (("spk_id", _STRING), ("tts_text", _STRING)),
    "zeroshotRequest": (("tts_text", _STRING), ("prompt_text", _STRING), ("prompt_audio", _BYTES)),
    "crosslingualRequest": (("tts_text", _STRING), ("prompt_audio", _BYTES)),
    "instructRequest": (("tts_text", _STRING), ("spk_id", _STRING), ("instruct_text", _STRING)),
    "Response": (("tts_audio", _BYTES),),
}
_CHOICES = {
    "sft_request": "sftRequest",
    "zero_shot_request": "zeroshotRequest",
    "cross_lingual_request": "crosslingualRequest",
    "instruct_request": "instructRequest",
}


def file_descriptor() -> FileDescriptorProto:
    """What a compiler makes of `cosyvoice.proto`."""
    file = FileDescriptorProto(name="cosyvoice.proto", package=PACKAGE, syntax="proto3")
    request = file.message_type.add(name="Request")
    request.oneof_decl.add(name=PAYLOAD)
    for number, (name, kind) in enumerate(_CHOICES.items(), 1):
        field = _add_field(request, name, number, _MESSAGE)
        field.type_name = f".{PACKAGE}.{kind}"
        field.oneof_index = 0
    for kind, fields in _PAYLOADS.items():
        message = file.message_type.add(name=kind)
        for number, (name, value) in enumerate(fields, 1):
            _add_field(message, name, number, value)
    method = file.service.add(name=SERVICE.rpartition(".")[2]).method.add(name=METHOD, server_streaming=True)
    method.input_type, method.output_type = f".{PACKAGE}.Request", f".{PACKAGE}.Response"
    method.options.SetInParent()
    return file


def _add_field(message: DescriptorProto, name: str, number: int, kind: Any) -> FieldDescriptorProto:
    optional = FieldDescriptorProto.LABEL_OPTIONAL
    return message.field.add(name=name, json_name=_camel(name), number=number, type=kind, label=optional)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


_pool = DescriptorPool()
_pool.AddSerializedFile(file_descriptor().SerializeToString())
Request: Any = GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.Request"))
Response: Any = GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.Response"))
