from __future__ import annotations

import kaldi_native_fbank as knf
import numpy as np
import pytest

from cosyvoice.audio.fbank import KaldiFbank, kaldi_filterbank
from cosyvoice.errors import AudioError


def test_agrees_with_kaldi() -> None:
    samples = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    reference = knf.OnlineFbank(options)
    reference.accept_waveform(16000, samples.tolist())
    reference.input_finished()
    expected = np.stack([reference.get_frame(i) for i in range(reference.num_frames_ready)])
    features = KaldiFbank()(samples, subtract_mean=False)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-3)


def test_mean_is_removed() -> None:
    samples = np.random.default_rng(0).standard_normal(8000)
    assert np.abs(KaldiFbank()(samples).mean(axis=0)).max() < 1e-4


def test_silence_is_finite() -> None:
    assert np.isfinite(KaldiFbank()(np.zeros(4000))).all()


def test_last_bin_belongs_to_no_filter() -> None:
    assert kaldi_filterbank(80).shape == (80, 257)
    assert kaldi_filterbank(80)[:, -1].max() == 0


@pytest.mark.parametrize(("samples", "message"), [(np.zeros(399), "at least 400"), (np.zeros((1, 900)), "mono")])
def test_unusable_samples(samples: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        KaldiFbank()(samples)
