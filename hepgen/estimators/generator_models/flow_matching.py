"""Flow matching: a velocity field that carries normal numbers to events, dx/dt = v(x, t), t from 0 to 1.

The field is a dense network fitted to the velocity of straight lines from noise to event (Lipman et al. 2023; Liu et al. 2023), and is
followed by the Runge-Kutta method of fourth order. Which objects there are is its condition, drawn as often as it occurs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.generator_models.base import NOISE, FitOptions, Matrix, Rows, Sampler, event_numbers
from hepgen.estimators.generator_settings import GeneratorSettings
from hepgen.events.presence import Presence
from hepgen.kernels import philox
from hepgen.networks.frozen import FrozenMLP

HIDDEN = (256, 256, 256)
ACTIVATION = "elu"
FREQUENCIES = (1, 2, 4)
TIMES = 1 + 2 * len(FREQUENCIES)


def fit(
    model: str, rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """See `Family.fit`."""
    del latent
    from hepgen.estimators.generator_models.flow_matching_fit import fit_velocity

    return fit_velocity(model, rows, settings, options)


def sampler(model: str, state: Mapping[str, NDArray[Any]], presence: Presence, settings: GeneratorSettings, latent: int) -> Sampler:
    """See `Family.sampler`."""
    del model, latent
    return FlowMatching(FrozenMLP(state, activation=ACTIVATION), presence, settings.steps)


def of_time(t: Any, sin: Callable[[Any], Any], cos: Callable[[Any], Any]) -> list[Any]:
    """What the network sees of times (n,), by the functions of their kind of array: t, and sines and cosines of multiples of pi t."""
    return [t, *(function(math.pi * f * t) for f in FREQUENCIES for function in (sin, cos))]


class FlowMatching(Sampler):
    """Normal numbers carried along the velocity field."""

    def __init__(self, velocity: FrozenMLP, presence: Presence, steps: int) -> None:
        expected = presence.columns + TIMES + presence.codes
        if (velocity.widths[0], velocity.widths[-1]) != (expected, presence.columns):
            raise UsageError(f"the velocity has not the {expected} inputs and {presence.columns} columns of its events")
        self.velocity, self.presence, self.steps = velocity, presence, steps

    def sample(self, n: int, *, first: int, seed: int) -> Matrix:
        """See `Sampler.sample`."""
        keys = event_numbers(n, first)
        index = self.patterns(keys, seed)
        x = philox.normal(keys, self.presence.columns, seed=seed, stream=NOISE)
        codes, h = self.presence.one_hot(index), 1 / self.steps
        for step in range(self.steps):
            t = step * h
            k1 = self._field(x, t, codes)
            k2 = self._field(x + 0.5 * h * k1, t + 0.5 * h, codes)
            k3 = self._field(x + 0.5 * h * k2, t + 0.5 * h, codes)
            k4 = self._field(x + h * k3, t + h, codes)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.presence.encode(x, index)

    def _inputs(self, x: Matrix, t: float, codes: Matrix) -> Matrix:
        times = np.broadcast_to(np.stack(of_time(np.array([t]), np.sin, np.cos), axis=1), (len(x), TIMES))
        return np.concatenate([x, times, codes], axis=1)

    def _field(self, x: Matrix, t: float, codes: Matrix) -> Matrix:
        return self.velocity(self._inputs(x, t, codes)).astype(np.float64)

    def anomaly(self, rows: Matrix) -> Matrix:
        """-log p of scaled rows: back to the normal numbers, with the integral of the divergence of the field.

        Absent columns were learnt as normal numbers, and enter as those do on average: not at all.
        """
        values, index = self.presence.decode(rows)
        there, codes, h = self.presence.patterns[index], self.presence.one_hot(index), 1 / self.steps
        x, divergence = np.where(there, values, 0.0), np.zeros(len(values))
        for step in range(self.steps, 0, -1):
            t = step * h
            k1, d1 = self._with_divergence(x, t, codes)
            k2, d2 = self._with_divergence(x - 0.5 * h * k1, t - 0.5 * h, codes)
            k3, d3 = self._with_divergence(x - 0.5 * h * k2, t - 0.5 * h, codes)
            k4, d4 = self._with_divergence(x - h * k3, t - h, codes)
            x = x - h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            divergence += h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        normal = -0.5 * np.square(x).sum(axis=1) - 0.5 * math.log(2 * math.pi) * there.sum(axis=1)
        return np.asarray(divergence - normal - np.log(self.presence.shares[index]))

    def _with_divergence(self, x: Matrix, t: float, codes: Matrix) -> tuple[Matrix, Matrix]:
        """The field (n, k) and its divergence (n,): the derivative along every column, carried through the layers."""
        hidden = self._inputs(x, t, codes)
        tangents = np.eye(x.shape[1], hidden.shape[1])[None]
        *layers, last = self.velocity.layers
        for weight, bias in layers:
            before = hidden @ weight.T + bias
            slope = np.where(before > 0, 1.0, np.exp(np.minimum(before, 0)))
            hidden, tangents = np.where(before > 0, before, np.expm1(np.minimum(before, 0))), (tangents @ weight.T) * slope[:, None]
        divergence = np.einsum("nkh,kh->n", tangents, last[0].astype(np.float64))
        return hidden @ last[0].T + last[1], divergence
