"""Landmarks of a quantile transformation: few points (x_k, y_k) that carry a weighted cumulative distribution, strictly rising in both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hepgen.errors import InputError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SPIKE_WIDTH = 1e-9
"""Width given to a spike of equal values, as a part of the column's range."""
LINE = 1e-3
"""Least rise of y over the column's range, by a straight line mixed in: a rounding of y moves x by at most 1e3 of it, in ranges."""


def landmarks(x: Floats, weights: Floats | None, n_quantiles: int, *, normal: bool, column: str) -> tuple[Floats, Floats, Floats]:
    """Landmarks x (K,), y (K,) and the slopes dy/dx of the two tails (2,), all float64, rising and positive.

    The positions are the quantiles at equal steps of probability (scikit-learn's for unit weights), a ladder of halving probabilities in
    each tail, both edges of a gap that fills half of the way between two landmarks, and both sides of a spike of equal values.  Their y is
    Phi^-1(F(x)) or F(x) of the one cumulative distribution F of `cumulative`.
    """
    from scipy.special import ndtri  # a sixth of a second, which applying does not need

    unique, below, above, repeats = cumulative(x, weights)
    if len(unique) < 2:
        raise InputError(f"{column} has only one value whose weights do not cancel: nothing can be scaled by it")
    middle = (below + above) / 2
    grid = _grid(x, weights, unique, middle, min(n_quantiles, len(x)))
    # sklearn interpolates in its own order of operations, which may step over the last value by a rounding
    places = np.unique(np.clip(np.concatenate([grid, _ladder(unique, middle, n_quantiles)]), unique[0], unique[-1]))
    places = np.union1d(np.union1d(places, unique[[0, -1]]), _gap_edges(places, unique))
    spike = (repeats > 1) & (above - below > 0.5 / n_quantiles)
    knots, probability, places = _spread_spikes(unique, below, above, spike, places)
    y = np.interp(places, knots, probability)
    if normal:
        y = ndtri(np.clip(y, 0.5 / len(x), 1 - 0.5 / len(x)))
    x_k = places
    line = y[0] + (y[-1] - y[0]) * ((x_k - x_k[0]) / (x_k[-1] - x_k[0]))
    y_k = y + LINE / max(y[-1] - y[0], 2 * LINE) * (line - y)
    kept = np.append(True, (np.diff(x_k) > 0) & (np.diff(np.maximum.accumulate(y_k)) > 0))
    x_k, y_k = x_k[kept], y_k[kept]
    return x_k, y_k, _tails(x_k, y_k, normal=normal)


def cumulative(x: Floats, weights: Floats | None) -> tuple[Floats, Floats, Floats, npt.NDArray[np.int64]]:
    """Weighted cumulative distribution: unique values (m,), F just below and just above each (m,), and how often each occurs (m,).

    Signed weights may make the running sum fall; it is repaired to its cumulative maximum and normalised to end at one.  Values that add
    nothing are left out.
    """
    if weights is None:
        unique, repeats = np.unique(x, return_counts=True)
        above = np.cumsum(repeats) / len(x)
    else:
        order = np.argsort(x, kind="stable")
        ordered = x[order]
        last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        total = np.maximum.accumulate(np.maximum(np.cumsum(weights[order])[last], 0.0))
        unique, repeats, above = ordered[last], np.diff(last, prepend=-1), total / total[-1]
    below = np.concatenate([np.zeros(1), above[:-1]])
    kept = above > below
    return unique[kept], below[kept], above[kept], repeats[kept].astype(np.int64)


def _grid(x: Floats, weights: Floats | None, unique: Floats, middle: Floats, n_quantiles: int) -> Floats:
    if weights is not None:
        weighted: Floats = np.interp(np.linspace(0.0, 1.0, n_quantiles), middle, unique)
        return weighted
    from sklearn.preprocessing import QuantileTransformer

    transformer = QuantileTransformer(n_quantiles=max(n_quantiles, 2), subsample=None)
    quantiles: Floats = transformer.fit(x.reshape(-1, 1)).quantiles_[:, 0]
    return quantiles


def _ladder(unique: Floats, middle: Floats, n_quantiles: int) -> Floats:
    """Quantiles at 1/2, 1/4, 1/8... of the first step of probability from each end, as far as there are events."""
    steps = 0.5 ** np.arange(1, 40) / n_quantiles
    steps = steps[steps > 2 * min(middle[0], 1 - middle[-1])]
    rungs: Floats = np.interp(np.concatenate([steps, 1 - steps]), middle, unique)
    return rungs


def _gap_edges(places: Floats, unique: Floats) -> Floats:
    """Neighbouring values between which more than half of a step between landmarks is empty, where a step holds at least 8 values."""
    step = np.searchsorted(places, unique[:-1], side="right") - 1
    step = np.clip(step, 0, len(places) - 2)
    held = np.bincount(step, minlength=len(places) - 1)
    width = np.diff(places)
    spacing = np.diff(unique)
    wide = np.flatnonzero((spacing > 0.5 * width[step]) & (held[step] >= 8))
    return np.concatenate([unique[wide], unique[wide + 1]])


def _spread_spikes(unique: Floats, below: Floats, above: Floats, spike: Bools, places: Floats) -> tuple[Floats, Floats, Floats]:
    """Spread each spike over a narrow interval: knots and probabilities of the cumulative distribution, and the landmark positions."""
    where = np.flatnonzero(spike)
    if not len(where):
        return unique, (below + above) / 2, places
    spacing = np.diff(unique)
    nearest = np.minimum(np.append(spacing, np.inf), np.insert(spacing, 0, np.inf))[where]
    half = np.minimum(SPIKE_WIDTH * (unique[-1] - unique[0]) / 2, nearest / 4)
    left, right = unique[where] - half, unique[where] + half
    knots = np.concatenate([unique[~spike], left, right])
    probability = np.concatenate([((below + above) / 2)[~spike], below[where], above[where]])
    order = np.argsort(knots, kind="stable")
    return knots[order], probability[order], np.unique(np.concatenate([places[~np.isin(places, unique[where])], left, right]))


def _tails(x: Floats, y: Floats, *, normal: bool) -> Floats:
    """Slopes outside: at each end that of the chord over the next hundredth of probability and of the 90 % range, a spike there aside."""
    from scipy.special import ndtr

    probability = ndtr(y) if normal else y
    low, high = np.interp([0.05, 0.95], probability, x)
    spike, least = 1e3 * SPIKE_WIDTH * (x[-1] - x[0]), 0.01 * (high - low)

    def slope(x: Floats, y: Floats, probability: Floats) -> float:
        start = int(np.flatnonzero(x - x[0] <= spike)[-1])
        far = np.flatnonzero((probability >= probability[start] + 0.01) & (x >= x[start] + least) & (x > x[start]))
        end = int(far[0]) if len(far) else -1
        return float((y[end] - y[start]) / (x[end] - x[start]))

    return np.array([slope(x, y, probability), slope(-x[::-1], -y[::-1], 1 - probability[::-1])])
