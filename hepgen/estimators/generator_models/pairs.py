"""How far generated rows are from real ones, of all pairs of columns: what picks the epoch of an adversarial fit."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


class PairHistograms:
    """Normalised two-dimensional histograms of all pairs of columns, in bins that hold a tenth of the rows (n, k) each, and their chi2.

    It is paper D's delta (eq. 21) of the columns as they are scaled, in bins that every column fills.
    """

    def __init__(self, rows: Matrix, bins: int = 10) -> None:
        self.bins = bins
        self.edges = [np.unique(np.quantile(column, np.arange(1, bins) / bins)) for column in rows.T]
        self.pairs = list(combinations(range(rows.shape[1]), 2)) or [(0, 0)]

    def histograms(self, rows: Matrix, weights: Matrix | None = None) -> Matrix:
        """Shares of every cell, (pairs, bins^2)."""
        cells = [np.searchsorted(edges, column, side="right") for edges, column in zip(self.edges, rows.T, strict=True)]
        size = self.bins**2
        found = np.stack([np.bincount(cells[a] * self.bins + cells[b], weights, size) for a, b in self.pairs]).astype(np.float64)
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    @staticmethod
    def distance(p: Matrix, q: Matrix) -> float:
        """Mean over the pairs of sum (p - q)^2 / (p + q), over the cells where both together are above zero."""
        both = p + q
        terms = np.divide((p - q) ** 2, both, out=np.zeros_like(both), where=both > 0)
        return float(terms.sum(axis=1).mean())
