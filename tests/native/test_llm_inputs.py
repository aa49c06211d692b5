"""Embeddings looked up in a weight file, and rotary tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cosyvoice.config.model import LLMConfig, Qwen2Config
from cosyvoice.errors import ModelError, TextError, VoiceError
from cosyvoice.llm.layout import Kind, Row
from cosyvoice.llm.qwen2 import rotary_angles
from cosyvoice.native.llm_inputs import SPECIAL_TABLE, SPEECH_TABLE, TEXT_TABLE, EmbeddingTables, rotary_tables

QWEN = Qwen2Config(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=8, vocab_size=6)
SHARED = LLMConfig(qwen=QWEN, speech_token_size=5, speech_extra_tokens=4)
APART = SHARED.model_copy(update={"task_embedding": True})


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    sizes = {TEXT_TABLE: 6, SPEECH_TABLE: 9, SPECIAL_TABLE: 2}
    arrays = {name: random.standard_normal((rows, 8)).astype(np.float16) for name, rows in sizes.items()}
    save_file(arrays, tmp_path / "llm.safetensors")
    return tmp_path / "llm.safetensors", arrays


def test_rows_come_from_their_tables(tables: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, arrays = tables
    rows = [Row(Kind.SPECIAL, 1), Row(Kind.TEXT, 5), Row(Kind.SPEECH, 8)]
    for config, special in ((SHARED, SPEECH_TABLE), (APART, SPECIAL_TABLE)):
        found = EmbeddingTables(path, config)(rows)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [arrays[special][1], arrays[TEXT_TABLE][5], arrays[SPEECH_TABLE][8]])


def test_ids_outside_of_their_table(tables: tuple[Path, dict[str, np.ndarray]]) -> None:
    embed = EmbeddingTables(tables[0], APART)
    with pytest.raises(TextError, match="the id 6 is outside of the model's 6"):
        embed([Row(Kind.TEXT, 6)])
    with pytest.raises(VoiceError, match="outside of the model's 2"):
        embed([Row(Kind.SPECIAL, 2)])


def test_tables_of_another_size_are_refused(tables: tuple[Path, dict[str, np.ndarray]]) -> None:
    with pytest.raises(ModelError, match="has the shape"):
        EmbeddingTables(tables[0], SHARED.model_copy(update={"speech_token_size": 6}))


def test_rotary_tables_are_half_of_the_angles_of_the_reference() -> None:
    cos, sin = rotary_angles(0, 30, 4, QWEN.rope_theta, torch.device("cpu"))
    tables = rotary_tables(QWEN, 30)
    np.testing.assert_allclose(tables["cos_cache"], cos[:, :2], atol=1e-6)
    np.testing.assert_allclose(tables["sin_cache"], sin[:, :2], atol=1e-6)
