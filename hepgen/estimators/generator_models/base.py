"""What the models of an EventGenerator share: rows to learn, random numbers by event, and drawing rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.positive_weights import positive_weights
from hepgen.events.presence import Presence
from hepgen.kernels import philox

Matrix = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Streams of the random numbers of one event.
NOISE, PATTERN, ROW = 0, 1, 2


@dataclass(frozen=True)
class Rows:
    """Scaled events to learn.

    Attributes
    ----------
    values : (n, k) float64
        0 where absent.
    index : (n,) int64
        The pattern of presence of every event.
    weights : (n,) float64 or None
        Signed, of positive sum.
    presence : Presence
        Of the k columns.
    """

    values: Matrix
    index: Ints
    weights: Matrix | None
    presence: Presence

    def __len__(self) -> int:
        return len(self.values)

    @property
    def matrix(self) -> Matrix:
        """Values and pattern, (n, width)."""
        return self.presence.encode(self.values, self.index)

    def draws(self) -> Matrix:
        """Weights (n,) of sum one and none negative, to draw events by; see `positive_weights`."""
        if self.weights is None:
            return np.full(len(self), 1 / len(self))
        # patterns so far apart that no cell has events of two
        far = 10 * np.ptp(self.values, axis=0).sum() + 1
        rows = np.concatenate([self.values, far * self.presence.one_hot(self.index)], axis=1)
        weights = positive_weights(rows, self.weights)
        return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class FitOptions:
    """How a fit runs: see `EventGenerator.fit`."""

    epochs: int | None
    batch_size: int | None
    seed: int
    checkpoint: Path | None
    progress: bool | None
    device: str = "cpu"


class Sampler(ABC):
    """Draws rows; torch is not needed.

    Attributes
    ----------
    presence : Presence
        Of the columns of the rows.
    """

    presence: Presence

    @abstractmethod
    def sample(self, n: int, *, first: int, seed: int) -> Matrix:
        """Rows (n, width) of events first, first + 1, ...; an event depends on the seed and its number, on nothing else."""

    def anomaly(self, rows: Matrix) -> Matrix:
        """How unlike those learnt rows (n, width) are, (n,); the larger, the less alike."""
        del rows
        raise UsageError("this model has no density and reconstructs nothing, so it gives no anomaly score: take bvae, maf, gmm or kde")

    def patterns(self, keys: Ints, seed: int) -> Ints:
        """A pattern of presence for every event, each as often as it was learnt."""
        return self.presence.draw(philox.uniform(keys, 1, seed=seed, stream=PATTERN)[:, 0])


def event_numbers(n: int, first: int) -> Ints:
    """The numbers of events, which their random numbers follow, (n,)."""
    return np.arange(first, first + n, dtype=np.int64)


def drawn(shares: Matrix, keys: Ints, seed: int) -> Ints:
    """For every event one of m, drawn in proportion to shares (m,) of sum one."""
    edges = np.cumsum(shares)[:-1]
    return np.searchsorted(edges, philox.uniform(keys, 1, seed=seed, stream=ROW)[:, 0], side="right").astype(np.int64)


def resampled(shares: Matrix, n: int, seed: int) -> Ints:
    """n of m events by shares (m,) of sum one, each as often as n times its share, up or down to a whole number (systematic resampling)."""
    start = np.random.default_rng(seed).uniform()
    return np.searchsorted(np.cumsum(shares)[:-1], (np.arange(n) + start) / n, side="right").astype(np.int64)


def filled_with_noise(rows: Rows, seed: int) -> Matrix:
    """Values (n, k) with standard normal numbers where absent: what a density of all columns can learn."""
    noise = philox.normal(event_numbers(len(rows), 0), rows.values.shape[1], seed=seed, stream=NOISE)
    return np.where(rows.presence.patterns[rows.index], rows.values, noise)
