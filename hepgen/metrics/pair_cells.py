"""Two-dimensional histograms of all pairs of columns, in threads, and sums over what each event finds in its cells."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.metrics.checks import Float
from hepgen.metrics.compiled import compiled, in_threads

EVENTS_AT_ONCE = 16_384


class PairCells:
    """A sample as bin numbers, from which the histograms of all pairs of columns follow.

    Parameters
    ----------
    x : (n, k) finite
    edges : (k, bins + 1) rising edges of each column

    Bins are those of `numpy.histogram`: closed at the left, the last one at both ends. An event outside the edges has the number `bins`.
    """

    def __init__(self, x: Float, edges: Float) -> None:
        self.bins = edges.shape[1] - 1
        self._index: NDArray[Any] = np.empty(x.shape[::-1], dtype=np.uint8 if self.bins < 256 else np.uint16)
        in_threads(lambda column: compiled(_number)(x[:, column], edges[column], self._index[column]), range(x.shape[1]))
        self.pairs = list(combinations(range(x.shape[1]), 2))

    def outside(self, w: Float) -> Float:
        """Return the share of the weight outside the edges of each column, (k,)."""
        return np.array([w[index == self.bins].sum() / w.sum() for index in self._index], dtype=np.float64)

    def shares(self, w: Float) -> Float:
        """Return the share of the weight in each cell of each pair, (pairs, bins^2 + 1), the last one for all that is outside.

        Cells of negative content are empty ones, the others sum to one.
        """
        alike = bool(np.all(w == w[0]))
        sums = np.zeros((len(self.pairs), (self.bins + 1) ** 2))

        def fill(number: int) -> None:
            first, second = (self._index[column] for column in self.pairs[number])
            if alike:
                compiled(_count)(first, second, self.bins + 1, sums[number])
            else:
                compiled(_sum)(first, second, self.bins + 1, w, sums[number])

        in_threads(fill, range(len(self.pairs)))
        table = sums.reshape(-1, self.bins + 1, self.bins + 1)
        inner = table[:, :-1, :-1].reshape(len(table), -1)
        beyond = table[:, -1, :].sum(axis=1) + table[:, :-1, -1].sum(axis=1)
        shares = np.maximum(np.column_stack([inner, beyond]) / (len(w) if alike else w.sum()), 0.0)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float64)

    def sums(self, table: Float) -> Float:
        """Return for each event the sum over pairs of `table`, laid out as `shares`, at the event's cells, (n,)."""
        full = np.repeat(table[:, -1:], (self.bins + 1) ** 2, axis=1).reshape(-1, self.bins + 1, self.bins + 1)
        full[:, :-1, :-1] = table[:, :-1].reshape(-1, self.bins, self.bins)
        flat = full.reshape(len(table), -1)
        pairs = np.array(self.pairs)
        found = np.zeros(self._index.shape[1])

        def look_up(start: int) -> None:
            stop = start + EVENTS_AT_ONCE
            compiled(_look_up)(self._index[:, start:stop], pairs, self.bins + 1, flat, found[start:stop])

        in_threads(look_up, range(0, len(found), EVENTS_AT_ONCE))
        return found


def _number(x: Float, edges: Float, index: NDArray[np.uint8]) -> None:
    """Write the bin number of each entry; the guess by division is put right by the edges, as numpy does."""
    bins = len(edges) - 1
    low, high = edges[0], edges[-1]
    scale = bins / (high - low)
    for event in range(len(x)):
        value = x[event]
        if not low <= value <= high:
            index[event] = bins
            continue
        number = min(int((value - low) * scale), bins - 1)
        if value < edges[number]:
            number -= 1
        elif number < bins - 1 and value >= edges[number + 1]:
            number += 1
        index[event] = number


def _count(first: NDArray[np.uint8], second: NDArray[np.uint8], width: int, sums: Float) -> None:
    # two tables, so that neighbours in one cell do not wait for each other
    counts = np.zeros((2, len(sums)), dtype=np.int32)
    n = len(first)
    for event in range(0, n - 1, 2):
        counts[0, np.int32(first[event]) * width + second[event]] += 1
        counts[1, np.int32(first[event + 1]) * width + second[event + 1]] += 1
    if n % 2:
        counts[0, np.int32(first[n - 1]) * width + second[n - 1]] += 1
    for cell in range(len(sums)):
        sums[cell] = counts[0, cell] + counts[1, cell]


def _sum(first: NDArray[np.uint8], second: NDArray[np.uint8], width: int, w: Float, sums: Float) -> None:
    for event in range(len(first)):
        sums[np.int32(first[event]) * width + second[event]] += w[event]


def _look_up(index: NDArray[np.uint8], pairs: NDArray[np.intp], width: int, table: Float, found: Float) -> None:
    for number in range(len(pairs)):
        first, second = pairs[number]
        a, b, values = index[first], index[second], table[number]
        for event in range(len(a)):
            found[event] += values[np.int32(a[event]) * width + b[event]]
