"""How the members of a Reweighter are fitted, all in lockstep: the only part of it that needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepgen.kernels.perceptron import Dropout
from hepgen.losses.ratio_loss import RatioLoss
from hepgen.networks import MLP, EnsembleMLP
from hepgen.training import Batch, Objective, Plan, Sample, train_ensemble
from hepgen.training.orders import mix_seed

Matrix = NDArray[np.float64]


class RatioObjective(Objective):
    """An ensemble of ratio networks and their loss; dropout follows the seeds of the batch, so that a fit resumes bit for bit."""

    def __init__(self, networks: EnsembleMLP, loss: RatioLoss, dropout: float = 0.0) -> None:
        super().__init__()
        self.networks, self.loss, self.dropout, self.members = networks, loss, dropout, len(networks)

    @property
    def fan_in(self) -> int:
        """See `Objective.fan_in`; of each network."""
        return max(self.networks.shape.widths[:-1])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of one batch, (members,)."""
        dropout = Dropout(self.dropout, torch.tensor(batch.seeds)) if self.dropout else None
        return {"loss": self._loss(batch, dropout)}

    def validation_loss(self, batch: Batch) -> Tensor:
        """The losses of the held-out events, (members,), without dropout."""
        return self._loss(batch, None)

    def _loss(self, batch: Batch, dropout: Dropout | None) -> Tensor:
        sim, data = batch["sim"], batch["data"]
        z = self.networks(torch.cat([sim.values, data.values], dim=1), batch.members, dropout)[..., 0]
        n = sim.values.shape[1]
        value: Tensor = self.loss(z[:, :n], z[:, n:], sim.weights, data.weights)
        return value


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
        Folder for the checkpoint.
    progress
        See `hepgen.training.train`.
    """
    seeds = [mix_seed(plan.seed, 5, number) for number in range(members)]
    inputs = samples["sim"].values.shape[1]
    networks = EnsembleMLP([new_network(inputs, shape, seed) for seed in seeds])
    objective = RatioObjective(networks, RatioLoss(shape.loss, shape.link), shape.dropout)
    title = f"{shape.loss} fit" + (f" of {members}" if members > 1 else "")
    file = checkpoint / "members.checkpoint" if checkpoint is not None else None
    records = train_ensemble(objective, samples, plan, seeds, checkpoint=file, title=title, progress=progress)
    states = [{name: tensor.numpy().copy() for name, tensor in networks.state_of(number).items()} for number in range(members)]
    return [Member(state, {"seed": seed, **record.to_dict()}) for state, seed, record in zip(states, seeds, records, strict=True)]


def new_network(inputs: int, shape: Shape, seed: int) -> MLP:
    """A network (n, inputs) -> (n, 1) with random weights that starts near a ratio of one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(inputs, 1, shape.hidden, shape.activation)
    with torch.no_grad():
        network.linears[-1].bias.add_(RatioLoss(shape.loss, shape.link).start)
    return network
