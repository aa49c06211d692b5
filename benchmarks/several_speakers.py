"""How well one speaker is told from several: recordings of a corpus, alone and joined.

python benchmarks/several_speakers.py data/big [--pairs 120] [RECORDING ...]

Recordings of real people may be named as well; each is judged alone, and every two of them joined.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile

from cosyvoice.audio.io import read_audio
from cosyvoice.audio.resample import sinc_resample
from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE
from cosyvoice.engine.several_speakers import DIFFERENT, SpeakerCheck

SECONDS = (5, 8, 12)
UTTERANCES = 24


def read_speakers(corpus: Path, splits: list[str], most: int) -> dict[str, list[np.ndarray]]:
    """Utterances of the first speakers of each split, at 16 kHz."""
    speakers: dict[str, list[np.ndarray]] = defaultdict(list)
    for split in splits:
        for path in sorted(corpus.glob(f"{split}-*.parquet"))[:most]:
            for row in pq.read_table(path, columns=["speaker", "flac"]).slice(0, UTTERANCES).to_pylist():
                samples, rate = soundfile.read(io.BytesIO(row["flac"]), dtype="float32")
                speakers[row["speaker"]].append(sinc_resample(samples, rate, PROMPT_SAMPLE_RATE))
    return speakers


def recording(utterances: list[np.ndarray], seconds: float, chance: random.Random) -> np.ndarray:
    """Utterances in any order, cut to `seconds`."""
    shuffled = chance.sample(utterances, len(utterances))
    return np.concatenate(shuffled)[: int(seconds * PROMPT_SAMPLE_RATE)]


def source(speaker: str) -> str:
    """The synthesiser's voice that a speaker of the corpus was warped from."""
    return speaker.rpartition("-")[2]


def show(name: str, likeness: list[float]) -> None:
    found = np.mean(np.array(likeness) < DIFFERENT)
    quantiles = " ".join(f"{value:6.2f}" for value in np.quantile(likeness, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)))
    print(f"{name:34} {len(likeness):4} {100 * found:5.1f} %   {quantiles}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--speakers", type=int, default=40, help="of each split")
    arguments = parser.parse_args()
    chance, check = random.Random(0), SpeakerCheck(threads=1)
    rate = PROMPT_SAMPLE_RATE
    speakers = read_speakers(arguments.corpus, ["test", "train"], arguments.speakers)
    names = sorted(speakers)
    begin, heard = time.perf_counter(), 0.0
    alone, different, warped = [], [], []
    for name in names:
        for seconds in SECONDS:
            samples = recording(speakers[name], seconds, chance)
            heard += len(samples) / rate
            alone.append(check.likeness(samples, rate))
    work = time.perf_counter() - begin
    for _ in range(arguments.pairs):
        one, other = chance.sample(names, 2)
        seconds, part = chance.choice(SECONDS), chance.choice((0.3, 0.5, 0.7))
        both = [
            recording(speakers[one], seconds * part, chance),
            recording(speakers[other], seconds * (1 - part), chance),
        ]
        (warped if source(one) == source(other) else different).append(check.likeness(np.concatenate(both), rate))
    print(f"{len(names)} speakers; refused below {DIFFERENT}; {work / heard:.3f} s of work a second of recording")
    print(f"{'':34} many refused     least    5 %   25 % median   75 %   95 %   most")
    show("one speaker", alone)
    show("two speakers", different)
    show("two speakers of one synthetic voice", warped)
    real = {path.stem: sinc_resample(*read_audio(path), rate) for path in arguments.recordings}
    for name, samples in real.items():
        print(f"{name}: {check.likeness(samples, rate):.2f}")
    for one, other in combinations(real, 2):
        print(f"{one} + {other}: {check.likeness(np.concatenate([real[one], real[other]]), rate):.2f}")


if __name__ == "__main__":
    main()
