"""What delta a perfect generator has: the reference against itself at several sizes, and the extrapolation of paper D."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hepgen.errors import InputError
from hepgen.metrics.checks import Float, checked_column, checked_matrix, positive_integer
from hepgen.metrics.pair_shapes import delta

LEAST_B = 1e-3


class DeltaBySize(NamedTuple):
    """Delta of `events` against as many others of the same sample, with errors and floors; all (sizes,)."""

    events: Float
    value: Float
    error: Float
    floor: Float


class DeltaExtrapolation(NamedTuple):
    """delta(N) = A / log(B N + C) + D: `parameters` (4,), `covariance` (4, 4), and chi2 (nan without errors) with its `ndf`."""

    parameters: Float
    covariance: Float
    chi2: float
    ndf: int

    def at(self, events: float) -> tuple[float, float]:
        """Return delta and its error for a number of events, by the covariance of all parameters."""
        n = np.array([float(events)])
        slope = _slopes(n, *self.parameters)[0]
        return float(_model(n, *self.parameters)[0]), float(np.sqrt(max(slope @ self.covariance @ slope, 0.0)))

    def to_dict(self) -> dict[str, Any]:
        """The numbers, of types that JSON has."""
        errors = np.sqrt(np.diag(self.covariance))
        found = {name: [float(v), float(e)] for name, v, e in zip("ABCD", self.parameters, errors, strict=True)}
        return {**found, "chi2": self.chi2 if np.isfinite(self.chi2) else None, "ndf": self.ndf}


def delta_by_size(
    events: ArrayLike,
    sizes: Sequence[int],
    bins: int = 25,
    *,
    names: Sequence[str] | None = None,
    ranges: ArrayLike | None = None,
    uncertainty: bool = True,
    seed: int = 0,
) -> DeltaBySize:
    """Return delta of two disjoint parts of one sample for each size, what a perfect generator has (paper D, sec. III C and Fig. 5c).

    Parameters
    ----------
    events : (n, k) observables, of which parts are drawn at random
    sizes : numbers of events of each part, at most n / 2; the paper takes 50 000, 100 000, ..., 600 000
    bins, names, uncertainty : as in `delta`; errors are nan without
    ranges : as in `delta`; by default those of all events, for all sizes
    seed : of the drawing

    Returns
    -------
    DeltaBySize

    Raises
    ------
    InputError, UsageError
        As `delta`; a size of more than half of the events.
    """
    x = checked_matrix(events, "the sample", names)
    numbers = [positive_integer(size, "a size") for size in sizes]
    if not numbers or 2 * max(numbers) > len(x):
        raise InputError(
            f"the sample has {len(x)} events, sizes go up to {max(numbers, default=0)}: give sizes of at most half of the events"
        )
    limits = np.column_stack([x.min(axis=0), x.max(axis=0)]) if ranges is None else ranges
    order = np.random.default_rng(seed).permutation(len(x))
    found = []
    for size in numbers:
        one = delta(x[order[:size]], x[order[-size:]], bins, names=names, ranges=limits, uncertainty=uncertainty)
        found.append((size, one.value, np.nan if one.error is None else one.error, one.floor))
    return DeltaBySize(*np.array(found, dtype=np.float64).T)


def fit_delta_extrapolation(events: ArrayLike, values: ArrayLike, errors: ArrayLike | None = None) -> DeltaExtrapolation:
    """Fit delta(N) = A / log(B N + C) + D, by which the paper extrapolates to the size of its samples (paper D, eq. 24).

    A >= 0, B >= 1e-3 / the largest N and C >= 1 keep it finite and falling. A floor that falls as 1 / N is its limit of small B.
    Parameters at a limit are held there, have no error and are not counted in the degrees of freedom.

    Parameters
    ----------
    events, values : (n,) numbers of events and their delta, n >= 5
    errors : (n,) errors of the values; without them all count the same and their scatter sets the errors of the fit

    Returns
    -------
    DeltaExtrapolation

    Raises
    ------
    InputError
        Fewer than five points, mismatched lengths, not finite, numbers of events or errors that are not positive, no fit found.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    n, y = checked_column(events, "the numbers of events"), checked_column(values, "the values of delta")
    sigma = None if errors is None else checked_column(errors, "the errors of delta")
    if len(n) != len(y) or (sigma is not None and len(sigma) != len(y)):
        raise InputError(f"there are {len(n)} numbers of events, {len(y)} values of delta and as many errors: lengths must be equal")
    if len(n) < 5 or not np.all(n > 0) or (sigma is not None and not np.all(sigma > 0)):
        raise InputError("a fit of four parameters needs at least five values, with positive numbers of events and errors")
    # parameters of size one: N in units of the largest, delta of the largest
    top, size = n.max(), np.abs(y).max() or 1.0
    scaled = None if sigma is None else sigma / size
    start = min((_linear(n / top, y / size, b) for b in 10.0 ** np.arange(-2, 6)), key=lambda found: found[1])[0]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            found = curve_fit(
                _model, n / top, y / size, start, scaled, jac=_slopes, x_scale="jac", max_nfev=2000,
                bounds=([0, LEAST_B, 1, -np.inf], np.inf),
            )[0]  # fmt: skip
    except RuntimeError:
        raise InputError(
            "delta over the number of events is not described by A / log(B N + C) + D: give values that fall with it"
        ) from None
    residuals = (_model(n / top, *found) - y / size) / (1 if scaled is None else scaled)
    square = float(residuals @ residuals)
    slopes = _slopes(n / top, *found) / (1 if scaled is None else scaled[:, None])
    free = np.array([True, found[1] > 1.1 * LEAST_B, found[2] - 1 > 1e-2 * found[1] * n.min() / top, True])
    covariance = np.zeros((4, 4))
    covariance[np.ix_(free, free)] = _inverse(slopes[:, free]) * (square / (len(n) - free.sum()) if scaled is None else 1)
    unit = np.array([size, 1 / top, 1.0, size])
    chi2 = float("nan") if sigma is None else square
    return DeltaExtrapolation(found * unit, covariance * np.outer(unit, unit), chi2, len(n) - int(free.sum()))


def _inverse(slopes: Float) -> Float:
    """Return the inverse of slopes^T slopes, whose columns may be of very different size."""
    norms = np.sqrt((slopes**2).sum(axis=0))
    inverse = np.linalg.pinv(slopes / norms)
    return np.asarray(inverse @ inverse.T / np.outer(norms, norms), dtype=np.float64)


def _linear(n: Float, y: Float, b: float) -> tuple[list[float], float]:
    """Return the best parameters for one B and C = 1, and their sum of squares."""
    shapes = np.column_stack([1 / np.log1p(b * n), np.ones_like(n)])
    a, d = np.linalg.lstsq(shapes, y, rcond=None)[0]
    residuals = shapes @ [a, d] - y
    return [max(float(a), 1e-12), b, 1.0, float(d)], float(residuals @ residuals)


def _model(n: Float, a: float, b: float, c: float, d: float) -> Float:
    return np.asarray(a / np.log(b * n + c) + d, dtype=np.float64)


def _slopes(n: Float, a: float, b: float, c: float, _: float) -> Float:
    """Return the derivatives of the model by its parameters, (n, 4); by D they are one."""
    x = b * n + c
    log = np.log(x)
    return np.column_stack([1 / log, -a * n / (x * log**2), -a / (x * log**2), np.ones_like(n)])
