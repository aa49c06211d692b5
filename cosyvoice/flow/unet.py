"""The U-Net that estimates the velocity of the first two generations: convolutions with attention behind them.

Every level has a residual block of two convolutions, which the flow time shifts, and transformer blocks without
positions. The first generation halves the frame rate once on the way down; the second has one level only, left-padded
convolutions, and norms that look at one frame, so that it can be run chunk by chunk. One class builds both:
`UNetConfig` decides. The names of its parameters are those of the released `flow.pt`.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.config.model import UNetConfig
from cosyvoice.errors import ConfigError
from cosyvoice.flow.embedding import sinusoidal_time
from cosyvoice.transformer.masks import attention_mask

KERNEL = 3
GROUPS = 8
"""Groups of channels that the norms of a U-Net that is not causal take together."""
TIME_WIDENING = 4
"""Width of the time embedding, in widths of the first level."""
FEED_FORWARD_WIDENING = 4


class CausalConv1d(nn.Conv1d):
    """A convolution of [batch, channels, time] that sees the present frame and those before it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (KERNEL - 1, 0)))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [batch, channels, time]: no frame knows of another."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def _convolution(in_channels: int, out_channels: int, causal: bool) -> nn.Conv1d:
    if causal:
        return CausalConv1d(in_channels, out_channels)
    return nn.Conv1d(in_channels, out_channels, KERNEL, padding=KERNEL // 2)


class ConvBlock(nn.Module):
    """Convolution, norm and Mish; padded frames are zero before and behind."""

    def __init__(self, in_channels: int, out_channels: int, causal: bool) -> None:
        super().__init__()
        convolution = _convolution(in_channels, out_channels, causal)
        if causal:
            # The released layout counts a transposition before the norm and another one behind it.
            self.block = nn.Sequential(convolution, nn.Identity(), ChannelNorm(out_channels), nn.Identity(), nn.Mish())
        else:
            self.block = nn.Sequential(convolution, nn.GroupNorm(GROUPS, out_channels), nn.Mish())

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` [batch, in_channels, time], `mask` [batch, 1, time] -> [batch, out_channels, time]."""
        return self.block(x * mask) * mask


class ResidualBlock(nn.Module):
    """Two convolution blocks beside a plain projection; the flow time is added between the two."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, causal: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_channels, out_channels))
        self.block1 = ConvBlock(in_channels, out_channels, causal)
        self.block2 = ConvBlock(out_channels, out_channels, causal)
        self.res_conv = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        """`x` [batch, in_channels, time], `time` [batch, time_channels] -> [batch, out_channels, time]."""
        h = self.block1(x, mask) + self.mlp(time).unsqueeze(-1)
        return self.block2(h, mask) + self.res_conv(x * mask)


class Attention(nn.Module):
    """Multi-head self-attention without positions; the inner width is free."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        # The list leaves room for the dropout that the released layout counts behind the projection.
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """`x` [batch, time, channels]; `visible` bool [batch, 1, 1 or time, time] by query and key."""
        q, k, v = (part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.to_out[0](h.transpose(1, 2).flatten(2))


class GELUProjection(nn.Module):
    """Linear, then the exact GELU."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = FEED_FORWARD_WIDENING * channels
        # The released layout has a dropout at index 1.
        self.net = nn.Sequential(GELUProjection(channels, hidden), nn.Identity(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Attention and feed-forward layer, each behind a layer norm; [batch, time, channels] -> the same shape."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, config.num_heads, config.attention_head_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x), visible)
        return x + self.ff(self.norm3(x))


class Downsample(nn.Module):
    """Half the frame rate, rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, KERNEL, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the frame rate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SinusoidalTime(nn.Module):
    """Flow times [batch] in 0..1 -> [batch, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        return sinusoidal_time(t, self.width)


class TimeMLP(nn.Module):
    """Linear, SiLU, Linear."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_features, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, code: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(code)))


class Level(nn.ModuleList):
    """Residual block, transformer blocks and, in the outer levels, what changes the rate."""

    def __init__(
        self, inputs: int, outputs: int, time_channels: int, config: UNetConfig, resample: nn.Module | None = None
    ) -> None:
        residual = ResidualBlock(inputs, outputs, time_channels, config.causal)
        transformers = nn.ModuleList(TransformerBlock(outputs, config) for _ in range(config.n_blocks))
        super().__init__([residual, transformers, *([] if resample is None else [resample])])

    def forward(self, x: Tensor, mask: Tensor, time: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
        """`x` [batch, inputs, time] -> [batch, outputs, time], and the same at the rate of the next level.

        `chunk` is the number of frames of an attention chunk, None for full attention.
        """
        residual, transformers, *resample = self
        h = residual(x, mask, time).transpose(1, 2)
        visible = attention_mask(mask.squeeze(1).bool(), chunk).unsqueeze(1)
        for block in cast(nn.ModuleList, transformers):
            h = block(h, visible)
        h = h.transpose(1, 2)
        return h, resample[0](h * mask) if resample else h


def check_channels(config: UNetConfig, mel_dim: int) -> None:
    """Raise `ConfigError` unless noisy mel, encoder output, speaker and prompt mel go in, and mel comes out."""
    if config.in_channels != 4 * mel_dim or config.out_channels != mel_dim:
        raise ConfigError(
            f"unet.in_channels {config.in_channels} and unet.out_channels {config.out_channels} do not fit a mel of "
            f"{mel_dim} channels; set them to {4 * mel_dim} and {mel_dim}"
        )


class ConditionalDecoder(nn.Module):
    """Velocity estimator of the first two generations.

    Raises `ConfigError` for a geometry that cannot be: no level, or channels that the norms cannot group.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        if not config.channels:
            raise ConfigError("unet.channels is empty; give the channels of at least one level")
        for channels in config.channels:
            if not config.causal and channels % GROUPS:
                raise ConfigError(
                    f"unet.channels holds {channels}, which is no multiple of {GROUPS}; choose one that is"
                )
        self.config = config
        time_channels = TIME_WIDENING * config.channels[0]
        self.time_embeddings = SinusoidalTime(config.in_channels)
        self.time_mlp = TimeMLP(config.in_channels, time_channels)
        self.down_blocks = nn.ModuleList()
        self.mid_blocks = nn.ModuleList()
        self.up_blocks = nn.ModuleList()

        def last(channels: int) -> nn.Module:
            return _convolution(channels, channels, config.causal)

        downward = config.channels
        upward = (*downward[::-1], downward[0])
        for index, outputs in enumerate(downward):
            inputs = downward[index - 1] if index else config.in_channels
            resample = Downsample(outputs) if index < len(downward) - 1 else last(outputs)
            self.down_blocks.append(Level(inputs, outputs, time_channels, config, resample))
        for _ in range(config.num_mid_blocks):
            self.mid_blocks.append(Level(downward[-1], downward[-1], time_channels, config))
        for index, outputs in enumerate(upward[1:]):
            resample = Upsample(outputs) if index < len(downward) - 1 else last(outputs)
            self.up_blocks.append(Level(2 * upward[index], outputs, time_channels, config, resample))
        self.final_block = ConvBlock(downward[0], downward[0], config.causal)
        self.final_proj = nn.Conv1d(downward[0], config.out_channels, 1)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        mu: Tensor,
        t: Tensor,
        spks: Tensor,
        cond: Tensor,
        streaming: bool = False,
    ) -> Tensor:
        """Velocity [batch, out_channels, time], zero at padded frames.

        `x` (noisy mel), `mu` (encoder output), `cond` (prompt mel, zeros behind it) are [batch, channels,
        time], `mask` [batch, 1, time] is 1 at real frames, `t` [batch] in 0..1, `spks` [batch, channels].
        With `streaming` the attention of a causal U-Net is chunk-causal, with chunks of the same number of frames at
        every level; others have no such attention and take no notice.
        """
        time = self.time_mlp(self.time_embeddings(t))
        chunk = self.config.static_chunk_size if streaming and self.config.causal else None
        h = torch.cat([x, mu, spks.unsqueeze(-1).expand(-1, -1, x.shape[-1]), cond], dim=1)
        masks, hidden = [mask], []
        for level in self.down_blocks:
            skip, h = level(h, masks[-1], time, chunk)
            hidden.append(skip)
            masks.append(masks[-1][:, :, ::2])
        masks.pop()
        for level in self.mid_blocks:
            h, _ = level(h, masks[-1], time, chunk)
        for level in self.up_blocks:
            skip = hidden.pop()
            # An odd number of frames was rounded up on the way down.
            h = torch.cat([h[:, :, : skip.shape[-1]], skip], dim=1)
            _, h = level(h, masks.pop(), time, chunk)
        h = self.final_block(h, mask)
        return self.final_proj(h * mask) * mask
