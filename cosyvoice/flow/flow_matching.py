"""Conditional flow matching: a trained velocity field carries noise to mel along an ODE.

Straight paths y(t) = (1 - (1 - sigma) t) z + t x with velocity x - (1 - sigma) z are the regression target
(Lipman et al., "Flow Matching for Generative Modeling", 2023, optimal-transport paths). Classifier-free
guidance evaluates the estimator on a doubled batch, once with and once without the conditions. Nothing here
draws from a global generator: start noise and training draws are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cosyvoice.config.model import CFMConfig
from cosyvoice.flow.solver import solve, time_grid


@dataclass(frozen=True)
class Conditions:
    """What the velocity depends on besides the mel and the time."""

    mu: Tensor
    """Encoder output [batch, channels, time]."""
    mask: Tensor
    """1 at real frames, 0 at padding, float [batch, 1, time]."""
    spks: Tensor
    """Projected speaker embedding [batch, channels]."""
    cond: Tensor
    """Prompt mel at its frames, zeros elsewhere, [batch, mel_dim, time]."""

    def kept(self, keep: Tensor) -> Conditions:
        """Encoder output, speaker and prompt mel set to zero together where `keep` [batch] is false."""
        keep = keep.to(self.mu.dtype)
        wide = keep.view(-1, 1, 1)
        return Conditions(self.mu * wide, self.mask, self.spks * keep.view(-1, 1), self.cond * wide)

    def with_unconditional(self) -> Conditions:
        """A batch of twice the size: these conditions, then as many rows with all of them zero."""

        def zeros_behind(x: Tensor) -> Tensor:
            return torch.cat([x, torch.zeros_like(x)])

        mask = torch.cat([self.mask, self.mask])
        return Conditions(zeros_behind(self.mu), mask, zeros_behind(self.spks), zeros_behind(self.cond))


@dataclass(frozen=True)
class FlowMatchingDraws:
    """The random numbers of one training loss."""

    t: Tensor
    """Flow time, uniform in 0..1, [batch, 1, 1]."""
    noise: Tensor
    """Standard normal, the shape of the mel [batch, mel_dim, time]."""
    condition: Tensor
    """Uniform in 0..1, [batch]: conditions are dropped where it does not exceed `training_cfg_rate`."""

    @classmethod
    def sample(cls, mel: Tensor, generator: torch.Generator) -> FlowMatchingDraws:
        """Draws for `mel` [batch, mel_dim, time], in the order of the released implementation.

        They are drawn on the device of the generator and moved to that of the mel.
        """
        batch, device = mel.shape[0], generator.device
        t = torch.rand((batch, 1, 1), generator=generator, device=device)
        noise = torch.randn(mel.shape, generator=generator, device=device)
        condition = torch.rand(batch, generator=generator, device=device)
        return cls(t.to(mel), noise.to(mel), condition.to(mel))


class ConditionalFlowMatching(nn.Module):
    """Training loss and sampling for any estimator v = estimator(x, mask, mu, t, spks, cond, streaming)."""

    def __init__(self, config: CFMConfig, estimator: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.estimator = estimator

    def loss(self, mel: Tensor, conditions: Conditions, draws: FlowMatchingDraws, streaming: bool) -> Tensor:
        """Mean squared error of the velocity over the real frames of `mel` [batch, mel_dim, time]."""
        shrink = 1 - self.config.sigma_min
        y = (1 - shrink * draws.t) * draws.noise + draws.t * mel
        target = mel - shrink * draws.noise
        kept = conditions.kept(draws.condition > self.config.training_cfg_rate)
        velocity = self._estimate(y, draws.t.flatten(), kept, streaming)
        squared = (velocity - target).square() * conditions.mask
        return squared.sum() / (conditions.mask.sum() * mel.shape[1])

    def sample(
        self,
        noise: Tensor,
        conditions: Conditions,
        *,
        streaming: bool = False,
        n_timesteps: int | None = None,
        solver: Literal["euler", "rk4"] | None = None,
        cfg_rate: float | None = None,
    ) -> Tensor:
        """Mel [batch, mel_dim, time] that the ODE reaches from `noise` of the same shape.

        Arguments that are None take the value of the configuration. With `cfg_rate` r the velocity is
        (1 + r) v_conditional - r v_unconditional; 0 saves the unconditional half of the work.
        """
        config = self.config
        rate = config.inference_cfg_rate if cfg_rate is None else cfg_rate
        steps = config.n_timesteps if n_timesteps is None else n_timesteps
        doubled = conditions.with_unconditional() if rate else None

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            if doubled is None:
                return self._estimate(x, t.expand(len(x)), conditions, streaming)
            both = self._estimate(torch.cat([x, x]), t.expand(2 * len(x)), doubled, streaming)
            conditional, unconditional = both.chunk(2)
            return (1 + rate) * conditional - rate * unconditional

        grid = time_grid(steps, config.t_scheduler, noise.device, noise.dtype)
        return solve(velocity, noise, grid, config.solver if solver is None else solver)

    def _estimate(self, x: Tensor, t: Tensor, conditions: Conditions, streaming: bool) -> Tensor:
        velocity = self.estimator(
            x, conditions.mask, conditions.mu, t, conditions.spks, conditions.cond, streaming=streaming
        )
        return velocity.to(x.dtype)
