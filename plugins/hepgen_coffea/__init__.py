"""hepgen models in coffea: processors for any of its executors, and what is needed to write one's own."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {"TransformProcessor": "transform", "declared": "arrays", "known_columns": "arrays"}

__all__ = ["TransformProcessor", "declared", "known_columns"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hepgen_coffea' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"hepgen_coffea.{_LAZY[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "coffea":
            raise
        from hepgen.errors import MissingDependency

        raise MissingDependency("processors need coffea: pip install 'hepgen[coffea]'") from error
    return getattr(module, name)
