"""How the velocity field of "flow-matching" is fitted: the part of it that needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepgen.estimators.fit_samples import sample_of
from hepgen.estimators.generator_models.base import FitOptions, Rows, filled_with_noise
from hepgen.estimators.generator_models.flow_matching import ACTIVATION, HIDDEN, TIMES, of_time
from hepgen.estimators.generator_settings import GeneratorSettings, flow_plan
from hepgen.networks import MLP
from hepgen.training import Batch, Objective, train

AVERAGE = 1e-3  # share of the newest weights in their running average, larger at first


class VelocityLoss(Objective):
    """E |v(x_t, t) - (x - z)|^2 at x_t = t x + (1 - t) z, of events x, normal z and t uniform in the strata of a batch.

    What is validated and kept is the running average of the weights: most of the loss is noise that no velocity can take away.
    """

    steps: Tensor

    def __init__(self, velocity: MLP, columns: int) -> None:
        super().__init__()
        self.velocity, self.columns = velocity, columns
        self.average = deepcopy(velocity).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean over rows and columns; weights have a mean of one over their whole sample, not over the batch."""
        return {"loss": self._loss(self.velocity, batch)}

    def validation_loss(self, batch: Batch) -> Tensor:
        """The loss of the averaged weights."""
        return self._loss(self.average, batch)

    @torch.no_grad()
    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """Move the average."""
        del losses
        self.steps += 1
        share = max(AVERAGE, 10 / (10 + int(self.steps)))
        for mean, value in zip(self.average.parameters(), self.velocity.parameters(), strict=True):
            mean.lerp_(value, share)

    def _loss(self, velocity: MLP, batch: Batch) -> Tensor:
        rows, weights = batch["events"].values, batch["events"].weights
        x, codes = rows[:, : self.columns], rows[:, self.columns :]
        z = torch.randn(x.shape, generator=batch.generator, dtype=x.dtype, device=x.device)
        t = (
            torch.arange(len(x), dtype=x.dtype, device=x.device)
            + torch.rand(len(x), generator=batch.generator, dtype=x.dtype, device=x.device)
        ) / len(x)
        at = t[:, None] * x + (1 - t[:, None]) * z
        found = velocity(torch.cat([at, torch.stack(of_time(t, torch.sin, torch.cos), dim=1), codes], dim=1))
        terms = (found - (x - z)).square().mean(dim=1)
        mean: Tensor = (terms if weights is None else terms * weights).mean()
        return mean


def fit_velocity(
    model: str, rows: Rows, settings: GeneratorSettings, options: FitOptions
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """See `Family.fit`."""
    plan = replace(flow_plan(model, settings, options.epochs, options.batch_size, options.seed), device=options.device)
    presence = rows.presence
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        velocity = MLP(presence.columns + TIMES + presence.codes, presence.columns, settings.hidden or HIDDEN, ACTIVATION)
    values = np.concatenate([filled_with_noise(rows, options.seed), presence.one_hot(rows.index)], axis=1)
    file = options.checkpoint / "flow-matching.checkpoint" if options.checkpoint is not None else None
    sample, objective = sample_of(values, rows.weights), VelocityLoss(velocity, presence.columns)
    record = train(objective, {"events": sample}, plan, checkpoint=file, title="flow matching", progress=options.progress)
    state = {name: tensor.detach().numpy() for name, tensor in objective.average.state_dict().items()}
    return state, {"plan": asdict(plan), **record.to_dict()}
