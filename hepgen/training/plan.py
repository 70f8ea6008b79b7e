"""How a fit is run: epochs, batches, optimisers, learning rates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from hepgen.errors import UsageError
from hepgen.optim import ECD, LAMB, SWATS, cosine_decay, power_decay

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "ecd": ECD,
    "lamb": LAMB,
    "swats": SWATS,
}
SCHEDULES = ("power", "cosine")


def check_optimizer(name: str) -> None:
    """UsageError where there is no optimiser of that name."""
    if name not in OPTIMIZERS:
        raise UsageError(f"optimizer {name!r} is not known: choose one of {', '.join(OPTIMIZERS)}")


def check_device(name: str) -> None:
    """UsageError where a fit cannot run on a device of that name."""
    kind = name.partition(":")[0]
    if kind not in {"cpu", "cuda"}:
        raise UsageError(f"a fit runs on cpu or cuda, not on device {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"there is no device {name!r} here: torch {torch.__version__} sees no GPU")


@dataclass(frozen=True)
class Stage:
    """A part of a fit with an optimiser of its own; see `Plan.stages`.

    Attributes
    ----------
    epochs
        Of this stage.
    optimizer
        As of `Plan`.
    learning_rate
        The same in all of its steps.
    options
        Further arguments of the optimiser by name.
    """

    epochs: int
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        if self.epochs < 1:
            raise UsageError(f"a stage has one epoch at least, not {self.epochs}")


@dataclass(frozen=True)
class Plan:
    """How a fit is run; see `train`.

    Attributes
    ----------
    epochs, batch_size
        Passes through the longest sample, and events per step.
    learning_rate
        First and last learning rate of the decay.
    power
        Power of the decay: 0.5 is the square-root decay of the sim-to-data paper.
    optimizer
        "rmsprop", "adam", "sgd", "lamb", "swats" or "ecd" (`hepgen.optim.ECD`, whose `learning_rate` is of order 0.1 to 1); one of its kind
        for each player.
    options
        Further arguments of the optimiser by name. The eta of ECD is that of `hepgen.optim.eta_for` for all steps of the fit by default.
    clip_norm
        Largest norm of the gradient of one step, of each player by itself; None does not clip, nor does "ecd", which conserves energy
        with the gradient of its loss.
    validation
        Fraction of each sample held out.
    patience
        Epochs without a better validation loss before the fit stops; None never stops.
    seed
        Fixes the split, the order and all random numbers.
    schedule
        "power", or "cosine" for a decay along half a cosine.
    validate_every
        Epochs from one validation loss, and entry of the record, to the next; the last epoch, and that of every stage, has one.
    stages
        What the fit goes through in place of `optimizer`, `options`, `learning_rate` and `schedule`; their epochs add up to `epochs`. Each
        starts from the best weights of all so far, with an optimiser that knows of nothing before. `patience` ends the fit, not the stage.
    device
        Where to fit, such as "cuda". Samples and objective go there once, and the objective comes back. Random numbers differ between kinds
        of devices, and with them the weights.
    """

    epochs: int
    batch_size: int
    learning_rate: tuple[float, float] = (1e-3, 1e-5)
    power: float = 0.5
    optimizer: str = "rmsprop"
    clip_norm: float | None = 10.0
    validation: float = 0.1
    patience: int | None = None
    seed: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "power"
    validate_every: int = 1
    stages: tuple[Stage, ...] = ()
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        check_device(self.device)
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule {self.schedule!r} is not known: choose one of {', '.join(SCHEDULES)}")
        if self.validate_every < 1:
            raise UsageError(f"there must be at least one epoch from one validation to the next, not validate_every={self.validate_every}")
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError(
                f"a fit needs at least one epoch and one event per batch, not epochs={self.epochs}, batch_size={self.batch_size}"
            )
        if not 0 < self.validation < 1:
            raise UsageError(f"the validation fraction must lie between 0 and 1, not {self.validation}")
        if self.stages and sum(stage.epochs for stage in self.stages) != self.epochs:
            raise UsageError(
                f"the stages have {sum(stage.epochs for stage in self.stages)} epochs and the fit {self.epochs}: make them agree"
            )

    def stage(self, epoch: int) -> Stage:
        """What epoch number `epoch`, counted from 0, is a part of: the whole fit where there are no stages."""
        if not self.stages:
            return Stage(self.epochs, self.optimizer, self.learning_rate[0], self.options)
        return self.stages[min(bisect_right(self.ends, epoch), len(self.stages) - 1)]

    @property
    def ends(self) -> tuple[int, ...]:
        """Epochs that are over at the end of every stage."""
        return tuple(accumulate(stage.epochs for stage in self.stages))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at `step` of `steps`, those of the whole fit."""
        if self.stages:
            return self.stage(step * self.epochs // steps).learning_rate
        if self.schedule == "cosine":
            return cosine_decay(step, steps, *self.learning_rate)
        return power_decay(step, steps, *self.learning_rate, self.power)


def halving_stages(
    adam: tuple[int, int] = (4, 240),
    sgd: tuple[int, int] = (4, 120),
    learning_rate: float = 1e-3,
    *,
    sgd_rate: float | None = None,
    momentum: float = 0.9,
) -> tuple[Stage, ...]:
    """The stages of paper D: Adam, then SGD with Nesterov's momentum, at a learning rate that is halved after every stage.

    Parameters
    ----------
    adam, sgd
        Number of stages and epochs of each: (4, 240) and (4, 120) for top pairs, (7, 80) in all for the Z boson.
    learning_rate
        Of the first stage.
    sgd_rate
        Of the first stage of SGD, from which the halving goes on; half of Adam's last one by default. The paper names neither, and an
        equal rate makes shorter steps in SGD than in Adam.
    momentum
        Of SGD.
    """
    rates = [learning_rate / 2**k for k in range(adam[0] + sgd[0])]
    if sgd_rate is not None:
        rates[adam[0] :] = [sgd_rate / 2**k for k in range(sgd[0])]
    options = {"momentum": momentum, "nesterov": True}
    return (
        *(Stage(adam[1], "adam", rate) for rate in rates[: adam[0]]),
        *(Stage(sgd[1], "sgd", rate, options) for rate in rates[adam[0] :]),
    )
