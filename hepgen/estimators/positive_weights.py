"""Signed event weights made positive, for models that draw events: negative weights are spread over their neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError

Matrix = NDArray[np.float64]


def positive_weights(rows: Matrix, weights: Matrix) -> Matrix:
    """Weights (n,), none negative and of the same sum, of rows (n, k) with signed weights (n,).

    Cell resampling (Andersen and Maier, Eur. Phys. J. C 82 (2022) 433), with the Euclidean distance of the rows: around every event of
    negative weight the nearest events are taken in until the weights of the cell sum to zero or more; each weight w of the cell becomes
    abs(w) times the sum of w over that of abs(w). What is larger than the cells keeps its expectation.

    Raises
    ------
    InputError
        The weights sum to nothing or less.
    """
    if weights.sum() <= 1e-9 * np.abs(weights).sum():
        raise InputError(f"the weights sum to {weights.sum():.3g}: the sum must be positive")
    negative = np.flatnonzero(weights < 0)
    if not len(negative):
        return weights
    from scipy.spatial import cKDTree

    tree, positive = cKDTree(rows), weights.astype(np.float64)
    for event in negative[np.argsort(weights[negative], kind="stable")]:
        if positive[event] < 0:
            cell = _cell(tree, rows[event], positive, event)
            own = positive[cell]
            positive[cell] = np.abs(own) * (max(own.sum(), 0.0) / np.abs(own).sum())
    return positive


def _cell(tree: object, row: Matrix, weights: Matrix, event: int) -> NDArray[np.int64]:
    """The event and the nearest others of one cell, as few as leave a sum of zero or more."""
    size = 8
    while True:
        size = min(4 * size, len(weights))
        near = np.atleast_1d(tree.query(row, k=size)[1])  # type: ignore[attr-defined]
        near = np.concatenate([[event], near[near != event]])
        enough = np.flatnonzero(np.cumsum(weights[near]) >= 0)
        if len(enough):
            return np.asarray(near[: enough[0] + 1], dtype=np.int64)
        if size == len(weights):
            return np.asarray(near, dtype=np.int64)
