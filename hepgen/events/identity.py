"""Who an event is, whatever file, chunk or order it comes in: the key of its random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hepgen.errors import InputError, UsageError

if TYPE_CHECKING:
    from hepgen.events.expressions import Path

KNOWN = (
    ("run", "luminosityBlock", "event"),
    ("runNumber", "eventNumber"),
    ("EventInfo.runNumber", "EventInfo.eventNumber"),
    ("EventInfoAuxDyn.runNumber", "EventInfoAuxDyn.eventNumber"),
    ("EventInfoAux.runNumber", "EventInfoAux.eventNumber"),
)
"""Columns that name an event, looked for in this order: NanoAOD, ATLAS flat ntuples, ATLAS derivations."""


def identity(events: Any, schema: Any = None) -> npt.NDArray[np.uint64] | None:
    """The columns that name an event, as numbers.

    Parameters
    ----------
    events : n events, as for `Features.to_matrix`
    schema : iterable of str, Schema or name of a schema, optional
        Columns to use; or a schema, whose ``identity_columns`` are used if it has any; by default those of `KNOWN` are looked for.

    Returns
    -------
    (n, k) uint64, or None when the events have no such columns
        Negative integers keep their bits.

    Raises
    ------
    InputError
        A column that was asked for by name is missing, or a column holds None or a number that is no integer.
    """
    from hepgen.events.expressions import EventSource
    from hepgen.events.features import event_layout

    layout = event_layout(events)
    source = EventSource(layout)
    names = _names(schema, source.holds)
    if names is None:
        return None
    paths = [_path(name) for name in names]
    return np.stack([_integers(layout, source.fields(path), source.elements(path), str(path)) for path in paths], axis=1)


def entry_identity(file: int, start: int, n: int) -> npt.NDArray[np.uint64]:
    """Who n events without numbers of their own are: the file they stand in, and their entry.

    Parameters
    ----------
    file : int
        128 bits, such as the UUID of a ROOT file; see `hepgen.events.open_info`.
    start : int
        Entry of the first event.

    Returns
    -------
    (n, 3) uint64
    """
    keys = np.empty((n, 3), dtype=np.uint64)
    keys[:, 0], keys[:, 1] = file >> 64, file & 0xFFFFFFFFFFFFFFFF
    keys[:, 2] = start + np.arange(n, dtype=np.uint64)
    return keys


def identity_columns(available: Iterable[str], schema: Any = None) -> tuple[str, ...]:
    """The names, out of those a file has, that `identity` needs; empty when it has no such columns.

    Parameters
    ----------
    available : iterable of str
        Flat (``run``) or dotted (``EventInfoAuxDyn.runNumber``) names.
    schema : as for `identity`

    Raises
    ------
    InputError
        A column that was asked for by name is missing, with the near names.
    """
    from hepgen.events.expressions import NameSource

    source = NameSource(available)
    names: list[str] = []
    for name in _names(schema, source.holds) or ():
        source.needed.clear()
        source.value(_path(name))
        names += source.needed
    return tuple(names)


def _path(name: str) -> Path:
    from hepgen.events.expressions import Path, parse

    path = parse(name)
    if not isinstance(path, Path):
        raise UsageError(f"'{name}' cannot name an event: give a column of integers")
    return path


def _names(schema: Any, holds: Callable[[str], bool]) -> tuple[str, ...] | None:
    """The columns asked for, or the first set of `KNOWN` that is there; None when there is none."""
    if isinstance(schema, str):
        from hepgen.events.schemas import schema as schema_named

        schema = schema_named(schema)
    asked = getattr(schema, "identity_columns", schema)
    if isinstance(asked, Iterable):
        return tuple(asked)
    return next((known for known in KNOWN if all(map(holds, known))), None)


def _integers(layout: Any, fields: tuple[str, ...], indices: Sequence[int | npt.NDArray[np.int64]], name: str) -> npt.NDArray[np.uint64]:
    from hepgen.events.layouts import descend, known, numbers

    layout = known(layout, fields)
    rows, positions, node = descend(layout, fields, indices)
    if len(rows) != layout.length:
        raise InputError(f"column '{name}' cannot name the events: {layout.length - len(rows)} of them have none")
    if node.is_unknown:
        return np.zeros(0, dtype=np.uint64)
    values = numbers(node, name)[positions]
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.rint(values)).all() and (np.abs(values) < 2.0**53).all()):
            raise InputError(f"column '{name}' cannot name the events: it holds numbers that are no integers")
        values = values.astype(np.int64)
    return np.asarray(values.astype(np.uint64))
