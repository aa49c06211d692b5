import json
from pathlib import Path

import pytest

from cosyvoice.config.bundle import BUNDLE_FILE, Bundle, is_bundle, read_bundle
from cosyvoice.errors import ModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "llm.onnx").write_bytes(b"12345")
    record = Bundle(precision="int8", source="somewhere", files={"llm.onnx": 5}, quality={"llm_kl": 0.1})
    (tmp_path / BUNDLE_FILE).write_text(record.model_dump_json())
    return tmp_path


def test_a_record_is_read_back(folder: Path) -> None:
    assert is_bundle(folder)
    record = read_bundle(folder)
    assert record.precision == "int8" and record.quality == {"llm_kl": 0.1}
    assert not record.float_weights


def test_a_directory_without_a_record_is_no_bundle(tmp_path: Path) -> None:
    assert not is_bundle(tmp_path)
    with pytest.raises(ModelError, match="cosyvoice convert"):
        read_bundle(tmp_path)


def test_missing_and_truncated_files_are_found(folder: Path) -> None:
    (folder / "llm.onnx").write_bytes(b"123")
    with pytest.raises(ModelError, match="3 bytes instead of 5"):
        read_bundle(folder)
    (folder / "llm.onnx").unlink()
    with pytest.raises(ModelError, match=r"llm\.onnx is missing"):
        read_bundle(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{", json.dumps({"precision": "int3"}), json.dumps({"formt": 1})])
def test_damaged_and_foreign_records(folder: Path, content: str) -> None:
    (folder / BUNDLE_FILE).write_text(content)
    with pytest.raises(ModelError):
        read_bundle(folder)
