from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cosyvoice.config.qwen_files import find_end_of_prompt_id, read_qwen_geometry
from cosyvoice.errors import ModelError

QWEN = Path(__file__).parents[1] / "data" / "parity" / "v3" / "model" / "CosyVoice-BlankEN"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return shutil.copytree(QWEN, tmp_path / "qwen", ignore=shutil.ignore_patterns("*.safetensors"))


def test_end_of_prompt_listed_in_the_files_keeps_its_id(directory: Path, tmp_path: Path) -> None:
    assert find_end_of_prompt_id(directory) == 483
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["added_tokens_decoder"]["499"] = {"content": "<|endofprompt|>"}
    path.write_text(json.dumps(config))
    assert find_end_of_prompt_id(directory) == 499
    assert find_end_of_prompt_id(tmp_path) is None


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", "{"])
def test_damaged_files_are_refused(directory: Path, content: str) -> None:
    (directory / "config.json").write_text(content)
    with pytest.raises(ModelError, match="download the model again"):
        read_qwen_geometry(directory)


@pytest.mark.parametrize("entries", [[], {"x": {"content": "a"}}, {"1": {}}, {"1": "a"}, 3])
def test_damaged_lists_of_tokens_are_refused(directory: Path, entries: object) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}))
    with pytest.raises(ModelError, match="download the model again"):
        find_end_of_prompt_id(directory)
