"""Decoding of the native engine beside llama.cpp's, the same language model, in turns in one process.

llama.cpp reads `llm.gguf` and gives hidden rows: the head of speech tokens, two per cent of the weights at full size,
is computed by the native engine only. Needs `pip install llama-cpp-python`, which is compiled for the machine.

    cosyvoice convert MODEL gguf-q4 --to gguf --precision q4_0
    cosyvoice convert MODEL bundle-int4 --precision int4
    python benchmarks/beside_llama_cpp.py gguf-q4 bundle-int4
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from pathlib import Path

import llama_cpp
import numpy as np

import cosyvoice
from cosyvoice.benchmark.measurements import DECODED_TOKENS, measure_llm
from cosyvoice.benchmark.workload import Workload
from cosyvoice.native.runtime import available_threads

CONTEXT, PROMPT_ROWS = 512, 180


class LlamaCpp:
    """A GGUF file, fed with embeddings."""

    def __init__(self, path: Path, width: int, threads: int) -> None:
        self._width = width
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise SystemExit(f"llama.cpp does not open {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = CONTEXT, threads, threads
        params.embeddings, params.pooling_type = True, 0
        self._context = llama_cpp.llama_init_from_model(model, params)

    def tokens_per_second(self) -> float:
        """Of `DECODED_TOKENS` rows behind a prompt."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        rows = (
            np.random.default_rng(0).standard_normal((PROMPT_ROWS + DECODED_TOKENS, self._width)).astype(np.float32)
            / 50
        )
        self._decode(rows[:PROMPT_ROWS], 0)
        start = time.perf_counter()
        for index in range(PROMPT_ROWS, len(rows)):
            self._decode(rows[index : index + 1], index)
        return DECODED_TOKENS / (time.perf_counter() - start)

    def _decode(self, rows: np.ndarray, first: int) -> None:
        count = len(rows)
        batch = llama_cpp.llama_batch_init(count, self._width, 1)
        batch.n_tokens = count
        ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
        for index in range(count):
            batch.pos[index], batch.n_seq_id[index], batch.seq_id[index][0] = first + index, 1, 0
            batch.logits[index] = index == count - 1
        status = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_batch_free(batch)
        if status:
            raise SystemExit(f"llama.cpp failed with {status}")


def main() -> None:
    """Print tokens a second of every round, and the ratio of the native engine to llama.cpp, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=available_threads())
    arguments = parser.parse_args()
    tts = cosyvoice.load(arguments.bundle, backend="native", threads=arguments.threads)
    work = Workload(tts.model.config)
    theirs = LlamaCpp(arguments.gguf / "llm.gguf", tts.model.config.llm.qwen.hidden_size, arguments.threads)
    rounds = [
        (theirs.tokens_per_second(), DECODED_TOKENS / measure_llm(tts, work)["llm_decode"])
        for _ in range(arguments.rounds + 1)
    ][1:]
    ratios = [ours / other for other, ours in rounds]
    report = {
        "threads": arguments.threads,
        "llama_cpp_tokens_per_second": [round(other, 1) for other, _ in rounds],
        "native_tokens_per_second": [round(ours, 1) for _, ours in rounds],
        "ratio": {
            "median": round(statistics.median(ratios), 2), "least": round(min(ratios), 2),
            "greatest": round(max(ratios), 2),
        },
    }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
