"""Fundamental frequency from the mel spectrogram, by five convolutions.

Only the first convolution looks ahead, by three frames. The released vocoder runs this network in double
precision because the phase of the source sums its output over the whole utterance; the module itself always
stays in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

from cosyvoice.hifigan.layers import SidedConv1d

LOOK_RIGHT = 3
"""Frames of mel that the F0 of a frame depends on beyond that frame."""


class CausalConvF0Predictor(nn.Module):
    """`CausalConvRNNF0Predictor` of the released implementation (which holds no recurrence either)."""

    def __init__(self, in_channels: int = 80, channels: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            weight_norm(SidedConv1d(in_channels, channels, LOOK_RIGHT + 1, side="right")),
            nn.ELU(),
        ]
        for _ in range(4):
            layers += [weight_norm(SidedConv1d(channels, channels, 3)), nn.ELU()]
        self.condnet = nn.ModuleList(layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor, finalize: bool = True) -> Tensor:
        """F0 [batch, frames] in Hz of `mel` [batch, in_channels, frames].

        With `finalize=False` the last `LOOK_RIGHT` frames are context, and as many frames fewer come out.
        Values below the source's voicing threshold mean unvoiced.
        """
        first, *rest = self.condnet
        x = first(mel, pad=finalize)
        for layer in rest:
            x = layer(x)
        # bf16 resolves 200 Hz to 1 Hz only, so autocast must not reach the output layer.
        with torch.autocast(mel.device.type, enabled=False):
            x = x.to(self.classifier.weight.dtype)
            return self.classifier(x.transpose(1, 2)).squeeze(-1).abs()

    def predict_double(self, mel: Tensor, finalize: bool = True) -> Tensor:
        """Like calling the module, but in float64, with float64 copies of the weights; returns float64."""
        weights = {name: value.double() for name, value in self.named_parameters()}
        with torch.autocast(mel.device.type, enabled=False):
            return functional_call(self, weights, (mel.double(), finalize))
