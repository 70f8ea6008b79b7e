"""The order of the objects in a collection of which one was replaced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.events import Features
from hepgen.events.expressions import EventSource, NameSource, Path, parse
from hepgen.events.features import event_layout
from hepgen.events.layouts import has_data


def sort_by_pt(features: Features, events: Any, mask: NDArray[np.bool_]) -> Any:
    """Events (n,) in which the collections that `features` write are sorted by falling pt, stably, in the events with `mask`.

    Records are moved as a whole. Of flat branches all of one collection move (``photon_pt``, ``photon_eta``, ...); branches that hold
    places in the collection are not renumbered.
    """
    import awkward as ak

    if not isinstance(events, ak.Array):
        raise UsageError("order='pt' needs events as an awkward array")
    source = EventSource(event_layout(events))
    for path in _momenta(features):
        if not source.has(path):
            raise UsageError(f"order='pt' needs the column '{path}', which the events do not have")
        *record, last = source.fields(path)
        pt = events
        for field in (*record, last):
            pt = pt[field]
        if not has_data(events.layout):
            ak.typetracer.touch_data(events[record[0]] if record else pt)
            continue
        order = ak.where(mask, ak.argsort(pt, axis=1, ascending=False, stable=True), ak.local_index(pt, axis=1))
        if record:
            events = ak.with_field(events, events[tuple(record)][order], record)
            continue
        for branch in _branches(last, events.fields):
            values = events[branch]
            if values.ndim > 1 and ak.all(ak.num(values, axis=1) == ak.num(pt, axis=1)):
                events = ak.with_field(events, values[order], branch)
    return events


def collection_columns(features: Features, available: Iterable[str]) -> set[str]:
    """Names of the columns that `sort_by_pt` moves, of those available."""
    names = list(available)
    needed: set[str] = set()
    for path in _momenta(features):
        source = NameSource(names)
        source.value(path)
        (found,) = source.needed
        prefix = found.removesuffix("pt")
        needed |= {name for name in names if name.startswith(prefix)} if found.endswith("pt") else {found}
    return needed


def _momenta(features: Features) -> list[Path]:
    """The pt of every collection that is written, without its element."""
    found: dict[str, Path] = {}
    for output in features.outputs:
        path = parse(output)
        if isinstance(path, Path) and path.indices:
            *steps, last = path.fields
            collection = steps or [last.rsplit("_", 1)[0]]
            found.setdefault(".".join(collection), Path((*collection, "pt")))
    return list(found.values())


def _branches(pt: str, fields: Iterable[str]) -> list[str]:
    return [field for field in fields if field.startswith(pt.removesuffix("pt"))]
