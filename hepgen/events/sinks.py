"""The formats events are written in: a TTree, an RNTuple, a Parquet table; each takes whole baskets of branch-level events."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import awkward as ak
import numpy as np

from hepgen.errors import OutputError
from hepgen.events.reading import FileInfo

#: a basket is written once this many events are held, so that small chunks do not make small baskets
BASKET_EVENTS = 20_000
BASKET_BYTES = 32_000_000
_NUMBERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
_LEAF = {"u1": "b", "i1": "B", "u2": "s", "i2": "S", "u4": "i", "i4": "I", "u8": "l", "i8": "L"}


@dataclass(frozen=True)
class Target:
    """Where and how to write: the final name (for errors), the temporary one, the tree, uproot's compression, the source's layout."""

    path: Path
    temporary: Path
    tree: str
    compression: Any
    like: FileInfo | None


class Sink(Protocol):
    """An open output; `added` are counter branches the format needs and the events have not."""

    added: list[str]

    def extend(self, raw: ak.Array) -> None:
        """Write one basket."""

    def close(self, complete: bool = True) -> None:
        """Finish the file; where it is not `complete`, close the handle and no more. Harmless twice."""


def branch_types(raw: ak.Array) -> dict[str, str]:
    """The awkward type of every branch, as text."""
    return {name: str(raw.layout.content(name).form.type) for name in raw.fields}


def open_sink(kind: str, target: Target, first: ak.Array) -> Sink:
    """Start a file for events like `first` (whose length may be 0).

    Raises
    ------
    OutputError
        Where the format cannot hold a branch.
    """
    kinds: dict[str, Any] = {"ttree": TreeSink, "rntuple": RNTupleSink, "parquet": ParquetSink}
    sink: Sink = kinds[kind](target, first)
    return sink


def _recreate(target: Target) -> Any:
    import uproot

    known = target.like.compression if target.like is not None else None
    if isinstance(known, uproot.LZMA):  # ten times the time of all the rest of an apply
        known = None
    return uproot.recreate(target.temporary, compression=target.compression or known or uproot.ZSTD(1))


def _unheld(path: Path, kind: str, name: str, branch: Any, other: str) -> OutputError:
    return OutputError(f"{path}: {kind} cannot hold the branch '{name}' ({branch}): use format='{other}', or leave the branch out")


class RNTupleSink:
    """An RNTuple; each basket is a cluster."""

    def __init__(self, target: Target, first: ak.Array):
        import uproot

        self.added: list[str] = []
        form = ak.to_packed(first[:0]).layout.form
        for name, content in zip(form.fields, form.contents, strict=True):
            with uproot.recreate(io.BytesIO()) as trial:
                try:
                    trial.mkrntuple("trial", ak.forms.RecordForm([content], [name]))
                except (TypeError, ValueError, LookupError, NotImplementedError, AttributeError) as error:
                    raise _unheld(target.path, "an RNTuple", name, content.type, "parquet") from error
        self._file = _recreate(target)
        self._tuple = self._file.mkrntuple(target.tree, form)

    def extend(self, raw: ak.Array) -> None:
        """See `Sink.extend`."""
        self._tuple.extend(raw)

    def close(self, complete: bool = True) -> None:  # noqa: ARG002 - nothing is left to complete here
        """See `Sink.close`."""
        self._file.close()


class ParquetSink:
    """A Parquet table; each basket is a row group, and the tree's name is kept in the metadata."""

    def __init__(self, target: Target, first: ak.Array):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.added: list[str] = []
        for name in first.fields:
            try:
                ak.to_arrow(first[name][:0], extensionarray=False, list_to32=True)
            except (TypeError, ValueError, NotImplementedError) as error:
                raise _unheld(target.path, "Parquet", name, first[name].layout.form.type, "rntuple") from error
        schema = self._table(first[:0]).schema
        self._metadata = {**(schema.metadata or {}), b"hepgen.tree": target.tree.encode()}
        try:
            self._file = pq.ParquetWriter(
                target.temporary, schema.with_metadata(self._metadata), compression="zstd", compression_level=1, use_dictionary=False
            )
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise OutputError(f"{target.path}: Parquet cannot hold these events ({error}): use format='rntuple'") from error

    @staticmethod
    def _table(raw: ak.Array) -> Any:
        return ak.to_arrow_table(raw, extensionarray=False, list_to32=True)

    def extend(self, raw: ak.Array) -> None:
        """See `Sink.extend`."""
        self._file.write_table(self._table(raw).replace_schema_metadata(self._metadata))

    def close(self, complete: bool = True) -> None:  # noqa: ARG002 - nothing is left to complete here
        """See `Sink.close`."""
        self._file.close()


class TreeSink:
    """A TTree; counters keep their integer type, which uproot alone would make int32."""

    def __init__(self, target: Target, first: ak.Array):
        self._path = target.path
        self._types = {name: _tree_type(target, name, first.layout.content(name).form.type) for name in first.fields}
        self._jagged = {name for name, kind in self._types.items() if _is_list(kind)}
        counter = _counters(target, first, self._types, [name for name in first.fields if name in self._jagged])
        self.added = [name for name in dict.fromkeys(counter.values()) if name not in first.fields]
        baskets = 10 if target.like is None else 2 + target.like.entries // BASKET_EVENTS
        self._file = _recreate(target)
        try:
            self._tree = self._file.mktree(
                target.tree,
                self._types,
                counter_name=lambda branch: counter.get(branch, f"n{branch}"),
                initial_basket_capacity=1,  # so that the first basket writes the tree's metadata again, see below
                resize_factor=max(10.0, baskets),
            )
        except (TypeError, ValueError, NotImplementedError) as error:
            self._file.close()
            said = next(iter(str(error).splitlines()), "")
            raise OutputError(f"{target.path}: a TTree cannot hold these branches ({said}): use format='rntuple'") from error
        self._keep_counter_types()
        self._none = ak.to_packed(first[:0])

    def _keep_counter_types(self) -> None:
        """uproot makes every counter int32; until the first basket has the metadata written again, the type may be changed."""
        for datum in self._tree._cascading._branch_data:
            if datum["kind"] == "counter" and datum["fName"] in self._types:
                datum["dtype"] = np.dtype(self._types[datum["fName"]].primitive).newbyteorder(">")
                datum["fTitle"] = f"{datum['fName']}/{_LEAF[datum['dtype'].str[1:]]}"

    def extend(self, raw: ak.Array) -> None:
        """See `Sink.extend`."""
        columns = {name: raw.layout.content(name) for name in raw.fields}
        data = {
            name: ak.Array(layout.to_packed()) if name in self._jagged or self._is_text(name) else np.asarray(ak.to_numpy(layout))
            for name, layout in columns.items()
        }
        try:
            self._tree.extend(data)
        except ValueError as error:
            if "disagree" not in str(error):
                raise
            name = str(error).split("'")[1]
            raise OutputError(f"{self._path}: '{name}' is not the length of the lists it counts: use format='rntuple'") from error

    def close(self, complete: bool = True) -> None:
        """See `Sink.close`."""
        if complete and not self._file.closed and self._tree.num_baskets == 0:
            self.extend(self._none)  # the first basket, though empty, settles the counters
        self._file.close()

    def _is_text(self, name: str) -> bool:
        return bool(self._types[name].parameters.get("__array__") == "string")


def _is_list(kind: Any) -> bool:
    return bool(isinstance(kind, ak.types.ListType) and kind.parameters.get("__array__") != "string")


def _tree_type(target: Target, name: str, kind: Any) -> Any:
    """The type of a branch, where a TTree can hold it: numbers, fixed arrays of them, lists of either, one string an event."""
    if kind.parameters.get("__array__") == "string":
        return kind
    inner = kind.content if _is_list(kind) else kind
    while isinstance(inner, ak.types.RegularType) and "__array__" not in inner.parameters:
        inner = inner.content
    if isinstance(inner, ak.types.NumpyType) and inner.primitive in _NUMBERS:
        return kind
    if isinstance(inner, ak.types.UnknownType):
        return ak.types.ListType(ak.types.NumpyType("float64")) if _is_list(kind) else ak.types.NumpyType("float64")
    raise _unheld(target.path, "a TTree", name, kind, "rntuple")


def _counters(target: Target, first: ak.Array, types: dict[str, Any], jagged: list[str]) -> dict[str, str]:
    """The counter of each jagged branch: as in the source file, else by name where the counts agree, else a new one."""
    known = target.like.counters if target.like is not None else {}
    whole = {name for name, kind in types.items() if isinstance(kind, ak.types.NumpyType) and np.dtype(kind.primitive).kind in "iu"}
    chosen: dict[str, str] = {}
    made: dict[str, Any] = {}
    for name in jagged:
        lengths = np.asarray(ak.num(first[name], axis=1))
        prefixes = [name[:end] for end in range(len(name), 0, -1) if end == len(name) or name[end] in "_."]
        named = [known[name]] if name in known else []
        named += [count for prefix in prefixes for count in (f"{prefix}_n", f"n{prefix}", f"N{prefix}")]
        found = next((count for count in named if count in whole and np.array_equal(np.asarray(first[count]), lengths)), None)
        if found is None:
            shared = f"n{prefixes[-1]}"
            free = shared not in first.fields and np.array_equal(made.setdefault(shared, lengths), lengths)
            found = shared if free else f"n{name}"
        chosen[name] = found
    return chosen
