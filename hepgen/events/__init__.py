"""Events: columns of awkward records as a matrix and back, scalings, selections, reading and writing.

Names are loaded when first asked for.  Energies are in GeV and angles in radians once a schema has read a file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# `identity` is a function and a submodule of one name: loading it here binds the function for good, whoever imports the submodule later.
from hepgen.events.identity import entry_identity, identity, identity_columns

if TYPE_CHECKING:
    from hepgen.events.features import Extract as Extract
    from hepgen.events.features import Features as Features
    from hepgen.events.picks import Pick as Pick
    from hepgen.events.reading import chunks as chunks
    from hepgen.events.reading import open_info as open_info
    from hepgen.events.reading import read as read
    from hepgen.events.root_histograms import read_histograms as read_histograms
    from hepgen.events.root_histograms import write_histograms as write_histograms
    from hepgen.events.scaling_base import Scaling as Scaling
    from hepgen.events.scalings import Angle as Angle
    from hepgen.events.scalings import Chain as Chain
    from hepgen.events.scalings import Identity as Identity
    from hepgen.events.scalings import Log as Log
    from hepgen.events.scalings import LogitRange as LogitRange
    from hepgen.events.scalings import MaxAbs as MaxAbs
    from hepgen.events.scalings import Quantile as Quantile
    from hepgen.events.scalings import Scaler as Scaler
    from hepgen.events.scalings import Standard as Standard
    from hepgen.events.schemas import Schema as Schema
    from hepgen.events.schemas import detect as detect
    from hepgen.events.schemas import schema as schema
    from hepgen.events.selections import Cut as Cut
    from hepgen.events.selections import Selection as Selection
    from hepgen.events.streams import EventStream as EventStream
    from hepgen.events.writing import Writer as Writer
    from hepgen.events.writing import write as write

_LAZY = {
    "Angle": "scalings",
    "Chain": "scalings",
    "Cut": "selections",
    "EventStream": "streams",
    "Extract": "features",
    "Features": "features",
    "Identity": "scalings",
    "Log": "scalings",
    "LogitRange": "scalings",
    "MaxAbs": "scalings",
    "Pick": "picks",
    "Quantile": "scalings",
    "Scaler": "scalings",
    "Scaling": "scaling_base",
    "Schema": "schemas",
    "Selection": "selections",
    "Standard": "scalings",
    "Writer": "writing",
    "chunks": "reading",
    "detect": "schemas",
    "open_info": "reading",
    "read": "reading",
    "read_histograms": "root_histograms",
    "schema": "schemas",
    "write": "writing",
    "write_histograms": "root_histograms",
}

__all__ = [*_LAZY, "entry_identity", "identity", "identity_columns"]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(f"hepgen.events.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'hepgen.events' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
