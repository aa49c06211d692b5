from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.parity.features import check
from cosyvoice.parity.golden import ParityFolder, assert_parity

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")


def test_every_recorded_feature_is_reproduced() -> None:
    pytest.importorskip("pyworld", reason="F0 rows need the train extra")
    rows = list(check(FOLDER))
    assert {row.tensor for row in rows} == set(FOLDER.topic("features").tensors)
    assert_parity(rows)
