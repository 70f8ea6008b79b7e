"""The delta_OF of paper D: holes that generated events leave in two columns, looked for in finer and finer grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, as_array, checked_matrix, positive_integer
from hepgen.metrics.compiled import compiled, in_threads

PARTS = 4
MOST_LARGEST = 10_000


class DeltaOF(NamedTuple):
    """The `value` of delta_OF with its error (None where not asked for) and `floor`, about what events of the reference's own kind give.

    `empty_reference` and `empty` are the fractions of empty cells of the reference and of the generated events, (largest,), in grids of
    s x s cells for s = 1, 2, ..., largest.
    """

    value: float
    error: float | None
    floor: float
    empty_reference: Float
    empty: Float

    @property
    def holes(self) -> float:
        """The integral of the difference with its sign: positive where generated events leave more cells empty, as copied events do."""
        return float(_weights(len(self.empty)) @ (self.empty - self.empty_reference))

    def to_dict(self) -> dict[str, Any]:
        """The numbers, of types that JSON has."""
        return {"value": self.value, "error": self.error, "floor": self.floor, "holes": self.holes, "largest": len(self.empty)}


def delta_of(
    reference: ArrayLike,
    generated: ArrayLike,
    *,
    limits: Sequence[float] | Sequence[Sequence[float]] = (-2.5, 2.5),
    largest: int = 1000,
    names: Sequence[str] | None = None,
    uncertainty: bool = True,
) -> DeltaOF:
    """Return delta_OF, the difference in the fraction of empty cells, over all grids up to 1000 x 1000 (paper D, eq. 23).

        delta_OF = integral over s from 0 to 1000 of abs(f_e(s) - f_e^MC(s)),        s = sqrt(N_bins)

    f_e is measured in every grid of s x s cells, s = 1, 2, ..., and the integral is the trapezoidal rule through all of them and
    f_e(0) = 0; there is nothing between two grids. `floor` is the expected integral for two samples of one distribution, from the cells
    that both together fill: var(f_e) = (cells(2n) - cells(n) - one(n)^2 / n) / s^4, one(n) the cells with one event.

    Parameters
    ----------
    reference, generated : (n, 2) matrices, eta of the two leading jets in the paper, phi [rad] as a cross-check. Both have n events, as f_e
        depends on their number; weights have no meaning here.
    limits : lowest and highest value of both columns, or a pair for each; events beyond are left out
    largest : upper limit of the integral, at most 10 000
    names : the two column names, for error messages
    uncertainty : give the error: the influence of each event on the integral with its signs as found (infinitesimal jackknife), J, which
        counts twice what is of second order; I, the same with each grid's influences brought to the variance of its f_e, is right for
        samples of one distribution and low for others: error^2 = J + (I - J) min(floor / value, 1). Costs as much again.

    Returns
    -------
    DeltaOF

    Raises
    ------
    InputError, UsageError
        Empty, not finite, not two columns, samples of different size; limits that do not rise.
    """
    x, y = checked_matrix(reference, "the reference", names), checked_matrix(generated, "the generated sample", names)
    for matrix, what in ((x, "the reference"), (y, "the generated sample")):
        if matrix.shape[1] != 2:
            raise InputError(f"{what} has {matrix.shape[1]} columns, expected the two of which empty cells are counted")
    if len(x) != len(y):
        raise InputError(
            f"the reference has {len(x)} events and the generated sample {len(y)}: give as many of both, as fewer leave more cells empty"
        )
    if positive_integer(largest, "largest") > MOST_LARGEST:
        raise UsageError(f"largest is {largest}, expected at most {MOST_LARGEST}")
    window = _window(limits)
    units = [_unit(matrix, window) for matrix in (x, y)]
    grids = np.arange(1, largest + 1)
    rule = _weights(largest)

    def measure(part: int) -> tuple[NDArray[np.int64], Float, Float]:
        counts = np.zeros((len(grids[part::PARTS]), 5), dtype=np.int64)
        moved = [np.zeros((len(one[0]) if uncertainty else 0, 2)) for one in units]
        compiled(_occupy)(grids[part::PARTS], *units[0], *units[1], rule[part::PARTS], len(x), counts, *moved)
        return counts, moved[0], moved[1]

    parts = in_threads(measure, range(min(PARTS, largest)))
    counts = np.empty((largest, 5), dtype=np.int64)
    for part, (found, _, _) in enumerate(parts):
        counts[part::PARTS] = found
    empty = 1 - counts[:, :2] / grids[:, None] ** 2
    value = float(rule @ np.abs(empty[:, 1] - empty[:, 0]))
    # normal differences of variance 2 var(f_e)
    floor = float(rule @ (2 * np.sqrt(_variances(counts, len(x)) / np.pi) / grids**2))
    error = None
    if uncertainty:
        influences = [np.sum([part[sample] for part in parts], axis=0) for sample in (1, 2)]
        jackknife, scaled = np.sum([(one**2).sum(axis=0) - one.sum(axis=0) ** 2 / len(x) for one in influences], axis=0)
        near = min(floor / value, 1.0) if value else 1.0
        error = float(np.sqrt(jackknife + (scaled - jackknife) * near))
    return DeltaOF(value, error, floor, empty[:, 0], empty[:, 1])


def _weights(largest: int) -> Float:
    """Return the trapezoidal rule at 1, 2, ..., largest; at 0 the integrand is 0."""
    rule = np.ones(largest)
    rule[-1] = 0.5
    return rule


def _window(limits: Sequence[float] | Sequence[Sequence[float]]) -> Float:
    window = as_array(limits, "limits")
    window = np.stack([window, window]) if window.shape == (2,) else window
    if window.shape != (2, 2) or not np.all(np.isfinite(window)) or not np.all(window[:, 0] < window[:, 1]):
        raise UsageError("limits must be a lower and a higher number, or such a pair for each of the two columns")
    return window


def _unit(matrix: Float, window: Float) -> tuple[Float, Float]:
    """Return the events within the window, scaled to [0, 1], neighbours together so that their cells are in cache."""
    u = ((matrix - window[:, 0]) / np.diff(window).T)[np.all((matrix >= window[:, 0]) & (matrix <= window[:, 1]), axis=1)]
    tiles = np.minimum((u * 32).astype(np.uint16), 31)
    u = u[np.argsort(tiles[:, 0] * 32 + tiles[:, 1], kind="stable")]
    return np.ascontiguousarray(u[:, 0]), np.ascontiguousarray(u[:, 1])


def _variances(counts: NDArray[np.int64], n: int) -> Float:
    """Return the variance of the number of filled cells in each grid, (grids,), of n events of one distribution."""
    mean, alone = counts[:, :2].mean(axis=1), counts[:, 3:].mean(axis=1)
    return np.asarray(np.maximum(counts[:, 2] - mean - alone**2 / n, 0.0), dtype=np.float64)


def _occupy(
    grids: NDArray[np.int64],
    x1: Float, y1: Float, x2: Float, y2: Float,
    rule: Float, events: int, counts: NDArray[np.int64], moved1: Float, moved2: Float,
) -> None:  # fmt: skip
    """Count filled cells of the first, the second and both samples, and cells of one event of each; add influences to `moved`, (n, 2).

    The second column has those of a grid times the root of the variance of its f_e, as in `_variances`, over that of its influences.
    """
    cells = np.empty(grids.max() ** 2, dtype=np.uint8)
    for number in range(len(grids)):
        side = np.int32(grids[number])
        last = np.int32(side - 1)
        size = side * side
        cells[:size] = 0
        # bits: 1 an event of the first sample, 2 more of them; 4 and 8 of the second
        for event in range(len(x1)):
            cell = min(np.int32(x1[event] * side), last) * side + min(np.int32(y1[event] * side), last)
            there = cells[cell]
            cells[cell] = there | 1 | ((there & 1) << 1)
        for event in range(len(x2)):
            cell = min(np.int32(x2[event] * side), last) * side + min(np.int32(y2[event] * side), last)
            there = cells[cell]
            cells[cell] = there | 4 | ((there & 4) << 1)
        first, second, either, alone1, alone2 = 0, 0, 0, 0, 0
        for place in range(size):
            there = cells[place]
            first += there & 1
            second += (there >> 2) & 1
            either += there != 0
            alone1 += (there & 3) == 1
            alone2 += (there & 12) == 4
        counts[number] = (first, second, either, alone1, alone2)
        if not len(moved1) or first == second:
            continue
        weight = rule[number] / size if second < first else -rule[number] / size
        alone = (alone1 + alone2) / 2
        variance, jackknife = either - (first + second) / 2 - alone**2 / events, alone - alone**2 / events
        scaled = weight * np.sqrt(min(max(variance, 0.0) / jackknife, 1.0)) if jackknife > 0 else 0.0
        for event in range(len(x1)):
            cell = min(np.int32(x1[event] * side), last) * side + min(np.int32(y1[event] * side), last)
            if cells[cell] & 3 == 1:
                moved1[event, 0] -= weight
                moved1[event, 1] -= scaled
        for event in range(len(x2)):
            cell = min(np.int32(x2[event] * side), last) * side + min(np.int32(y2[event] * side), last)
            if cells[cell] & 12 == 4:
                moved2[event, 0] += weight
                moved2[event, 1] += scaled
