"""Pearson correlations with signed weights, their errors, and the columns of paper A's Table 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, checked_column, checked_matrix, checked_weights
from hepgen.metrics.observables import momenta


@overload
def pearson(
    matrix: ArrayLike, weights: ArrayLike | None = None, *, uncertainty: Literal[False] = False, names: Sequence[str] | None = None
) -> Float: ...
@overload
def pearson(
    matrix: ArrayLike, weights: ArrayLike | None = None, *, uncertainty: Literal[True], names: Sequence[str] | None = None
) -> tuple[Float, Float]: ...
def pearson(
    matrix: ArrayLike, weights: ArrayLike | None = None, *, uncertainty: bool = False, names: Sequence[str] | None = None
) -> Float | tuple[Float, Float]:
    """Return the weighted Pearson correlations of all pairs of columns (paper A, Table 1).

    Parameters
    ----------
    matrix : (n, d) finite numbers, n >= 2
    weights : (n,) event weights of either sign, None for ones
    uncertainty : also return the standard error of every entry. It is analytic and distribution free (delta method): with standardised
        columns u, the influence of an event on r_ij is psi = u_i u_j - r_ij (u_i^2 + u_j^2) / 2 and
        var(r_ij) = sum w^2 psi^2 / (sum w)^2, which is (1 - r^2)^2 / n for unweighted normal columns. It is of first order: a few per
        cent low for some hundred effective events with long tails.
    names : column names, used in error messages

    Returns
    -------
    (d, d) float64, exactly symmetric with a unit diagonal; with `uncertainty` a pair (correlations, errors).

    Raises
    ------
    InputError
        Empty, not finite, mismatched lengths, weights summing to zero, or a column whose weighted variance is not positive (named).
    """
    u, share, r = _standardised(matrix, weights, names)
    return (r, _errors(u, share, r)) if uncertainty else r


def _standardised(matrix: ArrayLike, weights: ArrayLike | None, names: Sequence[str] | None) -> tuple[Float, Float, Float]:
    """Return the columns with mean 0 and variance 1, (n, d), the share of each event in the weight, (n,), and the correlations, (d, d)."""
    x = checked_matrix(matrix, "the matrix", names)
    w = checked_weights(weights, len(x), "the matrix")
    share = w / w.sum()
    centred = x - share @ x
    spread = np.abs(x).max(axis=0)
    variance = share @ centred**2
    for column in np.flatnonzero(variance <= (1e-14 * spread) ** 2).tolist():
        label = names[column] if names is not None else str(column)
        raise InputError(f"column {label} is constant (weighted variance {variance[column]:.3g}): its correlations are not defined")
    u = centred / np.sqrt(variance)
    r: Float = (share[:, None] * u).T @ u
    r = (r + r.T) / 2
    np.fill_diagonal(r, 1.0)
    return u, share, r


def _errors(u: Float, share: Float, r: Float) -> Float:
    # psi^2 expanded in moments of u, so that only matrix products over the events are needed
    p = (share**2)[:, None]
    squares: Float = (p * u**2).T @ u**2
    cubes: Float = (p * u**3).T @ u
    fourth = np.diag(squares)
    variance = squares - r * (cubes + cubes.T) + r**2 / 4 * (fourth[:, None] + fourth[None, :] + 2 * squares)
    errors = np.sqrt(np.maximum(variance, 0.0))
    np.fill_diagonal(errors, 0.0)
    return np.asarray(errors, dtype=np.float64)


def _mean_error(u: Float, share: Float, r: Float, errors: Float, pairs: NDArray[np.intp]) -> float:
    """Return the error of the mean absolute correlation of some pairs, (k, 2).

    The influence of each event on all of them together, in which a correlation counts by its mean sign, erf(m / sqrt(2)) with
    m^2 = max(r^2 / error^2 - 1, 0); and pair by pair what is left of the variance of its absolute value, 1 + m^2 - (E abs)^2 in units of
    error^2.
    """
    from scipy.special import erf

    i, j = pairs.T
    sigma = errors[i, j]
    m = np.sqrt(np.maximum(np.divide(r[i, j], sigma, out=np.full(len(i), np.inf), where=sigma > 0) ** 2 - 1, 0.0))
    sign = np.sign(r[i, j]) * erf(m / np.sqrt(2))
    signs = np.zeros_like(r)
    signs[i, j] = signs[j, i] = sign
    moved = (((u @ signs) * u).sum(axis=1) - u**2 @ (signs * r).sum(axis=1)) / 2
    near = np.minimum(m, 40.0)  # beyond nothing is left
    folded = np.sqrt(2 / np.pi) * np.exp(-(near**2) / 2) + near * erf(near / np.sqrt(2))
    left = np.maximum(1 + near**2 - folded**2 - sign**2, 0.0) * sigma**2
    return float(np.sqrt((share**2) @ moved**2 + left.sum()) / len(i))


@dataclass(frozen=True)
class CorrelationTable:
    """The correlations of one sample: the whole matrix and the columns paper A prints.

    `matrix` and `errors` are (k, k) over `names` (features, then extra columns); `columns` are the pairs shown one by one, and `others` is
    the mean absolute correlation of all remaining pairs (nan where there are none), with an error that knows how they move together,
    `others_noise` what it would be for columns that are not correlated at all: mean of sqrt(2 / pi) times the error.
    """

    names: tuple[str, ...]
    matrix: Float
    errors: Float
    columns: tuple[tuple[str, str], ...]
    others: float
    others_error: float
    others_noise: float

    def value(self, first: str, second: str) -> tuple[float, float]:
        """Return (correlation, error) of a pair of columns by name."""
        for name in (first, second):
            if name not in self.names:
                raise UsageError(f"there is no column {name!r} among {', '.join(self.names)}")
        i, j = self.names.index(first), self.names.index(second)
        return float(self.matrix[i, j]), float(self.errors[i, j])

    def pairs(self) -> list[tuple[str, str, float, float]]:
        """Return (first, second, correlation, error) of every pair of columns."""
        return [(a, b, *self.value(a, b)) for a, b in combinations(self.names, 2)]

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """The columns shown, "first, second" -> {value, error}, and "others" with its noise, of types that JSON has."""
        found: dict[str, dict[str, float | None]] = {}
        for pair in self.columns:
            value, error = self.value(*pair)
            found[", ".join(pair)] = {"value": value, "error": error}
        others = {"value": self.others, "error": self.others_error, "noise": self.others_noise}
        return {**found, "others": {key: number if np.isfinite(number) else None for key, number in others.items()}}


def table_columns(names: Sequence[str], extra: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return the pairs of paper A's Table 1: like with like for two objects (pt, eta, phi), then each extra column with both pt.

    Where the names hold no two objects with pt, eta and phi, all pairs are returned.
    """
    found = list(momenta(names).values())
    if len(found) != 2:
        return tuple(combinations((*names, *extra), 2))
    first, second = found
    like = [(names[first[quantity]], names[second[quantity]]) for quantity in ("pt", "eta", "phi")]
    return tuple(like + [(column, names[owner["pt"]]) for column in extra for owner in found])


def correlation_table(
    matrix: ArrayLike,
    names: Sequence[str],
    extra: Mapping[str, ArrayLike] | None = None,
    *,
    weights: ArrayLike | None = None,
    columns: Sequence[tuple[str, str]] | None = None,
) -> CorrelationTable:
    """Return the Pearson correlations of one sample in the form of paper A's Table 1.

    Parameters
    ----------
    matrix : (n, d) features
    names : d column names
    extra : more columns, name -> (n,), e.g. {"m_yy": mass} (`pair_observables` makes it)
    weights : (n,) event weights of either sign
    columns : pairs to show one by one; by default pt-pt, eta-eta, phi-phi of the two objects and each extra column with both pt (for two
        photons exactly the paper's five), or all pairs where the names hold no two objects

    Returns
    -------
    CorrelationTable

    Raises
    ------
    InputError, UsageError
        As `pearson`; an extra column of another length, or a pair that is not among the columns.
    """
    x = checked_matrix(matrix, "the matrix", names)
    more = {name: checked_column(values, f"column {name}") for name, values in (extra or {}).items()}
    for name, values in more.items():
        if len(values) != len(x):
            raise InputError(f"column {name} has {len(values)} entries, the matrix has {len(x)} events")
    every = (*names, *more)
    whole = np.column_stack([x, *more.values()])
    u, share, r = _standardised(whole, weights, every)
    errors = _errors(u, share, r)
    shown = table_columns(names, tuple(more)) if columns is None else tuple((a, b) for a, b in columns)
    for name in {name for pair in shown for name in pair}:
        if name not in every:
            raise UsageError(f"there is no column {name!r} among {', '.join(every)}")
    listed = {frozenset(pair) for pair in shown}
    rest = [(i, j) for i, j in combinations(range(len(every)), 2) if frozenset((every[i], every[j])) not in listed]
    pairs = np.array(rest, dtype=np.intp).reshape(-1, 2)
    values, spreads = np.abs(r[*pairs.T]), errors[*pairs.T]
    return CorrelationTable(
        names=every,
        matrix=r,
        errors=errors,
        columns=shown,
        others=float(values.mean()) if rest else float("nan"),
        others_error=_mean_error(u, share, r, errors, pairs) if rest else float("nan"),
        others_noise=float(np.sqrt(2 / np.pi) * spreads.mean()) if rest else float("nan"),
    )
