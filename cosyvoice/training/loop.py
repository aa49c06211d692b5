"""The training loop that all networks share: schedule, averaging, checkpoints, resuming, plots.

A run is a folder. It ends when `steps` are done or when `minutes` of training are spent, whichever is first, and the
learning rate follows whichever is further along: a run on a slow machine still anneals to its end. Killed runs
resume from the last checkpoint with the state of everything that is random.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cosyvoice.errors import ConfigError, GenerationError
from cosyvoice.training.plots import plot_losses
from cosyvoice.training.settings import LoopSettings

log = logging.getLogger(__name__)

INITIAL = "initial.pt"
"""File of a run folder whose training has not begun: the weights to begin with, in the place of a checkpoint."""


@dataclass
class Context:
    """What a step gets: its number, where to compute, and the run's random generator (on the CPU)."""

    step: int
    progress: float
    device: torch.device
    generator: torch.Generator
    folder: Path


class Task(Protocol):
    """One network's training. `modules` are saved; `ema_names` of them are averaged for use."""

    name: str

    def modules(self) -> dict[str, nn.Module]: ...

    def optimizers(self) -> list[torch.optim.Optimizer]: ...

    def step(self, context: Context) -> dict[str, float]:
        """One optimisation step; returns what to log."""
        ...

    def validate(self, context: Context) -> dict[str, float]:
        """Scores on the validation split; may write pictures into the folder."""
        ...


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but PyTorch sees no GPU: use device=auto or device=cpu")
    return torch.device(name)


def autocast(device: torch.device, wanted: bool) -> torch.autocast:
    """bfloat16 where the hardware multiplies it natively; without, it is many times slower than float32."""
    fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and fast)


def learning_rate(progress: float, warmup: float, final: float = 0.02) -> float:
    """Factor of the peak: linear warm-up over the first `warmup` of the run, then a cosine down to `final`."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    x = (progress - warmup) / (1 - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(x, 1.0)))


class Averager:
    """Exponential moving average of all weights, with a shorter memory at the start."""

    def __init__(self, modules: dict[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.values = {name: {k: v.detach().clone() for k, v in m.state_dict().items()} for name, m in modules.items()}

    @torch.no_grad()
    def update(self, modules: dict[str, nn.Module], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, module in modules.items():
            mine = self.values[name]
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    mine[key].lerp_(value, 1 - decay)
                else:
                    mine[key].copy_(value)


@dataclass
class _Clock:
    """Training time over all resumed runs."""

    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def total(self) -> float:
        return self.spent + time.monotonic() - self.started


class Trainer:
    """Runs a task in `folder` as `settings` say."""

    def __init__(self, task: Task, settings: LoopSettings, folder: Path) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.device = choose_device(settings.device)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.step = 0
        self.clock = _Clock()
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for module in task.modules().values():
            module.to(self.device)
        self.average = Averager(task.modules(), settings.ema_decay)
        self._peaks = [[group["lr"] for group in o.param_groups] for o in task.optimizers()]
        self._begin()

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        shares = [self.step / self.settings.steps]
        if self.settings.minutes:
            shares.append(self.clock.total() / 60 / self.settings.minutes)
        return min(1.0, max(shares))

    def context(self) -> Context:
        return Context(self.step, self.progress(), self.device, self.generator, self.folder)

    @property
    def done(self) -> bool:
        """Whether the run has reached its end and was scored there."""
        path = self.folder / "scores.json"
        return self.progress() >= 1.0 and path.exists() and json.loads(path.read_text())["step"] == self.step

    def run(self) -> dict[str, float]:
        """Train to the end; returns the last validation scores. Raises `GenerationError` if the loss diverges.

        `KeyboardInterrupt` is passed on after a checkpoint is saved.
        """
        settings = self.settings
        torch.set_num_threads(settings.threads)
        writer = SummaryWriter(self.folder / "tensorboard")
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        last_save = time.monotonic()
        scores: dict[str, float] = {}
        begun, random = -1, self._random_state()
        try:
            while self.progress() < 1.0:
                begun, random = self.step, self._random_state()
                self._set_learning_rate()
                for module in self.task.modules().values():
                    module.train()
                logged = self.task.step(self.context())
                self.step += 1
                self.average.update(self.task.modules(), self.step)
                if not all(math.isfinite(value) for value in logged.values()):
                    raise GenerationError(f"{self.task.name}: loss not finite at step {self.step}: lower the rate")
                for key, value in logged.items():
                    sums[key] += value
                    counts[key] += 1
                if self.step % settings.log_every == 0:
                    self._report({k: v / counts[k] for k, v in sums.items()}, writer)
                    sums.clear()
                    counts.clear()
                if self.step % settings.validate_every == 0 and self.progress() < 1.0:
                    scores = self._validate(writer)
                if time.monotonic() - last_save > 60 * settings.save_minutes:
                    self.save()
                    last_save = time.monotonic()
            scores = self._validate(writer)
            self.save()
        except KeyboardInterrupt:
            if self.step == begun:
                # The step that was cut short runs again, from the draws that it began with.
                self._set_random_state(random)
            self.save()
            raise
        finally:
            writer.close()
        return scores

    def _set_learning_rate(self) -> None:
        factor = learning_rate(self.progress(), self.settings.warmup)
        for optimizer, peaks in zip(self.task.optimizers(), self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def _report(self, values: dict[str, float], writer: SummaryWriter, prefix: str = "train") -> None:
        minutes = self.clock.total() / 60
        text = "  ".join(f"{key} {value:.4f}" for key, value in values.items())
        log.info(
            "%s %s step %d (%.0f %%, %.1f min)  %s",
            self.task.name,
            prefix,
            self.step,
            100 * self.progress(),
            minutes,
            text,
        )
        for key, value in values.items():
            writer.add_scalar(f"{prefix}/{key}", value, self.step)
            self.history[f"{prefix}/{key}"].append((self.step, value))
        plot_losses(self.history, self.folder / "losses.png")

    def _validate(self, writer: SummaryWriter) -> dict[str, float]:
        with self.averaged(), torch.no_grad():
            for module in self.task.modules().values():
                module.eval()
            scores = self.task.validate(self.context())
        self._report(scores, writer, "validation")
        (self.folder / "scores.json").write_text(json.dumps({"step": self.step, **scores}, indent=1))
        return scores

    def averaged(self) -> _Swap:
        """Context in which the modules hold their averaged weights."""
        return _Swap(self.task.modules(), self.average.values)

    def _random_state(self) -> dict[str, Tensor]:
        state = {"generator": self.generator.get_state(), "torch_rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def _set_random_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def save(self) -> None:
        """Write everything that a resumed run needs; the file is whole or absent."""
        state = {
            "step": self.step,
            "spent": self.clock.total(),
            "modules": {name: module.state_dict() for name, module in self.task.modules().items()},
            "average": self.average.values,
            "optimizers": [optimizer.state_dict() for optimizer in self.task.optimizers()],
            **self._random_state(),
            "history": dict(self.history),
        }
        partial = self.checkpoint_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.checkpoint_path)

    def _begin(self) -> None:
        """Go on where a killed run ended, or begin with the weights of another run where the settings name one."""
        if self.checkpoint_path.exists():
            self._resume()
        elif self.settings.initial or (self.folder / INITIAL).exists():
            self._begin_with(Path(self.settings.initial) if self.settings.initial else self.folder)
            self.average = Averager(self.task.modules(), self.settings.ema_decay)

    def _begin_with(self, run: Path) -> None:
        """Take the weights of `run`; a module that it did not train, such as an adversary that joins now, stays new."""
        fitting = 0
        for name, module in self.task.modules().items():
            try:
                module.load_state_dict(load_averaged(run, name))
                fitting += 1
            except KeyError:
                log.info("%s: %s has no %s, which begins anew", self.task.name, run, name)
            except RuntimeError:
                raise ConfigError(f"{run} holds no {name} of this size: choose another loop.initial") from None
        if not fitting:
            raise ConfigError(f"{run} is of another stage than {self.task.name}: choose another loop.initial")

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.checkpoint_path, weights_only=True, map_location="cpu")
        self.step, self.clock = state["step"], _Clock(state["spent"])
        for name, module in self.task.modules().items():
            module.load_state_dict(state["modules"][name])
            for key, value in state["average"][name].items():
                self.average.values[name][key].copy_(value)
        for optimizer, saved in zip(self.task.optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._set_random_state(state)
        for key, values in state["history"].items():
            self.history[key] = [(int(step), float(value)) for step, value in values]
        log.info("%s resumes at step %d", self.task.name, self.step)


class _Swap:
    """Exchanges weights with another set, and back."""

    def __init__(self, modules: dict[str, nn.Module], values: dict[str, dict[str, Tensor]]) -> None:
        self.modules, self.values = modules, values

    def __enter__(self) -> None:
        self._own = {n: {k: v.detach().clone() for k, v in m.state_dict().items()} for n, m in self.modules.items()}
        for name, module in self.modules.items():
            module.load_state_dict(self.values[name])

    def __exit__(self, *_: object) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(self._own[name])


def load_averaged(folder: Path, name: str) -> dict[str, Tensor]:
    """The averaged weights of module `name` from a run's last checkpoint, or those that it will begin with.

    Raises `ConfigError` if there is neither.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        path = folder / INITIAL
    if not path.exists():
        raise ConfigError(f"{folder / 'checkpoint.pt'} is missing: run that training first")
    return torch.load(path, weights_only=True, map_location="cpu")["average"][name]


def adam(
    modules: list[nn.Module], rate: float, decay: float, betas: tuple[float, float] = (0.9, 0.98)
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=1e-8, fused=True)


def optimise(loss: Tensor, optimizer: torch.optim.Optimizer, clip: float) -> float:
    """Backward, clip, step; returns the norm of the gradient before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters: Iterator[Tensor] = (p for group in optimizer.param_groups for p in group["params"])
    norm = float(nn.utils.clip_grad_norm_(list(parameters), clip))
    optimizer.step()
    return norm
