"""An unconditional masked autoregressive flow of the events; which objects there are is its condition, drawn as often as it occurs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.generator_models.base import NOISE, FitOptions, Matrix, Rows, Sampler, event_numbers, filled_with_noise
from hepgen.estimators.generator_settings import GeneratorSettings, flow_plan
from hepgen.events.presence import Presence
from hepgen.kernels import philox
from hepgen.networks.frozen import FrozenMAF

HIDDEN = (128, 128)


def fit(
    model: str, rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """See `Family.fit`."""
    del latent
    from hepgen.estimators.replacer_fit import fit_flow

    plan = replace(flow_plan(model, settings, options.epochs, options.batch_size, options.seed), device=options.device)
    scaled = np.concatenate([filled_with_noise(rows, options.seed), rows.presence.one_hot(rows.index)], axis=1)
    shape = (settings.blocks, settings.hidden or HIDDEN, settings.permutation, settings.activation)
    state, record = fit_flow(
        scaled, rows.weights, rows.presence.columns, shape, plan, checkpoint=options.checkpoint, progress=options.progress
    )
    return state, {"plan": asdict(plan), **record}


def sampler(model: str, state: Mapping[str, NDArray[Any]], presence: Presence, settings: GeneratorSettings, latent: int) -> Sampler:
    """See `Family.sampler`."""
    del model, latent
    return Flow(FrozenMAF(state, activation=settings.activation), presence)


class Flow(Sampler):
    """Normal numbers through the inverse of the flow."""

    def __init__(self, flow: FrozenMAF, presence: Presence) -> None:
        if (flow.features, flow.context) != (presence.columns, presence.codes):
            raise UsageError(f"the flow has not the {presence.columns} columns and {presence.codes} patterns of its events")
        self.flow, self.presence = flow, presence

    def sample(self, n: int, *, first: int, seed: int) -> Matrix:
        """See `Sampler.sample`."""
        keys = event_numbers(n, first)
        index = self.patterns(keys, seed)
        noise = philox.normal(keys, self.presence.columns, seed=seed, stream=NOISE)
        values, _ = self.flow.inverse(noise, self.presence.one_hot(index))
        return self.presence.encode(values.astype(np.float64), index)

    def anomaly(self, rows: Matrix) -> Matrix:
        """-log p of scaled rows. Absent columns were learnt as normal numbers, and enter as those do on average: not at all."""
        values, index = self.presence.decode(rows)
        there = self.presence.patterns[index]
        density = self.flow.log_prob(np.where(there, values, 0.0), self.presence.one_hot(index)).astype(np.float64)
        absent = 0.5 * math.log(2 * math.pi) * (~there).sum(axis=1)
        return np.asarray(-(density + absent + np.log(self.presence.shares[index])))
