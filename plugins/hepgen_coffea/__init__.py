"""hepgen models in coffea: processors for any of its executors, and what is needed to write one's own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepgen_coffea.arrays import declared as declared
    from hepgen_coffea.arrays import known_columns as known_columns
    from hepgen_coffea.processor import ModelProcessor as ModelProcessor
    from hepgen_coffea.reweight import ReweightProcessor as ReweightProcessor
    from hepgen_coffea.transform import ReplaceProcessor as ReplaceProcessor
    from hepgen_coffea.transform import TransformProcessor as TransformProcessor

_LAZY = {
    "ModelProcessor": "processor",
    "ReplaceProcessor": "transform",
    "ReweightProcessor": "reweight",
    "TransformProcessor": "transform",
    "declared": "arrays",
    "known_columns": "arrays",
}

__all__ = ["ModelProcessor", "ReplaceProcessor", "ReweightProcessor", "TransformProcessor", "declared", "known_columns"]


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
