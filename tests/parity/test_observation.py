"""The stand-ins pass calls on unchanged, note them, and a forced model says its tokens and stops."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from cosyvoice.config.model import SamplingConfig
from cosyvoice.engine.decoding import DecodingRules, decode
from cosyvoice.engine.sampling import RASSampler, numpy_multinomial
from cosyvoice.engine.stages import LLMInput
from cosyvoice.parity.golden import Topic
from cosyvoice.parity.observation import Calls, ForcedLLM, ObservedFlow, ObservedVocoder


class Vocoder(nn.Module):
    """Samples are twice the mel; the source is the mel plus one."""

    def __init__(self) -> None:
        super().__init__()
        self.m_source = nn.Identity()

    def inference(self, mel: Tensor, noise: None, finalize: bool = True) -> Tensor:
        self.m_source(mel + 1)
        return 2 * mel[:, 0]


def observed_vocoder(**tensors: np.ndarray) -> tuple[ObservedVocoder, Calls]:
    calls = Calls()
    calls.begin(Topic("v3_e2e", {name.replace("__", "."): value for name, value in tensors.items()}), "case")
    return ObservedVocoder(Vocoder(), calls), calls


def test_a_forced_model_says_its_tokens_also_repeated_ones() -> None:
    tokens = [3, 3, 3, 3, 0, 3]
    llm = ForcedLLM(tokens, end=6, outputs=8)
    sampler = RASSampler(SamplingConfig(top_k=1, win_size=1, tau_r=2.0), numpy_multinomial(np.random.default_rng(0)))
    rules = DecodingRules(stop_ids=range(5, 8), blocked_before_minimum=[], minimum=0, maximum=100)
    said = decode(llm, LLMInput([1, 2], [7]), sampler, rules)
    assert list(said) == tokens
    assert llm.inputs == [LLMInput([1, 2], [7])]


def test_flow_calls_are_noted_and_passed_on() -> None:
    network = SimpleNamespace(inference=lambda token, scale, finalize: token * scale, width=80)
    calls = Calls()
    flow = ObservedFlow(network, calls)
    token = torch.tensor([[1, 2]])
    assert flow.inference(token, 3, finalize=True).tolist() == [[3, 6]]
    assert flow.width == 80
    token += 1
    assert calls.flow[0]["token"].tolist() == [[1, 2]]
    assert calls.flow[0]["finalize"] is True


def test_the_recorded_mel_goes_in_where_ours_agrees_with_it() -> None:
    recorded = np.ones((1, 2, 3), np.float32)
    vocoder, calls = observed_vocoder(case__hift0__mel=recorded)
    ours = torch.from_numpy(recorded) + 5e-5
    samples = vocoder.inference(ours, None, finalize=False)
    assert torch.equal(samples, torch.full((1, 3), 2.0))
    call = calls.hift[0]
    assert torch.equal(call["mel"], ours)
    assert torch.equal(call["own"], 2 * ours[:, 0])
    assert torch.equal(call["source"], torch.full((1, 2, 3), 2.0))
    assert call["finalize"] is False


def test_a_mel_that_differs_or_was_not_recorded_goes_in_itself() -> None:
    recorded = np.ones((1, 2, 3), np.float32)
    vocoder, _ = observed_vocoder(case__flow0__mel=recorded, other__hift1__mel=recorded)
    wrong = torch.from_numpy(recorded) + 1e-3
    assert torch.equal(vocoder.inference(wrong, None), 2 * wrong[:, 0])
    close = torch.from_numpy(recorded) + 1e-6
    assert torch.equal(vocoder.inference(close, None), 2 * close[:, 0])
