from __future__ import annotations

import numpy as np
import pytest

import cosyvoice
from cosyvoice.engine.several_speakers import DIFFERENT, SpeakerCheck, two_groups
from cosyvoice.errors import SeveralSpeakersError


def around(direction: int, count: int, spread: float = 0.1) -> np.ndarray:
    noise = np.random.default_rng(direction).normal(size=(count, 16)) * spread
    return (np.eye(16)[direction] + noise).astype(np.float32)


def test_windows_of_two_speakers_fall_into_two_groups() -> None:
    one = around(0, 12)
    assert two_groups(one) > 0.8
    # In turns, at the end, and whatever the length of the vectors.
    assert two_groups(3 * np.concatenate([one[:4], around(1, 4), one[4:8], around(2, 0)])) < 0.3
    assert two_groups(np.concatenate([one, around(1, 2)])) < 0.4


def test_a_single_odd_window_is_no_speaker() -> None:
    assert two_groups(np.concatenate([around(0, 9), around(1, 1)])) > DIFFERENT


def test_two_voices_are_heard_and_one_passes() -> None:
    tts, check = cosyvoice.load(threads=1), SpeakerCheck(threads=1)
    parts = [tts.say("The morning was quiet, and nobody spoke of it.", voice, seed=1) for voice in ("helen", "karl")]
    rate = tts.sample_rate
    joined = np.concatenate([part.samples for part in parts])
    assert check.likeness(joined, rate) < DIFFERENT
    with pytest.raises(SeveralSpeakersError, match="cut it"):
        tts.check_one_speaker(joined, rate)
    for part in parts:
        twice = np.tile(part.samples, 2)
        assert check.likeness(twice, rate) > DIFFERENT
    check(twice[:rate], rate)
