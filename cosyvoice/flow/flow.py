"""The flow stage of V3: speech tokens and a reference voice in, mel out.

Token embeddings pass a small look-ahead block and are repeated to the frame rate of the mel; that is the
whole encoder, all else is the work of the estimator. The mel of the reference is given as a prefix, and the
part behind it is generated.
"""

from __future__ import annotations

from torch import Tensor

from cosyvoice.config.model import FlowConfig
from cosyvoice.errors import ConfigError
from cosyvoice.flow.conditional import CausalConditionalFlow
from cosyvoice.flow.dit import DiT
from cosyvoice.flow.flow_matching import ConditionalFlowMatching
from cosyvoice.flow.pre_lookahead import PreLookahead


class CausalMaskedDiffWithDiT(CausalConditionalFlow):
    """Flow stage with a DiT estimator. The names of its parameters are those of the released `flow.pt`."""

    config: FlowConfig

    def __init__(self, config: FlowConfig) -> None:
        dit = config.dit
        if not config.mel_dim == dit.mel_dim == dit.out_channels:
            raise ConfigError(
                f"flow.mel_dim {config.mel_dim}, dit.mel_dim {dit.mel_dim} and dit.out_channels "
                f"{dit.out_channels} must be equal: the estimator maps mel to mel"
            )
        super().__init__(config, dit.mu_dim, dit.spk_dim)
        self.pre_lookahead_layer = PreLookahead(dit.mu_dim, config.pre_lookahead_channels, config.pre_lookahead_len)
        self.decoder = ConditionalFlowMatching(config.cfm, DiT(dit))

    def _encode(
        self, embedded: Tensor, context: Tensor | None = None, lengths: Tensor | None = None, streaming: bool = False
    ) -> Tensor:
        h = self.pre_lookahead_layer(embedded, context)
        return h.repeat_interleave(self.config.token_mel_ratio, dim=1).transpose(1, 2)
