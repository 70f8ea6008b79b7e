"""New events of the layout of others: columns of a matrix put together as records, lists and branches.

The layout is learnt from events and kept as JSON: which records, lists and options lead to every column, with names, parameters and dtypes.
A list holds the elements that are among the columns and present, so that a collection of which two elements are columns has at most two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events.expressions import EventSource, Path, Picked, parse
from hepgen.events.features import Features, event_layout
from hepgen.events.layouts import Bools, Floats, Ints, cast_numbers, is_list
from hepgen.events.presence import any_present
from hepgen.events.scalings import wrap_angle

Node = dict[str, Any]


class Assembly:
    """How columns become events; see `Assembly.learn`.

    Attributes
    ----------
    root : dict
        The record of an event: nodes {"node": "record" | "list" | "option" | "numbers" | "count", ...}, JSON-able. Numbers name their
        columns: one, or one for each element of the list that they are in.
    """

    def __init__(self, root: Node, names: tuple[str, ...], periodic: Bools) -> None:
        self.root, self.names, self.periodic = root, names, periodic

    @classmethod
    def learn(cls, events: Any, features: Features, patterns: Bools) -> Assembly:
        """The layout of the columns of `features` in events (n,).

        Parameters
        ----------
        patterns : (P, d) bool
            Which columns can be present together.

        Raises
        ------
        UsageError
            A column lies in lists inside lists, or an element of a list can be present without those before it.
        InputError
            A column is missing.
        """
        layout = event_layout(events)
        if layout.is_indexed:  # some of other events, in any order
            layout = layout.project()
        source = EventSource(layout)
        leaves: dict[tuple[str, ...], list[tuple[int, int]]] = {}
        for column, name in enumerate(features.names):
            path = parse(name)
            if not isinstance(path, Path) or any(isinstance(index, Picked) for index in path.indices) or len(path.indices) > 1:
                raise UsageError(f"'{name}' cannot be put into new events: give paths with at most one number in brackets, as in jet[0].pt")
            element = path.indices[0] if path.indices else -1
            leaves.setdefault(source.fields(path), []).append((int(str(element)), column))
        learner = _Learner(leaves, patterns)
        root = learner.node(layout, (), inside=False)
        learner.add_counts(layout, root)
        return cls(root, features.names, features.periodic)

    def build(self, values: Floats, present: Bools, behavior: Any = None, *, index: Ints | None = None) -> Any:
        """Events (ak.Array) of values (n, d), of which those `present` (n, d) are there.

        With `index` (n,), `present` (P, d) has patterns, and an event those of row `index`.

        Angles are wrapped into [-pi, pi), values for integers are rounded.
        """
        import awkward as ak

        angles = np.flatnonzero(self.periodic)
        wrapped = [wrap_angle(values[:, column]) for column in angles]
        if any(not np.shares_memory(column, values) for column in wrapped):  # a column already in place is given back as it is
            values = values.copy()
            values[:, angles] = np.stack(wrapped, axis=1)
        builder = _Builder(values, present, np.arange(len(values)) if index is None else index, self.names, self.periodic)
        return ak.Array(builder.layout(self.root, np.ones(len(values), dtype=bool)), behavior=behavior)

    def to_dict(self) -> Node:
        """The layout, of types that JSON has."""
        return self.root

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], features: Features) -> Assembly:
        """The layout that `to_dict` described; ModelFileError when it is no such description."""
        try:
            columns = sorted(column for leaf in _numbers(dict(data)) for column in leaf["columns"])
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"the description of the layout is damaged ({error})") from error
        if columns != list(range(len(features))):
            raise ModelFileError("the description of the layout is damaged: it has not the columns of the features")
        return cls(dict(data), features.names, features.periodic)


def _numbers(node: Node) -> Iterator[Node]:
    if node["node"] == "numbers":
        yield node
    elif node["node"] == "record":
        for inner in node["contents"]:
            yield from _numbers(inner)
    elif node["node"] != "count":
        yield from _numbers(node["content"])


class _Learner:
    """Walks a layout along the columns."""

    def __init__(self, leaves: Mapping[tuple[str, ...], list[tuple[int, int]]], patterns: Bools) -> None:
        self.leaves, self.patterns = leaves, patterns
        self.elements: list[int] = []  # of the list that is walked

    def node(self, layout: Any, fields: tuple[str, ...], *, inside: bool) -> Node:
        if layout.is_record:
            names = [name for name in layout.fields if any(leaf[: len(fields) + 1] == (*fields, name) for leaf in self.leaves)]
            contents = [self.node(layout.content(name), (*fields, name), inside=inside) for name in names]
            return {"node": "record", "fields": names, "contents": contents, "parameters": dict(layout.parameters)}
        if layout.is_option:
            return {"node": "option", "content": self.node(layout.content, fields, inside=inside), "columns": self._columns(fields)}
        if layout.is_indexed:
            return self.node(layout.content, fields, inside=inside)
        if layout.is_numpy and layout.purelist_depth > 1:
            layout = layout.to_RegularArray()
        if is_list(layout):
            return self._list(layout, fields, inside)
        if not layout.is_numpy:
            raise InputError(f"column '{'.'.join(fields)}' holds no numbers, or nothing is known of it: give events that hold some")
        if inside != (self.leaves[fields][0][0] >= 0):
            raise InputError(f"column '{'.'.join(fields)}' has no list to take an element of: leave the brackets out")
        ordered = dict(self.leaves[fields])
        if inside and sorted(ordered) != self.elements:
            raise UsageError(
                f"the columns take elements {self.elements} of a collection, but {sorted(ordered)} of '{'.'.join(fields)}': give them all"
            )
        return {
            "node": "numbers",
            "dtype": layout.dtype.name,
            "columns": [ordered[element] for element in sorted(ordered)],
            "parameters": dict(layout.parameters),
        }

    def _list(self, layout: Any, fields: tuple[str, ...], inside: bool) -> Node:
        if inside:
            raise UsageError(f"'{'.'.join(fields)}' lies in lists inside lists: new events have lists of one depth")
        self.elements = sorted({element for path, found in self.leaves.items() if path[: len(fields)] == fields for element, _ in found})
        if self.elements[0] < 0:
            raise InputError(f"'{'.'.join(fields)}' is a list in every event: say which element, as in {'.'.join(fields)}[0]")
        if self.elements != list(range(len(self.elements))):
            raise UsageError(f"of '{'.'.join(fields)}' the columns take elements {self.elements}: begin at 0 and leave none out")
        columns = [self._columns(fields, element) for element in self.elements]
        there = np.stack([any_present(self.patterns, found) for found in columns], axis=1)
        content = layout.content
        while content.is_indexed and not content.is_option:
            content = content.content
        optional = content.is_option or (content.is_record and any(inner.is_option for inner in content.contents))
        if not optional and (there[:, 1:] & ~there[:, :-1]).any():
            raise UsageError(f"an element of '{'.'.join(fields)}' is present without those before it")
        regular = bool(layout.is_regular) and layout.size == len(self.elements)
        inner = self.node(content, fields, inside=True)
        return {"node": "list", "regular": regular, "columns": columns, "content": inner, "parameters": dict(layout.parameters)}

    def _columns(self, fields: tuple[str, ...], element: int | None = None) -> list[int]:
        """The columns under some fields, field by field in the order of the elements; of one element where it is given."""
        under = [found for path, found in self.leaves.items() if path[: len(fields)] == fields]
        return [column for found in under for e, column in sorted(found) if element is None or e == element]

    def add_counts(self, layout: Any, root: Node) -> None:
        """Counters, such as nJet or jet_n, of the lists that are built: whole numbers at the top of the events."""
        counts: dict[str, list[list[int]]] = {}
        for name, field in zip(root["fields"], root["contents"], strict=True):
            of_lists = field["node"] == "record" and field["contents"][0]["node"] == "list"
            node = field["contents"][0] if of_lists else field
            if node["node"] == "list":
                stem = name if of_lists or node["content"]["node"] in {"record", "option"} else name.rpartition("_")[0]
                counts |= {counter: node["columns"] for counter in (f"n{stem}", f"{stem}_n", f"n_{stem}") if stem}
        found = {}
        for name in layout.fields:
            leaf = layout.content(name)
            if name in counts and name not in root["fields"] and leaf.is_numpy and leaf.dtype.kind in "iu":
                found[name] = {"node": "count", "dtype": leaf.dtype.name, "lists": counts[name]}
        named = dict(zip(root["fields"], root["contents"], strict=True)) | found
        root["fields"] = [name for name in layout.fields if name in named]
        root["contents"] = [named[name] for name in root["fields"]]


class _Builder:
    """Puts columns together; `where` says which slots there are: events (n,), or elements of every event (n, K)."""

    def __init__(self, values: Floats, patterns: Bools, index: Ints, names: tuple[str, ...], periodic: Bools) -> None:
        self.values, self.patterns, self.index, self.names, self.periodic = values, patterns, index, names, periodic

    def layout(self, node: Node, where: Bools) -> Any:
        build: Any = getattr(self, f"_{node['node']}")
        return build(node, where)

    def _record(self, node: Node, where: Bools) -> Any:
        import awkward as ak

        contents = [self.layout(inner, where) for inner in node["contents"]]
        return ak.contents.RecordArray(contents, node["fields"], length=int(where.sum()), parameters=node["parameters"] or None)

    def _numbers(self, node: Node, where: Bools) -> Any:
        import awkward as ak

        columns, dtype = node["columns"], np.dtype(node["dtype"])
        picked = self.values[:, columns[0]] if where.ndim == 1 else np.stack([self.values[:, column] for column in columns], axis=1)
        picked = picked.ravel() if where.all() else picked[where]
        data = cast_numbers(picked, dtype, self.names[columns[0]], bool(self.periodic[columns[0]]))
        return ak.contents.NumpyArray(data, parameters=node["parameters"] or None)

    def _option(self, node: Node, where: Bools) -> Any:
        import awkward as ak

        valid = self._there(node["columns"], where)
        held = valid[where]
        index = np.where(held, np.cumsum(held) - 1, -1).astype(np.int64)
        return ak.contents.IndexedOptionArray(ak.index.Index64(index), self.layout(node["content"], where & valid))

    def _there(self, columns: list[int], where: Bools) -> Bools:
        """Which slots hold one of the columns."""
        if where.ndim == 1:
            return any_present(self.patterns, columns)[self.index]
        elements = np.asarray(columns).reshape(-1, where.shape[1])  # field by field, in the order of the elements
        return np.asarray(self.patterns[:, elements].any(axis=1))[self.index]

    def _list(self, node: Node, where: Bools) -> Any:
        import awkward as ak

        held = self._held(node["columns"])[where]
        parameters = node["parameters"] or None
        slots = np.zeros((len(where), len(node["columns"])), dtype=bool)
        if node["regular"]:
            slots[where] = True
            return ak.contents.RegularArray(self.layout(node["content"], slots), len(node["columns"]), len(held), parameters=parameters)
        slots[where] = held
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(held.sum(axis=1))])
        return ak.contents.ListOffsetArray(ak.index.Index64(offsets), self.layout(node["content"], slots), parameters=parameters)

    def _held(self, columns: list[list[int]]) -> Bools:
        """The slots of a list, (n, K): up to the last element that is there."""
        there = np.stack([any_present(self.patterns, found) for found in columns], axis=1)
        return np.asarray(np.logical_or.accumulate(there[:, ::-1], axis=1)[:, ::-1])[self.index]

    def _count(self, node: Node, where: Bools) -> Any:
        import awkward as ak

        return ak.contents.NumpyArray(self._held(node["lists"]).sum(axis=1)[where].astype(node["dtype"]))
