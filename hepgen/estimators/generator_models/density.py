"""Kernel density estimate and Gaussian mixture of the events: one for every pattern of presence, over the columns that are there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.estimators.generator_models.base import NOISE, FitOptions, Matrix, Rows, Sampler, drawn, event_numbers, resampled
from hepgen.estimators.generator_models.mixtures import bandwidth_by_validation, fit_mixture, log_mixture
from hepgen.estimators.generator_models.smearing import stored_rows
from hepgen.estimators.generator_settings import GeneratorSettings
from hepgen.events.presence import Presence
from hepgen.kernels import philox

State = dict[str, NDArray[Any]]


def fit(model: str, rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions) -> tuple[State, dict[str, Any]]:
    """See `Family.fit`."""
    del latent
    return _fit_kde(rows, settings, options.seed) if model == "kde" else _fit_gmm(rows, settings, options.seed)


def sampler(model: str, state: Mapping[str, NDArray[Any]], presence: Presence, settings: GeneratorSettings, latent: int) -> Sampler:
    """See `Family.sampler`."""
    del settings, latent
    return Kernels(state, presence) if model == "kde" else Mixture(state, presence)


def _patterns(rows: Rows, shares: Matrix) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Every pattern, its columns, and as many of its events as it has, in proportion to their shares."""
    for pattern, there in enumerate(rows.presence.patterns):
        own = np.flatnonzero(rows.index == pattern)
        weights = shares[own] / shares[own].sum()
        even = rows.weights is None
        yield pattern, np.flatnonzero(there), own if even else own[resampled(weights, len(own), pattern)]


def _fit_kde(rows: Rows, settings: GeneratorSettings, seed: int) -> tuple[State, dict[str, Any]]:
    """The events, their shares and a bandwidth for every pattern."""
    shares = rows.draws()
    bandwidths = np.ones(len(rows.presence.patterns))
    for pattern, columns, own in _patterns(rows, shares):
        given = settings.bandwidth
        if len(columns):
            bandwidths[pattern] = given or bandwidth_by_validation(rows.values[np.ix_(own, columns)], seed=seed)
    state = {"values": rows.values, "index": rows.index, "shares": shares, "bandwidths": bandwidths}
    return state, {"bandwidths": bandwidths.tolist()}


def _fit_gmm(rows: Rows, settings: GeneratorSettings, seed: int) -> tuple[State, dict[str, Any]]:
    """The Gaussians of all patterns: components in proportion to how often a pattern occurs, none with less than 2 (columns + 1) events."""
    k, shares = rows.presence.columns, rows.draws()
    weights, means, factors, index = [], [], [], []
    for pattern, columns, own in _patterns(rows, shares):
        share = rows.presence.shares[pattern]
        most = max(len(own) // (2 * (len(columns) + 1)), 1)
        count = min(max(round(settings.components * share), 1), most)
        found = fit_mixture(rows.values[np.ix_(own, columns)], count, seed=seed)
        weights.append(share * found.weights)
        mean, factor = np.zeros((count, k)), np.zeros((count, k, k))
        mean[:, columns] = found.means
        factor[:, columns[:, None], columns] = found.factors
        means.append(mean)
        factors.append(factor)
        index.append(np.full(count, pattern, dtype=np.int64))
    state = {
        "weights": np.concatenate(weights),
        "means": np.concatenate(means),
        "factors": np.concatenate(factors),
        "index": np.concatenate(index),
    }
    return state, {"components": [len(part) for part in weights]}


class Kernels(Sampler):
    """A Gaussian around every event, as wide as the bandwidth of its pattern."""

    def __init__(self, state: Mapping[str, NDArray[Any]], presence: Presence) -> None:
        self.values, self.index, self.shares = stored_rows(state, presence)
        self.presence, self.bandwidths = presence, state["bandwidths"]

    def sample(self, n: int, *, first: int, seed: int) -> Matrix:
        """See `Sampler.sample`."""
        keys = event_numbers(n, first)
        rows = drawn(self.shares, keys, seed)
        noise = philox.normal(keys, self.values.shape[1], seed=seed, stream=NOISE)
        return self.presence.encode(self.values[rows] + self.bandwidths[self.index[rows], None] * noise, self.index[rows])

    def anomaly(self, rows: Matrix) -> Matrix:
        """-log p of scaled rows."""
        values, index = self.presence.decode(rows)
        found = np.empty(len(rows))
        for pattern, there in enumerate(self.presence.patterns):
            own, kept = np.flatnonzero(index == pattern), np.flatnonzero((self.index == pattern) & (self.shares > 0))
            columns, h = np.flatnonzero(there), float(self.bandwidths[pattern])
            found[own] = -log_mixture(values[np.ix_(own, columns)], self.values[np.ix_(kept, columns)], np.log(self.shares[kept]), h)
        return found


class Mixture(Sampler):
    """A sum of Gaussians, each of one pattern."""

    def __init__(self, state: Mapping[str, NDArray[Any]], presence: Presence) -> None:
        self.presence = presence
        self.weights, self.means, self.factors, self.index = (state[name] for name in ("weights", "means", "factors", "index"))

    def sample(self, n: int, *, first: int, seed: int) -> Matrix:
        """See `Sampler.sample`."""
        keys = event_numbers(n, first)
        component = drawn(self.weights / self.weights.sum(), keys, seed)
        noise = philox.normal(keys, self.presence.columns, seed=seed, stream=NOISE)
        return self.presence.encode(correlated(noise, component, self.means, self.factors), self.index[component])

    def anomaly(self, rows: Matrix) -> Matrix:
        """-log p of scaled rows."""
        values, index = self.presence.decode(rows)
        found = np.empty(len(rows))
        for pattern, there in enumerate(self.presence.patterns):
            own, columns = np.flatnonzero(index == pattern), np.flatnonzero(there)
            parts = [self._log_term(values[np.ix_(own, columns)], columns, int(c)) for c in np.flatnonzero(self.index == pattern)]
            found[own] = -np.logaddexp.reduce(parts, axis=0)
        return found

    def _log_term(self, values: Matrix, columns: NDArray[np.int64], component: int) -> Matrix:
        """log of weight times density of one Gaussian, (n,)."""
        from scipy.linalg import solve_triangular

        factor = self.factors[component][np.ix_(columns, columns)]
        z = solve_triangular(factor, (values - self.means[component, columns]).T, lower=True)
        constant = np.log(self.weights[component]) - np.log(np.diag(factor)).sum() - 0.5 * len(columns) * math.log(2 * math.pi)
        return np.asarray(constant - 0.5 * np.square(z).sum(axis=0))


def correlated(noise: Matrix, component: NDArray[np.int64], means: Matrix, factors: Matrix) -> Matrix:
    """mean + L g of normal numbers g (n, k), with the mean and the lower triangular factor L of the component of every row.

    Column by column and not as a matrix product, whose last bits depend on how many rows there are.
    """
    out = means[component]
    for j in range(noise.shape[1]):
        for i in range(j + 1):
            factor = factors[:, j, i]
            if factor.any():
                out[:, j] += factor[component] * noise[:, i]
    return out
