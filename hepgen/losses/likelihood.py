"""Likelihood losses."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of w v over sum of w; signed weights (n,) are taken as they are, None means one each."""
    if weights is None:
        return values.mean()
    return (weights * values).sum() / weights.sum()


def negative_log_likelihood(log_prob: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log loss of the sim-to-data paper, ``-E log p(delta | x_c)``, of log-densities (n,) under signed weights (n,)."""
    return -weighted_mean(log_prob, weights)
