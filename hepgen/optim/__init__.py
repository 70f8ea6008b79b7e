"""Optimisers, schedules and the method of multipliers."""

from __future__ import annotations

from hepgen.optim.ecd import ECD, eta_for
from hepgen.optim.lamb import LAMB
from hepgen.optim.mdmm import MDMM
from hepgen.optim.schedules import cosine_decay, power_decay
from hepgen.optim.swats import SWATS

__all__ = ["ECD", "LAMB", "MDMM", "SWATS", "cosine_decay", "eta_for", "power_decay"]
