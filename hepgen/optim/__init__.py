"""Optimisers, schedules and the method of multipliers."""

from __future__ import annotations

from hepgen.optim.mdmm import MDMM
from hepgen.optim.schedules import power_decay

__all__ = ["MDMM", "power_decay"]
