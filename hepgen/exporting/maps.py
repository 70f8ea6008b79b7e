"""Binned maps: histograms as nodes of correctionlib, with what happens outside the bins declared."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError, UsageError
from hepgen.histograms import unit
from hepgen.variations import NOMINAL, VARIATION_AXIS, paired

if TYPE_CHECKING:
    import hist

Flow = str | float


def map_correction(name: str, histogram: hist.Hist[Any], *, flow: Flow, errors: bool, version: int) -> dict[str, Any]:
    """The correction of one histogram; parameters and errors as in `hepgen.exporting.map_set`."""
    from correctionlib import convert

    axes = [axis for axis in histogram.axes if axis.name != VARIATION_AXIS]
    if not 1 <= len(axes) <= 3:
        raise UsageError(f"the map '{name}' has {len(axes)} axes: a map has one, two or three, and perhaps a variation axis")
    for axis in axes:
        _check_axis(name, axis)
    plain = _plain(name, histogram, axes, errors)
    declared: Any = checked_flow(axes, flow)
    correction = convert.from_histogram(plain, flow=declared).model_dump(exclude_unset=True)
    inputs = [{**given, "description": _describe(axis)} for given, axis in zip(correction["inputs"], plain.axes, strict=True)]
    output = {"name": "value", "type": "real", "description": _text(histogram.label) or f"content of the bin of {name}"}
    return {**correction, "name": name, "version": version, "inputs": inputs, "output": output}


def checked_flow(axes: list[Any], flow: Flow) -> Flow:
    """What happens outside the bins; one circular axis alone goes round."""
    if isinstance(flow, bool) or (isinstance(flow, str) and flow not in {"clamp", "error"}) or not isinstance(flow, str | int | float):
        raise UsageError(f"flow={flow!r} is not known: choose 'clamp', 'error', or the number that a value outside the bins gets")
    if not isinstance(flow, str) and not math.isfinite(flow):
        raise UsageError(f"flow={flow!r} is no finite number")
    if len(axes) == 1 and axes[0].traits.circular:
        return "wrap"
    return flow if isinstance(flow, str) else float(flow)


def _check_axis(name: str, axis: Any) -> None:
    if not axis.name:
        raise UsageError(f"an axis of the map '{name}' has no name: name it as the input that it is")
    if not axis.traits.continuous:
        kind = type(axis).__name__
        raise UsageError(
            f"the axis '{axis.name}' of the map '{name}' is an {kind}: use a Regular or Variable one, of half-integers perhaps"
        )
    if not np.isfinite(axis.edges).all():
        raise UsageError(f"the axis '{axis.name}' of the map '{name}' has an infinite edge: let flow say what happens there")


def _plain(name: str, histogram: hist.Hist[Any], axes: list[Any], errors: bool) -> hist.Hist[Any]:
    """Values alone, with the variations on the first axis."""
    import hist

    names = [axis.name for axis in histogram.axes]
    values = np.asarray(histogram.values(), dtype=np.float64)
    categories: list[str] = []
    if VARIATION_AXIS in names:
        if errors:
            raise UsageError(f"the map '{name}' has a variation axis already: ask for no errors=True")
        categories = list(histogram.axes[VARIATION_AXIS])
        paired(categories)
        values = np.moveaxis(values, names.index(VARIATION_AXIS), 0)
    elif errors:
        spread = np.sqrt(_variances(name, histogram))
        categories, values = [NOMINAL, "up", "down"], np.stack([values, values + spread, values - spread])
    if not np.isfinite(values).all():
        raise InputError(f"the map '{name}' has {int((~np.isfinite(values)).sum())} bins that are NaN or inf: fill or merge them first")
    first = [hist.axis.StrCategory(categories, name=VARIATION_AXIS)] if categories else []
    plain = hist.Hist(*first, *axes, storage=hist.storage.Double(), name=name, label="value")
    plain.view()[...] = values
    return plain


def _variances(name: str, histogram: hist.Hist[Any]) -> NDArray[np.float64]:
    import hist

    # a histogram of numbers alone gives its contents for variances, as of counts
    kept = histogram.storage_type in (hist.storage.Weight, hist.storage.Mean, hist.storage.WeightedMean)
    variances = histogram.variances() if kept else None
    if variances is None:
        raise UsageError(f"the map '{name}' has {histogram.storage_type.__name__} storage, which keeps no variances: use Weight storage")
    return np.asarray(variances, dtype=np.float64)


def _describe(axis: Any) -> str:
    if axis.name == VARIATION_AXIS:
        return f"one of {', '.join(axis)}"
    label = _text(axis.label)
    # hist gives the name of an axis without a label
    return label if label not in ("", axis.name) else column_description(axis.name)


def column_description(name: str) -> str:
    """What an input is, with its unit."""
    return f"{name} [{unit(name)}]" if unit(name) else name


def _text(label: Any) -> str:
    return label if isinstance(label, str) else ""


def expected(histogram: hist.Hist[Any], variation: str | None, rows: NDArray[np.float64], flow: Flow) -> NDArray[np.float64]:
    """What the map of a histogram gives at rows (n, axes), looked up in its bins; NaN where it is an error.

    Parameters
    ----------
    variation
        A category of the variation axis, "up" or "down" of the variances, or None.
    flow
        As `checked_flow` gives it.
    """
    values = np.asarray(histogram.values(), dtype=np.float64)
    names = [axis.name for axis in histogram.axes]
    if VARIATION_AXIS in names:
        position = names.index(VARIATION_AXIS)
        values = np.moveaxis(values, position, 0)[list(histogram.axes[VARIATION_AXIS]).index(variation)]
    elif variation in {"up", "down"}:
        values = values + (1 if variation == "up" else -1) * np.sqrt(_variances("", histogram))
    index, outside = [], np.zeros(len(rows), dtype=bool)
    for axis, column in zip([axis for axis in histogram.axes if axis.name != VARIATION_AXIS], rows.T, strict=True):
        edges = axis.edges
        x = edges[0] + np.mod(column - edges[0], edges[-1] - edges[0]) if flow == "wrap" else column
        outside |= (x < edges[0]) | (x >= edges[-1])
        index.append(np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2))
    found = np.asarray(values[tuple(index)])
    if flow in {"clamp", "wrap"}:
        return found
    return np.where(outside, math.nan if flow == "error" else flow, found)
