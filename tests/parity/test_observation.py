"""The stand-ins pass calls on unchanged, note them, and a forced model says its tokens and stops."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from cosyvoice.config.model import SamplingConfig
from cosyvoice.engine.decoding import DecodingRules, decode
from cosyvoice.engine.sampling import RASSampler, numpy_multinomial
from cosyvoice.engine.stages import FlowInput, LLMInput, MelChunk, TokenChunk
from cosyvoice.parity.golden import Topic
from cosyvoice.parity.observation import (
    Calls,
    ForcedLLM,
    ObservedFlow,
    ObservedFlowStage,
    ObservedVocoder,
    ObservedVocoderStage,
)


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
    assert torch.equal(samples, 2 * ours[:, 0])
    call = calls.hift[0]
    assert torch.equal(call["mel"], ours)
    assert torch.equal(call["samples"], torch.full((1, 3), 2.0))
    assert torch.equal(call["source"], torch.full((1, 2, 3), 2.0))
    assert call["finalize"] is False


def test_a_mel_that_differs_or_was_not_recorded_goes_in_itself() -> None:
    recorded = np.ones((1, 2, 3), np.float32)
    vocoder, calls = observed_vocoder(case__flow0__mel=recorded, other__hift1__mel=recorded)
    wrong, close = torch.from_numpy(recorded) + 1e-3, torch.from_numpy(recorded) + 1e-6
    for mel in (wrong, close):
        vocoder.inference(mel, None)
    assert torch.equal(calls.hift[0]["samples"], 2 * wrong[:, 0])
    assert torch.equal(calls.hift[1]["samples"], 2 * close[:, 0])


class Doubling:
    """A stage that gives out twice what it gets, as flow (tokens to frames of two values) and as vocoder."""

    def init_state(self, *_: object) -> list[int]:
        return []

    def step(self, chunk: TokenChunk | MelChunk, state: list[int]) -> tuple[np.ndarray, list[int]]:
        state.append(1)
        if isinstance(chunk, MelChunk):
            return 2 * chunk.mel[:, 0], state
        return np.repeat(np.array(chunk.tokens, np.float32)[:, None], 2, axis=1), state


def test_calls_of_a_flow_stage_are_noted_as_if_each_began_at_the_start() -> None:
    calls = Calls()
    flow = ObservedFlowStage(Doubling(), calls)
    state = flow.init_state(FlowInput(np.zeros(0, np.int32), np.zeros((0, 2), np.float32), np.zeros(1, np.float32)))
    mel, state = flow.step(TokenChunk([1, 2], finalize=False, chunk_masks=True), state)
    assert mel.tolist() == [[1, 1], [2, 2]]
    mel, state = flow.step(TokenChunk([3], finalize=True, chunk_masks=False), state)
    assert mel.tolist() == [[3, 3]]
    first, second = calls.flow
    assert (first["token"].tolist(), first["first"], first["streaming"], first["finalize"]) == (
        [[1, 2]],
        0,
        True,
        False,
    )
    assert (second["token"].tolist(), second["first"], second["streaming"]) == ([[1, 2, 3]], 2, False)
    assert second["mel"].tolist() == [[[1, 2, 3], [1, 2, 3]]]


def test_a_vocoder_stage_continues_our_own_mel_and_the_recorded_one() -> None:
    recorded = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    calls = Calls()
    calls.begin(Topic("v3_e2e", {"case.hift0.mel": recorded[:, :, :2], "case.hift1.mel": recorded}), "case")
    vocoder = ObservedVocoderStage(Doubling(), calls, lambda mel, whole: mel[:, 1])
    ours = recorded[0].T + np.float32(5e-5)
    state = vocoder.init_state()
    own, state = vocoder.step(MelChunk(ours[:2], finalize=False), state)
    assert np.array_equal(own, 2 * ours[:2, 0])
    own, state = vocoder.step(MelChunk(ours[2:], finalize=True), state)
    assert np.array_equal(own, 2 * ours[2:, 0])
    call = calls.hift[1]
    assert call["finalize"] is True
    assert np.array_equal(call["mel"], ours.T[None])
    assert call["samples"].tolist() == [[0, 2, 4]]
    assert call["source"].tolist() == [[[3, 4, 5]]]
