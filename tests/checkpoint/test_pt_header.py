from __future__ import annotations

import os
import pickle
import struct
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from cosyvoice.checkpoint.pt_header import TensorHeader, read_pt_header
from cosyvoice.checkpoint.released import load_spk2info, load_state_dict
from cosyvoice.errors import ModelError

MODELS = Path(__file__).parents[1] / "data" / "parity"


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
@pytest.mark.parametrize("name", ["llm", "flow", "hift"])
def test_the_header_tells_what_the_file_holds(generation: str, name: str) -> None:
    path = MODELS / generation / "model" / f"{name}.pt"
    header = read_pt_header(path)
    weights = torch.load(path, weights_only=True)
    assert {key: value.shape for key, value in header.items()} == {k: tuple(v.shape) for k, v in weights.items()}
    assert all(value.dtype == "F32" and value.nbytes == 4 * weights[key].numel() for key, value in header.items())


def test_kinds_of_entries(tmp_path: Path) -> None:
    entries = OrderedDict(
        half=torch.zeros(2, 3, dtype=torch.float16),
        brain=torch.zeros(4, dtype=torch.bfloat16),
        transposed=torch.zeros(2, 3).T,
        parameter=torch.nn.Parameter(torch.zeros(1)),
        scalar=torch.tensor(1),
        epoch=3,
        rate=1e-4,
        table={"x": torch.zeros(1, 2)},
        empty=torch.zeros(0, 5),
    )
    torch.save(entries, tmp_path / "a.pt")
    header = read_pt_header(tmp_path / "a.pt")
    assert header["half"] == TensorHeader((2, 3), "F16", 12)
    assert header["brain"].dtype == "BF16" and header["transposed"].shape == (3, 2)
    assert header["parameter"].shape == (1,) and header["scalar"] == TensorHeader((), "I64", 8)
    assert header["epoch"] == 3 and header["rate"] == 1e-4 and header["empty"].nbytes == 0
    assert header["table"]["x"].shape == (1, 2)


class _Runs:
    """Unpickling this makes a directory."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


class _Takes:
    """Unpickling this takes a terabyte."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (1 << 40,)


class _Module(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def archive(path: Path, instructions: bytes, records: dict[str, bytes] | None = None, compression: int = 0) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", instructions)
        for name, content in (records or {}).items():
            file.writestr(name, content)


def tensor(shape: str, strides: str, count: int) -> bytes:
    """Instructions for a table of one tensor over a storage of `count` numbers."""
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + long(count) + b"tQK\x00"
        + numbers(shape) + numbers(strides) + b"\x89}tRs."
    )  # fmt: skip


def long(number: int) -> bytes:
    data = number.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(text: str) -> bytes:
    return b"(" + b"".join(long(int(word)) for word in text.split()) + b"t"


def test_the_hand_made_tensor_is_a_tensor(tmp_path: Path) -> None:
    archive(tmp_path / "a.pt", tensor("2 3", "3 1", 6), {"a/data/0": bytes(24)})
    assert read_pt_header(tmp_path / "a.pt") == {"w": TensorHeader((2, 3), "F32", 24)}


@pytest.mark.parametrize(
    ("shape", "strides", "count"),
    [
        ("1000000 1000000", "0 0", 6),  # expanded: grows when it is copied
        ("1000000000000", "1", 1000000000000),  # larger than its record
        ("2 3", "3 1", 5),  # reaches beyond its storage
        ("2 3", "30 1", 6),
        ("-1", "1", 6),
        ("1 1 1 1 1 1 1 1 1", "1 1 1 1 1 1 1 1 1", 6),
        ("2", "1 1", 6),
    ],
)
def test_shapes_beyond_the_bytes_are_refused(tmp_path: Path, shape: str, strides: str, count: int) -> None:
    archive(tmp_path / "a.pt", tensor(shape, strides, count), {"a/data/0": bytes(24)})
    with pytest.raises(ModelError, match="more than tensors"):
        read_pt_header(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [{"a": _Runs()}, {"a": _Takes()}, {"a": {"b": [_Runs()]}}, {"a": complex(1, 2)}])
def test_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "a.pt")
    for read in (read_pt_header, load_state_dict, load_spk2info):
        with pytest.raises(ModelError, match="more than tensors"):
            read(Path("a.pt"))
    assert not Path("ran").exists()


def test_plain_pickles_and_programs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.pt").write_bytes(pickle.dumps({"a": _Runs()}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(_Module()), "program.pt")
    torch.save({"a": _Runs()}, "legacy.pt", _use_new_zipfile_serialization=False)
    for name in ("plain.pt", "program.pt", "legacy.pt"):
        with pytest.raises(ModelError, match=r"damaged|more than tensors"):
            load_state_dict(Path(name))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("instructions", "records", "message"),
    [
        (b"\x80\x02}.", {"../../etc/evil": b""}, "leads out of the archive"),
        (b"\x80\x02}.", {"/etc/evil": b""}, "leads out of the archive"),
        (b"\x80\x02}.", {"b/data.pkl": b"."}, "2 pickles"),
        (tensor("6", "1", 6), {}, "which is not there"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", {}, "a memo with gaps"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__K\x01sb.", {}, "has none"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", {}, "builtins.eval"),
        (b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x03ran\x85R.", {}, "STACK_GLOBAL"),
        (b"\x80\x02(ios\nmkdir\nX\x03\x00\x00\x00ran.", {}, "INST"),
    ],
)
def test_crafted_archives_are_refused(
    tmp_path: Path, instructions: bytes, records: dict[str, bytes], message: str
) -> None:
    archive(tmp_path / "a.pt", instructions, records)
    with pytest.raises(ModelError, match=message):
        read_pt_header(tmp_path / "a.pt")


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    archive(path, tensor("6", "1", 6), {"a/data/0": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    start = time.perf_counter()
    with pytest.raises(ModelError, match="compressed"):
        load_state_dict(path)
    assert time.perf_counter() - start < 1


def test_declared_lengths_beyond_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    archive(path, tensor("6", "1", 6), {"a/data/0": bytes(24)})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(content)
    with pytest.raises(ModelError, match="longer than the file"):
        read_pt_header(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}.", b"\x00" * 100])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        read_pt_header(tmp_path / "a.pt")


def test_cut_files_are_refused_wherever_they_end(tmp_path: Path) -> None:
    content = (MODELS / "v2" / "model" / "llm.pt").read_bytes()
    for length in range(0, len(content), len(content) // 25):
        (tmp_path / "a.pt").write_bytes(content[:length])
        with pytest.raises(ModelError, match="damaged"):
            read_pt_header(tmp_path / "a.pt")
