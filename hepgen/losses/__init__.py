"""Losses on distributions: what a fit minimises, as functions of tensors and signed event weights."""

from __future__ import annotations

from hepgen.losses.kl import KLOfKDE
from hepgen.losses.likelihood import negative_log_likelihood, weighted_mean
from hepgen.losses.mmd import MMD

__all__ = ["MMD", "KLOfKDE", "negative_log_likelihood", "weighted_mean"]
