"""Fitting kernel density estimates and Gaussian mixtures to rows of numbers."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

FOLDS = 5
MOST_ROWS = 4000  # of a cross-validation, whose time goes with their square
BLOCK = 2**21  # distances held at once
BANDWIDTHS = np.geomspace(0.01, 10, 30)


class Gaussians(NamedTuple):
    """Weights (K,) of sum one, means (K, k) and lower triangular factors (K, k, k) of the covariances."""

    weights: Matrix
    means: Matrix
    factors: Matrix


def fit_mixture(rows: Matrix, components: int, *, seed: int) -> Gaussians:
    """A mixture of Gaussians with full covariances, fitted by scikit-learn to rows (n, k)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(rows) == 1 or not rows.shape[1]:
        return Gaussians(np.ones(1), rows[:1], 1e-3 * np.eye(rows.shape[1])[None])
    model = GaussianMixture(components, covariance_type="full", random_state=seed % 2**32, max_iter=200, reg_covar=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    return Gaussians(model.weights_, model.means_, np.linalg.cholesky(model.covariances_))


def log_mixture(rows: Matrix, centres: Matrix, log_weights: Matrix, bandwidth: float) -> Matrix:
    """log sum_j w_j N(x_i; c_j, h^2 1) of rows (n, k) and centres (m, k), (n,)."""
    found = np.empty(len(rows))
    step = max(BLOCK // max(len(centres), 1), 1)
    for first in range(0, len(rows), step):
        found[first : first + step] = _log_sum(log_weights - _squares(rows[first : first + step], centres) / (2 * bandwidth**2))
    return np.asarray(found - rows.shape[1] * (math.log(bandwidth) + 0.5 * math.log(2 * math.pi)))


def bandwidth_by_validation(rows: Matrix, candidates: Matrix = BANDWIDTHS, *, seed: int) -> float:
    """The bandwidth of the highest likelihood of rows (n, k) left out, of the candidates.

    Five-fold cross-validation on 4000 rows at most. Where there are more, the bandwidth of those is made smaller by the power
    -1 / (k + 4) of how many more there are, as the best one is.
    """
    n, k = rows.shape
    if n < FOLDS:
        return 1.0
    order = np.random.default_rng(seed).permutation(n)[:MOST_ROWS]
    totals = np.zeros(len(candidates))
    for fold in range(FOLDS):
        held, kept = rows[order[fold::FOLDS]], rows[np.delete(order, np.s_[fold::FOLDS])]
        squares = _squares(held, kept)
        for c, h in enumerate(candidates):
            totals[c] += (_log_sum(-squares / (2 * h**2)) - k * math.log(h)).sum()
    best = float(candidates[totals.argmax()])
    return float(best * (n / (len(order) * (1 - 1 / FOLDS))) ** (-1 / (k + 4)))


def _squares(rows: Matrix, centres: Matrix) -> Matrix:
    """Squared distances (n, m)."""
    cross = rows @ centres.T
    return np.asarray(np.maximum(np.square(rows).sum(1)[:, None] - 2 * cross + np.square(centres).sum(1), 0))


def _log_sum(terms: Matrix) -> Matrix:
    """log of the sum of exponentials along the rows (n, m), (n,)."""
    largest = terms.max(axis=1, keepdims=True)
    return np.asarray(largest[:, 0] + np.log(np.exp(terms - largest).sum(axis=1)))
