"""Adversarial generators of events: least squares, Wasserstein with clipping or gradient penalty, MMD, and DijetGAN's convolutions.

Which objects there are is the condition of generator and discriminator, drawn as often as it occurs; absent columns are 0 for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.generator_models.base import NOISE, FitOptions, Matrix, Rows, Sampler, event_numbers
from hepgen.estimators.generator_settings import GeneratorSettings
from hepgen.events.presence import Presence
from hepgen.kernels import philox
from hepgen.networks.frozen_gan import FrozenGenerator


def fit(
    model: str, rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """See `Family.fit`."""
    from hepgen.estimators.generator_models.gan_fit import fit_pair

    return fit_pair(model, rows, settings, latent, options)


def sampler(model: str, state: Mapping[str, NDArray[Any]], presence: Presence, settings: GeneratorSettings, latent: int) -> Sampler:
    """See `Family.sampler`."""
    del model, settings
    return Gan(state, presence, latent)


class Gan(Sampler):
    """Latent normal numbers through the generator; its columns in [-1, 1] are those between `low` and `high`."""

    def __init__(self, state: Mapping[str, NDArray[Any]], presence: Presence, latent: int) -> None:
        self.box = Box(state["low"], state["high"])
        self.generator = FrozenGenerator({name: array for name, array in state.items() if name not in {"low", "high"}})
        expected = presence.codes + latent, presence.columns
        if (self.generator.inputs, self.generator.outputs) != expected or len(self.box.low) != presence.columns:
            raise UsageError(f"the generator has not the {expected[0]} inputs and {expected[1]} columns of its events")
        self.presence, self.latent = presence, latent

    def sample(self, n: int, *, first: int, seed: int) -> Matrix:
        """See `Sampler.sample`."""
        keys = event_numbers(n, first)
        index = self.patterns(keys, seed)
        noise = philox.normal(keys, self.latent, seed=seed, stream=NOISE)
        return self.presence.encode(self.box.inverse(self.generator(self.presence.one_hot(index), noise)), index)


class Box:
    """Columns between `low` and `high`, (k,), to [-1, 1] and back."""

    def __init__(self, low: Matrix, high: Matrix) -> None:
        self.low, self.high = low, high

    def forward(self, values: Matrix) -> Matrix:
        """(n, k) -> (n, k) in [-1, 1]."""
        return np.clip(2 * (values - self.low) / (self.high - self.low) - 1, -1, 1)

    def inverse(self, boxed: Matrix) -> Matrix:
        """(n, k) in [-1, 1] -> (n, k)."""
        return self.low + 0.5 * (boxed + 1) * (self.high - self.low)
