"""How the members of a Reweighter are fitted: the only part of it that needs torch.

The members are trained one after the other, each on all cores. Batching them as one network was measured and gives nothing at the sizes
of the paper, where the arithmetic of one member already fills the cores: see docs/reweighter.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepgen.kernels.perceptron import ACTIVATIONS
from hepgen.losses.ratio_loss import RatioLoss
from hepgen.networks import MLP
from hepgen.training import Batch, Objective, Plan, Sample, train
from hepgen.training.samples import mix_seed

Matrix = NDArray[np.float64]


class RatioObjective(Objective):
    """A ratio network and its loss; dropout follows the random numbers of the batch, so that a fit resumes bit for bit."""

    def __init__(self, network: MLP, loss: RatioLoss, dropout: float = 0.0) -> None:
        super().__init__()
        self.network, self.loss, self.dropout = network, loss, dropout

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch."""
        return {"loss": self._loss(batch, self.dropout)}

    def validation_loss(self, batch: Batch) -> Tensor:
        """The loss of the held-out events, without dropout."""
        return self._loss(batch, 0.0)

    def _loss(self, batch: Batch, dropout: float) -> Tensor:
        sim, data = batch["sim"], batch["data"]
        rows = torch.cat([sim.values, data.values])
        z = (self._dropping(rows, dropout, batch.generator) if dropout else self.network(rows))[:, 0]
        value: Tensor = self.loss(z[: len(sim)], z[len(sim) :], sim.weights, data.weights)
        return value

    def _dropping(self, x: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
        *hidden, last = self.network.linears
        for layer in hidden:
            x = ACTIVATIONS[self.network.activation](layer(x))
            x = x * torch.empty_like(x).bernoulli_(1 - dropout, generator=generator) / (1 - dropout)
        z: Tensor = last(x)
        return z


class Member(NamedTuple):
    """One trained network: its weights by name, float32, and its training record."""

    state: dict[str, NDArray[Any]]
    record: dict[str, Any]


class Shape(NamedTuple):
    """What the members have in common."""

    loss: str
    link: str
    hidden: Sequence[int]
    activation: str
    dropout: float


def sample(values: Matrix, weights: Matrix | None) -> Sample:
    """Scaled rows (n, d) and signed weights (n,), brought to a mean of one, for the training loop."""
    mean_one = None if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))
    return Sample(torch.from_numpy(values.astype(np.float32)), mean_one)


def fit_members(
    samples: Mapping[str, Sample],
    shape: Shape,
    plan: Plan,
    members: int,
    *,
    checkpoint: Path | None = None,
    progress: bool | None = None,
) -> list[Member]:
    """Train the networks of an ensemble, each from a start, on a split and in an order of its own.

    Parameters
    ----------
    samples
        "sim" and "data".
    shape, plan
        Of every member; the plan's seed is that of all.
    members
        How many.
    checkpoint
        Folder for a checkpoint of each member.
    progress
        See `hepgen.training.train`.
    """
    found = []
    for number in range(members):
        seed = mix_seed(plan.seed, 5, number)
        own = Plan(**{**asdict(plan), "seed": seed, "options": _options(plan, seed)})
        title = f"{shape.loss} fit" + (f" {number + 1} of {members}" if members > 1 else "")
        objective = RatioObjective(
            new_network(samples["sim"].values.shape[1], shape, seed), RatioLoss(shape.loss, shape.link), shape.dropout
        )
        file = checkpoint / f"member-{number}.checkpoint" if checkpoint is not None else None
        record = train(objective, samples, own, checkpoint=file, title=title, progress=progress)
        state = {name: tensor.detach().numpy().copy() for name, tensor in objective.network.state_dict().items()}
        found.append(Member(state, {"seed": seed, **record.to_dict()}))
    return found


def _options(plan: Plan, seed: int) -> dict[str, Any]:
    return {**plan.options, "seed": seed} if plan.optimizer == "ecd" else dict(plan.options)


def new_network(inputs: int, shape: Shape, seed: int) -> MLP:
    """A network (n, inputs) -> (n, 1) with random weights that starts near a ratio of one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(inputs, 1, shape.hidden, shape.activation)
    with torch.no_grad():
        network.linears[-1].bias.add_(RatioLoss(shape.loss, shape.link).start)
    return network
