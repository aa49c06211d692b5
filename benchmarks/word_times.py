"""How far from the truth the aligner places words: original speech of a corpus, whose synthesiser knows every phone.

python benchmarks/word_times.py data/corpus [--split test] [--utterances 60]
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile

from cosyvoice.engine.aligner import Aligner
from cosyvoice.text.phone_classes import PAUSE
from cosyvoice.text.phone_frontend import PhoneFrontend
from cosyvoice.text.written_words import written_words


def true_edges(row: dict[str, Any], lengths: list[int]) -> np.ndarray | None:
    """Start and end [words, 2] in seconds of words of `lengths` phones; None where the corpus counts other phones."""
    ends = np.array(row["phone_ends"])
    starts = np.concatenate([[0.0], ends[:-1]])
    spoken = np.array([phone != PAUSE for phone in row["phones"]])
    starts, ends = starts[spoken], ends[spoken]
    if sum(lengths) != len(starts):
        return None
    last = np.cumsum(lengths)
    return np.stack([starts[last - lengths], ends[last - 1]], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--utterances", type=int, default=60)
    arguments = parser.parse_args()
    shards = [pq.read_table(path).to_pylist() for path in sorted(arguments.corpus.glob(f"{arguments.split}-*.parquet"))]
    each = -(-arguments.utterances // len(shards))
    aligner, frontend = Aligner(), PhoneFrontend()
    errors, passed_over, seconds, work = [], 0, 0.0, 0.0
    for row in [row for shard in shards for row in shard[:each]]:
        samples, rate = soundfile.read(io.BytesIO(row["flac"]), dtype="float32")
        start = time.perf_counter()
        words = aligner(samples, rate, row["text"])
        work += time.perf_counter() - start
        seconds += len(samples) / rate
        truth = true_edges(row, [len(word.phones) for word in written_words(frontend, row["text"])])
        if truth is None:
            passed_over += 1
            continue
        errors.append(np.abs(np.array([(word.start, word.end) for word in words]) - truth))
    error = 1000 * np.concatenate(errors)
    print(f"{len(errors)} utterances, {len(error)} words; {passed_over} pronounced otherwise and left out")
    print(f"start {error[:, 0].mean():.1f} ms, end {error[:, 1].mean():.1f} ms, median {np.median(error):.1f} ms")
    print(f"95 % within {np.quantile(error, 0.95):.0f} ms; {work / seconds:.3f} s of work a second of speech")


if __name__ == "__main__":
    main()
