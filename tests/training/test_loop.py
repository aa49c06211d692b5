import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from cosyvoice.errors import ConfigError, GenerationError
from cosyvoice.training import loop
from cosyvoice.training.loop import (
    Averager,
    Context,
    Trainer,
    adam,
    choose_device,
    learning_rate,
    load_averaged,
    optimise,
)
from cosyvoice.training.plots import plot_losses
from cosyvoice.training.settings import LoopSettings


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """Drawing costs far more than these steps; one test draws."""
    monkeypatch.setattr(loop, "plot_losses", lambda history, path: None)


class LineTask:
    """Fits y = 2x with noise from the run's generator and dropout from PyTorch's own."""

    name = "line"

    def __init__(self, rate: float = 0.05, fail_at: int = -1, error: type[BaseException] = RuntimeError) -> None:
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        with torch.no_grad():
            for p in self.model.parameters():
                p.fill_(0.1)
        self.optimizer = adam([self.model], rate, 0.01)
        self.fail_at, self.error = fail_at, error
        self.rates: list[float] = []

    def modules(self) -> dict[str, nn.Module]:
        return {"line": self.model}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer]

    def step(self, context: Context) -> dict[str, float]:
        x = torch.randn(8, 4, generator=context.generator)
        loss = (self.model(x)[:, 0] - 2 * x[:, 0]).square().mean()
        if context.step == self.fail_at:
            self.fail_at = -1
            raise self.error
        optimise(loss, self.optimizer, 1.0)
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return {"loss": float(loss.detach())}

    def validate(self, context: Context) -> dict[str, float]:
        assert not self.model.training
        return {"weight": float(self.model[0].weight.sum())}


def settings(**changes) -> LoopSettings:
    return LoopSettings(**{"steps": 20, "log_every": 1, "validate_every": 10, "save_minutes": 1e9, **changes})


def train(task: LineTask, folder: Path, **changes) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        trainer = Trainer(task, settings(**changes), folder)
        trainer.run()
    return trainer


def test_schedule_warms_up_and_falls_along_a_cosine():
    assert learning_rate(0.0, 0.1) == 1e-3
    assert learning_rate(0.05, 0.1) == pytest.approx(0.5)
    assert learning_rate(0.1, 0.1) == pytest.approx(1.0)
    assert learning_rate(0.55, 0.1) == pytest.approx(0.51)
    assert learning_rate(1.0, 0.1) == pytest.approx(0.02)
    assert learning_rate(0.0, 0.0) == 1.0
    rates = [learning_rate(x / 50, 0.1) for x in range(5, 51)]
    assert rates == sorted(rates, reverse=True)


def test_optimizer_follows_the_schedule(tmp_path):
    task = LineTask()
    train(task, tmp_path, steps=10, warmup=0.2)
    assert task.rates == pytest.approx([0.05 * learning_rate(step / 10, 0.2) for step in range(10)])


def test_average_moves_towards_the_weights_by_the_decay():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = Averager({"m": module}, decay=0.9)
    module.weight.data.fill_(2.0)
    average.update({"m": module}, step=1000)
    assert average.values["m"]["weight"].item() == pytest.approx(1.1)
    # At the start the memory is shorter: (1 + 1) / (10 + 1).
    average.update({"m": module}, step=1)
    assert average.values["m"]["weight"].item() == pytest.approx(1.1 + 0.9 * (1 - 2 / 11))


def test_average_copies_what_is_no_floating_point_number():
    norm = nn.BatchNorm1d(2)
    average = Averager({"m": norm}, decay=0.9)
    norm.num_batches_tracked.fill_(7)
    average.update({"m": norm}, step=1)
    assert average.values["m"]["num_batches_tracked"].item() == 7


def test_a_run_writes_scores_plots_events_and_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "plot_losses", plot_losses)
    trainer = train(LineTask(), tmp_path, log_every=10)
    assert trainer.done
    assert json.loads((tmp_path / "scores.json").read_text())["step"] == 20
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").iterdir())
    averaged = load_averaged(tmp_path, "line")
    assert averaged.keys() == trainer.task.modules()["line"].state_dict().keys()
    scored = json.loads((tmp_path / "scores.json").read_text())["weight"]
    assert scored == pytest.approx(float(averaged["0.weight"].sum()))


def test_the_loss_falls(tmp_path):
    losses = [value for _, value in train(LineTask(), tmp_path, steps=60).history["train/loss"]]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def weights(trainer: Trainer) -> list[torch.Tensor]:
    average = trainer.average.values["line"]
    return [*trainer.task.modules()["line"].state_dict().values(), *average.values()]


@pytest.mark.parametrize(
    ("error", "save_minutes"), [(KeyboardInterrupt, 1e9), (RuntimeError, 0.0)], ids=["interrupted", "killed"]
)
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path, error, save_minutes):
    whole = train(LineTask(), tmp_path / "whole")
    with pytest.raises(error):
        train(LineTask(fail_at=13, error=error), tmp_path / "cut", save_minutes=save_minutes)
    resumed = train(LineTask(), tmp_path / "cut")
    assert resumed.history == whole.history
    for mine, other in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(mine, other)


def test_a_killed_run_falls_back_to_its_last_checkpoint(tmp_path):
    with pytest.raises(RuntimeError):
        train(LineTask(fail_at=5), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
    assert Trainer(LineTask(), settings(), tmp_path).step == 0


def test_an_interruption_during_validation_keeps_the_trained_weights(tmp_path, monkeypatch):
    task = LineTask()

    def interrupt(context: Context) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "validate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(task, tmp_path / "cut", ema_decay=0.9)
    whole = train(LineTask(), tmp_path / "whole", ema_decay=0.9)
    resumed = train(LineTask(), tmp_path / "cut", ema_decay=0.9)
    for mine, other in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(mine, other)


def test_minutes_end_a_run_before_its_steps(tmp_path):
    trainer = train(LineTask(), tmp_path, steps=10**6, minutes=0.01, validate_every=10**6, log_every=10**6)
    assert 0 < trainer.step < 10**6
    assert trainer.clock.total() >= 0.6


def test_a_diverged_loss_is_a_typed_error(tmp_path, monkeypatch):
    task = LineTask()
    monkeypatch.setattr(task, "step", lambda context: {"loss": float("nan")})
    with pytest.raises(GenerationError, match="lower the rate"):
        Trainer(task, settings(), tmp_path).run()


def test_progress_is_logged_not_printed(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, "cosyvoice"):
        train(LineTask(), tmp_path, log_every=10)
    assert any(r.message.startswith("line train step 10 (50 %") for r in caplog.records)
    assert capsys.readouterr().out == ""


def test_missing_checkpoint_and_device_are_typed_errors(tmp_path):
    with pytest.raises(ConfigError, match="run that training first"):
        load_averaged(tmp_path, "line")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device=cpu"):
            choose_device("cuda")


def test_weight_decay_spares_vectors():
    groups = adam([nn.Linear(3, 3)], 1e-3, 0.1).param_groups
    assert [(len(g["params"]), g["params"][0].ndim, g["weight_decay"]) for g in groups] == [(1, 2, 0.1), (1, 1, 0.0)]


def test_a_run_can_begin_with_the_weights_of_another(tmp_path):
    first = train(LineTask(), tmp_path / "first")
    task = LineTask()
    second = Trainer(task, settings(initial=str(tmp_path / "first")), tmp_path / "second")
    assert second.step == 0
    expected = load_averaged(tmp_path / "first", "line")
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, expected[name])
        assert torch.equal(second.average.values["line"][name], expected[name])
    assert first.step == 20


def test_initial_weights_have_to_fit(tmp_path):
    train(LineTask(), tmp_path / "first")
    task = LineTask()
    task.model = nn.Sequential(nn.Linear(3, 1))
    with pytest.raises(ConfigError, match=r"loop\.initial"):
        Trainer(task, settings(initial=str(tmp_path / "first")), tmp_path / "second")
    with pytest.raises(ConfigError, match="missing"):
        Trainer(LineTask(), settings(initial=str(tmp_path / "none")), tmp_path / "second")


def test_a_module_that_joins_now_begins_anew(tmp_path):
    train(LineTask(), tmp_path / "first")
    task = LineTask()
    joined = nn.Linear(2, 2)
    before = joined.weight.detach().clone()
    task.modules = lambda: {"line": task.model, "adversary": joined}
    Trainer(task, settings(initial=str(tmp_path / "first")), tmp_path / "second")
    assert torch.equal(joined.weight, before)
    assert torch.equal(task.model.state_dict()["0.weight"], load_averaged(tmp_path / "first", "line")["0.weight"])


def test_initial_weights_of_another_stage_are_refused(tmp_path):
    train(LineTask(), tmp_path / "first")
    task = LineTask()
    task.modules = lambda: {"curve": task.model}
    with pytest.raises(ConfigError, match="another stage"):
        Trainer(task, settings(initial=str(tmp_path / "first")), tmp_path / "second")
