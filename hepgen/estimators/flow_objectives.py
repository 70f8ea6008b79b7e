"""The four losses of the sim-to-data flow as objectives of the training loop.

Every batch holds "sim" and "data" rows, drawn independently: output columns first, computed ones after, all scaled. The flow
models p(delta | x_c), delta = x_ref - x_c, where the condition x_c is a whole simulated row and delta spans the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hepgen import ranks
from hepgen.losses import MMD, KLOfKDE
from hepgen.networks import MAF
from hepgen.optim import MDMM
from hepgen.training import Batch, Objective, Sample
from hepgen.training.orders import mix_seed

VALIDATION_ROWS = 8192


class FlowObjective(Objective):
    """A flow and what the four losses share."""

    capturable = joint = True

    def __init__(self, flow: MAF) -> None:
        super().__init__()
        self.flow = flow

    def generate(self, batch: Batch) -> Tensor:
        """Transform the simulated rows with fresh noise, (n, outputs); differentiable in the flow."""
        sim = batch["sim"].values
        noise = torch.randn(len(sim), self.flow.features, generator=batch.generator, dtype=sim.dtype, device=sim.device)
        delta, _ = self.flow.inverse(noise, sim)
        return sim[:, : self.flow.features] + delta

    def target(self, batch: Batch) -> Tensor:
        """The output columns of the data rows."""
        return batch["data"].values[:, : self.flow.features]

    def about(self) -> dict[str, Any]:
        """What the training record should hold beside the losses."""
        return {}


class LogLoss(FlowObjective):
    """-E log p(x_ref - x_c | x_c) over unpaired rows; a pair weighs the product of its weights."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The log loss of one batch."""
        rows = min(len(batch["sim"]), len(batch["data"]))
        sim = batch["sim"].values[:rows]
        delta = self.target(batch)[:rows] - sim[:, : self.flow.features]
        weights = _product(batch["sim"].weights, batch["data"].weights, rows)
        nll = self.flow.negative_log_likelihood(delta, sim, weights)
        if ranks.count() > 1:
            weighed = nll.new_tensor(float(rows)) if weights is None else weights.sum()
            nll = ranks.total(nll * weighed) / ranks.constant_total(weighed)
        return {"loss": nll}


class KLLoss(FlowObjective):
    """Mean over the features of KL(data, transformed), each marginal by its KDE."""

    def __init__(self, flow: MAF, divergence: KLOfKDE) -> None:
        super().__init__(flow)
        self.divergence = divergence

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The divergence of one batch."""
        return {"loss": _divergence(self.divergence, self.generate(batch), batch["sim"].weights)}


class MMDLoss(FlowObjective):
    """Maximum mean discrepancy between transformed and data rows."""

    def __init__(self, flow: MAF, mmd: MMD) -> None:
        super().__init__(flow)
        self.mmd = mmd

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The discrepancy of one batch."""
        return {"loss": self.mmd(self.generate(batch), self.target(batch), batch["sim"].weights, batch["data"].weights)}

    def validation_loss(self, batch: Batch) -> Tensor:
        """The discrepancy of the first held-out rows."""
        return self.losses(_first_rows(batch))["loss"]


class MDMMLoss(FlowObjective):
    """KL under the constraint that the MMD is as small as between batches of data.

    Both losses enter in units of their value between independent batches of data (`floors`), so that epsilon, damping
    and rate are pure numbers; `epsilon` = 1.015 asks for an MMD within 1.5 % of data against data.
    """

    def __init__(self, flow: MAF, divergence: KLOfKDE, mmd: MMD, floors: tuple[float, float], multipliers: MDMM) -> None:
        super().__init__(flow)
        self.divergence, self.mmd, self.floors, self.multipliers = divergence, mmd, floors, multipliers

    def _both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        generated = self.generate(batch)
        primary = _divergence(self.divergence, generated, batch["sim"].weights)
        secondary = self.mmd(generated, self.target(batch), batch["sim"].weights, batch["data"].weights)
        return primary, secondary

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The Lagrangian, with l1 (KL), l2 (MMD) and lambda for the record."""
        primary, secondary = self._both(batch)
        lagrangian = self.multipliers(primary / self.floors[0], secondary / self.floors[1])
        return {"loss": lagrangian, "l1": primary, "l2": secondary, "lambda": self.multipliers.multiplier.clone()}

    def validation_loss(self, batch: Batch) -> Tensor:
        """Both losses of the first held-out rows, each in units of its floor."""
        primary, secondary = self._both(_first_rows(batch))
        return primary / self.floors[0] + secondary / self.floors[1]

    def about(self) -> dict[str, Any]:
        """The values of both losses between independent batches of data."""
        return {"floors": list(self.floors)}

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """The ascent in lambda."""
        self.multipliers.ascend(losses["l2"] / self.floors[1])


def data_floors(
    data: Sample, sim_weights: Tensor | None, divergence: KLOfKDE, mmd: MMD, batch_size: int, *, seed: int, draws: int = 8
) -> tuple[float, float]:
    """KL and MMD between independent batches of the data itself: the values that perfect agreement would have.

    One of the two batches carries weights of the simulation besides its own: weights spread, and signed ones more so, which
    raises both losses however good the agreement is.
    """
    values = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(mix_seed(seed, 4, draw))
        order = torch.randperm(len(data), generator=generator)
        size = min(batch_size, len(data) // 2)
        one, two = data.take(order[:size]), data.take(order[size : 2 * size])
        drawn = None if sim_weights is None else sim_weights[torch.randint(len(sim_weights), (size,), generator=generator)]
        weights = _product(one.weights, drawn, size)
        values.append((float(divergence(one.values, weights)), float(mmd(one.values, two.values, weights, two.weights))))
    primary, secondary = (sum(column) / draws for column in zip(*values, strict=True))
    return primary, secondary


def _divergence(divergence: KLOfKDE, generated: Tensor, weights: Tensor | None) -> Tensor:
    """Of the rows of all ranks, each of which bins them all: that is a small part of a step."""
    value: Tensor = divergence(ranks.gathered(generated), None if weights is None else ranks.gathered(weights))
    return ranks.shared(value)


def _first_rows(batch: Batch) -> Batch:
    return replace(batch, samples={name: s.part(slice(VALIDATION_ROWS // ranks.count())) for name, s in batch.samples.items()})


def _product(first: Tensor | None, second: Tensor | None, rows: int) -> Tensor | None:
    if first is None or second is None:
        single = first if second is None else second
        return None if single is None else single[:rows]
    return first[:rows] * second[:rows]
