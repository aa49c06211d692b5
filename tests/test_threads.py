"""Models of three generations and both engines in one process: mixed requests get what they get alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cosyvoice
from cosyvoice.engine.pipeline import TTS
from cosyvoice.export.bundle import convert

PARITY = Path(__file__).parent / "data" / "parity"
THREADS = 16
BUILT_IN = "中文女"
WAV = PARITY / "wav" / "source_16k.wav"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[TTS]:
    """V2 and V3 on the native engine, V1 on the reference."""
    root = tmp_path_factory.mktemp("bundles")
    for generation in ("v2", "v3"):
        convert(PARITY / generation / "model", root / generation, measure=False)
    native = [cosyvoice.load(root / generation, threads=1) for generation in ("v2", "v3")]
    return [*native, cosyvoice.load(PARITY / "v1" / "model", threads=1)]


def _speak(tts: TTS, mode: int, seed: int) -> np.ndarray:
    """The samples of one of four kinds of request."""
    if mode == 0:
        return tts.say("Hi there.", BUILT_IN, seed=seed).samples
    if mode == 1:
        return np.concatenate([chunk.samples for chunk in tts.stream("Oh no.", BUILT_IN, seed=seed)])
    if mode == 2:
        return tts.say("Hi.", tts.clone(WAV), seed=seed, speed=1.2).samples
    return np.concatenate([chunk.samples for chunk in tts.stream_conversion(WAV, BUILT_IN, seed=seed)])


def test_mixed_requests_of_many_threads_are_those_of_solo_runs(engines: list[TTS]) -> None:
    requests = [(engine, mode, 10 + mode) for mode in range(4) for engine in range(len(engines))]
    requests += [(0, 0, 99), (1, 1, 99), (0, 1, 98), (1, 0, 98)]
    assert len(requests) == THREADS
    alone = [_speak(engines[engine], mode, seed) for engine, mode, seed in requests]
    # Other seeds are other speech, so a mixed-up state could not go unseen.
    assert len({samples.tobytes() for samples in alone}) == THREADS
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda request: _speak(engines[request[0]], *request[1:]), requests))
    for request, one, other in zip(requests, alone, together, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=str(request))
