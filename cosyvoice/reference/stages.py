"""The stages on PyTorch: thin layers between the networks and the protocols of the engine.

Flow and vocoder keep no caches: each step computes the utterance from its start and gives out what is new, as
the released implementation does. That makes long streams costly and every result easy to check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from cosyvoice.engine.stages import FloatArray, FlowInput, LLMInput, MelChunk, TokenChunk
from cosyvoice.errors import GenerationError
from cosyvoice.flow.conditional import CausalConditionalFlow
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.hifigan.noise import SourceNoise
from cosyvoice.llm.bistream import BistreamSession, Sampler
from cosyvoice.llm.layout import Row, speech_rows
from cosyvoice.llm.speech_lm import SpeechLM
from cosyvoice.transformer.kv_cache import KVCache


@contextmanager
def intra_op_threads(count: int | None) -> Iterator[None]:
    """PyTorch's threads for the block; None leaves the setting of the process (all cores, by default).

    PyTorch knows one number for the whole process, so models that run at the same time should have the same.
    """
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class TorchLLMState:
    """One sequence: rows that are not fed yet, the cache of those that are, and the speaker for the speaker's row."""

    rows: list[Row]
    cache: KVCache | None
    speaker: FloatArray | None = None


class TorchLLMStage:
    """The speech language model with a key-value cache."""

    def __init__(self, model: SpeechLM, threads: int | None = None) -> None:
        self.model = model.eval()
        self._threads = threads

    def init_state(self, inputs: LLMInput) -> TorchLLMState:
        """See `LLMStage`."""
        rows = self.model.prompt_rows(
            inputs.text, inputs.prompt_text, inputs.prompt_speech_token, inputs.speaker_embedding
        )
        speaker = self.model.used_speaker(inputs.speaker_embedding)
        return TorchLLMState(rows, self.model.new_cache(capacity=len(rows) + 256), speaker)

    def step(self, token: int | None, state: TorchLLMState) -> tuple[FloatArray, TorchLLMState]:
        """See `LLMStage`."""
        return self._feed([] if token is None else speech_rows([token]), state), state

    def release(self, state: TorchLLMState) -> None:
        """See `LLMStage`."""
        state.cache = None

    def text_stream(self, inputs: LLMInput, sampler: Sampler, limit: int | None = None) -> BistreamSession:
        """See `LLMStage`."""
        state = TorchLLMState([], self.model.new_cache())
        return self.model.open_stream(
            lambda rows: self._feed(rows, state),
            sampler,
            inputs.prompt_text,
            inputs.prompt_speech_token,
            limit,
            lambda: self.release(state),
        )

    def _feed(self, rows: Sequence[Row], state: TorchLLMState) -> FloatArray:
        if state.cache is None:
            raise GenerationError("the state of this request was released; begin a new one")
        rows, state.rows = [*state.rows, *rows], []
        with intra_op_threads(self._threads):
            return self.model.feed(rows, state.cache, state.speaker)


@dataclass
class TorchFlowState:
    """One utterance: its conditions, all tokens so far, and how many frames were given out."""

    inputs: FlowInput
    tokens: list[int]
    given: int


class TorchFlowStage:
    """A causal flow, computed anew from the start of the utterance in each step."""

    def __init__(self, model: CausalConditionalFlow, threads: int | None = None) -> None:
        self.model = model.eval()
        self._threads = threads

    def init_state(self, inputs: FlowInput) -> TorchFlowState:
        """See `FlowStage`."""
        return TorchFlowState(inputs, [], 0)

    def step(self, chunk: TokenChunk, state: TorchFlowState) -> tuple[FloatArray, TorchFlowState]:
        """See `FlowStage`."""
        state.tokens += [int(token) for token in chunk.tokens]
        device = self.model.input_embedding.weight.device
        with intra_op_threads(self._threads):
            mel = self.model.inference(
                _ids(state.tokens, device),
                _ids(state.inputs.prompt_token.tolist(), device),
                torch.tensor(state.inputs.prompt_mel, dtype=torch.float32, device=device)[None],
                torch.tensor(state.inputs.speaker_embedding, dtype=torch.float32, device=device)[None],
                streaming=chunk.chunk_masks,
                finalize=chunk.finalize,
            )
        new = mel[0, :, state.given :].T.cpu().numpy()
        state.given += len(new)
        return np.ascontiguousarray(new), state


@dataclass
class TorchVocoderState:
    """One utterance: its mel so far, and how many samples were given out."""

    mel: FloatArray | None
    given: int


class TorchVocoderStage:
    """The vocoder, computed anew from the start of the utterance in each step.

    `noise` belongs to the position of a sample, so chunks equal the whole.
    """

    def __init__(self, model: CausalHiFTGenerator, noise: SourceNoise, threads: int | None = None) -> None:
        # A folded weight stays a parameter only where gradients are on.
        self.model = model.eval().requires_grad_(True)
        self.model.remove_weight_norm()
        self.model.requires_grad_(False)
        self._noise = noise
        self._threads = threads

    def init_state(self) -> TorchVocoderState:
        """See `VocoderStage`."""
        return TorchVocoderState(None, 0)

    def step(self, chunk: MelChunk, state: TorchVocoderState) -> tuple[FloatArray, TorchVocoderState]:
        """See `VocoderStage`."""
        state.mel = chunk.mel if state.mel is None else np.concatenate([state.mel, chunk.mel])
        if not chunk.finalize and self.model.chunk_samples(len(state.mel)) == 0:
            return np.zeros(0, np.float32), state
        device = self.model.conv_post.weight.device
        mel = torch.tensor(state.mel.T, dtype=torch.float32, device=device)[None]
        with intra_op_threads(self._threads), torch.inference_mode():
            samples = self.model.inference(mel, self._noise, chunk.finalize)
        new = samples[0, state.given :].cpu().numpy()
        state.given += len(new)
        return new, state


def _ids(tokens: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.long, device=device).reshape(1, -1)
