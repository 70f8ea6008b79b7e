"""What schemas do with the layout of one branch: its lists, its numbers, its units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError


def record_layout(array: ak.Array) -> Any:
    """The layout of events as a plain record, sliced arrays carried out.

    Raises
    ------
    InputError
        Where the array is no array of records.
    """
    layout = ak.to_layout(array)
    while layout.is_indexed and not layout.is_option:
        layout = layout.project()
    if not layout.is_record:
        raise InputError("events must be an awkward array of records, one field per branch")
    return layout


def as_lists(layout: Any) -> Any:
    """The layout as lists with offsets from zero, or None where it holds no plain lists (flat, a list missing, fixed size, string)."""
    layout = _without_option(layout)
    if not layout.is_list or layout.is_regular or layout.parameter("__array__") in ("string", "bytestring"):
        return None
    layout = layout.to_ListOffsetArray64(True)
    content = layout.content
    while content.is_indexed and not content.is_option:
        content = content.project()
    if layout.backend.nplike.known_data:
        content = content[: int(layout.offsets[-1])]
    return ak.contents.ListOffsetArray(layout.offsets, content, parameters=layout.parameters)


def _without_option(layout: Any) -> Any:
    """Indices carried out, and an option taken off that is None nowhere (Parquet files of other programs allow None everywhere)."""
    while layout.is_indexed or layout.is_option:
        if layout.is_option and (not layout.backend.nplike.known_data or np.any(layout.mask_as_bool(valid_when=False))):
            return layout
        layout = layout.project()
    return layout


def same_lengths(one: Any, other: Any) -> bool:
    """Whether two layouts from `as_lists` have lists of the same lengths (taken to be so where there are no data, only types)."""
    if not one.backend.nplike.known_data:
        return True
    return one.offsets is other.offsets or np.array_equal(np.asarray(one.offsets), np.asarray(other.offsets))


def map_floats(layout: Any, function: Callable[[Any], Any]) -> Any:
    """Apply to every floating-point leaf, keeping the structure around it."""

    def action(layout: Any, **_: Any) -> Any:
        if layout.is_numpy and layout.dtype.kind == "f":
            return ak.contents.NumpyArray(function(layout.data), parameters=layout.parameters)
        return layout if layout.is_numpy else None

    return ak.transform(action, layout, highlevel=False)


def flat_values(layout: Any, name: str) -> NDArray[Any]:
    """One number per event or object.

    Raises
    ------
    InputError
        Where the column is nested deeper, holds no numbers, or some are missing.
    """
    if layout.is_unknown:
        return np.zeros(0)
    plain = _without_option(layout)
    if plain.is_option:
        raise InputError(f"the column '{name}' cannot be used as numbers: some are missing")
    if not plain.is_numpy or plain.purelist_depth != 1:
        raise InputError(f"the column '{name}' cannot be used as numbers: it is {layout.form.type}, not one number per event or object")
    return np.asarray(plain.data)


def split_option(layout: Any) -> tuple[NDArray[np.bool_] | None, Any]:
    """Where a layout of one value per event or object is None (None itself where its type does not allow that), and the other values."""
    if layout.is_indexed and not layout.is_option:
        layout = layout.project()
    if not layout.is_option:
        return None, layout
    return np.asarray(layout.mask_as_bool(valid_when=False)), layout.project()


def join_option(missing: NDArray[np.bool_] | None, values: Any) -> Any:
    """What `split_option` took apart."""
    if missing is None:
        return values
    index = np.where(missing, -1, np.cumsum(~missing) - 1)
    return ak.contents.IndexedOptionArray(ak.index.Index64(index), values)


def numbers(raw: ak.Array, name: str) -> NDArray[np.float64]:
    """One float64 per event from a field of `raw`."""
    return flat_values(raw[name].layout, name).astype(np.float64)


def finite(weights: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64]:
    """The weights, none of which may be NaN or infinite.

    Raises
    ------
    InputError
        Naming how many are not, and the first entries.
    """
    bad = np.flatnonzero(~np.isfinite(weights))
    if bad.size:
        first = ", ".join(str(entry) for entry in bad[:3])
        raise InputError(f"{bad.size} event weights from {', '.join(names)} are NaN or infinite (entries {first}...): remove these events")
    return weights
