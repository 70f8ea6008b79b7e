"""What a comparison measures: every figure of merit of a sample of events against one reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen import metrics
from hepgen.errors import InputError, UsageError
from hepgen.events import Features, Selection
from hepgen.metrics.checks import Float, effective_entries
from hepgen.metrics.observables import parse

#: Bins of equal share of both samples together for chi2; window of delta_OF; most generated events whose neighbours are looked for.
CHI2_BINS, WINDOWS, NEIGHBOURS = 40, {"eta": (-2.5, 2.5), "phi": (-math.pi, math.pi)}, 10_000
_LEADING = ({"jet1", "jet[0]"}, {"jet2", "jet[1]"})


class Observed:
    """Events as two matrices: their columns, and the observables that are compared. What is absent is 0, for all samples alike.

    Parameters
    ----------
    features
        The columns that are generated.
    observables
        "features", "ttbar" or columns and expressions.

    Attributes
    ----------
    names : tuple of str
        Of the observables; those of "ttbar" once events were observed.
    """

    def __init__(self, features: Features, observables: str | Sequence[str]) -> None:
        self.features, self.observables = features, observables
        chosen = features.outputs if isinstance(observables, str) else tuple(observables)
        self.expressions = features if chosen == features.outputs else Features((), computed=chosen)
        self.names = self.expressions.names

    @property
    def needed(self) -> Features:
        """All columns that must be read."""
        more = [name for name in self.expressions.names if name not in self.features.outputs]
        return Features(self.features.outputs, computed=more)

    def __call__(self, events: Any) -> tuple[Float, Float]:
        """Events (n,) -> columns (n, d) and observables (n, k)."""
        columns = _zeros(self.features, events)
        if self.observables == "ttbar":
            found = metrics.ttbar_observables(events)
            self.names = found.names
            return columns, found.matrix
        return columns, columns if self.expressions is self.features else _zeros(self.expressions, events)


def _zeros(features: Features, events: Any) -> Float:
    matrix, present = features.extract_optional(events)
    return np.where(present, matrix, 0.0)


@dataclass(frozen=True)
class Sample:
    """Events of one sample: `columns` (n, d), `observables` (n, k), and weights (n,) or None for one each."""

    columns: Float
    observables: Float
    weights: Float | None = None

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Sample:
        weights = None if self.weights is None else self.weights[part]
        return Sample(self.columns[part], self.observables[part], weights)

    def counts(self) -> dict[str, float]:
        """Events, their sum of weights, and how many unweighted ones have the same relative error."""
        w = np.ones(len(self)) if self.weights is None else self.weights
        return {"events": len(self), "sum_of_weights": float(w.sum()), "effective_events": effective_entries(w)}


@dataclass(frozen=True)
class Benchmark:
    """What generated events are held against: the reference and the training events, and how they are compared.

    `compared` are the observables that vary, with their `ranges` (k, 2); `leading` the observables of eta and of phi of the two leading
    jets.
    """

    reference: Sample
    training: Sample
    features: Features
    names: tuple[str, ...]
    compared: NDArray[np.int64]
    ranges: Float
    leading: Mapping[str, tuple[int, int]]
    selection: Selection | None

    @classmethod
    def of(
        cls,
        reference: Sample,
        training: Sample,
        features: Features,
        names: Sequence[str],
        *,
        central: float = 1.0,
        selection: Selection | None = None,
    ) -> Benchmark:
        """The benchmark of a reference whose `central` share, in each observable, the ranges hold.

        Raises
        ------
        InputError
            Fewer than two observables vary.
        """
        x = reference.observables
        tail = (1 - central) / 2
        whole = np.column_stack([x.min(axis=0), x.max(axis=0)])
        ranges = np.quantile(x, [tail, 1 - tail], axis=0).T
        flat = ranges[:, 0] >= ranges[:, 1]
        ranges[flat] = whole[flat]  # nearly all events have one value
        compared = np.flatnonzero(ranges[:, 0] < ranges[:, 1])
        if len(compared) < 2:
            raise InputError(f"of the observables {', '.join(names)} fewer than two vary: give others")
        return cls(reference, training, features, tuple(names), compared, ranges[compared], leading_jets(names), selection)

    def measure(self, sample: Sample, *, against: Sample | None = None, copies: bool = True) -> dict[str, Any]:
        """Every figure of merit of a sample, JSON-able; None for those that its columns do not have.

        Parameters
        ----------
        sample
            Generated events, or others.
        against
            Instead of the reference, in the ranges of which it is.
        copies
            Whether the sample may hold copies of the training events.
        """
        reference = self.reference if against is None else against
        found: dict[str, Any] = {"events": len(sample), "delta": self._delta(reference, sample).to_dict()}
        found["delta_of"] = {name: self._empty(name, reference, sample).to_dict() for name in self.leading}
        found["chi2"] = self._chi2(reference, sample)
        found["physicality"] = self._physicality(sample)
        found["copies"] = self._copies(reference, sample) if copies else None
        return found

    def _delta(self, reference: Sample, sample: Sample) -> metrics.Delta:
        return metrics.delta(
            reference.observables[:, self.compared],
            sample.observables[:, self.compared],
            names=[self.names[k] for k in self.compared],
            ranges=self.ranges,
            reference_weights=reference.weights,
            generated_weights=sample.weights,
        )

    def _empty(self, quantity: str, reference: Sample, sample: Sample) -> metrics.DeltaOF:
        """delta_OF of the two leading jets, for as many events of both: weights have no meaning there."""
        n, pair = min(len(reference), len(sample)), list(self.leading[quantity])
        return metrics.delta_of(reference.observables[:n, pair], sample.observables[:n, pair], limits=WINDOWS[quantity])

    def _chi2(self, reference: Sample, sample: Sample) -> dict[str, Any]:
        """chi2 of every observable, the name of that with the lowest p-value, and those that have too few events for it."""
        found, left_out = {}, []
        for k in self.compared:
            columns = sample.observables[:, k], reference.observables[:, k]
            try:
                found[self.names[k]] = metrics.chi2_ndf(*columns, CHI2_BINS, sample.weights, reference.weights).to_dict()
            except InputError:
                left_out.append(self.names[k])
        worst = min(found, key=lambda name: (found[name]["p_value"], -found[name]["per_ndf"]), default=None)
        return {"worst": worst, "columns": found, "left_out": left_out}

    def _physicality(self, sample: Sample) -> dict[str, Any] | None:
        try:
            return metrics.physicality(sample.columns, self.features.outputs, sample.weights, selection=self.selection).to_dict()
        except UsageError:  # no rule speaks of these columns
            return None

    def _copies(self, holdout: Sample, sample: Sample) -> dict[str, float]:
        """Nearest neighbours, for as many training as holdout events."""
        n = min(len(self.training), len(holdout))
        varying = np.flatnonzero(np.ptp(self.training.columns[:n], axis=0) > 0)
        angles = np.flatnonzero(self.features.periodic[varying]).tolist()
        samples = (one.columns[:, varying] for one in (self.training[:n], sample, holdout[:n]))
        return metrics.copies_of(*samples, angles=angles, most=NEIGHBOURS).to_dict()

    def about(self) -> dict[str, Any]:
        """The observables and how they are compared, JSON-able."""
        names = [self.names[k] for k in self.compared]
        return {
            "names": names,
            "left_out": [name for name in self.names if name not in names],
            "ranges": dict(zip(names, self.ranges.tolist(), strict=True)),
            "leading_jets": {quantity: [self.names[k] for k in pair] for quantity, pair in self.leading.items()},
        }


def leading_jets(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The observables of eta and of phi of the two leading jets, such as jet1.eta and jet2.eta, where there are both."""
    found: dict[str, dict[int, int]] = {"eta": {}, "phi": {}}
    for column, name in enumerate(names):
        owner, quantity = parse(name)
        for place, owners in enumerate(_LEADING):
            if quantity in found and owner.lower() in owners:
                found[quantity][place] = column
    return {quantity: (columns[0], columns[1]) for quantity, columns in found.items() if len(columns) == 2}


def gathered(parts: Iterator[Any], total: int, observe: Callable[[Any], tuple[Float, Float]]) -> Sample:
    """Events that come in parts, `total` in all, as a sample; no more than one part is held at a time."""
    columns: Float | None = None
    observables: Float | None = None
    place = 0
    for events in parts:
        x, y = observe(events)
        if columns is None or observables is None:
            columns, observables = np.empty((total, x.shape[1])), np.empty((total, y.shape[1]))
        columns[place : place + len(x)], observables[place : place + len(y)] = x, y
        place += len(x)
    if columns is None or observables is None or place != total:
        raise InputError(f"there are {place} events, and {total} were expected")
    return Sample(columns, observables)
