"""What hepgen's processors share, and the base of one's own: a saved model, the columns to read, the histograms to fill."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import awkward as ak
import numpy as np
from coffea.processor import ProcessorABC
from numpy.typing import NDArray

from hepgen import histograms as hists
from hepgen.errors import UsageError
from hepgen.estimators.cache import cached, file_sha256
from hepgen.events.expressions import EventSource, NameSource, evaluate, parse
from hepgen.events.expressions import Path as ColumnPath
from hepgen.events.identity import entry_identity, identity_columns
from hepgen.events.schemas import Schema, detect, schema
from hepgen.events.selections import Selection
from hepgen.kernels import threads
from hepgen_coffea.arrays import declared, known_columns

Weights = NDArray[np.float64]
#: fill(sample, events, weights, variation=None), see `ModelProcessor.apply`
Fill = Callable[..., None]


class ModelProcessor(ProcessorABC):  # type: ignore[misc]
    """Fill histograms of events and of what a saved model makes of them; a subclass says in `apply` what that is.

    The processor pickles to a few kB, the path and the sha256 of the model: every process loads the model once, however many chunks it is
    given, and without torch. It reads the columns that the model, the weights, the selection and the histograms name, and no others.
    What becomes of an event depends on its own values and identity, so the histograms do not depend on the chunks.

    Parameters
    ----------
    model_path
        A file written by ``model.save``; every worker must find it under this path.
    histograms
        Name -> (column, axis), or (columns, axes) for more than one dimension. A column is an expression of `hepgen.Features`, such as
        ``"photon[0].pt"`` or ``"mass(massless(photon[0]), massless(photon[1]))"``, or a whole collection, ``"photon.pt"``. An event without
        the object is left out. Axes are those of `hist`, with a name each.
    schema
        Name of the schema of branch-level events; by default the model's, else the one that the tree and branch names show. Events that
        are records already (NanoAODSchema, PHYSLITESchema) are taken as they are.
    seed
        Seed of the noise; the model's own by default.
    weight
        True: the schema's event weights; False: one each; a string: the column of that name.
    selection
        Cuts on the events that are filled, before and after the model each on its own.
    data
        Names of the datasets that are filled as "data" and left alone.
    columns
        What `apply` reads for the model, such as ``["Jet.pt", "Jet.eta", "Rho.fixedGridRhoAll"]`` for a model of single jets; by default
        the columns that the model itself names in an event.

    Raises
    ------
    InputError
        There is no such model file; in `process`, a column that is not there.
    UsageError
        A histogram without axis, or with columns and axes that differ in number; an expression that is none.

    Notes
    -----
    `process` returns ``{dataset: {"hists": {name: hist.Hist}, "events": n, "transformed": n, "untouched": n}}``, which coffea adds up.
    Each histogram has an axis "dataset", "data" among its categories where there are data, and Weight storage.
    """

    #: whether the histograms have a "variation" axis
    variations: ClassVar[bool] = False

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        histograms: Mapping[str, tuple[str | Sequence[str], Any]],
        *,
        schema: str | None = None,
        seed: int | None = None,
        weight: bool | str = True,
        selection: Selection | None = None,
        data: Collection[str] = (),
        columns: Collection[str] | None = None,
    ) -> None:
        self.model_path = str(Path(model_path).resolve())
        self.sha256 = file_sha256(self.model_path)
        self.histograms = {name: _checked(name, *entry) for name, entry in histograms.items()}
        self.schema, self.seed, self.weight, self.selection, self.data = schema, seed, weight, selection, frozenset(data)
        self.columns = None if columns is None else tuple(columns)

    @property
    def model(self) -> Any:
        """The model, loaded at most once in this process."""
        return cached(self.model_path, self.sha256)

    @abstractmethod
    def apply(self, events: ak.Array, weights: Weights | None, identity: Any, fill: Fill) -> int:
        """Fill the histograms from one chunk of events that are not data, and return how many of them the model has an answer for.

        Parameters
        ----------
        events : (n,) records in memory, GeV and rad, of the declared columns
        weights : (n,) event weights, None for ones
        identity : what to pass to the model as ``identity=``
        fill : ``fill(sample, events, weights)`` fills every histogram for the events of a sample that pass the selection. Where
            `variations` is set, weights may be a mapping of variations to weights, and ``variation="scaleUp"`` says that the events
            themselves are those of a variation; see `hepgen.histograms.fill`
        """

    def process(self, events: ak.Array) -> dict[str, dict[str, Any]]:
        """Fill the histograms from one chunk."""
        metadata = getattr(events, "metadata", None) or {}
        dataset = metadata.get("dataset", "events")
        kind = self._schema(events, metadata.get("treename", ""))
        names = known_columns(events)
        records = any("." in name for name in names)
        raw = declared(events, self._columns(names, schema("flat") if records else kind, kind))
        view = raw if records else kind.view(raw)
        weights = self._weights(view, kind)
        booked = {name: hists.book(*axes, samples=(), variations=self.variations) for name, (_, axes) in self.histograms.items()}
        filler = _Filler(self.histograms, self.selection, booked)
        if dataset in self.data:
            filler(hists.SAMPLES[0], view, weights)
            transformed = 0
        else:
            with threads(1):  # chunks run side by side already
                transformed = self.apply(view, weights, _file_identity(view, metadata), filler)
        return {dataset: {"hists": booked, "events": len(view), "transformed": transformed, "untouched": len(view) - transformed}}

    def postprocess(self, accumulator: Any) -> Any:
        """Return the sum as it is."""
        return accumulator

    def _schema(self, events: ak.Array, tree: str) -> Schema:
        name = self.schema or self.model.schema
        return schema(name) if name is not None else detect(tree, events.fields)

    def _columns(self, names: list[str], layout: Schema, kind: Schema) -> list[str]:
        """Return which of the columns `names` to read; `layout` says where they are seen, `kind` which of them are weights."""
        seen = [".".join(layout.path(name, names)) for name in names]
        source = NameSource(seen)
        for columns, _ in self.histograms.values():
            for column in columns:
                evaluate(parse(column), source)
        needed = source.needed | set(self.model.columns(seen) if self.columns is None else self.columns) | set(identity_columns(seen))
        if self.selection is not None:
            needed |= set(self.selection.columns(seen))
        if isinstance(self.weight, str):
            needed.add(self.weight)
        elif self.weight:
            needed |= set(kind.weight_columns(names))
        return layout.branches(needed, names)

    def _weights(self, events: ak.Array, kind: Schema) -> Weights | None:
        if isinstance(self.weight, str):
            return np.asarray(events[tuple(self.weight.split("."))], dtype=np.float64)
        return kind.weight(events) if self.weight else None


class _Filler:
    """Fills booked histograms with the events of a sample that pass the selection."""

    def __init__(self, columns: Mapping[str, Any], selection: Selection | None, booked: Mapping[str, Any]) -> None:
        self.columns, self.selection, self.booked = columns, selection, booked

    def __call__(self, sample: str, events: ak.Array, weights: Any, variation: str | None = None) -> None:
        source = EventSource(ak.to_layout(events))  # what the selection and the histograms both name is read and computed once
        passed = np.ones(len(events), dtype=bool) if self.selection is None else self.selection.passed(source, len(events))
        for name, (columns, axes) in self.columns.items():
            values, present = _values(events, source, columns)
            kept = passed & present
            named = {axis.name: value[kept] for axis, value in zip(axes, values, strict=True)}
            hists.fill(self.booked[name], named, _at(weights, kept), sample=sample, variation=variation)


def _at(weights: Any, kept: NDArray[np.bool_]) -> Any:
    if isinstance(weights, Mapping):
        return {name: values[kept] for name, values in weights.items()}
    return None if weights is None else weights[kept]


def _file_identity(events: ak.Array, metadata: Mapping[str, Any]) -> NDArray[np.uint64] | None:
    """Return the file and entry of each event, (n, 3), for events that carry no run and event numbers; else None."""
    if identity_columns(known_columns(events)) or "fileuuid" not in metadata:
        return None
    file = UUID(metadata["fileuuid"]).int if metadata["fileuuid"] else 0
    return entry_identity(file, int(metadata.get("entrystart", 0)), len(events))


def _checked(name: str, columns: str | Sequence[str], axes: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Return the columns and axes of a histogram as tuples, with as many names."""
    columns = (columns,) if isinstance(columns, str) else tuple(columns)
    axes = tuple(axes) if isinstance(axes, list | tuple) else (axes,)
    if len(columns) != len(axes) or not axes:
        raise UsageError(f"the histogram {name!r} has {len(columns)} columns and {len(axes)} axes: give one axis for each column")
    labels = [getattr(axis, "name", "") for axis in axes]
    if "" in labels or len(set(labels)) < len(labels):
        raise UsageError(f"the axes of the histogram {name!r} are named {labels}: give each a name= of its own")
    for column in columns:
        parse(column)
    return columns, axes


def _values(events: ak.Array, source: EventSource, columns: Sequence[str]) -> tuple[list[Any], NDArray[np.bool_]]:
    """Return the values of each column, flat (n,) or jagged, and the events (n,) that have all of them."""
    values: list[Any] = []
    present = np.ones(len(events), dtype=bool)
    for column in columns:
        expression = parse(column)
        if isinstance(expression, ColumnPath) and not expression.indices:
            whole = events[source.fields(expression)]
            if whole.ndim > 1:
                values.append(whole)
                continue
        value, there = evaluate(expression, source)
        values.append(value)
        present &= there
    return values, present
