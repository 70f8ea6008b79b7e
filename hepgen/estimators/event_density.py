"""Density of generated events in GeV and rad: that of their scaled columns, times the slopes of the maps that scale them."""

from __future__ import annotations

from copy import copy
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.event_coordinates import EventCoordinates
from hepgen.estimators.event_generator import BLOCK, EventGenerator
from hepgen.events.scalings import Angle, Chain, Identity, Log, LogitRange, MaxAbs, Quantile, Scaling, Standard

Matrix = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: The models that know their density.
KNOWN = ("maf", "flow-matching", "gmm", "kde")


def log_density(model: EventGenerator, events: Any) -> Matrix:
    """log p of events in the columns of a model, in GeV and rad: the density that `EventGenerator.sample` draws from.

    That is the density of the scaled columns, which `EventGenerator.anomaly` gives, plus the log slope of the scaling of every column, and
    log(E / m) for an energy whose mass is the coordinate; relative angles turn nothing but the origin. A column that is constant is no
    part of the space. What `sample` does last is not in it: objects put in order of pt, and columns cut to the limits of the events learnt
    from. Where objects are absent the density is that of the columns which are there, times the share of the set of objects; that of
    "maf" and "flow-matching" is an approximation then, with their absent columns at zero.

    Parameters
    ----------
    model
        Fitted, of "maf", "flow-matching" (as exact as its Runge-Kutta steps), "gmm" or "kde".
    events : n events, as for `EventGenerator.fit`

    Returns
    -------
    (n,) float64
        -inf where an event has a set of objects that was not learnt.

    Raises
    ------
    InputError
        A column is missing, not finite or outside the support of its scaling.
    UsageError
        The model has no density.
    """
    if model.model not in KNOWN:
        raise UsageError(f"model={model.model!r} has no density: take one of {', '.join(KNOWN)}")
    density = -model.anomaly(events)
    matrix, present = model.features.extract_optional(model.as_records(events))
    for start in range(0, len(matrix), BLOCK):
        own = slice(start, start + BLOCK)
        density[own] += log_jacobian(model.coordinates, matrix[own], present[own])
    return density


def log_jacobian(coordinates: EventCoordinates, matrix: Matrix, present: Bools) -> Matrix:
    """log abs det of the map from the columns (n, d) that vary to their scaled ones, (n,); -inf where an energy is not positive."""
    moved, total, varying = coordinates._moved(matrix), np.zeros(len(matrix)), coordinates.varying
    for column in varying:
        there = present[:, column]
        total[there] += log_slope(coordinates.scaler.scalings[column], moved[there, column])
    # m^2 = E^2 - p^2, so that dm / dE = E / m: the other columns, of which p is made, are coordinates themselves
    with np.errstate(divide="ignore", invalid="ignore"):
        for energy, _ in coordinates.objects:
            if energy in varying:
                there, values = present[:, energy], matrix[:, energy]
                slope = np.where(values > 0, np.log(values) - np.log(np.abs(moved[:, energy])), -np.inf)
                total[there] += slope[there]
    return total


def without_limits(coordinates: EventCoordinates, scaled: Matrix) -> tuple[Matrix, Bools]:
    """Columns (n, d) of scaled ones (n, k), not cut to the limits of the events learnt from, and which of them are points of the space.

    No such points are those whose angle is outside one turn before it is wrapped, and those of a mass with no real energy.
    """
    free = copy(coordinates)
    free.limits = np.broadcast_to([-np.inf, np.inf], coordinates.limits.shape)
    values = free.inverse(scaled, np.ones((len(scaled), len(free.names)), dtype=bool))
    inside = np.asarray(np.isfinite(values).all(axis=1))
    relative = set() if free.reference is None else set(free._others().tolist())
    for k, column in enumerate(free.varying):
        scaling = free.scaler.scalings[column]
        if column in relative or _wraps(scaling):
            inside &= np.abs(_unwrapped(scaling, scaled[:, k])) <= np.pi
    for energy, _ in free.objects:
        inside &= values[:, energy] > 0
    return values, inside


def _wraps(scaling: Scaling) -> bool:
    return isinstance(scaling, Angle) or (isinstance(scaling, Chain) and any(map(_wraps, scaling.scalings)))


def _unwrapped(scaling: Scaling, scaled: Matrix) -> Matrix:
    """What the scaling gives back before it wraps it, (n,)."""
    if isinstance(scaling, Chain):
        for part in reversed(scaling.scalings):
            scaled = _unwrapped(part, scaled)
        return scaled
    return scaled if isinstance(scaling, Angle) else scaling.inverse(np.ascontiguousarray(scaled))


@singledispatch
def log_slope(scaling: Scaling, x: Matrix) -> Matrix:
    """log abs(dy / dx) of y = scaling.forward(x) at x (n,), (n,)."""
    del x
    raise UsageError(f"the slope of the scaling {scaling!r} is not known: take one of hepgen.events")


@log_slope.register(Identity)
@log_slope.register(Angle)
def _(scaling: Scaling, x: Matrix) -> Matrix:
    del scaling
    return np.zeros(len(x))


@log_slope.register
def _(scaling: Standard, x: Matrix) -> Matrix:
    return np.full(len(x), -np.log(_learnt(scaling.std)))


@log_slope.register
def _(scaling: MaxAbs, x: Matrix) -> Matrix:
    return np.full(len(x), -np.log(_learnt(scaling.scale)))


@log_slope.register
def _(scaling: Log, x: Matrix) -> Matrix:
    return np.asarray(-np.log(x + scaling.shift))


@log_slope.register
def _(scaling: LogitRange, x: Matrix) -> Matrix:
    low, high = scaling.low, scaling.high
    return np.asarray(np.log(high - low) - np.log(x - low) - np.log(high - x))


@log_slope.register
def _(scaling: Quantile, x: Matrix) -> Matrix:
    knots, y, tails = _learnt(scaling.x), _learnt(scaling.y), _learnt(scaling.tails)
    slopes = np.concatenate([tails[:1], np.diff(y) / np.diff(knots), tails[1:]])
    return np.asarray(np.log(slopes)[np.searchsorted(knots, x, side="right")])


@log_slope.register
def _(scaling: Chain, x: Matrix) -> Matrix:
    total = np.zeros(len(x))
    for part in scaling.scalings:
        total += log_slope(part, x)
        x = part.forward(x)
    return total


def _learnt(value: Any) -> Any:
    if value is None:
        raise UsageError("this scaling was not fitted yet: call fit first")
    return value
