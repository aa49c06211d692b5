import numpy as np
import pytest

from cosyvoice.training.corpus.resynthesis import Track, Warp, analyse_f0, resynthesise

RATE = 16000
PITCH = 120.0


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """Half a second of pulses through a resonance, as a vowel is."""
    time = np.arange(RATE // 2) / RATE
    harmonics = np.arange(1, 40)
    weights = 1 / (1 + ((harmonics * PITCH - 700) / 200) ** 2) + 0.02
    wave = (weights[:, None] * np.sin(2 * np.pi * PITCH * harmonics[:, None] * time)).sum(0)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def middle_pitch(track: Track) -> float:
    inner = track.f0[len(track.f0) // 4 : -len(track.f0) // 4]
    return float(np.median(inner[inner > 0]))


def centre(samples: np.ndarray) -> float:
    """Mean frequency (Hz) of the power spectrum."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float((power * np.fft.rfftfreq(len(samples), 1 / RATE)).sum() / power.sum())


def test_pitch_is_found(voice):
    assert middle_pitch(analyse_f0(voice, RATE)) == pytest.approx(PITCH, rel=0.01)


@pytest.mark.parametrize("factor", [0.8, 1.4])
def test_a_warp_changes_pitch_by_its_factor(voice, factor):
    samples, track = resynthesise(voice, RATE, Warp(f0=factor))
    assert middle_pitch(track) == pytest.approx(factor * PITCH, rel=0.01)
    assert middle_pitch(analyse_f0(samples, RATE)) == pytest.approx(factor * PITCH, rel=0.02)
    assert samples.dtype == np.float32


def test_a_warp_changes_length_by_its_rate(voice):
    samples, track = resynthesise(voice, RATE, Warp(rate=1.25))
    assert len(samples) == pytest.approx(len(voice) / 1.25, rel=0.02)
    assert middle_pitch(analyse_f0(samples, RATE)) == pytest.approx(PITCH, rel=0.02)
    assert len(track.f0) * track.period == pytest.approx(len(samples) / RATE, abs=0.01)


def test_a_stretched_envelope_moves_the_resonance_not_the_pitch(voice):
    plain, _ = resynthesise(voice, RATE, Warp(f0=1.0001))
    stretched, track = resynthesise(voice, RATE, Warp(envelope=1.3))
    assert centre(stretched) > 1.15 * centre(plain)
    assert middle_pitch(track) == pytest.approx(PITCH, rel=0.01)


def test_no_warp_leaves_the_samples_alone(voice):
    samples, _ = resynthesise(voice, RATE, Warp())
    assert samples is voice


def test_pitch_between_frames_is_interpolated_where_voiced():
    track = Track(np.array([0.0, 100.0, 110.0, 0.0]), 0.005)
    assert track.at(np.array([0.0, 0.005, 0.0075, 0.010, 0.015])).tolist() == [0, 100, 105, 110, 0]
    assert track.at(np.array([9.0])).tolist() == [0]
    assert Track(np.zeros(3), 0.005).at(np.array([0.0, 0.01])).tolist() == [0, 0]
