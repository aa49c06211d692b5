from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import save_file

from cosyvoice.export.conformer_graph import ConformerGraph
from cosyvoice.export.graph import GraphBuilder, TensorFile
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.native.positions import Sinusoids
from cosyvoice.transformer.layers import run_layers
from cosyvoice.transformer.masks import attention_mask
from cosyvoice.transformer.positions import relative_positions

WIDTH, ROWS = 16, 9


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, ROWS, WIDTH)).astype(np.float32)


def build(network: MaskedDiffWithXvec, directory: Path, past: str | None) -> onnxruntime.InferenceSession:
    path = directory / "flow.safetensors"
    save_file({name: tensor.numpy() for name, tensor in network.state_dict().items()}, path)
    graph = GraphBuilder("layers", TensorFile(path))
    conformer = ConformerGraph(TensorFile(path), graph, network.config.encoder, "encoder.")
    out = conformer.layers(graph.input("x", [1, "rows", WIDTH]), "encoders", 2, "rows", past)
    graph.output(out, "out", [1, "rows", WIDTH])
    graph.save(directory / "layers.onnx")
    return onnxruntime.InferenceSession(str(directory / "layers.onnx"), providers=["CPUExecutionProvider"])


def expected(network: MaskedDiffWithXvec, x: np.ndarray, chunk: int) -> np.ndarray:
    mask = attention_mask(torch.ones(1, ROWS, dtype=torch.bool), chunk)
    with torch.inference_mode():
        out: np.ndarray = run_layers(
            network.encoder.encoders, torch.from_numpy(x), relative_positions(ROWS, WIDTH), mask
        ).numpy()
    return out


def test_a_whole_sequence(masked_diff: MaskedDiffWithXvec, tmp_path: Path, x: np.ndarray) -> None:
    cos, sin, table = Sinusoids(WIDTH)(0, ROWS)
    feeds = {"x": x, "rows_cos": cos, "rows_sin": sin, "rows_table": table}
    out = build(masked_diff, tmp_path, None).run(["out"], feeds)[0]
    np.testing.assert_allclose(out, expected(masked_diff, x, 0), atol=1e-4)


def test_runs_that_continue_cached_ones_in_any_order(
    masked_diff: MaskedDiffWithXvec, tmp_path: Path, x: np.ndarray
) -> None:
    """Three chunks of three rows; the cached rows lie in memory backwards."""
    session = build(masked_diff, tmp_path, "past")
    parts = ["key_0", "value_0", "key_1", "value_1"]
    cached = [np.zeros((1, 2, 0, WIDTH // 2), np.float32)] * 4
    seen, outputs = np.zeros((0, WIDTH), np.float32), []
    for first in range(0, ROWS, 3):
        cos, sin, table = Sinusoids(WIDTH)(first, first + 3)
        feeds = {
            "x": x[:, first : first + 3], "rows_cos": cos, "rows_sin": sin, "rows_table": np.concatenate([seen, table]),
            **{f"past_{part}": value for part, value in zip(parts, cached, strict=True)},
        }  # fmt: skip
        out, *new = session.run(["out", *parts], feeds)
        outputs.append(out)
        seen = np.concatenate([table[::-1], seen])
        cached = [np.concatenate([n[:, :, ::-1], c], axis=2) for n, c in zip(new, cached, strict=True)]
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), expected(masked_diff, x, 3), atol=1e-4)
