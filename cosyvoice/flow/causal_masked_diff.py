"""The flow stage of the second generation: an upsampling encoder and a causal U-Net, both of which run in chunks."""

from __future__ import annotations

from torch import Tensor, nn

from cosyvoice.config.model import CausalMaskedDiffConfig
from cosyvoice.flow.conditional import CausalConditionalFlow
from cosyvoice.flow.flow_matching import ConditionalFlowMatching
from cosyvoice.flow.unet import ConditionalDecoder, check_channels
from cosyvoice.flow.upsample_encoder import UpsampleConformerEncoder


class CausalMaskedDiffWithXvec(CausalConditionalFlow):
    """Flow stage with a causal U-Net. The names of its parameters are those of the released `flow.pt`."""

    config: CausalMaskedDiffConfig

    def __init__(self, config: CausalMaskedDiffConfig) -> None:
        check_channels(config.unet, config.mel_dim)
        super().__init__(config, config.encoder.input_size, config.mel_dim)
        self.encoder = UpsampleConformerEncoder(config)
        self.encoder_proj = nn.Linear(config.encoder.output_size, config.mel_dim)
        self.decoder = ConditionalFlowMatching(config.cfm, ConditionalDecoder(config.unet))

    def _encode(
        self, embedded: Tensor, context: Tensor | None = None, lengths: Tensor | None = None, streaming: bool = False
    ) -> Tensor:
        h = self.encoder(embedded, context, lengths, streaming)
        return self.encoder_proj(h).transpose(1, 2)
