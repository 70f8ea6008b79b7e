"""Simulated collision events that look like data, inside the analysis, on awkward arrays.

The names below are loaded when first asked for, so that ``import hepgen`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepgen.estimators import EventGenerator as EventGenerator
    from hepgen.estimators import ObjectReplacer as ObjectReplacer
    from hepgen.estimators import Reweighter as Reweighter
    from hepgen.estimators import SimToData as SimToData
    from hepgen.estimators import load as load
    from hepgen.events import Features as Features
    from hepgen.events import Selection as Selection

__version__ = "0.1.0"

_LAZY = {
    "EventGenerator": "hepgen.estimators",
    "Features": "hepgen.events",
    "ObjectReplacer": "hepgen.estimators",
    "Reweighter": "hepgen.estimators",
    "Selection": "hepgen.events",
    "SimToData": "hepgen.estimators",
    "load": "hepgen.estimators",
}
_MODULES = (
    "errors",
    "estimators",
    "evaluation",
    "events",
    "exporting",
    "histograms",
    "kernels",
    "losses",
    "metrics",
    "networks",
    "optim",
    "plots",
    "ranks",
    "training",
    "variations",
)

__all__ = ["EventGenerator", "Features", "ObjectReplacer", "Reweighter", "Selection", "SimToData", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"hepgen.{name}")
    raise AttributeError(f"module 'hepgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
