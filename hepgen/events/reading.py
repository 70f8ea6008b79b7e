"""Read events from ROOT (TTree, RNTuple) and Parquet files: whole, in record form, or branch by branch in chunks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak

from hepgen.errors import InputError, UsageError
from hepgen.events.schemas import Schema, detect
from hepgen.events.schemas import schema as schema_named
from hepgen.events.sources import Source, expand, open_source, reading

log = logging.getLogger("hepgen")

Paths = str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class FileInfo:
    """What a file holds, without its events.

    Attributes
    ----------
    path, tree : str
    entries : int
    branches : dict of str to str
        Readable branches in file order, with their types as the file names them.
    format : str
        "TTree", "RNTuple" or "Parquet".
    schema : str
        Name of the schema found (see `hepgen.events.schemas.detect`).
    skipped : dict of str to str
        Branches that cannot be read, each with the reason.
    counters : dict of str to str
        For a TTree, the counter branch of each jagged branch that has one.
    compression : object
        uproot's compression of the file, None where unknown.
    uuid : int
        128 bits that tell the file from others: the UUID that a ROOT file was written with; of Parquet a hash of its name and length.
    """

    path: str
    tree: str
    entries: int
    branches: dict[str, str]
    format: str
    schema: str
    skipped: dict[str, str] = field(default_factory=dict)
    counters: dict[str, str] = field(default_factory=dict)
    compression: Any = None
    uuid: int = 0


@dataclass(frozen=True)
class Chunk:
    """Some entries of one file, branch by branch.

    Attributes
    ----------
    raw : ak.Array
        A record per event with the branches as they are in the file, in its order, units and dtypes.
    file : str
    entry_start, entry_stop : int
        The entries these are in that file.
    tree : str
    schema : Schema
        What views `raw` as records.
    skipped : dict of str to str
        Branches of the file left out because they cannot be read, with the reason.
    """

    raw: ak.Array
    file: str
    entry_start: int
    entry_stop: int
    tree: str
    schema: Schema
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.entry_stop - self.entry_start


def open_info(path: str | Path, tree: str | None = None) -> FileInfo:
    """Say what a file holds: tree, entries, branches, format, schema.

    Raises
    ------
    InputError
        Where the file is missing, empty, cut short, damaged, of another kind, or has no such tree.
    """
    name = expand(path)[0]
    with closing(open_source(name, tree)) as source:
        return _info(name, source)


def _info(name: str, source: Source) -> FileInfo:
    found = detect(source.tree, source.branches).name
    return FileInfo(
        name,
        source.tree,
        source.entries,
        dict(source.branches),
        source.format,
        schema=found,
        skipped=dict(source.skipped),
        counters=dict(source.counters),
        compression=source.compression,
        uuid=source.uuid,
    )


def read(
    paths: Paths,
    *,
    tree: str | None = None,
    schema: str | Schema | None = None,
    columns: Iterable[str] | None = None,
    entry_start: int | None = None,
    entry_stop: int | None = None,
) -> ak.Array:
    """Read whole files as records, energies in GeV.

    Parameters
    ----------
    paths : str, Path or list of them
        .root (TTree or RNTuple) or .parquet; globs allowed; several files are joined in order.
    tree : str, optional
        Tree name; found by itself where a file has one tree, or one of the known names.
    schema : str or Schema, optional
        "atlas-open-data", "nanoaod", "physlite", "flat"; found by itself by default.
    columns : iterable of str, optional
        Only these, as "photon.pt" or "photon_pt"; all by default.
    entry_start, entry_stop : int, optional
        Entries of the joined files, as in a slice without step; negative counts from the end.

    Returns
    -------
    ak.Array
        One record per event, attrs {"schema": name, "files": list of paths}. Length 0, with all fields, for a tree of 0 entries.

    Raises
    ------
    InputError
        Missing, damaged or cut short file; no such tree or column (with near names); files whose branches differ.
    UsageError
        Unknown schema, or no file.
    """
    files = expand(paths)
    chosen = None if schema is None else schema_named(schema)
    wanted = None if columns is None else list(columns)
    reader = _Reader(chosen, tree, wanted)
    start, stop = 0, None
    if entry_start is not None or entry_stop is not None:
        total = sum(open_info(file, tree).entries for file in files)
        start, stop, _ = slice(entry_start, entry_stop).indices(total)
    parts = [chunk for file in files for chunk in reader.read_file(file, None, start, stop)]
    raw = parts[0].raw if len(parts) == 1 else ak.concatenate([part.raw for part in parts])
    raw.attrs["files"] = files
    return parts[0].schema.view(raw)


def chunks(
    paths: Paths,
    *,
    tree: str | None = None,
    schema: str | Schema | None = None,
    columns: Iterable[str] | None = None,
    chunk_size: int = 100_000,
    entry_start: int = 0,
    entry_stop: int | None = None,
) -> Iterator[Chunk]:
    """Go through files in chunks of at most `chunk_size` events, in bounded memory.

    A tree of 0 entries gives one chunk of length 0, so that its branches are known. Branches that cannot be read are left
    out, listed in `Chunk.skipped`, and told once per file to the log. Parameters and errors as in `read`; the events come
    branch by branch (`Chunk.raw`), all branches by default. `entry_start` and `entry_stop` count the entries of all files together.

    Raises
    ------
    InputError
        As `read`, and where a branch has another type in a later file.
    UsageError
        Where `chunk_size` is not positive.
    """
    if chunk_size < 1:
        raise UsageError(f"chunk_size must be at least 1, not {chunk_size}")
    files = expand(paths)
    reader = _Reader(None if schema is None else schema_named(schema), tree, None if columns is None else list(columns))
    return (chunk for file in files for chunk in reader.read_file(file, chunk_size, entry_start, entry_stop))


class _Reader:
    """Files of one sample: the branches and types of the first hold for all."""

    def __init__(self, schema: Schema | None, tree: str | None, columns: list[str] | None):
        self.schema, self.tree, self.columns = schema, tree, columns
        self.first: str | None = None
        self.names: list[str] = []
        self.types: dict[str, str] = {}
        self.offset = 0  # entries of the files before this one

    def read_file(self, path: str, step: int | None, begin: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Entries begin:stop of all files together, as far as they lie in this one, `step` at a time (all at once where None)."""
        with closing(open_source(path, self.tree)) as source:
            schema = self.schema or detect(source.tree, source.branches)
            names = self._names(path, source, schema)
            start = min(max(0, begin - self.offset), source.entries)
            end = source.entries if stop is None else max(start, min(stop - self.offset, source.entries))
            self.offset += source.entries
            if self.columns is None and source.skipped:
                examples = ", ".join(list(source.skipped)[:3])
                log.warning("%s: %d of its branches cannot be read and are left out (%s, ...)", path, len(source.skipped), examples)
            steps = source.iterate(names, start, end, step or max(1, end - start))
            while True:
                with reading(path):
                    raw = next(steps, None)
                if raw is None:
                    return
                self._check_types(path, raw)
                yield Chunk(raw, path, start, start + len(raw), source.tree, schema, dict(source.skipped))
                start += len(raw)

    def _names(self, path: str, source: Source, schema: Schema) -> list[str]:
        if self.columns is not None:
            try:
                names = schema.branches(self.columns, source.branches)
            except InputError as error:
                self._refuse_skipped(path, source)
                raise InputError(f"{path}: {error}") from error
        else:
            names = list(source.branches)
        if self.first is None:
            self.first, self.names = path, names
        elif set(names) != set(self.names):
            missing, extra = [n for n in self.names if n not in names], [n for n in names if n not in self.names]
            said = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"has besides {', '.join(extra[:3])}"] * bool(extra)
            raise InputError(f"{path} {' and '.join(said)}, unlike {self.first}: choose common branches by columns=, or read them apart")
        return self.names

    def _refuse_skipped(self, path: str, source: Source) -> None:
        for column in self.columns or []:
            if column in source.skipped:
                raise InputError(f"{path}: the branch '{column}' cannot be read ({source.skipped[column]}): leave it out")

    def _check_types(self, path: str, raw: ak.Array) -> None:
        types = {name: str(raw.layout.content(name).form.type) for name in raw.fields}
        if not self.types:
            self.types = types
            return
        if types != self.types:
            name = next(item for item in types if types[item] != self.types[item])
            before = self.types[name]
            raise InputError(f"{path}: the branch '{name}' is {types[name]} here and {before} in {self.first}: read the files apart")


__all__ = ["Chunk", "FileInfo", "chunks", "open_info", "read"]
