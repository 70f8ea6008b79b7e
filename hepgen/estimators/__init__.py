"""What a physicist holds: fit, transform, save, load."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepgen.estimators.cache import cached as cached
    from hepgen.estimators.event_generator import EventGenerator as EventGenerator
    from hepgen.estimators.model_file import load as load
    from hepgen.estimators.object_replacer import ObjectReplacer as ObjectReplacer
    from hepgen.estimators.reweighter import Reweighter as Reweighter
    from hepgen.estimators.sim_to_data import SimToData as SimToData

_LAZY = {
    "EventGenerator": "event_generator",
    "ObjectReplacer": "object_replacer",
    "Reweighter": "reweighter",
    "SimToData": "sim_to_data",
    "cached": "cache",
    "load": "model_file",
}

__all__ = ["EventGenerator", "ObjectReplacer", "Reweighter", "SimToData", "cached", "load"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"hepgen.estimators.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'hepgen.estimators' has no attribute {name!r}")
