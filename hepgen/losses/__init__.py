"""Losses on distributions: what a fit minimises, as functions of tensors and signed event weights.

Names are loaded when first asked for, so that `ratio`, which applying a saved network needs, comes without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepgen.losses.adversarial import AdversarialLoss as AdversarialLoss
    from hepgen.losses.adversarial import adversarial_loss as adversarial_loss
    from hepgen.losses.kl import KLOfKDE as KLOfKDE
    from hepgen.losses.likelihood import negative_log_likelihood as negative_log_likelihood
    from hepgen.losses.likelihood import weighted_mean as weighted_mean
    from hepgen.losses.mmd import MMD as MMD
    from hepgen.losses.ratio_loss import RatioLoss as RatioLoss
    from hepgen.losses.vae import vae_loss as vae_loss

_LAZY = {
    "MMD": "mmd",
    "KLOfKDE": "kl",
    "AdversarialLoss": "adversarial",
    "RatioLoss": "ratio_loss",
    "adversarial_loss": "adversarial",
    "negative_log_likelihood": "likelihood",
    "vae_loss": "vae",
    "weighted_mean": "likelihood",
}

__all__ = ["MMD", "AdversarialLoss", "KLOfKDE", "RatioLoss", "adversarial_loss", "negative_log_likelihood", "vae_loss", "weighted_mean"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"hepgen.losses.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'hepgen.losses' has no attribute {name!r}")
