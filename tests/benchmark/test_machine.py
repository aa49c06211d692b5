"""The machine."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cosyvoice.benchmark.machine import describe_machine, load_average, peak_resident_mb, resident_mb


def test_the_machine_is_named():
    machine = describe_machine()
    assert machine.cpu and machine.cores >= 1 and machine.memory_gb >= 0
    assert {"python", "numpy", "onnxruntime", "cosyvoice"} <= machine.versions.keys()
    assert load_average() is None or load_average() >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_follows_what_is_taken():
    before = resident_mb()
    taken = np.ones(16 * 2**20)
    assert resident_mb() > before + 100 and peak_resident_mb() >= resident_mb()
    assert taken.sum() == len(taken)
