"""pyhf workspaces from `hist` histograms with variations, and the fits that pyhf makes of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepgen_pyhf.building import Channel as Channel
    from hepgen_pyhf.building import build as build
    from hepgen_pyhf.inference import CLs as CLs
    from hepgen_pyhf.inference import Fit as Fit
    from hepgen_pyhf.inference import UpperLimit as UpperLimit
    from hepgen_pyhf.inference import cls as cls
    from hepgen_pyhf.inference import fit as fit
    from hepgen_pyhf.inference import upper_limit as upper_limit
    from hepgen_pyhf.report import Change as Change
    from hepgen_pyhf.report import Outside as Outside
    from hepgen_pyhf.report import Report as Report
    from hepgen_pyhf.report import Yield as Yield
    from hepgen_pyhf.workspace import Workspace as Workspace
    from hepgen_pyhf.workspace import read as read

_LAZY = {
    "Change": "report",
    "Channel": "building",
    "CLs": "inference",
    "Fit": "inference",
    "Outside": "report",
    "Report": "report",
    "UpperLimit": "inference",
    "Workspace": "workspace",
    "Yield": "report",
    "build": "building",
    "cls": "inference",
    "fit": "inference",
    "read": "workspace",
    "upper_limit": "inference",
}

__all__ = [
    "CLs",
    "Change",
    "Channel",
    "Fit",
    "Outside",
    "Report",
    "UpperLimit",
    "Workspace",
    "Yield",
    "build",
    "cls",
    "fit",
    "read",
    "upper_limit",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hepgen_pyhf' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"hepgen_pyhf.{_LAZY[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyhf":
            raise
        from hepgen.errors import MissingDependency

        raise MissingDependency("workspaces need pyhf: pip install 'hepgen[pyhf]'") from error
    return getattr(module, name)
