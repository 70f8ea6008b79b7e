"""The delta of paper D: how far generated events are from reference ones in the histograms of all pairs of observables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, as_array, checked_matrix, checked_weights, effective_entries, positive_integer
from hepgen.metrics.pair_cells import PairCells

MOST_BINS = 1000


class Delta(NamedTuple):
    """The `value` of delta with its error (None where not asked for) and `floor`, what events of the reference's own kind give on average.

    `chi2` is (k, k) over `names`, zero on the diagonal; `worst` the pair that differs most: (first, second, chi2); `outside` (k,) the share
    of generated events beyond each column's range.
    """

    value: float
    error: float | None
    floor: float
    worst: tuple[str, str, float]
    names: tuple[str, ...]
    chi2: Float
    outside: Float

    @property
    def excess(self) -> float:
        """Value - floor: 0 on average for a perfect generator."""
        return self.value - self.floor

    def to_dict(self) -> dict[str, Any]:
        """The numbers, of types that JSON has."""
        first, second, worst = self.worst
        return {
            "value": self.value, "error": self.error, "floor": self.floor, "pairs": len(self.names) * (len(self.names) - 1) // 2,
            "worst": {"columns": [first, second], "chi2": worst}, "outside": dict(zip(self.names, self.outside.tolist(), strict=True)),
        }  # fmt: skip


def delta(
    reference: ArrayLike,
    generated: ArrayLike,
    bins: int = 25,
    *,
    names: Sequence[str] | None = None,
    ranges: ArrayLike | None = None,
    reference_weights: ArrayLike | None = None,
    generated_weights: ArrayLike | None = None,
    uncertainty: bool = True,
) -> Delta:
    """Return delta, the mean over all pairs of columns of the chi2 of their two-dimensional histograms (paper D, eqs. 21 and 22).

        chi2_ij = sum_u (p_u - q_u)^2 / (p_u + q_u),        delta = mean over i < j of chi2_ij

    with p and q the shares of the weight in bins x bins equal cells, and in one more for all events outside of them. It is 0 for identical
    and 2 for disjoint samples. For samples of one distribution it is not zero: sum over cells of var(p - q) / (p + q) gives
    `floor` = (cells in use - 1) (1 / N_p + 1 / N_q) N / (2 (N - 1)), N the effective entries and their sum, exact for equal numbers of
    unweighted events, whichever of the two samples they fall into.

    Parameters
    ----------
    reference, generated : (n, k), (m, k) matrices of the same observables, k >= 2; the paper has 33 (`ttbar_observables`), 528 pairs
    bins : number of bins a column, at most 1000
    names : k column names; their numbers by default
    ranges : (k, 2) lowest and highest value of each column's bins; by default those of the reference. The paper does not tell its own.
    reference_weights, generated_weights : event weights of either sign. Cells of negative content count as empty.
    uncertainty : give the error: the influence of each event on delta (infinitesimal jackknife, all pairs together), J, which counts twice
        what is of second order; error^2 = J (1 - floor / (2 value)), at least J / 2. Costs as much again.

    Returns
    -------
    Delta

    Raises
    ------
    InputError, UsageError
        Empty, not finite, mismatched, weights summing to zero, a constant column of the reference; ranges that do not rise.
    """
    x, y = checked_matrix(reference, "the reference", names), checked_matrix(generated, "the generated sample", names)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"the reference has {x.shape[1]} columns and the generated sample {y.shape[1]}: they must be the same observables")
    if x.shape[1] < 2:
        raise InputError("the samples have one column, but delta compares pairs: give at least two")
    w = checked_weights(reference_weights, len(x), "the reference"), checked_weights(generated_weights, len(y), "the generated sample")
    labels = tuple(names) if names is not None else tuple(str(column) for column in range(x.shape[1]))
    edges = _edges(x, bins, ranges, labels)
    cells = PairCells(x, edges), PairCells(y, edges)
    p, q = (one.shares(weights) for one, weights in zip(cells, w, strict=True))
    used = p + q > 0
    both = np.where(used, p + q, 1.0)
    d = p - q
    chi2 = (d**2 / both).sum(axis=1)
    value = float(chi2.mean())
    entries = [effective_entries(weights) for weights in w]
    scale = sum(1 / n for n in entries) / 2 / (1 - 1 / sum(entries))
    floor = float(used.sum(axis=1).mean() - 1) * scale
    error = None
    if uncertainty:
        slopes = d * (p + 3 * q) / both**2, -d * (3 * p + q) / both**2
        moved = (_variance(one.sums(slope) / len(chi2), weights) for one, slope, weights in zip(cells, slopes, w, strict=True))
        error = float(np.sqrt(sum(moved) * max(1 - floor / (2 * value), 0.5))) if value else 0.0
    first, second = cells[0].pairs[worst := int(np.argmax(chi2))]
    table = np.zeros((len(labels), len(labels)))
    table[tuple(np.array(cells[0].pairs).T)] = chi2
    return Delta(value, error, floor, (labels[first], labels[second], float(chi2[worst])), labels, table + table.T, cells[1].outside(w[1]))


def _edges(x: Float, bins: int, ranges: ArrayLike | None, names: tuple[str, ...]) -> Float:
    if positive_integer(bins, "bins") > MOST_BINS:
        raise UsageError(f"bins is {bins}, expected at most {MOST_BINS}")
    if ranges is None:
        limits = np.column_stack([x.min(axis=0), x.max(axis=0)])
        for name, (low, high) in zip(names, limits, strict=True):
            if low == high:
                raise InputError(f"column {name} of the reference is constant: leave it out or give its range")
    else:
        limits = as_array(ranges, "ranges")
        if limits.shape != (len(names), 2) or not np.all(np.isfinite(limits)) or not np.all(limits[:, 0] < limits[:, 1]):
            raise UsageError(f"ranges must hold a lower and a higher limit for each of the columns {', '.join(names)}")
    return np.linspace(limits[:, 0], limits[:, 1], bins + 1, axis=1)


def _variance(moved: Float, w: Float) -> float:
    share = w / w.sum()
    return float((share**2 * (moved - share @ moved) ** 2).sum())
