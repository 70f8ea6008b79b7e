"""Selections as data: cuts on columns of events, saved as JSON, evaluated on events or on a feature matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events.expressions import EventSource, Expression, MatrixSource, NameSource, evaluate, parse
from hepgen.events.features import Features, event_layout
from hepgen.events.layouts import Bools, Floats, length_of


class Cut:
    """One condition on one column; an event without the object, or with NaN in the column, fails it.

    Parameters
    ----------
    expression : str
        A path or function of `hepgen.events.expressions`.
    minimum, maximum : float, optional
        Closed bounds, GeV or rad as the column is.
    intervals : sequence of (low, high), optional
        Closed intervals of which one must hold the value.
    equal : float, optional
        The value itself.

    Raises
    ------
    UsageError
        The expression is no column, no bound is given, or the bounds leave nothing.
    """

    def __init__(
        self,
        expression: str,
        minimum: float | None = None,
        maximum: float | None = None,
        intervals: Sequence[tuple[float, float]] | None = None,
        equal: float | None = None,
    ) -> None:
        self.parsed: Expression = parse(expression)
        self.minimum, self.maximum, self.equal = _number(minimum), _number(maximum), _number(equal)
        self.intervals = None if intervals is None else tuple((float(low), float(high)) for low, high in intervals)
        if (self.minimum, self.maximum, self.intervals, self.equal) == (None, None, None, None):
            raise UsageError(f"the cut on '{expression}' has no bound: give minimum, maximum, intervals or equal")
        low, high = -math.inf if self.minimum is None else self.minimum, math.inf if self.maximum is None else self.maximum
        ranges = [*(self.intervals or ()), (low, high)]
        if self.intervals == () or any(not low <= high for low, high in ranges):
            raise UsageError(f"the cut '{self.label}' leaves nothing: a lower bound lies above its upper bound")

    @property
    def expression(self) -> str:
        """The column, spelled in one way."""
        return str(self.parsed)

    @property
    def label(self) -> str:
        """The cut as a physicist would write it."""
        texts = []
        if self.minimum is not None and self.maximum is not None:
            texts.append(f"{self.minimum:g} <= {self.expression} <= {self.maximum:g}")
        elif self.minimum is not None:
            texts.append(f"{self.expression} >= {self.minimum:g}")
        elif self.maximum is not None:
            texts.append(f"{self.expression} <= {self.maximum:g}")
        if self.intervals is not None:
            texts.append(f"{self.expression} in " + " or ".join(f"[{low:g}, {high:g}]" for low, high in self.intervals))
        if self.equal is not None:
            texts.append(f"{self.expression} == {self.equal:g}")
        return " and ".join(texts)

    def passes(self, values: Floats) -> Bools:
        """Which of the values (n,) the cut lets through (n,) bool; NaN never."""
        passed = ~np.isnan(values)
        if self.minimum is not None:
            passed &= values >= self.minimum
        if self.maximum is not None:
            passed &= values <= self.maximum
        if self.equal is not None:
            passed &= values == self.equal
        if self.intervals is not None:
            passed &= np.logical_or.reduce([(values >= low) & (values <= high) for low, high in self.intervals])
        return passed

    def to_dict(self) -> dict[str, Any]:
        """The cut, of types that JSON has."""
        bounds = {"minimum": self.minimum, "maximum": self.maximum, "equal": self.equal}
        data: dict[str, Any] = {"expression": self.expression} | {name: value for name, value in bounds.items() if value is not None}
        if self.intervals is not None:
            data["intervals"] = [list(interval) for interval in self.intervals]
        return data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cut) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.label)

    def __repr__(self) -> str:
        return f"Cut({self.label!r})"


class Selection:
    """Cuts that an event must all pass."""

    def __init__(self, cuts: Iterable[Cut]) -> None:
        self.cuts = tuple(cuts)

    @classmethod
    def named(cls, name: str) -> Selection:
        """A selection known by name; UsageError with the names when there is none."""
        if name not in _NAMED:
            raise UsageError(f"there is no selection '{name}'; there are {', '.join(_NAMED)}")
        return cls(_NAMED[name])

    @staticmethod
    def names() -> tuple[str, ...]:
        """Selections known by name."""
        return tuple(_NAMED)

    def columns(self, events_fields: Iterable[str]) -> set[str]:
        """Names that have to be read, as `Features.columns` gives them."""
        source = NameSource(events_fields)
        for cut in self.cuts:
            evaluate(cut.parsed, source)
        return source.needed

    def mask(self, events: Any) -> Bools:
        """Which events pass all cuts, (n,) bool; InputError when a column is missing."""
        layout = event_layout(events)
        return self.passed(EventSource(layout), length_of(layout))

    def passed(self, source: EventSource, length: int) -> Bools:
        """`mask` of the events of a source, of which there are so many."""
        passed = np.ones(length, dtype=bool)
        for cut in self.cuts:
            passed &= _passes(cut, source)
        return passed

    def cutflow(self, events: Any, weights: Any = None) -> list[tuple[str, int, float]]:
        """Events left after each cut: (label, number, sum of weights), the first entry ("all", n, sum) before any.

        Parameters
        ----------
        events : n events, as for `mask`
        weights : (n,) float, optional
            Signed event weights; one each by default.
        """
        layout = event_layout(events)
        source = EventSource(layout)
        passed = np.ones(length_of(layout), dtype=bool)
        weights = np.ones(len(passed)) if weights is None else np.asarray(weights, dtype=np.float64)
        if weights.shape != passed.shape:
            raise InputError(f"there are {len(passed)} events and weights of shape {weights.shape}: give one weight for each event")
        flow = [("all", len(passed), float(weights.sum()))]
        for cut in self.cuts:
            passed &= _passes(cut, source)
            flow.append((cut.label, int(passed.sum()), float(weights[passed].sum())))
        return flow

    def matrix_cuts(self, features: Features) -> tuple[Cut, ...]:
        """The cuts that can be computed from the columns of a feature matrix."""
        source = MatrixSource(features.names, np.empty((0, len(features))))
        return tuple(cut for cut in self.cuts if _computable(cut.parsed, source))

    def matrix_mask(self, features: Features, matrix: Any) -> Bools:
        """Which rows of a feature matrix (n, d) pass the cuts of `matrix_cuts`; the others count as passed.

        An object whose mass or energy is not among the columns is taken as massless.  The matrix may have the output columns only; computed
        columns are looked up, not computed anew, where it has them.
        """
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] not in {len(features), len(features.outputs)}:
            raise InputError(f"the matrix has shape {matrix.shape}, but the features have the columns {', '.join(features.names)}")
        source = MatrixSource(features.names, matrix)
        passed = np.ones(len(matrix), dtype=bool)
        nothing = MatrixSource(features.names, matrix[:0])
        for cut in self.cuts:
            if _computable(cut.parsed, nothing):
                passed &= cut.passes(evaluate(cut.parsed, source)[0])
        return passed

    def to_dict(self) -> dict[str, Any]:
        """The cuts, of types that JSON has."""
        return {"cuts": [cut.to_dict() for cut in self.cuts]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Selection:
        """The selection that `to_dict` described; ModelFileError when it is no such description."""
        try:
            return cls([Cut(**cut) for cut in data["cuts"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"the description of a selection is damaged ({error})") from error

    def __len__(self) -> int:
        return len(self.cuts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.cuts == other.cuts

    def __hash__(self) -> int:
        return hash(self.cuts)

    def __repr__(self) -> str:
        return f"Selection({list(self.cuts)})"


def _passes(cut: Cut, source: EventSource) -> Bools:
    values, present = evaluate(cut.parsed, source)
    return cut.passes(values) & present


def _computable(expression: Expression, source: MatrixSource) -> bool:
    try:
        evaluate(expression, source)
    except InputError:
        return False
    return True


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


_CENTRAL = ((0.0, 1.37), (1.52, 2.37))

_TWO_PHOTONS = (
    Cut("count(photon)", equal=2),
    Cut("photon[0].pt", minimum=35, maximum=250),
    Cut("photon[1].pt", minimum=25, maximum=250),
    Cut("abs(photon[0].eta)", intervals=_CENTRAL),
    Cut("abs(photon[1].eta)", intervals=_CENTRAL),
)

# The photons are taken as massless whatever their energy column says, so that a matrix and events whose directions were transformed agree.
_NAMED: dict[str, tuple[Cut, ...]] = {
    # the selection of the sim-to-data paper, sec. 2.1
    "diphoton": (*_TWO_PHOTONS, Cut("mass(massless(photon[0]), massless(photon[1]))", minimum=60, maximum=300)),
    # the same without the mass: what to fit where the mass cut is applied to the transformed events
    "diphoton-any-mass": _TWO_PHOTONS,
}
