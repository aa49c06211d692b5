"""The F0 predictor: look-ahead, precision, and that predicting leaves the module as it was."""

from __future__ import annotations

import torch

from cosyvoice.hifigan.f0_predictor import LOOK_RIGHT, CausalConvF0Predictor, ConvF0Predictor


def test_look_ahead_is_three_frames() -> None:
    predictor = CausalConvF0Predictor(80, 8)
    mel = torch.randn(1, 80, 20, requires_grad=True)
    predictor(mel)[0, 10].backward()
    assert mel.grad is not None
    seen = mel.grad[0].abs().sum(0).nonzero().flatten().tolist()
    # Three frames ahead, and two back for each of the four causal convolutions.
    assert seen == list(range(10 - 8, 10 + LOOK_RIGHT + 1))


def test_an_unfinished_utterance_repeats_the_finished_one() -> None:
    predictor = CausalConvF0Predictor(80, 8)
    mel = torch.randn(1, 80, 20)
    whole = predictor.predict_double(mel)
    part = predictor.predict_double(mel[:, :, :12], finalize=False)
    assert part.shape == (1, 12 - LOOK_RIGHT)
    assert float((part - whole[:, : part.shape[1]]).detach().abs().max()) < 1e-12


def test_double_precision_leaves_the_module_in_single() -> None:
    predictor = CausalConvF0Predictor(80, 8)
    mel = torch.randn(1, 80, 20)
    double = predictor.predict_double(mel)
    assert double.dtype == torch.float64
    assert {value.dtype for value in predictor.state_dict().values()} == {torch.float32}
    single = predictor(mel)
    assert single.dtype == torch.float32
    assert 0 < float((double - single).detach().abs().max()) < 1e-5


def test_both_precisions_can_be_trained() -> None:
    predictor = CausalConvF0Predictor(80, 8)
    for predict in (predictor, predictor.predict_double):
        predictor.zero_grad()
        predict(torch.randn(1, 80, 20)).sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in predictor.parameters())


def test_frequencies_are_positive_and_single_under_autocast() -> None:
    predictor = CausalConvF0Predictor(80, 8)
    with torch.autocast("cpu", torch.bfloat16):
        f0 = predictor(torch.randn(2, 80, 20))
    assert f0.dtype == torch.float32
    assert bool((f0 >= 0).all())


def test_the_symmetric_predictor_sees_five_frames_to_either_side() -> None:
    predictor = ConvF0Predictor(80, 8)
    mel = torch.randn(1, 80, 24)
    before = predictor(mel)
    seen = []
    for frame in range(24):
        changed = mel.clone()
        changed[:, :, frame] += 1
        if not torch.equal(predictor(changed)[0, 10], before[0, 10]):
            seen.append(frame)
    assert seen == list(range(5, 16))
    assert before.shape == (1, 24)
