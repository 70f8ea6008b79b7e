"""Weights for whatever arrays a model is given: events, or objects in lists; in memory, typetracers, collections of dask-awkward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators.base import Invalid
from hepgen.events import schema as schema_named
from hepgen.events.adapter import Objects, is_dask, mapped
from hepgen.events.layouts import has_data

if TYPE_CHECKING:
    from hepgen.estimators.weigher import Weigher

Floats = NDArray[np.float64]

#: What can be asked for, and what an event without the objects gets.
NEUTRAL = {"nominal": 1.0, "uncertainty": 0.0, "up": 1.0, "down": 1.0, "replicas": 1.0, "log_ratio": 0.0}


class Weighted(NamedTuple):
    """The weights of n rows of features by an ensemble of E networks."""

    nominal: Floats
    """(n,)"""
    replicas: Floats
    """(n, E), one column a member; their mean is the nominal weight."""
    log_ratio: Floats
    """(n,), the log of the nominal weight."""
    clipped: int
    """Rows whose ratio was above the clip."""
    cut: float
    """Sum of weight that the clip took away."""

    def column(self, name: str) -> Floats:
        """One of `NEUTRAL` for every row."""
        if name in {"nominal", "replicas", "log_ratio"}:
            return np.asarray(getattr(self, name))
        spread = self.replicas.std(axis=1, ddof=1)
        if name == "uncertainty":
            return np.asarray(spread)
        return np.asarray(np.maximum(self.nominal + (spread if name == "up" else -spread), 0.0))


class Counts(NamedTuple):
    """What a reweighting met."""

    total: int
    """Events, or objects."""
    weighted: int
    absent: int
    """Of weight 1, for want of an object."""
    invalid: int
    """With NaN, inf or a value outside the support of a scaling: of weight 1 (``invalid="identity"``) or NaN (``"nan"``)."""
    clipped: int
    """Held at the clip."""
    cut: float
    """Sum of weight that the clip took away."""


# --- events ----------------------------------------------------------------------------------------------------------------------


def of_events(model: Weigher, events: Any, names: Sequence[str], invalid: Invalid) -> dict[str, Any]:
    """Columns of `NEUTRAL` by name: numpy for events in memory, awkward for typetracers, lazy for dask-awkward."""
    if not is_dask(events):
        return counted(model, events, names, invalid)[0]
    return _unpacked(mapped(partial(_event_weights, model, tuple(names), invalid), events), names)


def counted(model: Weigher, events: Any, names: Sequence[str], invalid: Invalid, *, entry_start: int = 0) -> tuple[dict[str, Any], Counts]:
    """Columns by name for events in memory or typetracers, and what was met; errors count entries from `entry_start`."""
    branches = model._branches(events)
    if branches:
        if not has_data(events.layout):
            ak.typetracer.touch_data(events[branches])
            return {name: _tracer(name, model) for name in names}, Counts(0, 0, 0, 0, 0, 0.0)
        events = schema_named(model.schema or "flat").view(events, columns=branches)
    return _of_records(model, events, names, invalid, entry_start)


def _of_records(model: Weigher, events: Any, names: Sequence[str], invalid: Invalid, entry_start: int = 0) -> tuple[dict[str, Any], Counts]:
    found = model.features.extract(events, invalid=invalid, entry_start=entry_start)
    if isinstance(events, ak.Array) and not has_data(events.layout):
        return {name: _tracer(name, model) for name in names}, Counts(0, 0, 0, 0, 0, 0.0)
    matrix, rows = found.matrix, np.flatnonzero(found.mask)
    good: NDArray[np.bool_] = np.ones(len(matrix), dtype=bool)
    if invalid != "raise":
        good = np.asarray((model.scaler.supports(matrix) & np.isfinite(matrix)).all(axis=1))
    bad = rows[~good]
    weighted = model.weigh(matrix[good])
    columns = {}
    for name in names:
        values = weighted.column(name)
        columns[name] = np.full((len(found.mask), *values.shape[1:]), NEUTRAL[name])
        columns[name][rows[good]] = values
        if invalid == "nan":
            columns[name][bad] = np.nan
    unfit = found.invalid + len(bad) if invalid == "identity" else len(bad)
    return columns, Counts(len(found.mask), int(good.sum()), found.absent, unfit, weighted.clipped, weighted.cut)


def _tracer(name: str, model: Weigher) -> ak.Array:
    shape = (0, model.ensemble) if name == "replicas" else (0,)
    return ak.Array(ak.contents.NumpyArray(np.zeros(shape)).to_typetracer(forget_length=True))


def _event_weights(model: Weigher, names: Sequence[str], invalid: Invalid, events: Any) -> ak.Array:
    return _packed(counted(model, events, names, invalid)[0])


# --- objects ---------------------------------------------------------------------------------------------------------------------


def of_objects(model: Weigher, objects: Any, columns: Mapping[str, Any], names: Sequence[str], invalid: Invalid) -> dict[str, Any]:
    """Columns by name, each with the lists and the None of the objects; `columns` are more features, see `Weigher.__call__`."""
    run = partial(_object_weights, model, tuple(columns), tuple(names), invalid)
    return _unpacked(mapped(run, objects, *columns.values()), names)


def _object_weights(model: Weigher, more: Sequence[str], names: Sequence[str], invalid: Invalid, objects: Any, *values: Any) -> ak.Array:
    opened = Objects(objects)
    table = opened.with_columns(dict(zip(more, values, strict=True)))
    found, _ = _of_records(model, table, names, invalid)
    return _packed({name: opened.fold(ak.Array(column)) for name, column in found.items()})


def _packed(columns: dict[str, Any]) -> ak.Array:
    """One array, for dask: the column itself, or a record of several."""
    if len(columns) == 1:
        return ak.Array(next(iter(columns.values())))
    return ak.zip({name: ak.Array(column) for name, column in columns.items()}, depth_limit=1)


def _unpacked(packed: Any, names: Sequence[str]) -> dict[str, Any]:
    return {names[0]: packed} if len(names) == 1 else {name: packed[name] for name in names}


def per_event(weights: Any) -> Any:
    """Weights of objects multiplied to one an event.

    Parameters
    ----------
    weights : n events of lists of any depth, or one number an event
        Awkward, eager, virtual or typetracer, of dask-awkward, or what awkward makes an array of.

    Returns
    -------
    (n,) float64 numpy array; awkward of a typetracer or a collection of dask-awkward
        1 for an empty list; None, of an object, a list or an event, counts as 1.
    """
    if is_dask(weights):
        return mapped(_product, weights)
    product = _product(weights if isinstance(weights, ak.Array) else ak.Array(weights))
    return ak.to_numpy(product, allow_missing=False) if has_data(product.layout) else product


def _product(weights: ak.Array) -> ak.Array:
    while weights.ndim > 1:
        weights = ak.prod(weights, axis=-1)
    return ak.values_astype(ak.fill_none(weights, 1.0, axis=0), np.float64)


class Systematic:
    """The varying function of coffea's ``add_systematic``: (N,) numbers -> (N, 2), times the up and the down weights."""

    def __init__(self, shifts: Mapping[str, Any]) -> None:
        self.up, self.down = (self._flat(shifts[name]) for name in ("up", "down"))

    @staticmethod
    def _flat(shift: Any) -> Any:
        if is_dask(shift):
            raise UsageError("coffea calls a systematic partition by partition, without the events: use variations() with dask-awkward")
        if not isinstance(shift, ak.Array):
            return shift
        flat = ak.flatten(shift) if shift.ndim > 1 else shift
        return ak.to_numpy(ak.fill_none(flat, 1.0), allow_missing=False) if has_data(flat.layout) else None

    def __call__(self, given: Any) -> Floats:
        """(N,) weights, ones or another column that coffea varies -> (N, 2): up and down."""
        values = np.asarray(given, dtype=np.float64)
        if self.up is None:  # the weights of a typetracer, to which coffea gives no events
            return np.ones((len(values), 2))
        if values.shape != self.up.shape:
            raise InputError(
                f"the systematic was made for {len(self.up)} events or objects, and coffea has {len(values)}: "
                "make it of the same array that add_systematic is called on"
            )
        return np.asarray(values[:, None] * np.stack([self.up, self.down], axis=1))
