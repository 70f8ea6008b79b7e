"""Where a column lives inside an awkward layout: finding names, reading slots, writing slots.

A *slot* is the one number that a path such as ``photon[0].pt`` means in one event.  Reading walks the layout from events to numbers and
keeps the position of every slot; writing first makes sure that no two slots share memory (sliced arrays do) and then puts the new numbers
there.  Buffers that are not on the way to the column are neither read nor copied, so that virtual arrays stay virtual.

Typetracers, which have types and no data, are events of length 0 here: reading a slot marks its column as touched.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hepgen.errors import InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
FieldsAt = Callable[[tuple[str, ...]], Sequence[str] | None]


# --- names -----------------------------------------------------------------------------------------------------------------------


def record_of(layout: Any) -> Any:
    """The record, number or unknown layout under any lists, options and indices of `layout`."""
    while not (layout.is_record or layout.is_numpy or layout.is_unknown or layout.is_union):
        layout = layout.content
    return layout


def layout_fields(layout: Any) -> FieldsAt:
    """Field names under a prefix of a layout; None where nothing can be known (unknown type)."""

    def fields_at(prefix: tuple[str, ...]) -> Sequence[str] | None:
        node = record_of(layout)
        for name in prefix:
            if node.is_unknown:
                return None
            node = record_of(node.contents[node.fields.index(name)])
        if node.is_unknown:
            return None
        return list(node.fields) if node.is_record else []

    return fields_at


def named_fields(names: Iterable[str]) -> FieldsAt:
    """Field names under a prefix, from dotted names such as ``photon.pt``; None below a name with nothing listed under it."""
    tree: dict[tuple[str, ...], dict[str, None]] = {(): {}}
    for name in names:
        parts = tuple(name.split("."))
        for depth in range(len(parts)):
            tree.setdefault(parts[:depth], {})[parts[depth]] = None
    return lambda prefix: list(tree[prefix]) if prefix in tree else None


def resolve(wanted: tuple[str, ...], fields_at: FieldsAt) -> tuple[str, ...] | None:
    """The fields that `wanted` means: itself, another case, or the underscore (flat) or record form of it; None if absent."""
    found = _match(wanted, fields_at)
    if found is not None and fields_at(found[:-1]) is not None:
        return found
    return _match_joined("_".join(wanted), (), fields_at) or found


def _same(available: Sequence[str], name: str) -> str | None:
    if name in available:
        return name
    return next((field for field in available if field.lower() == name.lower()), None)


def _match(wanted: tuple[str, ...], fields_at: FieldsAt) -> tuple[str, ...] | None:
    prefix: tuple[str, ...] = ()
    for depth, name in enumerate(wanted):
        available = fields_at(prefix)
        if available is None:
            return prefix + wanted[depth:]
        found = _same(available, name)
        if found is None:
            return None
        prefix = (*prefix, found)
    return prefix


def _match_joined(joined: str, prefix: tuple[str, ...], fields_at: FieldsAt) -> tuple[str, ...] | None:
    available = fields_at(prefix) or []
    flat = {field.replace(".", "_"): field for field in available}
    found = _same(list(flat), joined)
    if found is not None:
        return (*prefix, flat[found])
    for field in available:
        if joined.lower().startswith(field.lower() + "_"):
            deeper = _match_joined(joined[len(field) + 1 :], (*prefix, field), fields_at)
            if deeper is not None:
                return deeper
    return None


def missing(text: str, wanted: tuple[str, ...], fields_at: FieldsAt) -> InputError:
    """The error for a column that is not there, with the names that come near."""
    top = list(fields_at(()) or [])
    known = top + [f"{field}.{inner}" for field in top for inner in (fields_at((field,)) or [])]
    name = ".".join(wanted)
    by_lower = {other.lower(): other for other in known}
    near = [by_lower[other] for other in difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(top[:8])}{', ...' if len(top) > 8 else ''}."
    if not top:
        hint = "the events have no named fields."
    return InputError(f"column '{text}' is not in the events ('{name}'): {hint}")


# --- typetracers -----------------------------------------------------------------------------------------------------------------


def has_data(layout: Any) -> bool:
    """Whether there are numbers behind a layout, and not only types."""
    return bool(layout.backend.nplike.known_data)


def length_of(layout: Any) -> int:
    """Number of events; 0 of a typetracer."""
    return int(layout.length) if has_data(layout) else 0


def known(layout: Any, fields: Sequence[str], *, whole: bool = True) -> Any:
    """The layout itself; of a typetracer one of length 0 that has only the way to `fields`, after marking that as touched.

    Without `whole`, of records at the end of the way only the lists around them are marked.
    """
    if has_data(layout):
        return layout
    import awkward as ak

    path = _only(layout, list(fields), whole)
    ak.typetracer.touch_data(ak.Array(path))
    return path.form.length_zero_array(highlevel=False)


def _only(node: Any, fields: list[str], whole: bool) -> Any:
    import awkward as ak

    if node.is_record:
        if not fields and whole:
            return node
        names = fields[:1]
        contents = [_only(node.content(names[0]), fields[1:], whole)] if names else []
        return ak.contents.RecordArray(contents, names, length=node.length, parameters=node.parameters, backend=node.backend)
    return node.copy(content=_only(node.content, fields, whole)) if hasattr(node, "content") else node


# --- slots -----------------------------------------------------------------------------------------------------------------------


def _data(buffer: Any) -> Any:
    """The numpy array behind an index or a number buffer, read now if it is virtual."""
    data = getattr(buffer, "data", buffer) if not isinstance(buffer, np.ndarray) else buffer
    return data.materialize() if hasattr(data, "materialize") else np.asarray(data)


def is_list(node: Any) -> bool:
    """Whether a layout holds lists, a string being none."""
    return bool(node.is_list) and node.parameter("__array__") not in {"string", "bytestring"}


def descend(layout: Any, fields: Sequence[str], indices: Sequence[int | Ints]) -> tuple[Ints, Ints, Any]:
    """Walk from events along `fields`, taking element `indices[k]` of the k-th list on the way.

    An index is a number, or one for each event (n,), negative where there is none.

    Returns
    -------
    rows : (m,) int64, the events that hold the slot, ascending.
    positions : (m,) int64, the place of each slot in `node`.
    node : the layout reached: numbers, a record, or the first list for which no index is left.
    """
    node, names, elements = layout, list(fields), list(indices)
    rows = positions = np.arange(layout.length, dtype=np.int64)
    while True:
        if node.is_option:
            node, rows, positions = _through_option(node, rows, positions)
        elif node.is_indexed:
            positions, node = _data(node.index)[positions].astype(np.int64, copy=False), node.content
        elif node.is_record and names:
            node = node.contents[node.fields.index(names.pop(0))]
        elif node.is_numpy and node.purelist_depth > 1:
            node = node.to_RegularArray()
        elif is_list(node) and elements:
            node, rows, positions = _through_list(node, elements.pop(0), rows, positions)
        elif is_list(node) and names:
            raise InputError(f"'{'.'.join(fields)}' lies inside a list per event: say which element, as in name[0]")
        else:
            break
    if node.is_unknown:
        return rows[:0], positions[:0], node
    if elements and not node.is_unknown:
        raise InputError(f"'{'.'.join(fields)}' has no list to take element [{elements[0]}] of")
    return rows, positions, node


def _through_option(node: Any, rows: Ints, positions: Ints) -> tuple[Any, Ints, Ints]:
    if node.is_indexed:
        inner = _data(node.index)[positions].astype(np.int64, copy=False)
        kept = inner >= 0
    elif hasattr(node, "mask"):
        inner, kept = positions, np.asarray(node.mask_as_bool(valid_when=True))[positions]
    else:
        return node.content, rows, positions
    if kept.all():
        return node.content, rows, inner
    return node.content, rows[kept], inner[kept]


def _through_list(node: Any, element: int | Ints, rows: Ints, positions: Ints) -> tuple[Any, Ints, Ints]:
    own = np.broadcast_to(element, len(rows)) if isinstance(element, int) else element[rows]
    if node.is_regular:
        inner, stops = positions * int(node.size) + own, (positions + 1) * int(node.size)
    else:
        inner, stops = _data(node.starts)[positions].astype(np.int64, copy=False) + own, _data(node.stops)[positions]
    kept = (inner < stops) & (own >= 0)
    return (node.content, rows, inner) if kept.all() else (node.content, rows[kept], inner[kept])


def numbers(node: Any, text: str) -> Any:
    """The numpy buffer of a leaf; InputError when the column does not hold plain numbers."""
    if node.is_numpy and node.purelist_depth == 1:
        data = _data(node)
        if data.dtype.kind in "fiub":
            return data
        kind = str(data.dtype)
    elif is_list(node):
        raise InputError(f"column '{text}' is a list in every event: say which element, as in '{text}[0]'")
    else:
        kind = "records" if node.is_record else "a union" if node.is_union else "text"
    raise InputError(f"column '{text}' holds {kind}, not numbers")


def read_slots(layout: Any, fields: Sequence[str], indices: Sequence[int | Ints], text: str) -> tuple[Floats, Bools]:
    """Values (n,) float64, NaN where absent, and which events hold the slot (n,) bool."""
    layout = known(layout, fields)
    rows, positions, node = descend(layout, fields, indices)
    n = layout.length
    if node.is_unknown:
        return np.full(n, np.nan), np.zeros(n, dtype=bool)
    values = numbers(node, text)[positions].astype(np.float64)
    if len(rows) == n:
        return values, np.ones(n, dtype=bool)
    full, present = np.full(n, np.nan), np.zeros(n, dtype=bool)
    full[rows], present[rows] = values, True
    return full, present


def list_counts(layout: Any, fields: Sequence[str], text: str) -> tuple[Floats, Bools]:
    """Number of elements (n,) of a list in every event, None elements counted, and which events have the list."""
    layout = known(layout, fields, whole=False)
    rows, positions, node = descend(layout, fields, ())
    n = layout.length
    if not (is_list(node) or node.is_unknown):
        raise InputError(f"'{text}' cannot be counted: it is not a list in every event")
    full, present = np.full(n, np.nan), np.zeros(n, dtype=bool)
    present[rows] = True
    if node.is_unknown:
        return full, present
    full[rows] = float(node.size) if node.is_regular else (_data(node.stops)[positions] - _data(node.starts)[positions])
    return full, present


# --- writing ---------------------------------------------------------------------------------------------------------------------


def write_slots(
    layout: Any, fields: Sequence[str], indices: Sequence[int | Ints], *, rows: Ints, values: Floats, text: str, angle: bool = False
) -> Any:
    """A layout of the same type in which the slots of the events `rows` (m,) hold `values` (m,); the given layout is not changed.

    With `angle` the values stay in [-pi, pi) also after rounding to the dtype of the column.
    """
    if layout.is_unknown or not len(rows):
        return layout
    fresh = _rebuild(layout, list(fields), lambda leaf: leaf)
    held, places, node = descend(fresh, fields, indices)
    where = np.full(layout.length, -1, dtype=np.int64)
    where[held] = places
    where = where[rows]
    if (where < 0).any():
        raise InputError(f"the mask selects event {rows[where < 0][0]}, which has no '{text}': use the mask that to_matrix gave")
    data = numbers(node, text).copy()
    data[where] = cast_numbers(values, data.dtype, text, angle)
    return _rebuild(fresh, list(fields), lambda leaf: leaf.copy(data=data))


def duplicate(node: Any, fields: Sequence[str], name: str) -> Any:
    """The layout with one more field, `name`, beside the last of `fields` in its record, and of its content."""
    node = unshared(node) if has_data(node) else node
    if not node.is_record:
        return node.copy(content=duplicate(node.content, fields, name))
    if len(fields) > 1:
        contents = [duplicate(c, fields[1:], name) if f == fields[0] else c for f, c in zip(node.fields, node.contents, strict=True)]
        return node.copy(contents=contents)
    if name in node.fields:
        raise InputError(f"the events have a field '{name}' already: the original of '{fields[0]}' cannot be kept beside it")
    return node.copy(contents=[*node.contents, node.content(fields[0])], fields=[*node.fields, name])


def cast_numbers(values: Floats, dtype: np.dtype[Any], text: str, angle: bool) -> npt.NDArray[Any]:
    """Numbers (n,) for the column `text` in its dtype: angles within [-pi, pi], integers rounded; InputError where one does not fit."""
    if dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore"):
            cast = values.astype(dtype)
        # the float32 next to pi lies above pi
        beyond = np.abs(cast) > np.float64(np.pi) if angle and dtype.itemsize < 8 else None
        if beyond is not None and beyond.any():
            cast[beyond] = np.nextafter(cast[beyond], dtype.type(0))
        return cast
    if not np.isfinite(values).all():
        raise InputError(f"column '{text}' holds {dtype} and cannot take NaN or inf")
    if dtype.kind == "b":
        return values > 0.5
    rounded, limits = np.rint(values), np.iinfo(dtype)
    # float64(limits.max) of a 64-bit type is one above the limit, so the top bound is exclusive
    if (rounded < float(limits.min)).any() or (rounded >= float(limits.max) + 1.0).any():
        raise InputError(f"column '{text}' holds {dtype}, and some of the new values do not fit in it")
    return rounded.astype(dtype)


def _rebuild(node: Any, fields: list[str], leaf: Callable[[Any], Any]) -> Any:
    """Copy the nodes on the way to a column, without sharing between events, and replace the numbers by ``leaf(numbers)``."""
    node = unshared(node)
    if node.is_record and fields:
        which = node.fields.index(fields[0])
        contents = list(node.contents)
        contents[which] = _rebuild(contents[which], fields[1:], leaf)
        return node.copy(contents=contents)
    if node.is_option or is_list(node):
        return node.copy(content=_rebuild(node.content, fields, leaf))
    return leaf(node)


def unshared(node: Any) -> Any:
    """The same node with no index that could give one element to two events (an option keeps an index of its own)."""
    import awkward as ak

    while node.is_indexed and not node.is_option:
        node = _carry(node.content, _data(node.index), node.parameters)
    if node.is_option and node.is_indexed:
        index = _data(node.index)
        kept = index >= 0
        fresh = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int64)
        return ak.contents.IndexedOptionArray(ak.index.Index64(fresh), _carry(node.content, index[kept]), parameters=node.parameters)
    if node.is_numpy and node.purelist_depth > 1:
        return node.to_RegularArray()
    if is_list(node) and not (node.is_regular or hasattr(node, "offsets")):
        return _packed_list(node)
    return node


def _packed_list(node: Any) -> Any:
    """A ListArray, whose lists may overlap or be out of order, as a ListOffsetArray."""
    import awkward as ak

    starts = _data(node.starts).astype(np.int64, copy=False)
    counts = _data(node.stops)[: len(starts)].astype(np.int64, copy=False) - starts
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    carry = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1], dtype=np.int64)
    return ak.contents.ListOffsetArray(ak.index.Index64(offsets), _carry(node.content, carry), parameters=node.parameters)


def _carry(content: Any, index: npt.NDArray[Any], parameters: dict[str, Any] | None = None) -> Any:
    """``content[index]``; the index is pushed down to the fields of a record unread, so that the other fields stay as lazy as they were."""
    import awkward as ak

    if content.is_indexed and not content.is_option:
        return _carry(content.content, _data(content.index)[index], {**content.parameters, **(parameters or {})})
    carry = ak.index.Index64(index.astype(np.int64, copy=False))
    if content.is_record:
        contents = [ak.contents.IndexedArray.simplified(carry, inner) for inner in content.contents]
        fields = None if content.is_tuple else content.fields
        merged = {**content.parameters, **(parameters or {})}
        return ak.contents.RecordArray(contents, fields, length=len(index), parameters=merged, backend=content.backend)
    if content.is_option:
        option = content.to_IndexedOptionArray64()
        return ak.contents.IndexedOptionArray(ak.index.Index64(_data(option.index)[index]), option.content, parameters=option.parameters)
    return ak.contents.IndexedArray(carry, content).project()
