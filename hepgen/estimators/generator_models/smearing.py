"""Events of the sample, drawn by weight, every column smeared by some percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.generator_models.base import NOISE, FitOptions, Matrix, Rows, Sampler, drawn, event_numbers
from hepgen.estimators.generator_settings import GeneratorSettings
from hepgen.events.presence import Presence
from hepgen.kernels import philox


def fit(
    model: str, rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Keep the events. See `Family.fit`."""
    del model, settings, latent, options
    return {"values": rows.values, "index": rows.index, "shares": rows.draws()}, {}


def sampler(model: str, state: Mapping[str, NDArray[Any]], presence: Presence, settings: GeneratorSettings, latent: int) -> Sampler:
    """See `Family.sampler`."""
    del model, latent
    return Smearing(state, presence, settings.smearing)


class Smearing(Sampler):
    """x (1 + s g) of events x of the sample, g standard normal for every column."""

    def __init__(self, state: Mapping[str, NDArray[Any]], presence: Presence, size: float) -> None:
        self.values, self.index, self.shares = stored_rows(state, presence)
        self.presence, self.size = presence, size

    def sample(self, n: int, *, first: int, seed: int) -> Matrix:
        """See `Sampler.sample`."""
        keys = event_numbers(n, first)
        rows = drawn(self.shares, keys, seed)
        noise = philox.normal(keys, self.values.shape[1], seed=seed, stream=NOISE)
        return self.presence.encode(self.values[rows] * (1 + self.size * noise), self.index[rows])


def stored_rows(state: Mapping[str, NDArray[Any]], presence: Presence) -> tuple[Matrix, NDArray[np.int64], Matrix]:
    """Values (m, k), patterns (m,) and shares (m,) of the rows in a state; UsageError where they do not fit."""
    values, index, shares = state["values"], state["index"], state["shares"]
    m = len(values)
    if values.shape != (m, presence.columns) or index.shape != (m,) or shares.shape != (m,):
        raise UsageError(f"the events kept have {values.shape} values, and there are {presence.columns} columns")
    return values, index, shares
