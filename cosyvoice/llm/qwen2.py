"""A Qwen2 decoder of our own: RMSNorm, grouped-query attention with rotary positions, SwiGLU.

It consumes embeddings instead of token ids, because a speech language model mixes text and speech rows.
Nothing about a sequence lives in the module: the caller owns the key-value cache and passes it in. Parameter
names follow the published Qwen2 checkpoints, including the tied output head that a speech language model
never evaluates.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosyvoice.config.model import Qwen2Config
from cosyvoice.errors import ConfigError
from cosyvoice.transformer.kv_cache import KVCache
from cosyvoice.transformer.masks import causal_mask, padding_mask


def rotary_angles(start: int, count: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [count, head_dim] of positions `start`..`start + count - 1`.

    Always in float32: the angles of a bfloat16 model would lose whole radians at position 1000. Both halves
    of `head_dim` hold the same frequencies theta^(-2i/head_dim) (the "rotate half" arrangement).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    positions = torch.arange(start, start + count, dtype=torch.float32, device=device)
    angles = torch.outer(positions, 1.0 / theta**exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to `x` [batch, heads, time, head_dim]; the result keeps the dtype of `x`."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight over the channels."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Qwen2Attention(nn.Module):
    """Causal grouped-query attention; query, key and value projections carry a bias, the output has none."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.hidden_size // config.num_heads
        self.q_proj = nn.Linear(config.hidden_size, self.num_heads * self.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: KVCache | None,
        layer: int,
        want_probabilities: bool,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        batch, time, _ = x.shape
        query = rotate(self._heads(self.q_proj(x), self.num_heads), *rotary)
        key = rotate(self._heads(self.k_proj(x), self.num_kv_heads), *rotary)
        value = self._heads(self.v_proj(x), self.num_kv_heads)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        probabilities = None
        if want_probabilities:
            mixed, probabilities = self._explicit(query, key, value, mask)
        elif time == 1:
            mixed = self._one_query(query, key, value)
        else:
            mixed = self._fused(query, key, value, mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, time, -1)), probabilities

    def _heads(self, x: Tensor, count: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], count, self.head_dim).transpose(1, 2)

    def _expand(self, x: Tensor) -> Tensor:
        """Repeat each key/value head for its group of query heads."""
        return x.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        key, value = self._expand(key), self._expand(value)
        if mask is not None:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        if query.shape[2] == key.shape[2]:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mask = causal_mask(query.shape[2], key.shape[2], query.device)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    def _one_query(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # A single query sees every key, so the heads of one group can pose as queries of one head: the cached
        # keys and values are read once and never copied.
        batch = query.shape[0]
        grouped = query.reshape(batch, self.num_kv_heads, -1, self.head_dim)
        return F.scaled_dot_product_attention(grouped, key, value).reshape(query.shape)

    def _explicit(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        key, value = self._expand(key), self._expand(value)
        scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(self.head_dim)
        if mask is None:
            mask = causal_mask(query.shape[2], key.shape[2], query.device)
        probabilities = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        return probabilities.to(value.dtype) @ value, probabilities


class Qwen2MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), no bias."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Qwen2Layer(nn.Module):
    """Pre-norm block: attention and SwiGLU, each with dropout on what it adds to the residual."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.self_attn = Qwen2Attention(config)
        self.mlp = Qwen2MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: KVCache | None,
        layer: int,
        want_probabilities: bool,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        mixed, probabilities = self.self_attn(self.input_layernorm(x), rotary, cache, layer, want_probabilities, mask)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x))), probabilities


class Qwen2Model(nn.Module):
    """The decoder stack, from embeddings to hidden states after the final norm."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        if config.hidden_size % config.num_heads or config.num_heads % config.num_kv_heads:
            raise ConfigError(
                f"hidden_size {config.hidden_size}, num_heads {config.num_heads} and num_kv_heads "
                f"{config.num_kv_heads} must each be a multiple of the next"
            )
        if config.hidden_size // config.num_heads % 2:
            raise ConfigError("hidden_size / num_heads must be even, because rotary positions turn pairs of channels")
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Qwen2Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        embeddings: Tensor,
        cache: KVCache | None = None,
        return_attention_of: Collection[int] = (),
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run the stack over `embeddings` [batch, time, channels]; each row sees itself and what precedes it.

        With a `cache`, the rows continue what it holds and are added to it. Sequences of different lengths
        are padded on the right; no mask is needed, since causal rows never see what follows them. Returns the
        hidden states [batch, time, channels] and, for each layer index in `return_attention_of`, the
        attention probabilities [batch, heads, time, keys] in float32 (differentiable).

        What padded rows compute is nobody's concern, unless `lengths` [batch] are given, without a cache: then they
        see the real rows and no padded one, themselves included, as in the released implementation.

        Raises `ConfigError` for a layer that does not exist.
        """
        missing = [index for index in return_attention_of if not 0 <= index < len(self.layers)]
        if missing:
            raise ConfigError(f"there is no layer {missing[0]}; the decoder has layers 0..{len(self.layers) - 1}")
        start = 0 if cache is None else cache.length
        head_dim = self.config.hidden_size // self.config.num_heads
        rotary = rotary_angles(start, embeddings.shape[1], head_dim, self.config.rope_theta, embeddings.device)
        mask = None
        if lengths is not None:
            time = embeddings.shape[1]
            mask = causal_mask(time, time, embeddings.device) & padding_mask(lengths, time)[:, None, None]
        x, attention = embeddings, {}
        for index, layer in enumerate(self.layers):
            x, probabilities = layer(x, rotary, cache, index, index in return_attention_of, mask)
            if probabilities is not None:
                attention[index] = probabilities
        if cache is not None:
            cache.advance(embeddings.shape[1])
        return self.norm(x), attention


class Qwen2ForCausalLM(nn.Module):
    """The decoder stack with the tied output head of Qwen2 checkpoints, which is never evaluated."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.model = Qwen2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight


class Qwen2Encoder(nn.Module):
    """One more level of naming, so that checkpoint keys begin with `llm.model.model.`."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.model = Qwen2ForCausalLM(config)

    @property
    def embed_tokens(self) -> nn.Embedding:
        return self.model.model.embed_tokens

    def forward(
        self,
        embeddings: Tensor,
        cache: KVCache | None = None,
        return_attention_of: Collection[int] = (),
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """See `Qwen2Model.forward`."""
        return self.model.model(embeddings, cache, return_attention_of, lengths)


@torch.no_grad()
def initialize(model: nn.Module, num_layers: int, generator: torch.Generator, std: float = 0.02) -> None:
    """Draw fresh weights for training from scratch: N(0, std²), biases zero, norms one.

    The two projections that write to the residual are scaled by 1/sqrt(2 num_layers), so that the residual's
    variance does not grow with depth (Radford et al. 2019, section 2.3).
    """
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            writes_residual = name.endswith(("o_proj", "down_proj"))
            scale = std / math.sqrt(2 * num_layers) if writes_residual else std
            module.weight.normal_(0.0, scale, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0)
