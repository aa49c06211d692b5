"""Fundamental frequency from the mel spectrogram, by five convolutions.

In the causal vocoder only the first convolution looks ahead, by three frames, and the network runs in double
precision because the phase of the source sums its output over the whole utterance; the module itself always
stays in float32. The other vocoders look five frames to either side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

from cosyvoice.hifigan.layers import Side, SidedConv1d

LOOK_RIGHT = 3
"""Frames of mel that the F0 of a frame depends on beyond that frame, in the causal predictor."""


class ConvF0Predictor(nn.Module):
    """`ConvRNNF0Predictor` of the released implementation (which holds no recurrence either)."""

    first_kernel = 3
    first_side: Side = "both"
    side: Side = "both"

    def __init__(self, in_channels: int = 80, channels: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            weight_norm(SidedConv1d(in_channels, channels, self.first_kernel, side=self.first_side)),
            nn.ELU(),
        ]
        for _ in range(4):
            layers += [weight_norm(SidedConv1d(channels, channels, 3, side=self.side)), nn.ELU()]
        self.condnet = nn.ModuleList(layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor, finalize: bool = True) -> Tensor:
        """F0 [batch, frames] in Hz of `mel` [batch, in_channels, frames].

        Values below the source's voicing threshold mean unvoiced. With `finalize=False` the outermost frames are
        context of the first convolution, and as many frames fewer come out.
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


class CausalConvF0Predictor(ConvF0Predictor):
    """`CausalConvRNNF0Predictor` of the released implementation: the last `LOOK_RIGHT` frames are its context."""

    first_kernel = LOOK_RIGHT + 1
    first_side: Side = "right"
    side: Side = "left"
