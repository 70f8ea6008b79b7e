"""Models that leave hepgen: ONNX graphs and correctionlib corrections, each run and compared with the model before it is written.

Names are loaded when first asked for; onnx, onnxruntime and correctionlib only when something is exported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepgen.exporting.kinds import export as export
    from hepgen.exporting.to_correctionlib import correction_set as correction_set
    from hepgen.exporting.to_correctionlib import export_correctionlib as export_correctionlib
    from hepgen.exporting.to_correctionlib import export_maps as export_maps
    from hepgen.exporting.to_correctionlib import map_set as map_set
    from hepgen.exporting.to_onnx import export_onnx as export_onnx
    from hepgen.exporting.to_onnx import onnx_model as onnx_model

_LAZY = {
    "correction_set": "to_correctionlib",
    "export": "kinds",
    "export_correctionlib": "to_correctionlib",
    "export_maps": "to_correctionlib",
    "export_onnx": "to_onnx",
    "map_set": "to_correctionlib",
    "onnx_model": "to_onnx",
}

__all__ = ["correction_set", "export", "export_correctionlib", "export_maps", "export_onnx", "map_set", "onnx_model"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"hepgen.exporting.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'hepgen.exporting' has no attribute {name!r}")
