"""Networks that play against each other, in the one training loop."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepgen.errors import FitInterrupted, InputError, UsageError
from hepgen.estimators.gan_objective import AdversarialObjective
from hepgen.losses import adversarial_loss
from hepgen.metrics.lambda_score import lambda_score
from hepgen.networks import gan_networks
from hepgen.networks.gan import DenseDiscriminator, DenseGenerator
from hepgen.optim import cosine_decay
from hepgen.training import Batch, Objective, Plan, Sample, train, train_ensemble
from hepgen.training.samples import BatchOrder

Losses = Iterator[tuple[str, dict[str, Tensor]]]


class Duel(Objective):
    """A line that a shift must hit while the line runs away from it; can be told to stop like a kill, in either player's turn."""

    players = ("runner", "hunter")

    def __init__(self, die_at: int | None = None, interrupt_at: int | None = None, runs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.runner, self.hunter = nn.Linear(1, 1), nn.Linear(1, 1)
        self.asked, self.die_at, self.interrupt_at, self.runs = 0, die_at, interrupt_at, runs

    def turns(self, batch: Batch) -> Losses:
        x = batch["points"].values
        noise = 0.1 * torch.randn(len(x), 1, generator=batch.generator)
        for _ in range(self.runs):
            self.ask()
            fixed = self.hunter(x + noise).detach()
            yield "runner", {"loss": (self.runner(x) - fixed - 1).square().mean(), "seen": x[0, 0]}
        self.ask()
        yield "hunter", {"loss": (self.runner(x) - self.hunter(x + noise)).square().mean()}

    def ask(self) -> None:
        self.asked += 1
        if self.asked == self.die_at:
            raise RuntimeError("killed here")
        if self.asked == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def validation_loss(self, batch: Batch) -> Tensor:
        x = batch["points"].values
        return (self.runner(x) - x).square().mean()


def points(n: int = 200) -> dict[str, Sample]:
    return {"points": Sample(torch.linspace(-1, 1, n)[:, None])}


def weights(objective: nn.Module) -> list[float]:
    return [float(v) for parameter in objective.parameters() for v in parameter.detach().flatten()]


def test_each_player_moves_by_its_own_loss_alone_one_after_the_other() -> None:
    plan = Plan(epochs=3, batch_size=20, optimizer="adam", learning_rate=(1e-2, 1e-3), schedule="cosine", clip_norm=0.1)
    fitted, alone = Duel(), Duel()
    record = train(fitted, points(), plan)
    order = BatchOrder(points(), 0.1, 20, [1], ensemble=False)
    optimizers = {name: torch.optim.Adam(alone.get_submodule(name).parameters()) for name in alone.players}
    states, losses = [], {name: [] for name in alone.players}
    for epoch in range(3):
        for step in range(order.steps):
            for name, found in alone.turns(order.batch(epoch, step)):
                for group in optimizers[name].param_groups:
                    group["lr"] = cosine_decay(epoch * order.steps + step, 3 * order.steps, 1e-2, 1e-3)
                alone.zero_grad()
                found["loss"].backward()
                nn.utils.clip_grad_norm_(alone.get_submodule(name).parameters(), 0.1)
                optimizers[name].step()
                losses[name].append(float(found["loss"].detach()))
        states.append(weights(alone))
    assert weights(fitted) == states[record.best_epoch - 1]
    assert {name: record.steps[name] for name in losses} == losses
    assert len(record.steps["seen"]) == len(losses["runner"])
    sums = [sum(losses[name][9 * epoch + step] for name in losses for step in range(9)) / 9 for epoch in range(3)]
    assert [row["train"] for row in record.epochs] == pytest.approx(sums)


def test_the_gradient_goes_through_the_other_player_and_not_into_it() -> None:
    class Chain(Duel):
        def turns(self, batch: Batch) -> Losses:
            yield "runner", {"loss": self.hunter(self.runner(batch["points"].values)).square().mean()}
            assert self.runner.weight.grad is not None
            assert self.hunter.weight.grad is None
            before = self.hunter.weight.detach().clone()
            yield "hunter", {"loss": self.hunter(self.runner(batch["points"].values)).square().mean()}
            assert not torch.equal(self.hunter.weight, before)
            self.hunter.weight.grad = None

    start, fitted = Chain(), Chain()
    train(fitted, points(), Plan(epochs=1, batch_size=20, optimizer="sgd"))
    assert weights(fitted) != weights(start)


ECD_PLAN: dict[str, Any] = {"optimizer": "ecd", "learning_rate": (0.3, 0.1), "options": {"nu": 1e-2, "seed": 3}}


LAMB_PLAN: dict[str, Any] = {"optimizer": "lamb", "schedule": "cosine", "validate_every": 2}


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, LAMB_PLAN, ECD_PLAN], ids=["adam", "lamb", "ecd"])
@pytest.mark.parametrize("die_at", [2, 3, 44, 45, 99])  # in the second turn of a step, and in the first
def test_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path, die_at: int, options: dict[str, Any]) -> None:
    plan = Plan(epochs=5, batch_size=16, **options)
    whole = Duel()
    record = train(whole, points(), plan)
    with pytest.raises(RuntimeError, match="killed here"):
        train(Duel(die_at=die_at), points(), plan, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    resumed = Duel()
    again = train(resumed, points(), plan, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    assert weights(resumed) == weights(whole)
    assert again.steps == record.steps
    assert [(row["epoch"], row["train"], row["valid"]) for row in again.epochs] == [
        (row["epoch"], row["train"], row["valid"]) for row in record.epochs
    ]
    assert resumed.asked < whole.asked or die_at == 2, "it went on instead of starting anew"


def test_ctrl_c_waits_for_the_last_turn_of_the_step(tmp_path: Path) -> None:
    plan = Plan(epochs=3, batch_size=16, optimizer="lamb")
    stopped, resumed, whole = Duel(interrupt_at=25), Duel(), Duel()
    with pytest.raises(FitInterrupted, match=r"epoch 2; give the same command again to go on from .*fit"):
        train(stopped, points(), plan, checkpoint=tmp_path / "fit")
    assert stopped.asked == 26
    train(resumed, points(), plan, checkpoint=tmp_path / "fit")
    train(whole, points(), plan)
    assert weights(resumed) == weights(whole)


def test_a_player_may_have_several_turns() -> None:
    record = train(Duel(runs=3), points(), Plan(epochs=2, batch_size=20, optimizer="adam"))
    assert (len(record.steps["runner"]), len(record.steps["hunter"])) == (2 * 9 * 3, 2 * 9)


@pytest.mark.parametrize("player", ["runner", "hunter"])
def test_a_loss_of_either_player_that_is_not_finite_stops_the_fit(player: str) -> None:
    class Broken(Duel):
        def turns(self, batch: Batch) -> Losses:
            for name, losses in super().turns(batch):
                yield name, {"loss": losses["loss"] * float("nan")} if name == player else losses

    with pytest.raises(InputError, match="not finite in epoch 1"):
        train(Broken(), points(), Plan(epochs=4, batch_size=20, optimizer="adam", validate_every=4))


class Steps(Objective):
    """A parameter that falls at a constant rate, and validation losses out of a list."""

    def __init__(self, valid: list[float]) -> None:
        super().__init__()
        self.x, self.valid, self.asked = nn.Parameter(torch.zeros(())), valid, 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.x + 0}

    def validation_loss(self, batch: Batch) -> Tensor:
        self.asked += 1
        return torch.tensor(self.valid[self.asked - 1])


def test_epochs_between_validations_are_one_entry_and_the_last_one_has_its_own() -> None:
    objective = Steps([3.0, 1.0, 2.0])
    record = train(objective, points(), Plan(epochs=7, batch_size=90, optimizer="sgd", learning_rate=(1.0, 1.0), validate_every=3))
    assert [row["epoch"] for row in record.epochs] == [3, 6, 7]
    # two steps an epoch, each of which takes one off
    assert [row["train"] for row in record.epochs] == pytest.approx([-2.5, -8.5, -12.5])
    assert (record.best_epoch, record.best_valid, float(objective.x.detach())) == (6, 1.0, -12.0)


def test_patience_counts_epochs_and_is_asked_where_there_is_a_validation() -> None:
    plan = Plan(epochs=50, batch_size=90, optimizer="sgd", validate_every=3, patience=4)
    record = train(Steps([5.0, 1.0, 2.0, 3.0, 4.0]), points(), plan)
    assert [row["epoch"] for row in record.epochs] == [3, 6, 9, 12]


def test_rates_of_the_schedules() -> None:
    for plan, expected in (
        (Plan(1, 1, learning_rate=(1e-3, 0.0), schedule="cosine"), [1e-3, 5e-4, 0.0]),
        (Plan(1, 1, learning_rate=(1e-3, 0.0)), [1e-3, 1e-3 * math.sqrt(0.5), 0.0]),
    ):
        assert [plan.rate(step, 10) for step in (0, 5, 10)] == pytest.approx(expected, abs=1e-18)
    with pytest.raises(UsageError, match="schedule 'step' is not known: choose one of power, cosine"):
        Plan(1, 1, schedule="step")
    with pytest.raises(UsageError, match="at least one epoch from one validation to the next, not validate_every=0"):
        Plan(1, 1, validate_every=0)


class Duels(Objective):
    """An ensemble of duels of single numbers."""

    players = ("runner", "hunter")

    def __init__(self, starts: list[int]) -> None:
        super().__init__()
        self.members = len(starts)
        for number, name in enumerate(self.players):
            values = [torch.randn(1, generator=torch.Generator().manual_seed(start + number)) for start in starts]
            self.register_module(name, nn.ParameterDict({"x": nn.Parameter(torch.stack(values))}))

    def turns(self, batch: Batch) -> Losses:
        members, aim = list(batch.members), batch["points"].values.mean((1, 2))
        at = [self.get_submodule(name)["x"][:, 0] for name in self.players]
        yield "runner", {"loss": (at[0][members] - at[1].detach()[members] - 1 + aim).square()}
        yield "hunter", {"loss": (at[0].detach()[members] - at[1][members]).square()}

    def validation_loss(self, batch: Batch) -> Tensor:
        return self.get_submodule("runner")["x"][list(batch.members), 0].square()


def test_players_of_an_ensemble_are_what_they_would_be_alone() -> None:
    plan, seeds = Plan(epochs=3, batch_size=16, optimizer="adam", clip_norm=0.3), [11, 5]
    together = Duels(seeds)
    train_ensemble(together, points(), plan, seeds)
    for member, seed in enumerate(seeds):
        alone = Duels([seed])
        train_ensemble(alone, points(), plan, [seed])
        assert [p[0].tolist() for p in alone.parameters()] == [p[member].tolist() for p in together.parameters()]


# -- the conditional GAN ------------------------------------------------------------------------------------------


def correlated(n: int = 4000, weighted: bool = False) -> dict[str, Sample]:
    """Objects of two columns whose mean follows the one column of the condition, and a column that only the figure of merit sees."""
    numbers = torch.Generator().manual_seed(2)
    condition = torch.rand(n, 1, generator=numbers) * 2 - 1
    objects = 0.5 * condition + 0.15 * torch.randn(n, 2, generator=numbers)
    drawn = torch.where(torch.rand(n, generator=numbers) < 0.1, -1.0, 1.0)
    return {"signal": Sample(torch.cat([objects, condition, condition**2], dim=1), drawn / drawn.mean() if weighted else None)}


def gan(sample: Sample, loss: str = "gan", kind: str = "dense", seed: int = 1, **options: Any) -> AdversarialObjective:
    return AdversarialObjective(*gan_networks(kind, 1, 2, 4, seed=seed), adversarial_loss(loss), sample, copies=2, **options)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_small_gan_learns_how_objects_follow_their_condition(weighted: bool) -> None:
    samples = correlated(weighted=weighted)
    torch.manual_seed(1)
    networks = DenseGenerator(1, 2, 4, (32, 32)), DenseDiscriminator(3, 0.2, (32, 32, 32))
    objective = AdversarialObjective(*networks, adversarial_loss("gan"), samples["signal"], observables=lambda rows: rows[:, [0, 1, 3]])
    start = float(objective.validation_loss(Batch(samples, (1,))))
    options = {"optimizer": "adam", "options": {"betas": (0.5, 0.999)}}
    record = train(objective, samples, Plan(24, 256, (1e-3, 0.0), schedule="cosine", validate_every=4, **options))
    assert len(record.steps["discriminator"]) == len(record.steps["generator"]) == 24 * 14
    assert [row["epoch"] for row in record.epochs] == list(range(4, 25, 4))
    assert record.best_valid < start - 1
    assert all(abs(row["train"] - row["valid"]) < 1 for row in record.epochs), "both are -2 ln Lambda per event"
    condition = torch.linspace(-1, 1, 2000)[:, None]
    with torch.no_grad():
        objects = objective.generate(condition, torch.Generator().manual_seed(9))
    slope = (objects * condition).mean(0) / condition.square().mean()
    assert slope.tolist() == pytest.approx([0.5, 0.5], abs=0.2)
    assert all(0.05 < spread < 0.3 for spread in (objects - slope * condition).std(0).tolist())


def test_the_figure_of_merit_is_lambda_score_of_replaced_rows() -> None:
    sample = correlated(600, weighted=True)["signal"]
    objective = gan(sample, bins=5)
    batch = Batch({"signal": sample}, (7,))
    numbers = torch.Generator().manual_seed(7)
    with torch.no_grad():
        condition = sample.values[:, 2:3]
        copies = np.stack([torch.cat([objective.generate(condition, numbers), condition], 1).double().numpy() for _ in range(2)])
    w = sample.weights.double().numpy()
    expected = lambda_score(sample.values[:, :3].double().numpy(), copies, w, w, bins=5)
    assert float(objective.validation_loss(batch)) == pytest.approx(expected.per_event, rel=1e-12)
    again = [float(objective.validation_loss(Batch({"signal": sample}, (7,)))) for _ in range(2)]
    assert again[0] == again[1] == pytest.approx(expected.per_event, rel=1e-12), "the latents are those of the batch"
    assert objective.about() == {"copies": 2, "bins": [5, 5, 5]}


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_a_gan_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path, kind: str) -> None:
    samples, plan = correlated(300), Plan(2, 64, (1e-3, 0.0), optimizer="lamb", schedule="cosine")
    order = BatchOrder(samples, plan.validation, plan.batch_size, [plan.seed], ensemble=False)
    last = order.batch(1, order.steps - 1)

    class Killed(AdversarialObjective):
        def turns(self, batch: Batch) -> Losses:
            for player, losses in super().turns(batch):
                if player == "generator" and batch.seeds == last.seeds:
                    raise RuntimeError("killed here")
                yield player, losses

    whole, resumed = (gan(samples["signal"], kind=kind) for _ in range(2))
    killed = Killed(*gan_networks(kind, 1, 2, 4), adversarial_loss("gan"), samples["signal"], copies=2)
    record = train(whole, samples, plan)
    with pytest.raises(RuntimeError, match="killed here"):
        train(killed, samples, plan, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    again = train(resumed, samples, plan, checkpoint=tmp_path / "fit", checkpoint_seconds=0)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again.steps == record.steps


@pytest.mark.parametrize("loss", ["gan", "lsgan", "wgan", "wgan-gp"])
def test_every_loss_trains(loss: str) -> None:
    samples = correlated(400)
    objective, start = gan(samples["signal"], loss, discriminator_steps=2), gan(samples["signal"], loss)
    record = train(objective, samples, Plan(1, 64, (1e-3, 1e-3), optimizer="rmsprop"))
    assert len(record.steps["discriminator"]) == 2 * len(record.steps["generator"])
    for network in ("generator", "discriminator"):
        now, then = (list(whose.get_submodule(network).parameters()) for whose in (objective, start))
        # the bias of the logit cancels in the loss of a critic
        assert not any(torch.equal(a, b) for a, b in zip(now, then, strict=True) if a.ndim > 1), "every layer of both moved"
    largest = max(float(p.detach().abs().max()) for p in objective.discriminator.parameters())
    assert (largest <= 0.01 + 1e-8) == (loss == "wgan")


def test_a_generator_that_breaks_down_is_named() -> None:
    samples = correlated(400)
    objective = gan(samples["signal"])
    with torch.no_grad():
        next(objective.generator.parameters()).fill_(float("inf"))
    with pytest.raises(InputError, match="the generator's objects are not finite: lower the learning rate"):
        objective.validation_loss(Batch(samples, (1,)))


def test_objectives_that_do_not_fit_together_are_named() -> None:
    sample = correlated(100)["signal"]
    generator, discriminator = gan_networks("dense", 1, 2, 4)
    with pytest.raises(UsageError, match="object and condition have 3 columns, but the discriminator takes 4 and the sample has 4"):
        AdversarialObjective(generator, gan_networks("dense", 2, 2)[1], adversarial_loss("gan"), sample)
    with pytest.raises(UsageError, match="have 3 columns, but the discriminator takes 3 and the sample has 2"):
        AdversarialObjective(generator, discriminator, adversarial_loss("gan"), Sample(sample.values[:, :2]))
    with pytest.raises(UsageError, match="must be at least 1, not 0 and 1"):
        AdversarialObjective(generator, discriminator, adversarial_loss("gan"), sample, copies=0)
