"""The loop every fit of hepgen runs in.

The state of a fit is (epoch, step, network, optimisers, objective, record); the order of the events and every random number
are functions of (seed, epoch, step). A checkpoint at any step therefore resumes to the same weights, bit for bit.

An adversarial fit is the same loop: its objective names its players, each of which has an optimiser, and a step of the fit lets them
move in turn.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hepgen import ranks
from hepgen.errors import FitInterrupted, InputError, UsageError
from hepgen.optim import ECD, eta_for
from hepgen.optim.ecd import largest_fan_in
from hepgen.progress import progress_bar
from hepgen.training.checkpoint import held_alone, load_checkpoint, save_checkpoint
from hepgen.training.interrupts import deferred_interrupt
from hepgen.training.plan import OPTIMIZERS, Plan, Stage
from hepgen.training.record import Record
from hepgen.training.samples import Batch, BatchOrder, Sample, fingerprint
from hepgen.training.step_graph import StepGraph

WHOLE = ""  # in place of a player's name where there is one optimiser, for the whole objective
UNCHANGED = (("stages", ()), ("device", "cpu"))  # settings of a plan that leave its fingerprint what it was before there were any
CAPTURABLE = ("rmsprop", "adam", "ecd")  # optimisers whose steps can be replayed
STATE = ("epoch", "step", "seconds", "sums", "best", "running")  # of a fit, beside the records, the objective and its optimisers


class Objective(nn.Module):
    """What is fitted: a module that turns a batch into a loss.

    A subclass holds its networks and whatever else has a state (multipliers, fixed densities) as submodules and buffers, so
    that the loop can save and restore it as one. One that fits an ensemble in lockstep says so in `members`: the first axis of all
    its parameters and buffers is that of the members, and its losses are one for each member of the batch.

    One whose networks play against each other names them in `players`, names of submodules with an optimiser each, and defines `turns`
    in place of `losses`. `measures_training` asks for the validation loss of as many training events, recorded as "train", where
    the losses of the steps say nothing of how good the fit is.

    Over several ranks the loss of a batch is the mean of what they return for their parts of it, unless it is `joint`: then each returns
    the value for the whole batch, with a part of its gradient; see `hepgen.ranks`.

    One is `capturable` whose steps never wait for the device and always do the same work: on a GPU they are recorded once and replayed.
    """

    members: int | None = None
    players: Sequence[str] = ()
    measures_training: bool = False
    capturable: bool = False
    joint: bool = False

    @property
    def fan_in(self) -> int:
        """The most weights that feed one unit, from which ECD's eta follows."""
        return largest_fan_in(self)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of one batch: "loss", a scalar or (members,), is minimised, other scalars are recorded for every step."""
        raise TypeError(f"{type(self).__name__} defines no losses for {sorted(batch.samples)}")

    def turns(self, batch: Batch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Of one batch, where there are players: one after the other, and its losses as of `losses`.

        A player moves before the next turn is asked for, and gradients reach its own parameters alone. A generator function keeps what
        several turns need in its variables; it may give a player several turns, and the code after the last ``yield`` ends the step.
        """
        raise TypeError(f"{type(self).__name__} defines no turns for {sorted(batch.samples)}")

    def validation_loss(self, batch: Batch) -> Tensor:
        """What picks the best epoch, on all held-out events as one batch; the loss itself by default."""
        return self.losses(batch)["loss"]

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """Called after every step of an optimiser."""


def train(
    objective: Objective,
    samples: Mapping[str, Sample],
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    title: str = "fit",
    progress: bool | None = None,
) -> Record:
    """Fit `objective` to `samples` and leave the weights of the best epoch in it.

    Parameters
    ----------
    objective
        What is fitted; changed in place.
    samples
        Named samples; each is split into training and validation events, and shuffled, independently. Over several ranks they are the same
        on all, and each rank takes its part of the rows; of those on disk each rank has its own.
    plan
        Epochs, batches, optimiser and schedule.
    checkpoint
        File to keep the state in. If it exists the fit goes on from there, to the same weights as if it had never stopped.
    checkpoint_seconds
        Time between two checkpoints.
    title, progress
        Name on the progress bar; show it (True), hide it (False) or decide by the terminal (None).

    Raises
    ------
    FitInterrupted
        After Ctrl-C, once the checkpoint is written (KeyboardInterrupt where there is none).
    InputError
        When the loss is not finite any more.
    UsageError
        When the checkpoint belongs to another fit, or another fit is writing it.
    """
    (record,) = _run(objective, samples, plan, [plan.seed], checkpoint, checkpoint_seconds, title, progress)
    return record


def train_ensemble(
    objective: Objective,
    samples: Mapping[str, Sample],
    plan: Plan,
    seeds: Sequence[int],
    *,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    title: str = "fit",
    progress: bool | None = None,
) -> list[Record]:
    """Fit all members of an ensemble in lockstep, each to the weights that it would have got alone; see `train`.

    Every member has the split, the order and the random numbers of its own seed in place of the plan's, its own best epoch, and stops by
    its own patience: the others go on without it.

    Parameters
    ----------
    objective
        With `members`; its parameters (members, ...) are independent systems to ECD.
    seeds
        One a member.

    Other parameters and errors are those of `train`. Returns the records of the members.
    """
    return _run(objective, samples, plan, seeds, checkpoint, checkpoint_seconds, title, progress)


def _run(
    objective: Objective,
    samples: Mapping[str, Sample],
    plan: Plan,
    seeds: Sequence[int],
    checkpoint: Path | None,
    checkpoint_seconds: float,
    title: str,
    progress: bool | None,
) -> list[Record]:
    with nullcontext() if checkpoint is None or ranks.number() > 0 else held_alone(checkpoint):
        home = next(objective.parameters()).device
        try:
            return _Fit(objective, samples, plan, seeds, checkpoint).run(checkpoint_seconds, title, progress)
        finally:
            objective.to(home)


class _Fit:
    def __init__(
        self, objective: Objective, samples: Mapping[str, Sample], plan: Plan, seeds: Sequence[int], checkpoint: Path | None
    ) -> None:
        self.objective, self.plan, self.checkpoint = objective, plan, checkpoint
        self.device = torch.device(plan.device)
        objective.to(self.device)
        self.ensemble = objective.members is not None
        mine = {name: sample.of_rank() for name, sample in samples.items()}
        there = {name: sample if sample.on_disk else sample.to(self.device) for name, sample in mine.items()}
        self.order = BatchOrder(there, plan.validation, plan.batch_size, seeds, ensemble=self.ensemble, device=self.device)
        self.seeds = seeds
        self.modules: dict[str, nn.Module] = {name: objective.get_submodule(name) for name in objective.players} or {WHOLE: objective}
        self.parameters = {name: [p for p in module.parameters() if p.requires_grad] for name, module in self.modules.items()}
        self.epoch = self.step = 0
        self.optimizers = self._new_optimizers(plan.stage(0))
        self.graph = self._new_graph()
        self.records = [Record() for _ in seeds]
        self.running = tuple(range(len(seeds)))
        self.seconds = 0.0
        self.best: dict[str, Any] = copy.deepcopy(objective.state_dict())
        self.rows: list[dict[str, Tensor]] = []
        self.sums = [0.0] * len(seeds)
        self.fingerprint = ""
        self.told: Callable[[], bool] = lambda: False
        self.interrupted = False  # one of several ranks was told to stop, and all know
        if checkpoint is not None:
            shapes = ((n, tuple(p.shape)) for n, p in objective.state_dict().items())
            settings = {name: value for name, value in asdict(plan).items() if (name, value) not in UNCHANGED}
            self.fingerprint = fingerprint(samples, settings, tuple(seeds), *shapes)
            self._restore(load_checkpoint(checkpoint, self.fingerprint))

    def run(self, checkpoint_seconds: float, title: str, progress: bool | None) -> list[Record]:
        saved = time.monotonic()
        with deferred_interrupt() as interrupted, progress_bar(title, self.plan.epochs, progress) as report:
            self.told = interrupted
            while self.running:
                started = time.monotonic()
                while self.step < self.order.steps:
                    self._take_step()
                    if self.interrupted or (ranks.count() == 1 and interrupted()):
                        self._stop()
                    if self.checkpoint is not None and time.monotonic() - saved > checkpoint_seconds:
                        self._save()
                        saved = time.monotonic()
                first = self.running[0]
                self._close_epoch(time.monotonic() - started)
                report(self.epoch, self._said(first))
        if self.checkpoint is not None:
            self._save()
        self.objective.load_state_dict(self.best)
        return self.records

    def _new_optimizers(self, stage: Stage) -> dict[str, torch.optim.Optimizer]:
        return {name: self._new_optimizer(name, module, stage) for name, module in self.modules.items()}

    def _new_optimizer(self, name: str, module: nn.Module, stage: Stage) -> torch.optim.Optimizer:
        options = dict(stage.options)
        if stage.optimizer == "ecd":
            fan_in = self.objective.fan_in if name == WHOLE else largest_fan_in(module)
            options.setdefault("eta", eta_for(fan_in, stage.epochs * self.order.steps))
            if self.ensemble:
                options |= {"systems": len(self.seeds), "seed": self.seeds}
        rate: float | Tensor = stage.learning_rate
        if self.device.type == "cuda" and stage.optimizer in CAPTURABLE:
            options |= {"capturable": True}
            rate = torch.tensor(rate, device=self.device)
        try:
            return OPTIMIZERS[stage.optimizer](module.parameters(), lr=rate, **options)
        except TypeError as error:
            raise UsageError(f"the optimizer {stage.optimizer!r} does not take these options: {error}") from error

    def _new_graph(self) -> StepGraph | None:
        """Where steps can be replayed."""
        on_disk = any(sample.on_disk for sample in self.order.samples.values())
        capturable = self.objective.capturable and not self.ensemble and not self.objective.players and not on_disk
        if self.device.type != "cuda" or ranks.count() > 1 or not capturable or self.plan.stage(self.epoch).optimizer not in CAPTURABLE:
            return None
        return StepGraph(lambda batch: self._descend(WHOLE, self.objective.losses(batch)), self.order)

    def _said(self, member: int) -> str:
        """On the progress bar, of one member and how many others there are."""
        others = f"  ({len(self.running)} of {len(self.records)} members go on)" if self.ensemble else ""
        if not self.records[member].epochs:
            return others.strip()
        last, best = self.records[member].epochs[-1], self.records[0].best_valid
        return f"train {last['train']:.4g}  valid {last['valid']:.4g}  best {best:.4g}{others}"

    def _take_step(self) -> None:
        rate = self.plan.rate(self.epoch * self.order.steps + self.step, self.plan.epochs * self.order.steps)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        if self.graph is not None:
            self.rows.append(self.graph.take(self.epoch, self.step))
        else:
            batch = self.order.batch(self.epoch, self.step, self.running)
            turns = self.objective.turns(batch) if self.objective.players else [(WHOLE, self.objective.losses(batch))]
            self.rows += [self._descend(player, losses) for player, losses in turns]
        self.step += 1

    def _descend(self, player: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of one optimiser; the losses to record."""
        optimizer, loss = self.optimizers[player], losses["loss"]
        optimizer.zero_grad(set_to_none=True)
        # through the networks of the others, but not into them
        loss.sum().backward(inputs=None if player == WHOLE else self.parameters[player])
        if ranks.count() > 1:
            losses = self._reduce(self.parameters[player], losses)
            loss = losses["loss"]
        if isinstance(optimizer, ECD):
            optimizer.step(loss, self.running if self.ensemble else None)
        else:
            if self.plan.clip_norm is not None:
                self._clip(self.parameters[player], self.plan.clip_norm)
            optimizer.step()
        self.objective.after_step(losses)
        named = losses if player == WHOLE else {**losses, player: loss}
        return {name: value.detach() for name, value in named.items()}

    def _reduce(self, parameters: list[nn.Parameter], losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring gradients and losses of all ranks together, in one message that also says whether one was told to stop."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        values = list(losses.values())
        stop = values[0].new_tensor([float(self.told())], dtype=torch.float64)
        parts = [*gradients, *(value.detach() for value in values), stop]
        kind = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        message = ranks.constant_total(torch.cat([part.reshape(-1).to(kind) for part in parts]))
        found = [part.view(like.shape) for part, like in zip(message.split([part.numel() for part in parts]), parts, strict=True)]
        share = 1.0 if self.objective.joint else 1.0 / ranks.count()
        for gradient, whole in zip(gradients, found, strict=False):
            gradient.copy_(whole).mul_(share)
        self.interrupted |= bool(found[-1].item())
        means = [whole / ranks.count() for whole in found[len(gradients) : -1]]
        return {name: mean.to(value.dtype) for (name, value), mean in zip(losses.items(), means, strict=True)}

    def _clip(self, parameters: list[nn.Parameter], largest: float) -> None:
        """Clip the gradient, of every member by itself."""
        if not self.ensemble:
            nn.utils.clip_grad_norm_(parameters, largest)
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
        factors = (largest / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.reshape(-1, *[1] * (g.ndim - 1)))

    def _close_epoch(self, seconds: float) -> None:
        self._drain()
        self._check_steps()
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, self.seconds + seconds
        self._check([self.sums[member] for member in self.running])
        ends = self.plan.ends
        if self.epoch % self.plan.validate_every == 0 or self.epoch == self.plan.epochs or self.epoch in ends:
            self._validate()
        if self.epoch in ends[:-1]:
            self.objective.load_state_dict(self.best)
            self.optimizers = self._new_optimizers(self.plan.stage(self.epoch))
            self.graph = self._new_graph()

    def _validate(self) -> None:
        """Record the epochs since the last validation, keep the weights that are the best so far, and see who has finished."""
        steps = self.order.steps * (self.epoch - self._validated())
        train = [self.sums[member] / steps for member in self.running]
        with torch.no_grad():
            valid = self._measured(self.order.held_out(self.running))
            if self.objective.measures_training:
                train = self._measured(self.order.seen(self.running))
        self._check([*train, *valid])
        rate = float(next(iter(self.optimizers.values())).param_groups[0]["lr"])
        better = []
        for member, loss, value in zip(self.running, train, valid, strict=True):
            record = self.records[member]
            record.epochs.append({"epoch": self.epoch, "train": loss, "valid": value, "learning_rate": rate, "seconds": self.seconds})
            if value < record.best_valid:
                record.best_epoch, record.best_valid = self.epoch, value
                better.append(member)
        self._keep(better)
        self.sums, self.seconds = [0.0] * len(self.sums), 0.0
        self.running = tuple(member for member in self.running if not self._finished(member))

    def _validated(self) -> int:
        """The epoch of the last validation, 0 for none."""
        epochs = self.records[self.running[0]].epochs
        return int(epochs[-1]["epoch"]) if epochs else 0

    def _measured(self, batch: Batch) -> list[float]:
        values: list[float] = (ranks.constant_total(self.objective.validation_loss(batch)) / ranks.count()).reshape(-1).tolist()
        return values

    def _check_steps(self) -> None:
        """Whether a step was refused on a GPU, which says so when asked."""
        for optimizer in self.optimizers.values():
            if isinstance(optimizer, ECD):
                optimizer.check()

    def _check(self, losses: list[float]) -> None:
        if not all(map(math.isfinite, losses)):
            raise InputError(
                f"the loss is not finite in epoch {self.epoch}: look for extreme values or weights, or lower the learning rate"
            )

    def _finished(self, member: int) -> bool:
        waited = self.epoch - self.records[member].best_epoch
        return self.epoch >= self.plan.epochs or (self.plan.patience is not None and waited >= self.plan.patience)

    def _keep(self, members: list[int]) -> None:
        """Remember the weights of these members as their best."""
        if not self.ensemble and members:
            self.best = copy.deepcopy(self.objective.state_dict())
        elif members:
            for name, tensor in self.objective.state_dict().items():
                self.best[name][members] = tensor[members]

    def _drain(self) -> None:
        """Move the steps gathered as tensors into the records and sums."""
        if not self.rows:
            return
        losses = torch.stack([row["loss"] for row in self.rows]).double().reshape(len(self.rows), -1)
        for member, own in zip(self.running, losses.T.tolist(), strict=True):
            self.sums[member] += math.fsum(own)
        if not self.ensemble:
            self.records[0].add_steps([{n: v for n, v in row.items() if n != "loss"} for row in self.rows])
        self.rows = []

    def _stop(self) -> None:
        if self.checkpoint is None:
            raise KeyboardInterrupt
        self._save()
        raise FitInterrupted(f"the fit was stopped in epoch {self.epoch + 1}; give the same command again to go on from {self.checkpoint}")

    def _save(self) -> None:
        self._drain()
        self._check_steps()
        state = {name: getattr(self, name) for name in STATE}
        state |= {
            "records": [record.to_dict() for record in self.records],
            "objective": self.objective.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "fingerprint": self.fingerprint,
        }
        if self.checkpoint is not None and ranks.number() == 0:
            save_checkpoint(self.checkpoint, state)

    def _restore(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        for name in STATE:
            setattr(self, name, state[name])
        self.records = [Record.from_dict(record) for record in state["records"]]
        self.objective.load_state_dict(state["objective"])
        self.optimizers = self._new_optimizers(self.plan.stage(self.epoch))
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            for group in optimizer.param_groups:  # torch brings the state to the device, and leaves the numbers of a group where they were
                group.update({key: value.to(self.device) for key, value in group.items() if isinstance(value, Tensor)})
        self.graph = self._new_graph()
