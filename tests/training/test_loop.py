from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepgen.errors import FitInterrupted, InputError, StepError, UsageError
from hepgen.optim import ECD
from hepgen.training import Batch, Objective, Plan, Sample, train, train_ensemble
from hepgen.training.samples import BatchOrder


class Line(Objective):
    """Least squares through noisy points, with a term that draws random numbers; can be told to stop like a kill."""

    def __init__(self, die_at: int | None = None, interrupt_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.line = nn.Linear(1, 1)
        self.calls, self.die_at, self.interrupt_at = 0, die_at, interrupt_at

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.die_at:
            raise RuntimeError("killed here")
        if self.calls == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        points = batch["points"].values
        noise = 1e-3 * torch.randn(len(points), generator=batch.generator)
        return {"loss": (self.line(points[:, :1])[:, 0] - points[:, 1] + noise).square().mean(), "seen": points[0, 0].detach()}


def points(n: int = 200) -> dict[str, Sample]:
    x = torch.linspace(-1, 1, n)
    return {"points": Sample(torch.stack([x, 2 * x - 0.5], dim=1))}


def weights(objective: Objective) -> list[float]:
    return [float(v) for parameter in objective.parameters() for v in parameter.detach().flatten()]


def test_fits_a_line_and_keeps_the_best_epoch() -> None:
    objective = Line()
    record = train(objective, points(), Plan(epochs=60, batch_size=20, learning_rate=(1e-1, 1e-4)))
    assert weights(objective) == pytest.approx([2.0, -0.5], abs=0.02)
    valid = [row["valid"] for row in record.epochs]
    assert record.best_epoch == 1 + int(np.argmin(valid))
    assert record.best_valid == min(valid)
    assert len(record.steps["seen"]) == 60 * 9  # 180 training rows in batches of 20
    assert record.epochs[0]["train"] > 10 * record.epochs[-1]["train"]


# with a bounce, so that the random numbers of ECD go on too
ECD_PLAN: dict[str, Any] = {"optimizer": "ecd", "learning_rate": (0.5, 0.1), "options": {"F0": -1.0, "nu": 1e-2, "seed": 3}}


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, ECD_PLAN], ids=["adam", "ecd"])
@pytest.mark.parametrize("die_at", [2, 11, 37])
def test_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path, die_at: int, options: dict[str, Any]) -> None:
    plan = Plan(epochs=6, batch_size=16, **options)
    whole = Line()
    record = train(whole, points(), plan)
    with pytest.raises(RuntimeError, match="killed here"):
        train(Line(die_at=die_at), points(), plan, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    resumed = Line()
    again = train(resumed, points(), plan, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    assert weights(resumed) == weights(whole)
    assert again.steps == record.steps
    assert resumed.calls < whole.calls, "it went on instead of starting anew"


def test_ecd_gets_the_loss_of_its_step_and_its_gradient_unclipped() -> None:
    plan = Plan(
        epochs=3, batch_size=20, optimizer="ecd", learning_rate=(0.4, 0.4), clip_norm=1e-3, options={"F0": -0.5, "weight_decay": 0.1}
    )
    fitted, alone = Line(), Line()
    fitted_record = train(fitted, points(), plan)
    order = BatchOrder(points(), 0.1, 20, [1], ensemble=False)
    optimizer = ECD(alone.parameters(), lr=0.4, eta=2 * (3 * order.steps) ** 2 / 3, F0=-0.5, weight_decay=0.1)
    states = []
    for epoch in range(3):
        for step in range(order.steps):
            optimizer.zero_grad()
            loss = alone.losses(order.batch(epoch, step))["loss"]
            loss.backward()
            optimizer.step(loss)
        states.append(weights(alone))
    assert weights(fitted) == states[fitted_record.best_epoch - 1]


def test_ecd_says_when_the_loss_is_not_above_f0() -> None:
    with pytest.raises(StepError, match="is not above F0 = 1000: choose F0 below every loss"):
        train(Line(), points(), Plan(epochs=1, batch_size=20, optimizer="ecd", options={"F0": 1e3}))


def test_options_that_an_optimizer_does_not_have_are_named() -> None:
    with pytest.raises(UsageError, match=r"optimizer 'adam' does not take these options: .*F0"):
        train(Line(), points(), Plan(epochs=1, batch_size=20, optimizer="adam", options={"F0": -1.0}))


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    plan, before = Plan(epochs=5, batch_size=16), signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    with pytest.raises(FitInterrupted, match=r"epoch 3; give the same command again to go on from .*fit"):
        train(Line(interrupt_at=27), points(), plan, checkpoint=tmp_path / "fit")
    resumed, whole = Line(), Line()
    train(resumed, points(), plan, checkpoint=tmp_path / "fit")
    train(whole, points(), plan)
    assert weights(resumed) == weights(whole)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_without_a_checkpoint_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Line(interrupt_at=3), points(), Plan(epochs=2, batch_size=16))


def test_a_checkpoint_of_another_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    train(Line(), points(), Plan(epochs=1, batch_size=16), checkpoint=path)
    with pytest.raises(UsageError, match="belongs to a fit with other events or settings"):
        train(Line(), points(), Plan(epochs=2, batch_size=16), checkpoint=path)
    with pytest.raises(UsageError, match="belongs to a fit with other events"):
        train(Line(), points(201), Plan(epochs=1, batch_size=16), checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="cannot be read: remove it"):
        train(Line(), points(), Plan(epochs=1, batch_size=16), checkpoint=path)


def test_early_stopping_waits_for_the_patience() -> None:
    class Worse(Line):
        def validation_loss(self, batch: Batch) -> Tensor:
            return torch.tensor(float(self.calls))

    record = train(Worse(), points(), Plan(epochs=50, batch_size=20, patience=4))
    assert record.best_epoch == 1
    assert len(record.epochs) == 5


def test_a_loss_that_is_not_finite_stops_the_fit() -> None:
    samples = points()
    samples["points"].values[7, 1] = float("nan")
    with pytest.raises(InputError, match="not finite in epoch 1"):
        train(Line(), samples, Plan(epochs=2, batch_size=20))


def test_batches_cover_the_longest_sample_once_and_are_unpaired() -> None:
    samples = {"long": Sample(torch.arange(100.0)[:, None]), "short": Sample(torch.arange(30.0)[:, None])}
    order = BatchOrder(samples, 0.1, 10, [1], ensemble=False)
    assert order.steps == 9
    batches = [order.batch(0, step) for step in range(order.steps)]
    held = {name: sample.values.flatten().tolist() for name, sample in order.held_out().samples.items()}
    assert (len(held["long"]), len(held["short"])) == (10, 3)
    assert sorted([float(v) for b in batches for v in b["long"].values] + held["long"]) == list(range(100))
    short = [float(v) for b in batches for v in b["short"].values]
    assert all(len(set(short[first : first + 20])) == 20 for first in range(0, 80, 20)), "nothing comes twice between two shuffles"
    assert not set(short) & set(held["short"])
    assert [float(v) for v in order.batch(1, 0)["long"].values] != [float(v) for v in batches[0]["long"].values]
    assert [float(v) for v in BatchOrder(samples, 0.1, 10, [1], ensemble=False).batch(0, 4)["short"].values] == short[40:50]


class Lines(Objective):
    """An ensemble of straight lines, whose third member can be told to get worse from some epoch on."""

    def __init__(self, starts: list[int], die_at: int | None = None, worse: int | None = None) -> None:
        super().__init__()
        self.members = len(starts)
        self.lines = nn.Parameter(torch.stack([torch.randn(2, generator=torch.Generator().manual_seed(start)) for start in starts]))
        self.calls, self.die_at, self.worse, self.epochs = 0, die_at, worse, 0

    @property
    def fan_in(self) -> int:
        return 1

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.die_at:
            raise RuntimeError("killed here")
        points, line = batch["points"].values, self.lines[list(batch.members)]
        assert points.shape[0] == len(batch.members) == len(batch.seeds)
        noise = torch.tensor([seed % 1000 for seed in batch.seeds])[:, None] * 1e-6
        return {"loss": (line[:, :1] * points[..., 0] + line[:, 1:] - points[..., 1] + noise).square().mean(1)}

    def validation_loss(self, batch: Batch) -> Tensor:
        loss = self.losses(batch)["loss"]
        self.epochs += 1
        if self.worse is not None and 2 in batch.members:
            loss[batch.members.index(2)] += 10.0 * self.epochs
        return loss


SEEDS = [11, 5, 7]


@pytest.mark.parametrize("options", [{"optimizer": "adam", "clip_norm": 0.3}, ECD_PLAN], ids=["adam", "ecd"])
def test_a_member_of_an_ensemble_is_what_it_would_be_alone(options: dict[str, Any]) -> None:
    plan = Plan(epochs=5, batch_size=16, **options)
    together = Lines(SEEDS)
    records = train_ensemble(together, points(), plan, SEEDS)
    for member, seed in enumerate(SEEDS):
        alone = Lines([seed])
        (record,) = train_ensemble(alone, points(), plan, [seed])
        assert torch.equal(alone.lines[0], together.lines[member])
        assert [row["valid"] for row in record.epochs] == [row["valid"] for row in records[member].epochs]
    assert len({tuple(line.tolist()) for line in together.lines}) == 3


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, ECD_PLAN], ids=["adam", "ecd"])
def test_a_member_that_gets_no_better_stops_and_the_others_go_on(tmp_path: Path, options: dict[str, Any]) -> None:
    plan = Plan(epochs=8, batch_size=16, patience=3, **options)
    whole, free = Lines(SEEDS, worse=1), Lines(SEEDS)
    records = train_ensemble(whole, points(), plan, SEEDS)
    assert [len(record.epochs) for record in records] == [8, 8, 4]
    assert records[2].best_epoch == 1
    train_ensemble(free, points(), plan, SEEDS)
    assert torch.equal(whole.lines[:2], free.lines[:2]), "what became of the third changes nothing"
    resumed = Lines(SEEDS, worse=1)
    with pytest.raises(RuntimeError, match="killed here"):
        train_ensemble(Lines(SEEDS, die_at=60, worse=1), points(), plan, SEEDS, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    resumed.epochs = 5  # those that the killed fit had closed
    train_ensemble(resumed, points(), plan, SEEDS, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    assert torch.equal(resumed.lines, whole.lines)
    assert resumed.calls < whole.calls


def test_bad_plans_and_samples_are_named() -> None:
    with pytest.raises(UsageError, match="optimizer 'lion' is not known"):
        Plan(1, 1, optimizer="lion")
    with pytest.raises(UsageError, match="at least one epoch"):
        Plan(0, 1)
    with pytest.raises(UsageError, match="between 0 and 1"):
        Plan(1, 1, validation=1.0)
    with pytest.raises(InputError, match="at least two events"):
        train(Line(), points(1), Plan(1, 1))
