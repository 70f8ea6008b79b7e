"""Whether generated events are copies of the training events: nearest neighbours in training against those in a holdout sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, checked_matrix, positive_integer

EXACT = 1e-6
AT_ONCE = 2000


class Copies(NamedTuple):
    """How near generated events are to the training events.

    `closer` is the share of generated events nearer to a training than to a holdout event (ties one half), 0.5 for an honest generator
    with the error `error`; `exact` and `near` the shares of copies and near copies of training events; `near_holdout` that of near
    copies of holdout events, which only chance makes; `distance` and `distance_holdout` the medians; `events` how many were looked at.
    """

    closer: float
    error: float
    exact: float
    near: float
    near_holdout: float
    distance: float
    distance_holdout: float
    events: int

    @property
    def pull(self) -> float:
        """(closer - 0.5) / error."""
        return (self.closer - 0.5) / self.error

    def to_dict(self) -> dict[str, float]:
        """The numbers, of types that JSON has."""
        return {**self._asdict(), "pull": self.pull}


def copies_of(
    training: ArrayLike,
    generated: ArrayLike,
    holdout: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    angles: Sequence[int] = (),
    near: float = 0.1,
    most: int = 20_000,
    seed: int = 0,
) -> Copies:
    """Compare the distance of each generated event to the nearest training event with that to the nearest of as many holdout events.

    Columns are divided by their standard deviation in training. If training and holdout events could be exchanged, each of their 2n events
    is of either sample with probability one half, and with V_k the share of generated events that are nearest to event k of both,

        var(closer) = (sum_k V_k^2 - 1 / 2n) n / (2 (2n - 1))

    which is the binomial 1 / (4 m) where m generated events all have neighbours of their own, and larger where they share them.
    Events sampled around training events are closer to these, less so the wider the sampling; only `exact` and `near` are copies.

    Parameters
    ----------
    training : (n, d) the events the generator was fitted to
    generated : (m, d) the generated events
    holdout : at least n events of the same kind that the generator has not seen; the first n are used
    names : d column names, for error messages
    angles : numbers of the columns that are angles [rad]: distances are those of (cos, sin)
    near : a near copy is nearer to a training event than `near` times the distance to the nearest holdout event; chance makes about near^d
    most : at most this many generated events are looked at, drawn at random
    seed : of the drawing

    Returns
    -------
    Copies, with `exact` those within 1e-6 standard deviations in each column on average (root mean square)

    Raises
    ------
    InputError, UsageError
        Empty, not finite, samples of different columns, fewer holdout than training events, a constant column of training.
    """
    x, y, z = (
        checked_matrix(matrix, f"the {what} sample", names)
        for matrix, what in ((training, "training"), (generated, "generated"), (holdout, "holdout"))
    )
    if not x.shape[1] == y.shape[1] == z.shape[1]:
        raise InputError(f"the samples have {x.shape[1]}, {y.shape[1]} and {z.shape[1]} columns: they must have the same")
    if len(z) < len(x):
        raise InputError(
            f"there are {len(x)} training and {len(z)} holdout events: give at least as many holdout events, or fewer training"
        )
    if not 0 < near < 1:
        raise UsageError(f"near is {near!r}, expected a number between 0 and 1")
    chosen = np.random.default_rng(seed).permutation(len(y))[: positive_integer(most, "most")]
    x, y, z = _standardised(x, y[chosen], z[: len(x)], set(angles), names)
    to_training, training_event = _nearest(x, y)
    to_holdout, holdout_event = _nearest(z, y)
    closer = np.where(to_training == to_holdout, 0.5, to_training < to_holdout)
    n, m = len(x), len(y)
    shares = np.concatenate([np.bincount(training_event, closer, n), np.bincount(holdout_event, 1 - closer, n)]) / m
    variance = float((shares @ shares - 1 / (2 * n)) * n / (2 * (2 * n - 1)))
    return Copies(
        closer=float(closer.mean()),
        error=float(np.sqrt(max(variance, 0.25 / m**2))),
        exact=float(np.mean(to_training <= EXACT * np.sqrt(x.shape[1]))),
        near=float(np.mean(to_training < near * to_holdout)),
        near_holdout=float(np.mean(to_holdout < near * to_training)),
        distance=float(np.median(to_training)),
        distance_holdout=float(np.median(to_holdout)),
        events=m,
    )


def _standardised(x: Float, y: Float, z: Float, angles: set[int], names: Sequence[str] | None) -> tuple[Float, Float, Float]:
    if not angles <= set(range(x.shape[1])):
        raise UsageError(f"angles are columns {sorted(angles)}, but there are only {x.shape[1]}")
    found: list[list[Float]] = [[], [], []]
    for column in range(x.shape[1]):
        mean, spread = float(x[:, column].mean()), float(x[:, column].std())
        if not spread > 1e-14 * np.abs(x[:, column]).max():
            raise InputError(f"column {names[column] if names is not None else column} of the training sample is constant: leave it out")
        for sample, values in enumerate((x[:, column], y[:, column], z[:, column])):
            found[sample] += [np.cos(values), np.sin(values)] if column in angles else [(values - mean) / spread]
    one, two, three = (np.column_stack(columns) for columns in found)
    return one, two, three


def _nearest(events: Float, of: Float) -> tuple[Float, NDArray[np.intp]]:
    """Return the distance of each row of `of` to the nearest of the events, and the number of that."""
    from sklearn.neighbors import NearestNeighbors

    # in few columns a tree, in many all distances as matrix products
    search = NearestNeighbors(n_neighbors=1).fit(events)
    parts = [search.kneighbors(of[start : start + AT_ONCE], return_distance=False)[:, 0] for start in range(0, len(of), AT_ONCE)]
    number = np.concatenate(parts).astype(np.intp)
    # products lose the digits of small distances
    return np.sqrt(((of - events[number]) ** 2).sum(axis=1)), number
