"""How a model meets whatever arrays it is given: dask collections go partition by partition, objects become a flat table and go back.

Typetracers, virtual arrays and arrays of length 0 or 1 need nothing here: `hepgen.events.layouts` reads of them what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hepgen.errors import InputError, UsageError
from hepgen.events.features import event_layout
from hepgen.events.layouts import Ints, has_data, is_list, unshared

# --- dask-awkward ----------------------------------------------------------------------------------------------------------------


def is_dask(array: Any) -> bool:
    """Whether this is a collection of dask-awkward, which is told by its module, so that dask is not imported to find out."""
    return type(array).__module__.partition(".")[0] == "dask_awkward"


def mapped(function: Callable[..., Any], *arrays: Any) -> Any:
    """``function(*arrays)``; with dask-awkward collections among the arrays, lazily for each partition of them.

    Parameters
    ----------
    function
        Picklable; takes arrays and returns one array of as many events. It is called with typetracers to learn the type of the result.
    arrays
        Arrays of events. Beside a collection the others must be collections of the same partitions, or single numbers.

    Raises
    ------
    InputError
        An array in memory stands beside a collection.
    """
    lazy = [array for array in arrays if is_dask(array)]
    if not lazy:
        return function(*arrays)
    for array in arrays:
        if not is_dask(array) and array is not None and not np.isscalar(array):
            raise InputError("an array in memory cannot go with a dask-awkward collection: take both from the collection")
    import dask_awkward

    metas = [array._meta if is_dask(array) else array for array in arrays]
    name = getattr(getattr(function, "func", function), "__name__", "hepgen").strip("_")
    return dask_awkward.map_partitions(  # type: ignore[attr-defined]
        function, *arrays, meta=function(*metas), label=f"hepgen-{name}"
    )


# --- objects ---------------------------------------------------------------------------------------------------------------------


class Objects:
    """The objects of events as one flat table, and back into the lists they came from.

    Parameters
    ----------
    array : ak.Array
        Records: one an event, or in lists of any depth, with None at any depth; regular, indexed, sliced and virtual layouts and
        typetracers.

    Attributes
    ----------
    table : awkward layout of m records
        Objects in order, without those that are None. Their columns are as lazy as they were.
    rows : (m, 1 + depth) int64
        Event and place in the list (one number for each depth) of every object.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        layout = event_layout(array)
        self.length = int(layout.length) if has_data(layout) else 0
        self.table, self.rows, self._rebuild, self._counts = _unfold(layout)
        if not self.table.is_record:
            raise InputError("objects are an awkward array of records, such as events.Photon, not of numbers")

    def with_columns(self, columns: Mapping[str, Any]) -> Any:
        """The table (ak.Array) with more columns: one value an event, one an object, or one for all.

        Raises
        ------
        UsageError
            The objects have a field of that name already.
        InputError
            A column has another number of events, or lists of other lengths, than the objects.
        """
        import awkward as ak

        contents, fields = list(self.table.contents), list(self.table.fields)
        for name, column in columns.items():
            if name in fields:
                raise UsageError(f"the objects have a field '{name}' already: give the column another name, or leave it out")
            contents.append(self._column(name, column))
            fields.append(name)
        # no record name: a column may have one that vector keeps for a coordinate, as rho is
        return ak.Array(ak.contents.RecordArray(contents, fields, length=self.table.length, backend=self.table.backend))

    def fold(self, table: Any, columns: Mapping[str, Any] | None = None) -> Any:
        """The objects (ak.Array) again, in their place the records of a table (m,), less the columns that were added, or numbers (m,)."""
        import awkward as ak

        layout = ak.to_layout(table)
        if layout.is_record:
            kept = [name for name in layout.fields if name not in (columns or ())]
            layout = layout.copy(contents=[layout.content(name) for name in kept], fields=kept, parameters=self.table.parameters)
        if not isinstance(self._array, ak.Array):
            return ak.Array(self._rebuild(layout))
        return ak.Array(self._rebuild(layout), behavior=self._array.behavior, attrs=self._array.attrs)

    def _column(self, name: str, column: Any) -> Any:
        import awkward as ak

        if np.isscalar(column):
            return ak.contents.NumpyArray(np.full(len(self.rows), column))
        layout = ak.to_layout(column)
        if not has_data(self.table) or not has_data(layout):
            return _typed(layout, self.table)
        if layout.length != self.length:
            raise InputError(f"the column '{name}' has {layout.length} events, and the objects have {self.length}")
        values, rows, _, counts = _unfold(layout)
        depth = rows.shape[1]
        if depth > self.rows.shape[1] or any(
            not np.array_equal(one, other) for one, other in zip(counts, self._counts[: depth - 1], strict=True)
        ):
            raise InputError(f"the column '{name}' has other lists than the objects: give one value an event, or one an object")
        places = _places(self.rows[:, :depth], rows)
        if places is None:
            return values
        index = ak.index.Index64(places)
        return (ak.contents.IndexedOptionArray if (places < 0).any() else ak.contents.IndexedArray).simplified(index, values)


def _places(wanted: Ints, rows: Ints) -> Ints | None:
    """Where each of `wanted` (m, k) stands in `rows` (r, k), both in order; -1 where it does not, None where they are the same."""
    if wanted.shape == rows.shape and np.array_equal(wanted, rows):
        return None
    sizes = np.maximum(wanted.max(0, initial=0), rows.max(0, initial=0)) + 1
    ids, among = (np.ravel_multi_index(tuple(part.T), tuple(sizes)) for part in (wanted, rows))
    found = np.searchsorted(among, ids)
    there = found < len(among)
    there[there] = among[found[there]] == ids[there]
    return np.where(there, found, -1).astype(np.int64)


Unfolded = tuple[Any, Ints, Callable[[Any], Any], list[Ints]]


def _unfold(node: Any, rows: Ints | None = None) -> Unfolded:
    """What is inside all lists and options of a layout, where it stands, what puts other contents there, and the lengths of the lists."""
    if not has_data(node):
        return _unfold_types(node, 1)
    if rows is None:
        rows = np.arange(node.length, dtype=np.int64)[:, None]
    node = unshared(node.to_IndexedOptionArray64() if node.is_option and not node.is_indexed else node)
    if node.is_option:
        held = np.asarray(node.index.data) >= 0
        table, inner, rebuild, counts = _unfold(node.content, rows[held])
        return table, inner, lambda new: node.copy(content=rebuild(new)), counts
    if not is_list(node):
        return node, rows, lambda new: new, []
    if node.is_regular:
        lengths = np.full(node.length, node.size, dtype=np.int64)
        packed = node.copy(content=node.content[: node.length * node.size])
    else:
        packed = node.to_ListOffsetArray64(True)
        offsets = np.asarray(packed.offsets.data)
        lengths = np.diff(offsets)
        packed = packed.copy(content=packed.content[: int(offsets[-1])])
    starts = np.cumsum(lengths) - lengths
    element = np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths)
    inside = np.concatenate([np.repeat(rows, lengths, axis=0), element[:, None]], axis=1)
    table, inner, rebuild, counts = _unfold(packed.content, inside)
    return table, inner, lambda new: packed.copy(content=rebuild(new)), [lengths, *counts]


def _unfold_types(node: Any, depth: int) -> Unfolded:
    """`_unfold` of a typetracer: the lists are touched, and there is no object."""
    if not (node.is_option or node.is_indexed or is_list(node)):
        return node, np.zeros((0, depth), dtype=np.int64), lambda new: new, []
    import awkward as ak

    for name in ("offsets", "starts", "stops", "index", "mask"):
        buffer = getattr(node, name, None)
        if isinstance(buffer, ak.index.Index):
            buffer.data.touch_data()
    table, rows, rebuild, counts = _unfold_types(node.content, depth + bool(is_list(node)))
    return table, rows, lambda new: node.copy(content=rebuild(new)), counts


def _typed(layout: Any, table: Any) -> Any:
    """A column for a typetracer table, of the type of a layout, which is touched."""
    import awkward as ak

    if not has_data(layout):
        ak.typetracer.touch_data(ak.Array(layout))
    leaf = layout
    while leaf.is_option or leaf.is_indexed or is_list(leaf):
        leaf = leaf.content
    values = leaf.form.length_zero_array(highlevel=False)
    return values.to_typetracer(forget_length=True) if not has_data(table) else values
