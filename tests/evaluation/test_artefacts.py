from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.evaluation.artefacts import measure_artefacts, sounding_seconds

RATE = 24000


def _speech(seconds: float = 1.0, f0: float = 120.0) -> np.ndarray:
    """A voice-like tone with faded edges."""
    t = np.arange(int(seconds * RATE)) / RATE
    harmonics = sum(np.sin(2 * np.pi * f0 * k * t + k * k) / k for k in range(1, 25))
    tone = 0.2 * np.asarray(harmonics) * (1 + 0.3 * np.sin(2 * np.pi * 4 * t))
    fade = np.clip(np.minimum(np.arange(len(t)), np.arange(len(t))[::-1]) / (0.05 * RATE), 0, 1)
    return (tone * fade**2).astype(np.float32)


def test_sound_speech_has_no_fault() -> None:
    found = measure_artefacts(_speech(), RATE)
    assert found.faults == []
    assert found.clipped == 0
    assert found.longest_silence == 0


def test_level_does_not_matter() -> None:
    assert measure_artefacts(_speech() * 0.05, RATE).head_db == pytest.approx(
        measure_artefacts(_speech(), RATE).head_db, abs=1.0
    )


@pytest.mark.parametrize(("fault", "cut"), [("head", slice(RATE // 2, None)), ("tail", slice(None, RATE // 2))])
def test_cut_edges(fault: str, cut: slice) -> None:
    assert fault in measure_artefacts(_speech()[cut], RATE).faults


def test_clipping() -> None:
    assert "clipping" in measure_artefacts(np.clip(_speech() * 6, -1, 1), RATE).faults


def test_long_silence_inside_counts_and_at_the_edges_does_not() -> None:
    gap, part = np.zeros(RATE, np.float32), _speech(0.5)
    inside = measure_artefacts(np.concatenate([part, gap, part]), RATE)
    assert inside.faults == ["silence"]
    assert inside.longest_silence == pytest.approx(1.0, abs=0.06)
    assert measure_artefacts(np.concatenate([gap, part, gap]), RATE).faults == []


def test_a_step_is_one_click_wherever_it_is() -> None:
    samples = _speech()
    samples[RATE // 3 :] += 0.4
    assert measure_artefacts(samples, RATE).clicks == 1


def test_at_named_joins_smaller_steps_count_and_elsewhere_none() -> None:
    samples = _speech()
    join = RATE // 3 + 17
    samples[join:] += 0.12
    assert measure_artefacts(samples, RATE).clicks == 0
    assert measure_artefacts(samples, RATE, joins=[join]).clicks == 1
    assert measure_artefacts(samples, RATE, joins=[join + 500]).clicks == 0
    assert measure_artefacts(_speech(), RATE, joins=[join]).clicks == 0


def test_very_short_audio_is_measured() -> None:
    assert measure_artefacts(np.full(5, 0.5, np.float32), RATE).clicks == 0


def test_sounding_seconds_leaves_silent_edges_out() -> None:
    silence = np.zeros(RATE, np.float32)
    speech = _speech(0.8)
    padded = np.concatenate([silence, speech, silence])
    assert sounding_seconds(padded, RATE) == pytest.approx(0.8, abs=0.05)
    assert sounding_seconds(speech, RATE) == pytest.approx(0.8, abs=0.05)
