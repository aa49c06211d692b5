"""The vocoder of the first two generations on PyTorch, as the stage of joined chunks asks for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cosyvoice.engine.compat import Compat
from cosyvoice.engine.joint_vocoder import JointVocoderStage, SourceDraws
from cosyvoice.engine.stages import FloatArray
from cosyvoice.hifigan.generator import HiFTGenerator
from cosyvoice.reference.stages import intra_op_threads


class TorchHiFT:
    """`VocoderNetworks` of a loaded vocoder, whose weight norms are folded here."""

    def __init__(self, model: HiFTGenerator, threads: int | None = None) -> None:
        # A folded weight stays a parameter only where gradients are on.
        self.model = model.eval().requires_grad_(True)
        self.model.remove_weight_norm()
        self.model.requires_grad_(False)
        self._threads = threads

    def predict_f0(self, mel: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        with intra_op_threads(self._threads), torch.inference_mode():
            return _array(self.model.predict_f0(self._tensor(mel.T)).float())

    def excite(self, f0: FloatArray, phases: FloatArray, noise: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        with intra_op_threads(self._threads), torch.inference_mode():
            source = self.model.m_source(self._tensor(f0), self._tensor(noise), self._tensor(phases))
            return _array(source[:, 0])

    def decode(self, mel: FloatArray, source: FloatArray) -> FloatArray:
        """See `VocoderNetworks`."""
        with intra_op_threads(self._threads), torch.inference_mode():
            return _array(self.model.decode(self._tensor(mel.T), self._tensor(source[None])))

    def _tensor(self, array: FloatArray) -> Tensor:
        """With a batch of one, where the model is."""
        return torch.tensor(array, dtype=torch.float32, device=self.model.conv_post.weight.device)[None]


class TorchHiFTStage(JointVocoderStage):
    """The vocoder of V1 and V2."""

    def __init__(
        self,
        model: HiFTGenerator,
        threads: int | None = None,
        compat: Compat = "corrected",
        draws: Callable[[], SourceDraws] | None = None,
    ) -> None:
        """`compat` and `draws`: see `JointVocoderStage`."""
        super().__init__(TorchHiFT(model, threads), model.config, compat, draws)


def _array(tensor: Tensor) -> FloatArray:
    """The only row of a batch."""
    array: FloatArray = np.array(tensor[0].cpu().numpy())
    return array
