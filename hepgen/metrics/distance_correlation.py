"""Distance correlations in O(n log n) with signed weights and their errors, and how well two samples agree in all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, checked_column, checked_matrix, checked_weights

ROUNDING = 1e-9


def distance_correlation(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the distance correlation of two columns (Szekely, Rizzo and Bakirov 2007, V-statistic), which sees any dependence.

    With p = w / sum w, a_ij = abs(x_i - x_j), its row means a_i = sum_j p_j a_ij and their mean a = sum_i p_i a_i, and b likewise for y,

        dCov^2(x, y) = sum_ij p_i p_j a_ij b_ij - 2 sum_i p_i a_i b_i + a b,        R^2 = dCov^2(x, y) / (dCov(x, x) dCov(y, y)).

    It is the definition with the uniform measure replaced by the one of the weights, and keeps its meaning for weights of both signs:
    dCov^2 is an integral of abs(f_xy - f_x f_y)^2 over characteristic functions and never negative. Only R <= 1 is lost; R is not cut.
    O(n log n) by a merge sort (Huo and Szekely 2016, Chaudhuri and Hu 2019) that adds only terms of one sign for weights of one sign.

    Parameters
    ----------
    x, y : (n,) real columns, ties allowed
    weights : (n,) event weights of either sign

    Returns
    -------
    float : R, not R^2. It is biased upwards: independent columns give about 1.8 / sqrt(n), the `floor` of `distance_correlation_error`.

    Raises
    ------
    InputError
        Empty, not finite, mismatched lengths, weights summing to zero, or a column whose distance variance is not positive (named).
    """
    return distance_correlation_error(x, y, weights).value


@dataclass(frozen=True)
class DistanceCorrelation:
    """A distance correlation `value` with its `error`, and the `floor`: its root mean square for independent columns of such a size."""

    value: float
    error: float
    floor: float

    def to_dict(self) -> dict[str, float]:
        """The numbers, of types that JSON has."""
        return {"value": self.value, "error": self.error, "floor": self.floor}


def distance_correlation_error(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None, *, events: ArrayLike | None = None
) -> DistanceCorrelation:
    """Return `distance_correlation` with its error and with the value that independent columns would have.

    The error is the jackknife's in its closed form (infinitesimal jackknife, Efron 1982): with psi_i the derivative of R^2 by a share of
    weight moved to event i, J = sum p_i^2 psi_i^2, in O(n log n) and without random numbers. J counts twice the scatter of second order,
    V = 2 (sum p^2)^2 (1 - R^2)^2, which near independence is all there is: var(R^2) = max(J - V, J / 2, V / 2), so that no low R has
    a low error, and error = sqrt(var(R^2)) / 2R. floor^2 = sum p^2 a b / (dCov(x, x) dCov(y, y)).

    Parameters
    ----------
    x, y, weights : as in `distance_correlation`
    events : (n,) number or name of the event each row belongs to, where an event has several (copies): it moves as a whole

    Raises
    ------
    InputError
        As `distance_correlation`; event numbers of another length.
    """
    first, second = checked_column(x, "x"), checked_column(y, "y")
    if len(first) != len(second):
        raise InputError(f"x has {len(first)} entries, y has {len(second)}: they must be columns of the same events")
    table = _table(np.column_stack([first, second]), weights, events, ("x", "y"), "the sample")
    return DistanceCorrelation(*(float(matrix[0, 1]) for matrix in (table.value, table.error, table.floor)))


@dataclass(frozen=True)
class CorrelationChi:
    """Two samples compared in the distance correlations of all pairs of columns: `chi` is the mean absolute pull.

    `a`, `b`, `sigma` and `pulls` are (k, k) over `names`: the distance correlations as compared, the error of their difference, and
    (a - b) / sigma with its sign.
    """

    names: tuple[str, ...]
    chi: float
    a: Float
    b: Float
    sigma: Float
    pulls: Float

    @property
    def worst(self) -> tuple[str, str, float]:
        """The pair of columns with the largest absolute pull: (first, second, pull)."""
        return max(((*pair, self.pull(*pair)) for pair in combinations(self.names, 2)), key=lambda found: abs(found[2]))

    def pull(self, first: str, second: str) -> float:
        """Return the pull of a pair of columns by name."""
        for name in (first, second):
            if name not in self.names:
                raise UsageError(f"there is no column {name!r} among {', '.join(self.names)}")
        return float(self.pulls[self.names.index(first), self.names.index(second)])

    def to_dict(self) -> dict[str, Any]:
        """The numbers, of types that JSON has; pairs by "first, second"."""
        tables = (("a", self.a), ("b", self.b), ("sigma", self.sigma), ("pull", self.pulls))
        pairs = {
            f"{self.names[i]}, {self.names[j]}": {key: float(table[i, j]) for key, table in tables}
            for i, j in combinations(range(len(self.names)), 2)
        }
        first, second, pull = self.worst
        return {"value": self.chi, "worst": {"columns": [first, second], "pull": pull}, "pairs": pairs}


def correlation_chi(
    a: ArrayLike,
    b: ArrayLike,
    names: Sequence[str],
    a_weights: ArrayLike | None = None,
    b_weights: ArrayLike | None = None,
    *,
    a_events: ArrayLike | None = None,
    b_events: ArrayLike | None = None,
    level: bool = True,
) -> CorrelationChi:
    """Compare two independent samples in the distance correlations d_ij of all pairs of their columns (paper C, sec. 3.2 and Fig. 7).

        chi = mean over i < j of abs(d_ij^A - d_ij^B) / sigma_ij,        sigma_ij^2 = var(d_ij^A) + var(d_ij^B)

    with the variances of `distance_correlation_error`. Samples of one distribution give sqrt(2 / pi) = 0.8 on average over pairs that
    depend on each other, and 0.67 over independent ones, whose errors are on the safe side.

    Parameters
    ----------
    a, b : (n, k), (m, k) matrices with the same columns, k >= 2
    names : k column names
    a_weights, b_weights : event weights of either sign
    a_events, b_events : the event each row belongs to, where events have several rows (copies), as in `distance_correlation_error`
    level : raise d^2 of the sample with the lower floor by (1 - d^2) times the difference of floor^2. d is biased by its floor, more so
        in the smaller sample: without this samples of different sizes differ in all pairs that depend little. Not in the paper.

    Returns
    -------
    CorrelationChi

    Raises
    ------
    InputError, UsageError
        As `distance_correlation_error`, naming the column; fewer than two columns, or names that do not fit.
    """
    names = tuple(names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(f"correlation_chi needs at least two columns of different names, got {', '.join(names) or 'none'}")
    one = _table(checked_matrix(a, "the first sample", names), a_weights, a_events, names, "the first sample")
    two = _table(checked_matrix(b, "the second sample", names), b_weights, b_events, names, "the second sample")
    if level:
        floor = np.maximum(one.floor, two.floor)
        one, two = one.raised(floor), two.raised(floor)
    # columns that determine each other have d = 1 without scatter in both samples
    sigma = np.maximum(np.hypot(one.error, two.error), ROUNDING)
    pulls = (one.value - two.value) / sigma
    chi = float(np.abs(pulls[np.triu_indices(len(names), 1)]).mean())
    return CorrelationChi(names, chi, one.value, two.value, sigma, pulls)


@dataclass(frozen=True)
class _Table:
    """Distance correlations of all pairs of columns, their errors and floors, (k, k); 1, 0 and 0 on the diagonal."""

    value: Float
    error: Float
    floor: Float

    def raised(self, floor: Float) -> _Table:
        """With the floor raised to `floor`: R^2 + (1 - R^2) (floor^2 - its own), as columns that determine each other have no bias."""
        room = np.maximum(1 - self.value**2, 0.0)
        value = np.sqrt(self.value**2 + room * (floor**2 - self.floor**2))
        ratio = np.divide(self.value, value, out=np.ones_like(value), where=value > 0)
        return _Table(value, self.error * ratio, floor)


def _table(x: Float, weights: ArrayLike | None, events: ArrayLike | None, names: Sequence[str], what: str) -> _Table:
    distances = _Distances(x, checked_weights(weights, len(x), what))
    copies = None if events is None else _Copies(events, len(x), what)
    k = x.shape[1]
    variances, slopes = [], []
    for i in range(k):
        variance, slope = distances.covariance(i, i)
        if not variance > distances.rounding(i):
            raise InputError(f"column {names[i]} of {what} is constant (distance variance {variance:.3g}): it has no distance correlation")
        variances.append(variance)
        slopes.append(slope / variance)
    table = _Table(np.eye(k), np.zeros((k, k)), np.zeros((k, k)))
    for i, j in combinations(range(k), 2):
        scale = np.sqrt(variances[i] * variances[j])
        covariance, slope = distances.covariance(i, j)
        square = max(covariance / scale, 0.0)
        moved = distances.p * (slope / scale - square / 2 * (slopes[i] + slopes[j]))
        jackknife = float(((moved if copies is None else copies.sums(moved)) ** 2).sum())
        share = distances.share(i, j, copies)
        floor = np.sqrt(max(share * distances.mean[i] * distances.mean[j] / scale, 0.0))
        second = 2 * share**2 * (1 - square) ** 2
        spread = np.sqrt(max(jackknife - second, jackknife / 2, second / 2))
        found = np.sqrt(square), spread / (2 * np.sqrt(square)) if square > 0 else floor, floor
        for matrix, number in zip((table.value, table.error, table.floor), found, strict=True):
            matrix[i, j] = matrix[j, i] = number
    return table


class _Distances:
    """The distances within each column of a sample, by their weighted row means."""

    def __init__(self, x: Float, w: Float) -> None:
        # running sums of equal numbers round all to one side, 1e-11 at 1e6 events, unless the number is one
        self._v = w / np.abs(w).max()
        self._total = float(self._v.sum())
        self.p = self._v / self._total
        u = x - x.mean(axis=0)
        u = np.where(np.ptp(x, axis=0) > 0, u / np.maximum(np.abs(u).max(axis=0), np.finfo(float).tiny), 0.0)
        self._u = u - self.p @ u
        self._orders = [np.argsort(column) for column in self._u.T]
        self._rows = [self._row_means(i, self._v) for i in range(x.shape[1])]
        self.mean = [float(self.p @ rows) for rows in self._rows]

    def _row_means(self, i: int, v: Float) -> Float:
        order, found = self._orders[i], np.empty(len(v))
        found[order] = _kernels()[0](self._u[order, i], v[order]) / self._total
        return found

    def _products(self, i: int, j: int) -> Float:
        """Return sum_l p_l a_kl b_kl for each event k, (n,)."""
        x, y = self._u[:, i], self._u[:, j]
        signed = x * y + self.p @ (x * y)  # without the absolute values, as means are zero
        if i == j:
            return np.asarray(signed, dtype=np.float64)
        order, concordant = self._orders[i], np.empty(len(x))
        concordant[order] = _kernels()[1](x[order], y[order], self._v[order]) / self._total
        # a b is the signed product where x and y rise together, and minus that elsewhere
        return np.asarray(2 * concordant - signed, dtype=np.float64)

    def covariance(self, i: int, j: int) -> tuple[float, Float]:
        """Return dCov^2 of two columns and its derivative by a share of weight moved to each event, (n,)."""
        p, rows_i, rows_j, mean_i, mean_j = self.p, self._rows[i], self._rows[j], self.mean[i], self.mean[j]
        products = self._products(i, j)
        first, third = float(p @ products), float(p @ (rows_i * rows_j))
        moved = self._row_means(i, self._v * rows_j)
        moved = 2 * moved if i == j else moved + self._row_means(j, self._v * rows_i)
        slope = 2 * (products - first) - 2 * (rows_i * rows_j + moved - 3 * third)
        slope += 2 * (mean_j * (rows_i - mean_i) + mean_i * (rows_j - mean_j))
        value = first - 2 * float(p @ ((rows_i - mean_i) * (rows_j - mean_j))) - mean_i * mean_j
        return value, slope

    def rounding(self, i: int) -> float:
        """Return what is left of a distance variance that is zero."""
        return 1e-13 * float(np.abs(self.p) @ (self._u[:, i] ** 2 + self._rows[i] ** 2))

    def share(self, i: int, j: int, copies: _Copies | None) -> float:
        """Return sum p^2, one over the effective entries; for events of several rows the number that the bias of this pair follows.

        That bias is the sum of p p' A B over the pairs of rows of one event, with A and B the centred distances.
        """
        alone = float(self.p @ self.p)
        if copies is None:
            return alone
        others = copies.sums(self.p)[copies.event] - self.p
        here = self.p**2 @ (self._centred(i, None) * self._centred(j, None))
        there = self.p * others @ (self._centred(i, copies.following) * self._centred(j, copies.following))
        together = float((copies.sums(self.p) ** 2).sum())
        return float(min(max(alone * (1 + there / here), min(alone, together)), max(alone, together)))

    def _centred(self, i: int, to: NDArray[np.intp] | None) -> Float:
        """Return the centred distance of each row to the row `to`, (n,); to itself for None."""
        x, rows = self._u[:, i], self._rows[i]
        if to is None:
            return np.asarray(self.mean[i] - 2 * rows, dtype=np.float64)
        return np.asarray(np.abs(x - x[to]) - rows - rows[to] + self.mean[i], dtype=np.float64)


class _Copies:
    """Rows of one event: the `event` of each, (n,) from 0, and `following` (n,), the next of its rows, which stands for the others."""

    def __init__(self, events: ArrayLike, n: int, what: str) -> None:
        labels = np.asarray(events)
        if labels.shape != (n,):
            raise InputError(f"the event numbers of {what} have shape {labels.shape}, expected ({n},): one a row")
        self.event: NDArray[np.intp] = np.unique(labels, return_inverse=True)[1]
        order = np.argsort(self.event, kind="stable")
        sizes = np.bincount(self.event)
        last = np.cumsum(sizes) - 1
        after = np.arange(1, n + 1)
        after[last] = last - sizes + 1
        self.following = np.empty_like(order)
        self.following[order] = order[after]

    def sums(self, p: Float) -> Float:
        """Return the sum over the rows of each event."""
        return np.asarray(np.bincount(self.event, p), dtype=np.float64)


def _row_sums(x: Float, v: Float) -> Float:
    """Return sum_j v_j abs(x_i - x_j) for rising x, (n,)."""
    n = len(x)
    sums = np.zeros(n)
    weight, reach = 0.0, 0.0
    for i in range(1, n):
        weight += v[i - 1]
        reach += weight * (x[i] - x[i - 1])
        sums[i] = reach
    weight, reach = 0.0, 0.0
    for i in range(n - 2, -1, -1):
        weight += v[i + 1]
        reach += weight * (x[i + 1] - x[i])
        sums[i] += reach
    return sums


def _concordant_sums(x: Float, y: Float, v: Float) -> Float:
    """Return sum_j v_j (x_i - x_j) (y_i - y_j) over the j for which that is positive, for rising x, (n,).

    Merge sort by y: in one merge each pair of the left and the right run is met once. Going up, the right element finds the left ones
    below it in running sums of v, v (pivot - x), v (at - y) and v (pivot - x) (at - y); going down, the left element those on the right.
    """
    n = len(x)
    rows, merged = np.empty((n, 4)), np.empty((n, 4))  # x, y, v, sum
    for i in range(n):
        rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3] = x[i], y[i], v[i], 0.0
    numbers, moved = np.arange(n), np.empty(n, np.int64)
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = min(low + width, n), min(low + 2 * width, n)
            pivot = x[middle] if middle < n else 0.0
            left, right = low, middle
            at, s, sx, sy, sxy = rows[low, 1], 0.0, 0.0, 0.0, 0.0
            for to in range(low, high):
                from_left = right >= high or (left < middle and rows[left, 1] <= rows[right, 1])
                source = left if from_left else right
                step = rows[source, 1] - at
                sy += s * step
                sxy += sx * step
                at = rows[source, 1]
                for column in range(4):
                    merged[to, column] = rows[source, column]
                moved[to] = numbers[source]
                if from_left:
                    s += rows[source, 2]
                    sx += rows[source, 2] * (pivot - rows[source, 0])
                    left += 1
                else:
                    merged[to, 3] += (rows[source, 0] - pivot) * sy + sxy
                    right += 1
            at, s, sx, sy, sxy = merged[high - 1, 1], 0.0, 0.0, 0.0, 0.0
            for to in range(high - 1, low - 1, -1):
                step = at - merged[to, 1]
                sy += s * step
                sxy += sx * step
                at = merged[to, 1]
                if moved[to] < middle:
                    merged[to, 3] += (pivot - merged[to, 0]) * sy + sxy
                else:
                    s += merged[to, 2]
                    sx += merged[to, 2] * (merged[to, 0] - pivot)
        rows, merged, numbers, moved = merged, rows, moved, numbers
        width *= 2
    found = np.empty(n)
    for i in range(n):
        found[numbers[i]] = rows[i, 3]
    return found


@cache
def _kernels() -> tuple[Callable[[Float, Float], Float], Callable[[Float, Float, Float], Float]]:
    """Compile `_row_sums` and `_concordant_sums` at their first use, so that importing hepgen.metrics does not import numba."""
    import numba

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(function, cache=True, nogil=True)  # type: ignore[no-any-return]
        except RuntimeError:  # there is no folder to keep the compiled code in
            return numba.njit(function, nogil=True)  # type: ignore[no-any-return]

    return compiled(_row_sums), compiled(_concordant_sums)
