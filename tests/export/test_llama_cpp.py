"""`llm.gguf` in llama.cpp, where its Python package is installed: embeddings in, hidden rows and speech scores out.

llama.cpp is told to keep keys and values in single precision. Matrices in half precision it multiplies by rounded
activations, and blocks by activations of eight bits, so there it is only near to what the same weights give as numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cosyvoice.checkpoint.gguf_file import numbers
from cosyvoice.engine.frontends import text_frontend
from cosyvoice.export.bundle import Source
from cosyvoice.export.formats import convert_model, read_network
from cosyvoice.reference.networks import build_llm

llama_cpp = pytest.importorskip("llama_cpp")
PARITY = Path(__file__).parents[1] / "data" / "parity"
ROWS = 12
TOLERANCE = {"fp32": 1e-5, "fp16": 0.003, "q8_0": 0.05, "q4_0": 0.05}
"""Of hidden rows, relative to their greatest value."""


class Body:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path) -> None:
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self._model, f"llama.cpp does not open {path}"
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
        params.embeddings, params.pooling_type = True, 0
        params.type_k = params.type_v = params.flash_attn_type = 0
        self._context = llama_cpp.llama_init_from_model(self._model, params)

    def tokens(self, text: str) -> list[int]:
        vocabulary, raw = llama_cpp.llama_model_get_vocab(self._model), text.encode()
        found = (ctypes.c_int32 * 64)()
        count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), found, len(found), False, True)
        return list(found[:count])

    def hidden(self, rows: np.ndarray) -> np.ndarray:
        """Hidden rows [rows, channels] behind embeddings of the same shape, fed in two batches."""
        return np.concatenate([self._decode(rows[:5], 0), self._decode(rows[5:], 5)])

    def _decode(self, rows: np.ndarray, first: int) -> np.ndarray:
        count, width = rows.shape
        batch = llama_cpp.llama_batch_init(count, width, 1)
        batch.n_tokens = count
        ctypes.memmove(batch.embd, np.ascontiguousarray(rows).ctypes.data, rows.nbytes)
        for index in range(count):
            batch.pos[index], batch.n_seq_id[index], batch.logits[index] = first + index, 1, 1
            batch.seq_id[index][0] = 0
        assert llama_cpp.llama_decode(self._context, batch) == 0
        out = [
            np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_ith(self._context, index), (width,)).copy()
            for index in range(count)
        ]
        llama_cpp.llama_batch_free(batch)
        return np.stack(out)

    def close(self) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Callable[[Path], Body]:
    def open_(path: Path) -> Body:
        body = Body(path)
        request.addfinalizer(body.close)
        return body

    return open_


@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("generation", ["v2", "v3"])
def test_llama_cpp_computes_what_the_reference_does(
    tmp_path: Path, opened: Callable[[Path], Body], generation: str, precision: Any
) -> None:
    convert_model(PARITY / generation / "model", tmp_path / "gguf", "gguf", precision)
    source = Source.open(tmp_path / "gguf")
    network = build_llm(source.config)
    weights = {
        name: torch.from_numpy(np.array(numbers(t), np.float32)) for name, t in read_network(source, "llm").items()
    }
    assert set(network.load_state_dict(weights, strict=False).missing_keys) <= {"llm.model.lm_head.weight"}
    ids = np.random.default_rng(0).integers(0, source.config.llm.speech_token_size, ROWS)
    with torch.inference_mode():
        rows = network.speech_embedding(torch.from_numpy(ids))[None]
        expected = network.decoder(rows, network.new_cache())[0].numpy()
        body = opened(tmp_path / "gguf" / "llm.gguf")
        hidden = body.hidden(rows[0].numpy())
        scores, theirs = (network.llm_decoder(torch.from_numpy(part)).numpy() for part in (expected, hidden))
    assert np.abs(hidden - expected).max() < TOLERANCE[precision] * np.abs(expected).max()
    assert (scores.argmax(-1) == theirs.argmax(-1)).mean() >= (1.0 if precision in ("fp32", "fp16") else 0.75)
    text = "Hello there[breath], friend.<|endofprompt|>"
    assert body.tokens(text) == text_frontend(source.config, tmp_path / "gguf").encode(text)
