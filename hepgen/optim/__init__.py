"""Optimisers, schedules and the method of multipliers."""

from __future__ import annotations

from hepgen.optim.ecd import ECD, eta_for
from hepgen.optim.mdmm import MDMM
from hepgen.optim.schedules import power_decay

__all__ = ["ECD", "MDMM", "eta_for", "power_decay"]
