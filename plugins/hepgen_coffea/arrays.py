"""The declared columns of whatever coffea hands over: virtual, eager, typetracer, of length 0 or 1."""

from __future__ import annotations

from collections.abc import Iterable

import awkward as ak


def known_columns(events: ak.Array) -> list[str]:
    """Return the columns of events without reading one: "photon_pt" for a branch, "Photon.pt" for the field of a record."""
    names: list[str] = []
    for field in events.fields:
        inner = events[field].fields
        names.extend(f"{field}.{name}" for name in inner)
        if not inner:
            names.append(field)
    return names


def declared(events: ak.Array, columns: Iterable[str]) -> ak.Array:
    """Return events that hold `columns` alone, in memory.

    Parameters
    ----------
    events
        Events of coffea, (n,). Virtual columns are read now, and only those in `columns`. Of typetracers the columns are marked as
        touched, and the result has length 0.
    columns
        Names as `known_columns` gives them.

    Returns
    -------
    ak.Array
        Records in the order of `events`, with the record names, behaviours and attributes of the parts kept; (n,) or (0,).
    """
    wanted: dict[str, list[str]] = {}
    for column in columns:
        field, _, inner = column.partition(".")
        wanted.setdefault(field, []).extend([inner] if inner else [])
    parts = {}
    for field in (name for name in events.fields if name in wanted):
        part = events[field]
        inside = [name for name in part.fields if name in wanted[field]]
        parts[field] = _in_memory(part[inside] if inside else part)
    length = len(next(iter(parts.values()))) if parts else 0 if ak.backend(events) == "typetracer" else len(events)
    contents = [ak.to_layout(part) for part in parts.values()]
    return ak.Array(ak.contents.RecordArray(contents, list(parts), length=length), behavior=events.behavior)


def _in_memory(part: ak.Array) -> ak.Array:
    if ak.backend(part) == "typetracer":
        return ak.typetracer.length_zero_if_typetracer(ak.typetracer.touch_data(part))
    return ak.materialize(part)
