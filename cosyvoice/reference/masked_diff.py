"""The flow of the first generation on PyTorch: chunks of one request, each computed on its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cosyvoice.engine.compat import Compat
from cosyvoice.engine.overlapped_flow import ChunkNoise, OverlappedFlowStage, PositionNoise
from cosyvoice.engine.stages import FloatArray, FlowInput
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.reference.stages import intra_op_threads

Voice = tuple[Tensor, Tensor, Tensor]
"""Tokens [1, tokens], mel [1, frames, mel_dim] and speaker embedding [1, dim] of a reference."""


class TorchMaskedDiffFlow:
    """Calls of the network; see `ChunkFlow`."""

    def __init__(self, model: MaskedDiffWithXvec, threads: int | None = None) -> None:
        self.model = model.eval()
        self._threads = threads

    def voice(self, inputs: FlowInput) -> Voice:
        """See `ChunkFlow`."""
        tokens = self._tensor(inputs.prompt_token, torch.long).reshape(1, -1)
        mel, embedding = (self._tensor(x, torch.float32) for x in (inputs.prompt_mel, inputs.speaker_embedding))
        return tokens, mel[None], embedding[None]

    def sample(
        self, voice: Voice, tokens: Sequence[int], noise: FloatArray, cache: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """See `ChunkFlow`."""
        with intra_op_threads(self._threads):
            mel, kept = self.model.inference(
                self._tensor(tokens, torch.long).reshape(1, -1),
                *voice,
                cache=None if cache is None else self._tensor(cache, torch.float32).transpose(0, 1)[None],
                noise=self._tensor(noise, torch.float32).T[None],
            )
        return _array(mel[0].T), _array(kept[0].transpose(0, 1))

    def _tensor(self, values: Sequence[int] | np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.tensor(np.asarray(values), dtype=dtype, device=self.model.input_embedding.weight.device)


class TorchMaskedDiffStage(OverlappedFlowStage):
    """Flow stage of the first generation; see `OverlappedFlowStage`.

    Args:
        model: the network.
        threads: of one operation; None leaves the setting of the process.
        noise: start noise of the chunks; None: the fixed noise of the released causal models, by position.
        compat: see `OverlappedFlowStage`.
    """

    def __init__(
        self,
        model: MaskedDiffWithXvec,
        threads: int | None = None,
        *,
        noise: ChunkNoise | None = None,
        compat: Compat = "corrected",
    ) -> None:
        if noise is None:
            noise = PositionNoise(model.start_noise[0].T.cpu().numpy())
        super().__init__(TorchMaskedDiffFlow(model, threads), model.config, noise, compat)


def _array(x: Tensor) -> FloatArray:
    return np.ascontiguousarray(x.cpu().numpy())
