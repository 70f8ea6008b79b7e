"""Columns of events by name: paths such as ``photon[0].pt`` and a small named set of functions; parsed, never run as code.

=================  ==========================================================================================
``mass(a, b...)``  invariant mass [GeV] of the sum of the objects; also ``pt``, ``eta``, ``phi``, ``energy``
``deltaR(a, b)``   distance in (eta, phi); also ``deltaphi`` in [-pi, pi) and ``deltaeta``
``count(a)``       number of elements of a collection (None elements are counted)
``abs(x)``         absolute value of a path or function
``ratio(x, y)``    x / y
``massless(a)``    the object a with its mass or energy left aside (an argument of the functions of objects)
=================  ==========================================================================================

An object is a record path such as ``photon[0]``, ``jet[2]`` or ``MET``; its momentum comes from (pt, eta, phi) or (px, py, pz), with
``mass`` or ``m``, else ``E`` or ``energy``, else it is massless.  Kinematics are done by `vector`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from hepgen.errors import InputError, UsageError
from hepgen.events.layouts import Bools, FieldsAt, Floats, Ints, layout_fields, list_counts, missing, named_fields, read_slots, resolve

_SUMS = ("mass", "pt", "eta", "phi", "energy")
_PAIRS = ("deltaR", "deltaphi", "deltaeta")
_VALUES = {"abs": 1, "ratio": 2}
FUNCTIONS = (*_SUMS, *_PAIRS, *_VALUES, "count", "massless")
_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(\d+)|([\[\]().,]))")


# --- what an expression is -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picked:
    """An element that differs from event to event: ``fake`` in ``photon[fake].pt``; see `hepgen.events.picks`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Path:
    """Names and elements, in order: ``photon[0].pt`` is ``("photon", 0, "pt")``."""

    steps: tuple[str | int | Picked, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names alone."""
        return tuple(step for step in self.steps if isinstance(step, str))

    @property
    def indices(self) -> tuple[int | Picked, ...]:
        """The elements alone."""
        return tuple(step for step in self.steps if not isinstance(step, str))

    @property
    def key(self) -> tuple[str, tuple[int | Picked, ...]]:
        """Equal for the record and the flat form of one column: ``photon[0].pt`` and ``photon_pt[0]``."""
        return "_".join(self.fields), self.indices

    def child(self, field: str) -> Path:
        """The path of a field of this object."""
        return Path((*self.steps, field))

    def __str__(self) -> str:
        text = "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in self.steps)
        return text.removeprefix(".")


@dataclass(frozen=True)
class Call:
    """A function of the named set and its arguments."""

    function: str
    arguments: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"{self.function}({', '.join(map(str, self.arguments))})"


Expression = Path | Call


# --- parsing ---------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """The expression that `text` spells.

    Raises
    ------
    UsageError
        When the text is no path or function of the named set, or a function gets the wrong arguments.
    """
    tokens: list[str] = []
    place, stripped = 0, text.strip()
    while place < len(stripped):
        found = _TOKEN.match(stripped, place)
        if found is None:
            raise UsageError(
                f"'{text}' is no column: unexpected {stripped[place:].lstrip()[0]!r}; write paths such as photon[0].pt, or {_offer()}"
            )
        tokens.append(found.group().strip())
        place = found.end()
    expression, rest = _parse_one(tokens, text)
    if rest:
        raise UsageError(f"'{text}' is no column: unexpected {rest[0]!r} after '{expression}'")
    return expression


def _offer() -> str:
    return f"one of the functions {', '.join(FUNCTIONS)}"


def _parse_one(tokens: list[str], text: str) -> tuple[Expression, list[str]]:
    if not tokens or not (tokens[0][0].isalpha() or tokens[0][0] == "_"):
        raise UsageError(f"'{text}' is no column: a name is missing; write paths such as photon[0].pt, or {_offer()}")
    if tokens[1:2] == ["("]:
        return _parse_call(tokens, text)
    steps: list[str | int | Picked] = [tokens[0]]
    tokens = tokens[1:]
    while tokens and tokens[0] in {"[", "."}:
        if tokens[0] == "." and len(tokens) > 1 and (tokens[1][0].isalpha() or tokens[1][0] == "_"):
            steps.append(tokens[1])
            tokens = tokens[2:]
        elif tokens[0] == "[" and len(tokens) > 2 and tokens[1][0] not in "[]().," and tokens[2] == "]":
            steps.append(int(tokens[1]) if tokens[1].isdigit() else Picked(tokens[1]))
            tokens = tokens[3:]
        else:
            raise UsageError(f"'{text}' is no column: after '{Path(tuple(steps))}' comes neither [number] nor .name")
    return Path(tuple(steps)), tokens


def _parse_call(tokens: list[str], text: str) -> tuple[Expression, list[str]]:
    function, tokens = tokens[0], tokens[2:]
    if function not in FUNCTIONS:
        raise UsageError(f"'{text}': there is no function '{function}'; there are {', '.join(FUNCTIONS)}")
    arguments: list[Expression] = []
    while True:
        argument, tokens = _parse_one(tokens, text)
        arguments.append(argument)
        if not tokens or tokens[0] not in {",", ")"}:
            raise UsageError(f"'{text}' is no column: a ',' or ')' is missing after '{argument}'")
        closing, tokens = tokens[0], tokens[1:]
        if closing == ")":
            break
    _check_arguments(function, arguments, text)
    return Call(function, tuple(arguments)), tokens


def _check_arguments(function: str, arguments: Sequence[Expression], text: str) -> None:
    wanted = 2 if function in _PAIRS else _VALUES.get(function, len(arguments) if function in _SUMS else 1)
    if len(arguments) != wanted:
        raise UsageError(f"'{text}': {function} takes {wanted} argument{'s' * (wanted > 1)}, not {len(arguments)}")
    for argument in arguments:
        massless = isinstance(argument, Call) and argument.function == "massless"
        if function in _VALUES and massless:
            raise UsageError(f"'{text}': {function} takes a number, and '{argument}' is an object")
        if function not in _VALUES and isinstance(argument, Call) and not (massless and function in _SUMS + _PAIRS):
            raise UsageError(f"'{text}': {function} takes objects such as photon[0], and '{argument}' is none")


# --- where columns come from -----------------------------------------------------------------------------------------------------


class Source(Protocol):
    """Something that holds columns: events, a matrix, or only the names of columns."""

    def value(self, path: Path) -> tuple[Floats, Bools]:
        """Values (n,) float64 and presence (n,) of a column."""

    def has(self, path: Path) -> bool:
        """Whether there is such a column."""

    def count(self, path: Path) -> tuple[Floats, Bools]:
        """Number of elements of a collection (n,) float64 and presence (n,)."""

    def computed(self, call: Call) -> tuple[Floats, Bools] | None:
        """The value of a function where it is held as a column."""

    def hold(self, call: Call, found: tuple[Floats, Bools]) -> None:
        """Take the value of a function, to give it back when it is asked for again."""


class EventSource:
    """Columns of an awkward array of events; each is read once.

    `picks` says which element a name in brackets means: (n,) int64, negative where there is none.
    """

    def __init__(self, layout: Any, picks: Mapping[str, Ints] | None = None) -> None:
        self._layout = layout
        self._picks = picks or {}
        self._fields_at = layout_fields(layout)
        self._read: dict[Path, tuple[Floats, Bools]] = {}
        self._held: dict[Call, tuple[Floats, Bools]] = {}

    def value(self, path: Path) -> tuple[Floats, Bools]:
        """Values and presence of a column; InputError with the near names when it is not there."""
        if path not in self._read:
            self._read[path] = read_slots(self._layout, self.fields(path), self.elements(path), str(path))
        return self._read[path]

    def elements(self, path: Path) -> list[int | Ints]:
        """The element of every list on the way, as a number or one for each event."""
        found: list[int | Ints] = []
        for index in path.indices:
            if isinstance(index, Picked) and index.name not in self._picks:
                known = f"there are {', '.join(self._picks)}" if self._picks else "nothing is picked here"
                raise UsageError(f"'{path}' names the pick '{index}': {known}")
            found.append(self._picks[index.name] if isinstance(index, Picked) else index)
        return found

    def fields(self, path: Path) -> tuple[str, ...]:
        """The fields of the layout that a path means."""
        found = resolve(path.fields, self._fields_at)
        if found is None:
            raise missing(str(path), path.fields, self._fields_at)
        return found

    def has(self, path: Path) -> bool:
        """Whether there is such a column."""
        return resolve(path.fields, self._fields_at) is not None

    def holds(self, name: str) -> bool:
        """Whether there is a column of exactly this dotted name, in record or underscore form."""
        return _holds(name, self._fields_at)

    def count(self, path: Path) -> tuple[Floats, Bools]:
        """Number of elements of a record collection, or of the first flat branch of its name."""
        return list_counts(self._layout, _collection(path, self._fields_at), str(path))

    def computed(self, call: Call) -> tuple[Floats, Bools] | None:
        """What was computed before."""
        return self._held.get(call)

    def hold(self, call: Call, found: tuple[Floats, Bools]) -> None:
        """Keep what was computed."""
        self._held[call] = found


class MatrixSource:
    """Columns of a feature matrix (n, d), named as the features are."""

    def __init__(self, names: Sequence[str], matrix: Floats) -> None:
        self._matrix = matrix
        self._columns: dict[Any, int] = {}
        for column, name in enumerate(names[: matrix.shape[1]]):
            expression = parse(name)
            self._columns[expression.key if isinstance(expression, Path) else expression] = column

    def _column(self, key: Any) -> tuple[Floats, Bools]:
        return self._matrix[:, self._columns[key]], np.ones(len(self._matrix), dtype=bool)

    def value(self, path: Path) -> tuple[Floats, Bools]:
        """A column of the matrix; InputError when there is none."""
        if path.key not in self._columns:
            raise InputError(f"'{path}' is not among the columns of the matrix")
        return self._column(path.key)

    def has(self, path: Path) -> bool:
        """Whether the matrix has such a column."""
        return path.key in self._columns

    def count(self, path: Path) -> tuple[Floats, Bools]:
        """A matrix does not know how many objects an event had."""
        raise InputError(f"'count({path})' is not among the columns of the matrix")

    def computed(self, call: Call) -> tuple[Floats, Bools] | None:
        """The column of this very function, if the matrix has it."""
        return self._column(call) if call in self._columns else None

    def hold(self, call: Call, found: tuple[Floats, Bools]) -> None:
        """A matrix has the columns it has."""


class NameSource:
    """No values, only names: evaluating on it collects the names that an expression needs."""

    def __init__(self, names: Iterable[str]) -> None:
        self._fields_at = named_fields(names)
        self.needed: set[str] = set()

    def value(self, path: Path) -> tuple[Floats, Bools]:
        """Note the name; InputError with the near names when it is not there."""
        found = resolve(path.fields, self._fields_at)
        if found is None:
            raise missing(str(path), path.fields, self._fields_at)
        self.needed.add(".".join(found))
        return np.zeros(0), np.ones(0, dtype=bool)

    def has(self, path: Path) -> bool:
        """Whether there is such a name; a collection with no names listed under it is needed whole."""
        parent = resolve(path.fields[:-1], self._fields_at)
        if parent is not None and self._fields_at(parent) is None:
            self.needed.add(".".join(parent))
            return path.fields[-1] in {"pt", "eta", "phi"}
        return resolve(path.fields, self._fields_at) is not None

    def count(self, path: Path) -> tuple[Floats, Bools]:
        """Note one column of the collection: its lists tell the number."""
        fields = _collection(path, self._fields_at)
        inner = self._fields_at(fields)
        self.needed.add(".".join((*fields, "pt" if "pt" in inner else inner[0]) if inner else fields))
        return np.zeros(0), np.ones(0, dtype=bool)

    def holds(self, name: str) -> bool:
        """Whether there is a column of exactly this dotted name, in record or underscore form."""
        return _holds(name, self._fields_at)

    def computed(self, call: Call) -> None:
        """Names hold no computed columns."""

    def hold(self, call: Call, found: tuple[Floats, Bools]) -> None:
        """Names hold no values."""


def _holds(name: str, fields_at: FieldsAt) -> bool:
    found = resolve(tuple(name.split(".")), fields_at)
    known = found is not None and fields_at(found[:-1]) is not None
    return found is not None and known and "_".join(found).replace(".", "_") == name.replace(".", "_")


def _collection(path: Path, fields_at: FieldsAt) -> tuple[str, ...]:
    found = resolve(path.fields, fields_at)
    if found is None:
        start = "_".join(path.fields).lower() + "_"
        branch = [f for f in fields_at(()) or [] if f.lower().startswith(start) and not f.lower().endswith("_n")]
        if not branch:
            raise missing(str(path), path.fields, fields_at)
        found = (branch[0],)
    return found


# --- values ----------------------------------------------------------------------------------------------------------------------


def evaluate(expression: Expression, source: Source) -> tuple[Floats, Bools]:
    """Values (n,) float64 of an expression and which events have all the objects it speaks of (n,) bool.

    Where an object is absent the value is NaN.  Raises InputError when a column is not in the source.
    """
    if isinstance(expression, Path):
        return source.value(expression)
    held = source.computed(expression)
    if held is not None:
        return held
    arguments = expression.arguments
    if expression.function == "count":
        if not isinstance(arguments[0], Path):
            raise UsageError(f"'{expression}' counts no collection")
        return source.count(arguments[0])
    if expression.function == "massless":
        raise UsageError(f"'{expression}' is an object, not a number: use it inside mass, pt, eta, phi, energy or deltaR")
    function = _sum if expression.function in _SUMS else _pair if expression.function in _PAIRS else _arithmetic
    # absent objects are NaN here, and a quotient or root may be: whoever asked for the column decides what they get
    with np.errstate(all="ignore"):
        found = function(expression.function, arguments, source)
    source.hold(expression, found)
    return found


_NEEDS = {
    "mass": ("pt", "phi", "eta", "mass"),
    "energy": ("pt", "phi", "eta", "mass"),
    "eta": ("pt", "phi", "eta"),
    "pt": ("pt", "phi"),
    "phi": ("pt", "phi"),
    "deltaR": ("phi", "eta"),
    "deltaphi": ("phi",),
    "deltaeta": ("eta",),
}


def _arithmetic(function: str, arguments: Sequence[Expression], source: Source) -> tuple[Floats, Bools]:
    x, present = evaluate(arguments[0], source)
    if function == "abs":
        return np.abs(x), present
    y, there = evaluate(arguments[1], source)
    return x / y, present & there


def _sum(function: str, arguments: Sequence[Expression], source: Source) -> tuple[Floats, Bools]:
    total, present = _momentum(arguments[0], source, _NEEDS[function])
    for argument in arguments[1:]:
        momentum, there = _momentum(argument, source, _NEEDS[function])
        total, present = total + momentum, present & there
    return np.asarray(getattr(total, function), dtype=np.float64), present


def _pair(function: str, arguments: Sequence[Expression], source: Source) -> tuple[Floats, Bools]:
    (a, present), (b, there) = (_momentum(argument, source, _NEEDS[function]) for argument in arguments)
    return np.asarray(getattr(a, function)(b), dtype=np.float64), present & there


def _momentum(argument: Expression, source: Source, needs: Sequence[str]) -> tuple[Any, Bools]:
    """A vector of the object with at least the coordinates in `needs`; only those are read."""
    import vector

    massless = isinstance(argument, Call)
    path = argument.arguments[0] if isinstance(argument, Call) else argument
    if not isinstance(path, Path):
        raise UsageError(f"'{argument}' is no object")
    cartesian = not source.has(path.child("phi")) and source.has(path.child("px"))
    if cartesian:
        names = {"px": "px", "py": "py"} | ({"pz": "pz"} if "eta" in needs else {})
    else:
        names = {name: name for name in needs if name != "mass"}
    if "mass" in needs and not massless:
        found = next((field for field in ("mass", "m", "E", "energy") if source.has(path.child(field))), None)
        if found is not None:
            names["mass" if found in {"mass", "m"} else "E"] = found
    read: Mapping[str, tuple[Floats, Bools]] = {name: source.value(path.child(field)) for name, field in names.items()}
    coordinates = {name: values for name, (values, _) in read.items()}
    one = next(iter(coordinates.values()))
    # coordinates that the function does not look at, so that vector knows what kind of vector it has
    if not cartesian:
        coordinates = {"pt": np.ones_like(one), "phi": np.zeros_like(one)} | coordinates
    if "mass" in needs and not {"mass", "E"} & coordinates.keys():
        coordinates["mass"] = np.zeros_like(one)
    present = np.logical_and.reduce([there for _, there in read.values()])
    return vector.array(coordinates), present
