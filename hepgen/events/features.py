"""Columns of events as a matrix, and back into events of the same layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any, Literal, NamedTuple

import numpy as np

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events.expressions import Call, EventSource, Expression, NameSource, Path, Picked, evaluate, parse
from hepgen.events.layouts import Bools, Floats, Ints, duplicate, length_of, write_slots
from hepgen.events.scalings import Scaling, wrap_angle

Invalid = Literal["raise", "identity", "nan"]


class Extract(NamedTuple):
    """What `Features.extract` finds in events."""

    matrix: Floats
    """(n_selected, d) float64, one row for each event with ``mask`` True, in order."""
    mask: Bools
    """(n,) bool."""
    absent: int
    """Events without one of the objects."""
    invalid: int
    """Events with all objects, but a NaN or inf among the columns."""


class Features:
    """The columns that a model sees of an event.

    Parameters
    ----------
    paths : iterable of str
        Columns that are read and written: ``"photon[0].pt"``, ``"MET.pt"``, ``"photon_pt[1]"``, ``"mass"``.  A record path also finds the
        flat branch of that name (``photon_pt``, ``Photon_pt``) and the other way round.
    computed : iterable of str
        Columns that are only read: paths, or the functions of `hepgen.events.expressions`, such as ``"mass(photon[0], photon[1])"``.
    scalings : mapping of str to Scaling, optional
        Scalings of single columns that `Scaler.default` uses in place of its own choice.
    periodic : iterable of str, or mapping of str to bool, optional
        Which columns are angles of period 2 pi [rad].  By default those whose name ends in ``phi``, and the functions ``phi`` and
        ``deltaphi``; an iterable replaces that rule, a mapping changes it for the columns it names.

    Raises
    ------
    UsageError
        When there is no column, a column is named twice, or a text is no column.
    """

    def __init__(
        self,
        paths: Iterable[str],
        *,
        computed: Iterable[str] = (),
        scalings: Mapping[str, Scaling] | None = None,
        periodic: Iterable[str] | Mapping[str, bool] | None = None,
    ) -> None:
        outputs = [parse(text) for text in _texts(paths)]
        for expression in outputs:
            if isinstance(expression, Call):
                raise UsageError(f"'{expression}' is computed and cannot be written: give it in computed=")
        self._picks: dict[str, Ints] = {}
        self._expressions: tuple[Expression, ...] = (*outputs, *(parse(text) for text in _texts(computed)))
        self._n_outputs = len(outputs)
        if not self._expressions:
            raise UsageError("Features needs at least one column, such as 'photon[0].pt'")
        seen: dict[Any, str] = {}
        for expression in self._expressions:
            key = expression.key if isinstance(expression, Path) else expression
            if key in seen:
                raise UsageError(f"column '{expression}' is named twice (as '{seen[key]}')")
            seen[key] = str(expression)
        self.scalings: dict[str, Scaling] = self._by_name(scalings or {}, "scalings")
        self._periodic = np.array([_is_angle(expression) for expression in self._expressions])
        if periodic is not None:
            if not isinstance(periodic, Mapping):
                periodic = dict.fromkeys(self.names, False) | {str(parse(name)): True for name in _texts(periodic)}
            for name, value in self._by_name(periodic, "periodic").items():
                self._periodic[self.names.index(name)] = bool(value)
        self._periodic.flags.writeable = False

    def _by_name(self, given: Mapping[str, Any], argument: str) -> dict[str, Any]:
        named = {str(parse(name)): value for name, value in given.items()}
        for name in named:
            if name not in self.names:
                raise UsageError(f"{argument}= names '{name}', which is not one of the columns {', '.join(self.names)}")
        return named

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, outputs first, then computed ones."""
        return tuple(map(str, self._expressions))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns that `from_matrix` writes."""
        return self.names[: self._n_outputs]

    @property
    def computed(self) -> tuple[str, ...]:
        """The columns that are only read."""
        return self.names[self._n_outputs :]

    @property
    def periodic(self) -> Bools:
        """(d,) bool: which columns are angles of period 2 pi."""
        return self._periodic

    def __len__(self) -> int:
        return len(self._expressions)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Features) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self._expressions)

    def __repr__(self) -> str:
        computed = f", computed={list(self.computed)}" if self.computed else ""
        return f"Features({list(self.outputs)}{computed})"

    def of(self, names: Iterable[str]) -> Features:
        """Columns of these names, to be written, of the events that these features are of."""
        return Features(names).bind(self._picks)

    def bind(self, picks: Mapping[str, Ints]) -> Features:
        """These features of events in which a name in brackets, as in ``photon[fake].pt``, means these elements.

        Parameters
        ----------
        picks : mapping of str to (n,) int64
            Negative where an event has no such object; see `hepgen.events.Pick`.
        """
        bound = copy(self)
        bound._picks = dict(picks)
        return bound

    @property
    def picked(self) -> set[str]:
        """The names in brackets."""
        return {index.name for expression in self._expressions for index in _picked(expression)}

    def columns(self, events_fields: Iterable[str]) -> set[str]:
        """Names that have to be read, out of those a file or array has.

        Parameters
        ----------
        events_fields : iterable of str
            Available names: flat (``photon_pt``), dotted (``photon.pt``) or only the names of records (``photon``).

        Returns
        -------
        set of str
            ``photon.pt`` for a field of a record, ``photon_pt`` for a flat branch, and ``photon`` where an object is needed whose fields
            are not listed.

        Raises
        ------
        InputError
            When a column is not available, with the near names.
        """
        source = NameSource(events_fields)
        for expression in self._expressions:
            evaluate(expression, source)
        return source.needed

    def extract(self, events: Any, *, invalid: Invalid = "raise", entry_start: int = 0) -> Extract:
        """Matrix and mask as `to_matrix` gives them, with the numbers of events left out.

        Parameters
        ----------
        events : ak.Array of records, mapping of str to arrays, or numpy structured array; n events
        invalid : {"raise", "identity", "nan"}
            What NaN and inf get: an error, a False in the mask, or nothing.
        entry_start : int
            Entry of the first event in its file, for the error message.

        Raises
        ------
        InputError
            A column is missing (with the near names), is not numeric, or holds NaN or inf (with the column, how many, and the first
            entries).
        """
        if invalid not in {"raise", "identity", "nan"}:
            raise UsageError(f"invalid='{invalid}' is none of 'raise', 'identity' and 'nan'")
        layout = event_layout(events)
        source = EventSource(layout, self._picks)
        values, mask = [], np.ones(length_of(layout), dtype=bool)
        for expression in self._expressions:
            value, present = evaluate(expression, source)
            values.append(value)
            mask &= present
        absent = int(len(mask) - mask.sum())
        bad = np.zeros(len(mask), dtype=bool)
        for name, value in zip(self.names, values, strict=True):
            wrong = ~np.isfinite(value) & mask
            if invalid == "raise" and wrong.any():
                raise InputError(_not_finite(name, np.flatnonzero(wrong) + entry_start))
            bad |= wrong
        if invalid == "identity":
            mask &= ~bad
        whole = bool(mask.all())
        matrix = np.empty((len(mask) if whole else int(mask.sum()), len(self)))
        for column, value in enumerate(values):
            matrix[:, column] = value if whole else value[mask]
        return Extract(matrix, mask, absent, int(bad.sum()))

    def to_matrix(self, events: Any, *, invalid: Invalid = "raise", entry_start: int = 0) -> tuple[Floats, Bools]:
        """The columns of events as numbers.

        Parameters and errors are those of `extract`.

        Returns
        -------
        matrix : (n_selected, d) float64
            One row for each event with ``mask`` True, in order.
        mask : (n,) bool
            False where an object is absent: too few in the list, None, or an event that is None; also where a column is not finite, with
            ``invalid="identity"``.
        """
        found = self.extract(events, invalid=invalid, entry_start=entry_start)
        return found.matrix, found.mask

    def extract_optional(self, events: Any, *, entry_start: int = 0) -> tuple[Floats, Bools]:
        """The columns of all events, those that lack some of the objects too.

        Parameters are those of `extract`.

        Returns
        -------
        matrix : (n, d) float64
            NaN where the object of a column is absent.
        present : (n, d) bool
            Where it is there.

        Raises
        ------
        InputError
            A column is missing, is not numeric, or holds NaN or inf where its object is there.
        """
        layout = event_layout(events)
        source = EventSource(layout, self._picks)
        matrix = np.empty((length_of(layout), len(self)))
        present = np.empty(matrix.shape, dtype=bool)
        for column, expression in enumerate(self._expressions):
            values, there = evaluate(expression, source)
            wrong = ~np.isfinite(values) & there
            if wrong.any():
                raise InputError(_not_finite(self.names[column], np.flatnonzero(wrong) + entry_start))
            matrix[:, column], present[:, column] = np.where(there, values, np.nan), there
        return matrix, present

    def from_matrix(self, events: Any, matrix: Floats, mask: Bools, *, raw: bool = False) -> Any:
        """Events of the same layout with the output columns replaced.

        Parameters
        ----------
        events : as for `to_matrix`, n events; left unchanged
        matrix : (n_selected, d) or (n_selected, number of outputs) float
            Rows belong to the events with ``mask`` True; columns are in the order of `names`, computed ones are not looked at.
        mask : (n,) bool, as `to_matrix` gave it
        raw : bool
            Keep every column that is written as ``raw_<name>`` beside it; not in a numpy structured array.

        Returns
        -------
        events
            Of the same kind, type, dtypes, record names, behaviours, parameters and attrs.  Angles are wrapped into [-pi, pi), integers
            are rounded, events with ``mask`` False and all other columns are as they were, and only the written columns and their lists are
            read from virtual arrays.  An energy or mass that is not an output is not touched: an ``E`` beside a changed ``pt`` belongs to
            the momentum of before.

        Raises
        ------
        InputError
            The shapes do not fit the events, an event selected by the mask has no such object, or a value does not fit an integer column.
        """
        matrix, mask = np.asarray(matrix, dtype=np.float64), np.asarray(mask)
        layout = event_layout(events)
        length = length_of(layout)
        if mask.dtype != np.bool_ or mask.shape != (length,):
            raise InputError(f"the mask has shape {mask.shape} and dtype {mask.dtype}: give one bool for each of {length} events")
        rows = np.flatnonzero(mask)
        widths = {len(self), self._n_outputs}
        if matrix.ndim != 2 or matrix.shape[0] != len(rows) or matrix.shape[1] not in widths:
            shapes = " or ".join(f"({len(rows)}, {width})" for width in sorted(widths))
            raise InputError(f"the matrix has shape {matrix.shape}, but the mask and the columns ask for {shapes}")
        written: dict[str, Any] = {}
        if raw:
            layout, written = self._with_raw(events, layout)
        for column in range(self._n_outputs):
            path = self._expressions[column]
            values = wrap_angle(matrix[:, column]) if self._periodic[column] else matrix[:, column]
            if isinstance(path, Path):
                source = EventSource(layout, self._picks)
                fields = source.fields(path)
                layout = write_slots(
                    layout, fields, source.elements(path), rows=rows, values=values, text=str(path), angle=bool(self._periodic[column])
                )
                written[fields[0]] = None
        return _like(events, layout, written)

    def _with_raw(self, events: Any, layout: Any) -> tuple[Any, dict[str, Any]]:
        """The layout with every column that is written once more, as raw_<name>, and the fields that are new."""
        if isinstance(events, np.ndarray):
            raise UsageError("a numpy structured array cannot get new fields: pass a mapping of columns or an awkward array with raw=True")
        added: dict[str, Any] = {}
        source = EventSource(layout)
        for fields in dict.fromkeys(source.fields(path) for path in self._expressions[: self._n_outputs] if isinstance(path, Path)):
            layout = duplicate(layout, fields, f"raw_{fields[-1]}")
            if len(fields) == 1:
                added[f"raw_{fields[0]}"] = None
        return layout, added

    def to_dict(self) -> dict[str, Any]:
        """All that makes these features, of types that JSON has."""
        return {
            "paths": list(self.outputs),
            "computed": list(self.computed),
            "periodic": [name for name, angle in zip(self.names, self._periodic, strict=True) if angle],
            "scalings": {name: scaling.to_dict() for name, scaling in self.scalings.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Features:
        """The features that `to_dict` described; ModelFileError when it is no such description."""
        try:
            scalings = {name: Scaling.from_dict(scaling) for name, scaling in data.get("scalings", {}).items()}
            return cls(data["paths"], computed=data["computed"], periodic=list(data["periodic"]), scalings=scalings)
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise ModelFileError(f"the description of the features is damaged ({error})") from error


def _picked(expression: Expression) -> list[Picked]:
    if isinstance(expression, Call):
        return [index for argument in expression.arguments for index in _picked(argument)]
    return [index for index in expression.indices if isinstance(index, Picked)]


def event_layout(events: Any) -> Any:
    """The awkward layout of an array of events, of a mapping of columns or of a numpy structured array; InputError for anything else."""
    import awkward as ak

    if isinstance(events, ak.Array):
        layout = events.layout
        return layout.to_RegularArray() if layout.is_numpy and layout.purelist_depth > 1 else layout
    if isinstance(events, np.ndarray) and events.dtype.names is not None:
        events = {name: events[name] for name in events.dtype.names}
    if isinstance(events, Mapping):
        contents = [_column_layout(name, column) for name, column in events.items()]
        lengths = {name: content.length for name, content in zip(events, contents, strict=True)}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the columns have different lengths: {lengths}")
        return ak.contents.RecordArray(contents, list(events), length=next(iter(lengths.values()), 0))
    given = type(events).__name__
    raise InputError(f"events are an awkward array of records, a mapping of names to columns or a numpy structured array, not a {given}")


def _column_layout(name: str, column: Any) -> Any:
    import awkward as ak

    if isinstance(column, ak.Array):
        return column.layout
    column = column if isinstance(column, np.ndarray) else np.asarray(column)
    if column.dtype.kind not in "fiub":
        raise InputError(f"column '{name}' is an array of {column.dtype}: give numbers, or jagged columns as awkward arrays")
    # awkward arrays have the byte order of the machine
    return ak.from_numpy(column.astype(column.dtype.newbyteorder("="), copy=False), highlevel=False)


def _like(events: Any, layout: Any, written: Iterable[str]) -> Any:
    import awkward as ak

    if isinstance(events, ak.Array):
        return ak.Array(layout, behavior=events.behavior, attrs=events.attrs)
    columns = {name: layout.contents[layout.fields.index(name)] for name in written}
    if isinstance(events, np.ndarray):
        copied = events.copy()
        for name, content in columns.items():
            copied[name] = ak.to_numpy(content)
        return copied
    replaced = {name: ak.to_numpy(content) if content.is_numpy else ak.Array(content) for name, content in columns.items()}
    return {**events, **replaced}


def _texts(given: Iterable[str]) -> list[str]:
    if isinstance(given, str):
        raise UsageError(f"columns are given as a list of texts, not as the one text '{given}'")
    return list(given)


def _is_angle(expression: Expression) -> bool:
    if isinstance(expression, Call):
        return expression.function in {"phi", "deltaphi"}
    return expression.fields[-1].lower().endswith("phi")


def _not_finite(name: str, entries: Any) -> str:
    first = ", ".join(map(str, entries[:5])) + ", ..." * (len(entries) > 5)
    what = f"{len(entries)} values that are NaN or inf, at entries" if len(entries) > 1 else "1 value that is NaN or inf, at entry"
    return f"column '{name}' holds {what} {first}: remove these events, or pass invalid='identity' to leave them as they are"
