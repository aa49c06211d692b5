from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cosyvoice.engine.tempo import MelStretcher, check_speed, stretch
from cosyvoice.errors import ConfigError

MEL = np.random.default_rng(0).standard_normal((157, 80)).astype(np.float32)


@pytest.mark.parametrize("speed", [0.5, 0.83, 1.1, 1.2, 2.0])
def test_whole_utterances_are_interpolated_as_the_released_implementation_does(speed: float) -> None:
    expected = F.interpolate(torch.from_numpy(MEL.T)[None], size=int(157 / speed), mode="linear")[0].T
    np.testing.assert_allclose(stretch(MEL, speed), expected, atol=1e-4)


@pytest.mark.parametrize("speed", [0.5, 0.77, 1.0, 1.3, 1.9, 2.0])
def test_chunks_do_not_show(speed: float) -> None:
    whole = MelStretcher(speed).push(MEL, finalize=True)
    assert len(whole) == int(157 / speed)
    random = np.random.default_rng(1)
    for _ in range(5):
        stretcher, parts, start = MelStretcher(speed), [], 0
        while start < len(MEL):
            end = start + int(random.integers(1, 40))
            parts.append(stretcher.push(MEL[start:end], finalize=end >= len(MEL)))
            start = end
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_a_stream_keeps_little(monkeypatch: pytest.MonkeyPatch) -> None:
    stretcher = MelStretcher(1.3)
    for start in range(0, 150, 10):
        stretcher.push(MEL[start : start + 10], finalize=False)
        assert stretcher._kept is not None and len(stretcher._kept) <= 12


def test_a_single_frame_survives() -> None:
    assert stretch(MEL[:1], 2.0).shape == (1, 80)


@pytest.mark.parametrize("speed", [0.24, 4.01, 0.0, -1.0, float("nan"), float("inf")])
def test_speeds_out_of_range(speed: float) -> None:
    with pytest.raises(ConfigError, match=r"0\.25 to 4"):
        check_speed(speed)
