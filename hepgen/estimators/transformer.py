"""A model that changes columns of events: whole events or objects in, the same layout out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import awkward as ak
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import UsageError
from hepgen.estimators.base import Estimator, Invalid, Keys, Matrix, event_keys, original_events
from hepgen.estimators.energies import energy_columns, follow_energies
from hepgen.events import identity_columns
from hepgen.events import schema as schema_named
from hepgen.events.adapter import Objects, is_dask, mapped
from hepgen.events.layouts import has_data
from hepgen.stages import stage

if TYPE_CHECKING:
    from hepgen.events import Features, Schema


class Counts(NamedTuple):
    """What a transformation met."""

    total: int
    """Events, or objects."""
    transformed: int
    absent: int
    """Passed through untouched, for want of an object or a column."""
    invalid: int
    """With NaN, inf or a value outside the support of a scaling: untouched (``invalid="identity"``) or made NaN (``"nan"``)."""


class Transformer(Estimator):
    """The face of models that change columns; a subclass says how a matrix of features changes."""

    @abstractmethod
    def transform_matrix(self, matrix: Matrix, keys: Keys, *, seed: int | None = None, copy: int = 0) -> Matrix:
        """Feature matrix (n, d) in GeV and rad and identities (n, k) -> changed output columns (n, outputs)."""

    @abstractmethod
    def supports(self, matrix: Matrix) -> NDArray[np.bool_]:
        """Which entries (n, d) of a feature matrix the model has an answer for."""

    def features_of(self, events: Any) -> Features:
        """The features as they are to be found in these events, records in memory."""
        del events
        return self.features

    def finish(self, features: Features, events: Any, mask: NDArray[np.bool_]) -> Any:
        """What is left to do with transformed events, of which those with `mask` were changed."""
        del features, mask
        return events

    def columns(self, available: Any) -> set[str]:
        """Names of the columns that `transform` reads or writes, identity apart, of those a file or array has."""
        names = list(available)
        return self.features.columns(names) | energy_columns(self.features, names)

    # -- events ------------------------------------------------------------------------------------------------------

    def transform(
        self,
        events: Any,
        *,
        seed: int | None = None,
        identity: ArrayLike | str | None = None,
        copy: int = 0,
        invalid: Invalid = "raise",
        raw: bool = False,
    ) -> Any:
        """Events with new values of the features: same layout, fields, dtypes and behaviours.

        Parameters
        ----------
        events
            Awkward array, eager, virtual, typetracer or of dask-awkward: records in GeV and rad, or the branches of a file of the model's
            schema as they are; a mapping of columns or a numpy structured array. An event without the objects passes through
            untouched. An object whose pt or eta is transformed and which has a field E keeps its mass: E follows.
        seed
            Noise seed; the one of the fit where None.
        identity
            What the random numbers of an event follow: integers (n,) or (n, k), the name of a field, events that have run and event
            numbers, or "entry" for the position in `events`. By default the run and event numbers found in the events. The result of
            an event depends on its values, the seed and its identity, not on the events around it: bit for bit.
        copy
            Number of the copy, 0, 1, ...: each has noise of its own.
        invalid
            What an event with NaN, inf or a value outside the support of a scaling among its features gets: an error, itself
            unchanged, or NaN.
        raw
            Keep every changed column as ``raw_<name>`` beside it.

        Raises
        ------
        InputError
            A column is missing or not finite, or the events carry no identity and none is given.
        """
        return run_on(partial(_transformed, self, seed=seed, copy=copy, invalid=invalid, raw=raw), events, identity)

    def transform_counted(
        self,
        events: Any,
        *,
        seed: int | None = None,
        identity: ArrayLike | str | None = None,
        copy: int = 0,
        invalid: Invalid = "raise",
        raw: bool = False,
        entry_start: int = 0,
    ) -> tuple[Any, Counts]:
        """`transform` of events in memory, and what it met; errors count entries from `entry_start`."""
        if is_dask(events):
            raise UsageError("transform_counted takes events in memory: a dask-awkward collection has met nothing yet")
        branches = self._branches(events)
        if branches:
            if raw:
                raise UsageError("raw=True needs events as records: view the branches through their schema first")
            view = schema_named(self.schema or "flat")
            if not has_data(events.layout):  # of a typetracer only the type goes on, which stays
                ak.typetracer.touch_data(events[[*branches, *identity_columns(events.fields)]])
                return events, Counts(0, 0, 0, 0)
            keys = event_keys(events, identity, len(events))
            records = view.view(events, columns=branches)
            moved, counts = self.transform_counted(records, seed=seed, identity=keys, copy=copy, invalid=invalid, entry_start=entry_start)
            return view.unview(events, moved, branches), counts
        features = self.features_of(events)
        found = features.extract(events, invalid=invalid, entry_start=entry_start)
        matrix, mask, bad = found.matrix, found.mask, found.invalid
        if invalid != "raise" and len(matrix):
            supported = self.supports(matrix) | np.isnan(matrix)
            outside = ~supported.all(axis=1)
            bad += int(outside.sum())
            if invalid == "identity":
                mask[np.flatnonzero(mask)[outside]] = False
                matrix = matrix[~outside]
            else:
                matrix[~supported] = np.nan
        keys = event_keys(events, identity, len(mask))[mask]
        with stage("kernel"):
            changed = self.transform_matrix(matrix, keys, seed=seed, copy=copy)
        moved = follow_energies(features, events, features.from_matrix(events, changed, mask, raw=raw))
        return self.finish(features, moved, mask), Counts(len(mask), int(mask.sum()), found.absent, bad)

    def rewrite(
        self, raw: Any, view: Schema, branches: Sequence[str], *, identity: Keys, seed: int | None, invalid: Invalid, entry_start: int
    ) -> tuple[Any, int]:
        """See `Estimator.rewrite`: the changed columns in the units and dtypes of the file."""
        events = view.view(raw, columns=branches)
        moved, counts = self.transform_counted(events, seed=seed, identity=identity, invalid=invalid, entry_start=entry_start)
        return view.unview(raw, moved, branches), counts.transformed

    # -- objects -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        objects: Any,
        *,
        seed: int | None = None,
        identity: Any = None,
        copy: int = 0,
        invalid: Invalid = "raise",
        raw: bool = False,
        **columns: Any,
    ) -> Any:
        """Objects with new values of the features, for a model whose features are fields of one object.

        Parameters
        ----------
        objects
            Awkward array of records in lists of any depth, such as ``events.Photon``: eager, virtual, typetracer or of dask-awkward. None
            stays None at its place and lists keep their lengths.
        identity
            As in `transform`, for the events the objects are in; the place in the lists is added to it. Objects of coffea's NanoEvents
            find the numbers of their events, as long as no event was taken out.
        columns
            More columns of the features by name: one value an event, which is broadcast (``rho=events.Rho.fixedGridRhoAll``), one an
            object, or one for all.
        seed, copy, invalid, raw
            As in `transform`.

        Raises
        ------
        InputError
            A column is missing or not finite, has other events or lists than the objects, or there is no identity.
        """
        if identity is None and is_dask(objects):
            identity = original_events(objects)
        if isinstance(identity, str):
            if is_dask(objects):
                raise UsageError(f"identity={identity!r} has no meaning for partitions of dask-awkward: pass the events")
            if identity != "entry":
                raise UsageError(f"identity={identity!r} is no name of a field of events: pass the events, or integers, one row an event")
            identity = np.arange(len(objects))
        run = partial(_objects, self, tuple(columns), seed=seed, copy=copy, invalid=invalid, raw=raw)
        return mapped(run, objects, identity, *columns.values())


def run_on(run: Callable[..., Any], events: Any, identity: ArrayLike | str | None) -> Any:
    """``run(events)``, or ``run(events, identity=...)``, on every kind of array."""
    if isinstance(identity, str):
        if identity == "entry" and is_dask(events):
            raise UsageError("identity='entry' has no meaning for partitions of dask-awkward: name a column of integers")
        return mapped(partial(run, identity=identity), events)
    return mapped(run, events) if identity is None else mapped(run, events, identity)


def _transformed(model: Transformer, events: Any, identity: Any = None, **options: Any) -> Any:
    return model.transform_counted(events, identity=identity, **options)[0]


def _objects(model: Transformer, names: tuple[str, ...], objects: Any, identity: Any, *values: Any, **options: Any) -> Any:
    opened = Objects(objects)
    columns = dict(zip(names, values, strict=True))
    keys, rows = event_keys(objects, identity, opened.length), opened.rows
    keys = np.concatenate([keys[rows[:, 0]], rows[:, 1:].astype(np.uint64)], axis=1)
    moved, _ = model.transform_counted(opened.with_columns(columns), identity=keys, **options)
    return opened.fold(moved, columns)
