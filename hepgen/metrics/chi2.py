"""chi2 per degree of freedom of two weighted histograms, with the statistical errors of both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, as_array, checked_column, checked_matrix, checked_weights, positive_integer


@dataclass(frozen=True)
class Chi2:
    """A comparison of two shapes: `chi2`, `ndf`, the p-value, the edges of the bins used (the outer ones open), the pull of each bin."""

    chi2: float
    ndf: int
    p_value: float
    edges: Float
    pulls: Float

    @property
    def per_ndf(self) -> float:
        """chi2 / ndf."""
        return self.chi2 / self.ndf

    def to_dict(self) -> dict[str, float]:
        """The numbers, of types that JSON has."""
        return {"chi2": self.chi2, "ndf": self.ndf, "per_ndf": self.per_ndf, "p_value": self.p_value}


def chi2_ndf(
    a: ArrayLike,
    b: ArrayLike,
    bins: int | ArrayLike,
    a_weights: ArrayLike | None = None,
    b_weights: ArrayLike | None = None,
    *,
    min_effective: float = 10.0,
    name: str = "the column",
) -> Chi2:
    """Compare the shapes of two weighted samples of one quantity.

    With A_k, B_k the sums of weights in bin k, p_k = A_k / A, q_k = B_k / B and V the sums of squared weights, the common shape is
    m = (N_a p + N_b q) / (N_a + N_b), N the effective entries; the variance under equal shapes is
    s_k = m_k (V_a,k / (A A_k) + V_b,k / (B B_k)); d = p - q, and

        chi2 = sum d^2 / s - (sum m d / s)^2 / (sum m^2 / s),      ndf = bins used - 1.

    The second term takes out the common normalisation; it vanishes for weights of one size, where chi2 is Pearson's test of homogeneity.

    Parameters
    ----------
    a, b : (n,), (m,) values
    bins : edges, (k + 1,) increasing; or a number of bins, which hold equal shares of the entries of both samples together. Under- and
        overflow belong to the outer bins, so that no event is left out.
    a_weights, b_weights : event weights of either sign
    min_effective : neighbouring bins are merged, from the left, until the common shape predicts at least this many effective entries
        (m_k N_a and m_k N_b) and both contents are positive by two standard errors; what is left on the right joins the last bin
    name : the column's name for error messages

    Returns
    -------
    Chi2

    Raises
    ------
    InputError
        Empty, not finite, mismatched lengths, weights summing to zero, or fewer than two bins left after merging.
    UsageError
        Edges that do not increase, or a number of bins below 2.
    """
    x, y = checked_column(a, f"{name} of the first sample"), checked_column(b, f"{name} of the second sample")
    wx, wy = (
        checked_weights(a_weights, len(x), f"{name} of the first sample"),
        checked_weights(b_weights, len(y), f"{name} of the second sample"),
    )
    edges = _edges(bins, x, y, name)
    contents, squares = np.stack([_sums(x, wx, edges), _sums(y, wy, edges)], axis=1)
    groups = _merge(contents, squares, min_effective)
    if len(groups) < 2:
        raise InputError(
            f"{name} has fewer than two bins with {min_effective:g} effective entries in both samples: "
            "give more events or lower min_effective"
        )
    contents, squares = np.add.reduceat(contents, groups, axis=1), np.add.reduceat(squares, groups, axis=1)
    return _compare(contents, squares, edges[[*groups, len(edges) - 1]])


def _compare(contents: Float, squares: Float, edges: Float) -> Chi2:
    from scipy.stats import chi2 as chi2_distribution

    totals = contents.sum(axis=1, keepdims=True)
    shapes = contents / totals
    m, _ = _pooled(contents, squares)
    s = m * (squares / (totals * contents)).sum(axis=0)
    d = shapes[0] - shapes[1]
    value = float((d**2 / s).sum() - (m * d / s).sum() ** 2 / (m**2 / s).sum())
    ndf = len(d) - 1
    return Chi2(max(value, 0.0), ndf, float(chi2_distribution.sf(value, ndf)), edges, d / np.sqrt(s))


def _edges(bins: int | ArrayLike, x: Float, y: Float, name: str) -> Float:
    if np.ndim(bins) == 0:
        count = positive_integer(bins, "bins")
        if count < 2:
            raise UsageError("bins is 1, expected at least 2 to compare shapes")
        edges = np.unique(np.quantile(np.concatenate([x, y]), np.linspace(0, 1, count + 1)))
    else:
        edges = as_array(bins, "bins")
    if edges.ndim != 1 or len(edges) < 3 or not np.all(np.diff(edges) > 0):
        raise UsageError(f"the bin edges of {name} must be at least three increasing numbers")
    return edges


def _sums(values: Float, weights: Float, edges: Float) -> Float:
    """Return the sums of w and of w^2 per bin, (2, k); the outer bins are open."""
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return np.stack([np.bincount(index, w, minlength=len(edges) - 1) for w in (weights, weights**2)])


def _pooled(contents: Float, squares: Float) -> tuple[Float, Float]:
    """Return the common shape m, (k,), and the effective entries of each sample, (2,)."""
    totals = contents.sum(axis=1, keepdims=True)
    effective = totals[:, 0] ** 2 / squares.sum(axis=1)
    return effective @ (contents / totals) / effective.sum(), effective


def _merge(contents: Float, squares: Float, min_effective: float) -> list[int]:
    """Return the first bin of each group of merged bins."""
    # asking the common shape, not each sample, keeps the choice of bins from favouring samples that happen to agree
    m, effective = _pooled(contents, squares)

    def enough(first: int, last: int) -> bool:
        content, square = contents[:, first:last].sum(axis=1), squares[:, first:last].sum(axis=1)
        predicted = m[first:last].sum() * effective
        return bool(np.all(predicted >= min_effective) and np.all(content > 0) and np.all(content**2 >= 4 * square))

    groups: list[int] = []
    start = 0
    for k in range(len(m)):
        if enough(start, k + 1):
            groups.append(start)
            start = k + 1
    # the remainder joins the last group, which negative weights may spoil: then join further
    while len(groups) > 1 and not enough(groups[-1], len(m)):
        groups.pop()
    return groups


def marginal_chi2(
    a: ArrayLike,
    b: ArrayLike,
    names: Sequence[str],
    bins: int | Mapping[str, ArrayLike] = 40,
    *,
    a_weights: ArrayLike | None = None,
    b_weights: ArrayLike | None = None,
    min_effective: float = 10.0,
) -> dict[str, Chi2]:
    """Compare every column of two samples by `chi2_ndf`.

    Parameters
    ----------
    a, b : (n, d), (m, d) feature matrices
    names : d column names
    bins : a number of equal-share bins for every column, or name -> edges
    a_weights, b_weights, min_effective : as in `chi2_ndf`

    Returns
    -------
    dict of name -> Chi2
    """
    x, y = checked_matrix(a, "the first sample", names), checked_matrix(b, "the second sample", names)
    found: dict[str, Chi2] = {}
    for column, name in enumerate(names):
        if isinstance(bins, Mapping) and name not in bins:
            raise UsageError(f"bins has no edges for column {name}: it has {', '.join(bins)}")
        edges = bins[name] if isinstance(bins, Mapping) else bins
        found[name] = chi2_ndf(x[:, column], y[:, column], edges, a_weights, b_weights, min_effective=min_effective, name=f"column {name}")
    return found
