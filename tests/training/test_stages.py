"""Fits in stages: each with an optimiser of its own, from the best weights so far."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hepgen.errors import FitInterrupted, UsageError
from hepgen.training import Batch, Objective, Plan, Sample, Stage, halving_stages, train, train_ensemble
from hepgen.training.samples import BatchOrder

NESTEROV = {"momentum": 0.9, "nesterov": True}
STAGES = (
    Stage(3, "adam", 0.1),
    Stage(2, "swats", 0.05, {"tolerance": 0.03}),
    Stage(2, "ecd", 0.3, {"F0": -1.0, "nu": 1e-2, "seed": 3}),
    Stage(3, "sgd", 0.02, NESTEROV),
)


class Curve(Objective):
    """A small network through points; its validation loss of some epochs can be made to look bad."""

    def __init__(self, bad: tuple[int, ...] = (), die_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
        self.bad, self.die_at, self.calls = bad, die_at, 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.die_at:
            raise RuntimeError("killed here")
        points = batch["points"].values
        noise = 1e-3 * torch.randn(len(points), generator=batch.generator)
        return {"loss": (self.net(points[:, :1])[:, 0] - points[:, 1] + noise).square().mean()}

    def validation_loss(self, batch: Batch) -> Tensor:
        loss = super().validation_loss(batch)
        return loss + 10 if self.calls // 10 in self.bad else loss  # nine steps an epoch, and this one


def samples(n: int = 200) -> dict[str, Sample]:
    x = torch.linspace(-1, 1, n)
    return {"points": Sample(torch.stack([x, 2 * x - 0.5], dim=1))}


def plan_of(stages: tuple[Stage, ...], **options: Any) -> Plan:
    return Plan(epochs=sum(stage.epochs for stage in stages), batch_size=20, stages=stages, **options)


def state(objective: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in objective.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_a_stage_starts_from_the_best_weights_with_a_new_optimiser() -> None:
    """Written out: epochs 2 and 3 look bad, so that SGD starts from where Adam was after the first."""
    stages = (Stage(3, "adam", 0.1), Stage(2, "sgd", 0.02, NESTEROV))
    fitted, alone = Curve(bad=(2, 3)), Curve()
    record = train(fitted, samples(), plan_of(stages, clip_norm=None))
    order = BatchOrder(samples(), 0.1, 20, [1], ensemble=False)
    assert order.steps == 9

    def run(optimizer: torch.optim.Optimizer, epoch: int) -> list[Tensor]:
        for step in range(order.steps):
            optimizer.zero_grad()
            alone.losses(order.batch(epoch, step))["loss"].backward()
            optimizer.step()
        return state(alone)

    after_first = run(torch.optim.Adam(alone.parameters(), 0.1), 0)
    sgd = torch.optim.SGD(alone.parameters(), 0.02, **NESTEROV)
    states = [after_first, run(sgd, 3), run(sgd, 4)]
    assert [row["learning_rate"] for row in record.epochs] == [0.1, 0.1, 0.1, 0.02, 0.02]
    assert record.best_epoch in (1, 4, 5)
    assert same(state(fitted), states[{1: 0, 4: 1, 5: 2}[record.best_epoch]])
    assert record.best_epoch == 5, "a better epoch of the second stage is what the test compares"


def test_one_stage_is_a_fit_without_stages() -> None:
    staged, plain = Curve(), Curve()
    first = train(staged, samples(), plan_of((Stage(4, "adam", 0.03),)))
    second = train(plain, samples(), Plan(epochs=4, batch_size=20, optimizer="adam", learning_rate=(0.03, 0.03)))
    assert same(state(staged), state(plain))
    assert [row["valid"] for row in first.epochs] == [row["valid"] for row in second.epochs]


def test_the_end_of_a_stage_is_validated() -> None:
    record = train(Curve(), samples(), plan_of((Stage(3), Stage(4), Stage(1)), validate_every=2))
    assert [row["epoch"] for row in record.epochs] == [2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize("die_at", [5, 30, 31, 36, 48, 52, 60, 71, 75, 99])
def test_resumes_in_every_stage_bit_for_bit(tmp_path: Path, die_at: int) -> None:
    plan = plan_of(STAGES)
    whole = Curve()
    record = train(whole, samples(), plan)
    with pytest.raises(RuntimeError, match="killed here"):
        train(Curve(die_at=die_at), samples(), plan, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    resumed = Curve()
    again = train(resumed, samples(), plan, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    assert same(state(resumed), state(whole))
    assert [row["valid"] for row in again.epochs] == [row["valid"] for row in record.epochs]
    assert resumed.calls < whole.calls, "it went on instead of starting anew"


def test_a_finished_fit_is_not_run_again(tmp_path: Path) -> None:
    plan, first, second = plan_of(STAGES), Curve(), Curve()
    train(first, samples(), plan, checkpoint=tmp_path / "fit")
    train(second, samples(), plan, checkpoint=tmp_path / "fit")
    assert second.calls == 0
    assert same(state(first), state(second))


def test_a_checkpoint_of_other_stages_is_refused(tmp_path: Path) -> None:
    train(Curve(), samples(), plan_of((Stage(1), Stage(1))), checkpoint=tmp_path / "fit")
    with pytest.raises(UsageError, match="belongs to a fit with other events or settings"):
        train(Curve(), samples(), plan_of((Stage(1), Stage(1, "sgd"))), checkpoint=tmp_path / "fit")


class Lines(Objective):
    """An ensemble of straight lines."""

    def __init__(self, starts: list[int]) -> None:
        super().__init__()
        self.members = len(starts)
        self.lines = nn.Parameter(torch.stack([torch.randn(2, generator=torch.Generator().manual_seed(start)) for start in starts]))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        points, line = batch["points"].values, self.lines[list(batch.members)]
        return {"loss": (line[:, :1] * points[..., 0] + line[:, 1:] - points[..., 1]).square().mean(1)}


def test_a_member_of_an_ensemble_is_what_it_would_be_alone() -> None:
    plan, seeds = plan_of((Stage(2, "adam", 0.5), Stage(2, "sgd", 0.1, NESTEROV))), [11, 5, 7]
    together = Lines(seeds)
    records = train_ensemble(together, samples(), plan, seeds)
    for member, seed in enumerate(seeds):
        alone = Lines([seed])
        (record,) = train_ensemble(alone, samples(), plan, [seed])
        assert torch.equal(alone.lines[0], together.lines[member])
        assert record.best_epoch == records[member].best_epoch


def test_every_player_gets_the_optimiser_of_the_stage() -> None:
    class Pair(Objective):
        players = ("left", "right")

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(1, 1), nn.Linear(1, 1)
            self.rates: list[float] = []

        def turns(self, batch: Batch) -> Any:
            points = batch["points"].values
            for name in self.players:
                before = self.get_submodule(name).weight.detach().clone()
                yield name, {"loss": (self.get_submodule(name)(points[:, :1])[:, 0] - points[:, 1]).sum()}
                slope = points[:, 0].sum()
                self.rates.append(float((before - self.get_submodule(name).weight.detach()) / slope))

        def validation_loss(self, batch: Batch) -> Tensor:
            return torch.zeros(())

    pair = Pair()
    train(pair, samples(), plan_of((Stage(1, "sgd", 0.5), Stage(1, "sgd", 0.25)), clip_norm=None))
    assert pair.rates == pytest.approx([0.5] * 18 + [0.25] * 18, rel=1e-3)


def test_the_stages_of_the_paper() -> None:
    stages = halving_stages()
    assert [(stage.epochs, stage.optimizer) for stage in stages] == [(240, "adam")] * 4 + [(120, "sgd")] * 4
    assert [stage.learning_rate for stage in stages] == [1e-3 / 2**k for k in range(8)]
    assert all(stage.options == NESTEROV for stage in stages[4:])
    short = halving_stages((1, 5), (2, 3), 0.01, sgd_rate=0.1, momentum=0.5)
    assert [(stage.epochs, stage.learning_rate) for stage in short] == [(5, 0.01), (3, 0.1), (3, 0.05)]
    plan = plan_of(stages)
    assert [plan.stage(epoch) is stages[number] for epoch, number in ((0, 0), (239, 0), (240, 1), (960, 4), (1439, 7), (1440, 7))] == [
        True
    ] * 6
    steps = 87 * plan.epochs
    assert [plan.rate(87 * epoch, steps) for epoch in (239, 240, 1439)] == [1e-3, 5e-4, 1e-3 / 128]
    assert plan.rate(87 * 240 - 1, steps) == 1e-3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Stage(0), "a stage has one epoch at least, not 0"),
        (lambda: Stage(1, "adamw"), "optimizer 'adamw' is not known: choose one of rmsprop, adam, sgd, ecd, lamb, swats"),
        (lambda: Plan(epochs=5, batch_size=2, stages=(Stage(3), Stage(1))), "the stages have 4 epochs and the fit 5: make them agree"),
    ],
)
def test_what_cannot_be(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


def test_ctrl_c_at_the_end_of_a_stage(tmp_path: Path) -> None:
    class Stopped(Curve):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            if self.calls == 28:  # the last step of the first stage: three epochs of nine, and two validations
                os.kill(os.getpid(), signal.SIGINT)
            return super().losses(batch)

    plan, whole, resumed = plan_of(STAGES), Curve(), Curve()
    with pytest.raises(FitInterrupted, match="epoch 3"):
        train(Stopped(), samples(), plan, checkpoint=tmp_path / "fit")
    train(resumed, samples(), plan, checkpoint=tmp_path / "fit")
    train(whole, samples(), plan)
    assert same(state(resumed), state(whole))
