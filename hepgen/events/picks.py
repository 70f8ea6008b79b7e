"""Which object of a collection a name in brackets means, event by event: ``fake`` in ``photon[fake].pt``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events.expressions import EventSource, NameSource, Path, parse
from hepgen.events.features import event_layout
from hepgen.events.layouts import Ints, has_data, known


class Pick:
    """The object of a collection with the lowest or highest value of a field.

    Parameters
    ----------
    collection : str
        Such as ``"photon"``: records, or flat branches ``photon_pt``.
    lowest, highest : str
        The field; one of the two. Of equal values the first object is taken.
    besides : str or iterable of str
        Names of picks whose objects do not count: the other photon is ``Pick("photon", highest="pt", besides="fake")``.

    Raises
    ------
    UsageError
        Not one of `lowest` and `highest` is given, or a name is none.
    """

    def __init__(
        self, collection: str, *, lowest: str | None = None, highest: str | None = None, besides: str | Iterable[str] = ()
    ) -> None:
        if (lowest is None) == (highest is None):
            raise UsageError(f"a pick of '{collection}' needs lowest= or highest=, the field that decides")
        self.collection, self.lowest, self.highest = collection, lowest, highest
        self.besides = (besides,) if isinstance(besides, str) else tuple(besides)
        column = parse(f"{collection}.{highest if lowest is None else lowest}")
        if not isinstance(column, Path) or column.indices:
            raise UsageError(f"'{column}' is no field of a collection")
        self.column = column

    def columns(self, available: Iterable[str]) -> set[str]:
        """Names of what is read, of those available."""
        source = NameSource(available)
        source.value(self.column)
        return source.needed

    def find(self, events: Any, found: Mapping[str, Ints]) -> Ints:
        """The number of the object in its list (n,) int64, -1 where there is none; `found` has the picks before it.

        Raises
        ------
        InputError
            The collection has no such field, or it is not one list of numbers an event.
        """
        import awkward as ak

        layout = event_layout(events)
        fields = EventSource(layout).fields(self.column)
        values = ak.Array(known(layout, fields))
        for field in fields:
            values = values[field]
        if values.ndim != 2 or not has_data(values.layout):
            raise InputError(f"'{self.column}' is no list of numbers in every event: nothing can be picked by it")
        places = ak.local_index(values, axis=1)
        for name in self.besides:
            values = ak.mask(values, places != found[name][:, None])
        chosen = ak.argmax(values, axis=1) if self.lowest is None else ak.argmin(values, axis=1)
        return np.asarray(ak.to_numpy(ak.fill_none(chosen, -1)), dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """The pick, of types that JSON has."""
        return {"collection": self.collection, "lowest": self.lowest, "highest": self.highest, "besides": list(self.besides)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Pick:
        """The pick that `to_dict` described."""
        try:
            return cls(content["collection"], lowest=content["lowest"], highest=content["highest"], besides=content["besides"])
        except (KeyError, TypeError, UsageError) as error:
            raise ModelFileError(f"the description of a pick is damaged ({error})") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pick) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.column, self.lowest is None, self.besides))

    def __repr__(self) -> str:
        which = f"highest={self.highest!r}" if self.lowest is None else f"lowest={self.lowest!r}"
        return f"Pick({self.collection!r}, {which}{f', besides={list(self.besides)}' if self.besides else ''})"


def checked_picks(picks: Mapping[str, Pick], needed: Iterable[str]) -> dict[str, Pick]:
    """The picks, if every name that is needed is there and each stands after those that it leaves out."""
    seen: list[str] = []
    for name, pick in picks.items():
        early = [other for other in pick.besides if other not in seen]
        if early:
            raise UsageError(f"the pick '{name}' is besides '{early[0]}', which must be picked before it")
        seen.append(name)
    absent = sorted(set(needed) - set(seen))
    if absent:
        raise UsageError(f"the columns name '{absent[0]}' in brackets, which is not picked: give it in picks=")
    return dict(picks)


def find_picks(picks: Mapping[str, Pick], events: Any) -> dict[str, Ints]:
    """The objects that the picks mean in these events."""
    found: dict[str, Ints] = {}
    for name, pick in picks.items():
        found[name] = pick.find(events, found)
    return found
