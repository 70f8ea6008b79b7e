"""Write events to ROOT (TTree, RNTuple) and Parquet files as a stream; a file appears under its name only when it is whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import awkward as ak

from hepgen.errors import HepgenError, InputError, OutputError, UsageError
from hepgen.events.reading import FileInfo, open_info
from hepgen.events.schemas import Schema
from hepgen.events.schemas import schema as schema_named
from hepgen.events.sinks import BASKET_BYTES, BASKET_EVENTS, Sink, Target, branch_types, open_sink

FORMATS = ("ttree", "rntuple", "parquet")


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """The path of an output that may be written.

    Raises
    ------
    OutputError
        Where it exists (and not `overwrite`), is a folder, or its folder is missing or cannot be written.
    """
    target = Path(path)
    folder = target.parent
    with writing(target):
        if target.is_dir():
            raise OutputError(f"{target} is a folder: name a file in it")
        present = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
        if not present.is_dir():
            raise OutputError(f"{target} cannot be written: {present} is a file, not a folder")
        if present != folder:
            raise OutputError(f"{target} cannot be written: there is no folder {folder}; make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{target} cannot be written: no permission to write in the folder {folder}")
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists already: name another file, or ask to overwrite it")
    return target


def beside(target: Path) -> Path:
    """A temporary name in the same folder, so that a rename puts the file under its name at once."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the system says of a full disk or a lost folder into one sentence."""
    try:
        yield
    except HepgenError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}; nothing was left under that name") from error


class Writer:
    """Write events chunk by chunk; use as a context manager.

    The branches, their order and types are those of the first chunk, which may have length 0. Chunks are gathered into baskets of
    at least 20 000 events or 32 MB. The file is written beside its final name and renamed when the block ends; after an error or
    Ctrl-C nothing is left.

    In a TTree, jagged branches of one collection share one counter: the one they had in `like`, else photon_n for photon_pt or
    nPhoton for Photon_pt, where the events have it with the right counts; else a counter n<collection> is added and listed
    in `added`. RNTuple and Parquet add nothing. uproot sets up a TTree in a time that grows as the square of its branches
    (1500 take about ten seconds): prefer RNTuple there. An RNTuple keeps names with a dot, which uproot reads and ROOT may refuse.

    Parameters
    ----------
    path : str or Path
    like : FileInfo, str or Path, optional
        The file the events came from: its tree name, counters, compression and format (RNTuple to RNTuple) are kept.
    format : {"ttree", "rntuple", "parquet"}, optional
        By default Parquet for a name in .parquet or .pq, RNTuple where `like` is one, else TTree.
    tree : str, optional
        Tree name; that of `like` by default, else "events".
    overwrite : bool
        Replace an existing file.
    compression : uproot compression, optional
        For ROOT files; that of `like` by default, else ZSTD level 1, which also replaces LZMA (its packing takes longer than all else).

    Attributes
    ----------
    entries : int
        Events written so far.
    added : list of str
        Counter branches added to a TTree.

    Raises
    ------
    OutputError
        Where the output exists or cannot be written, or the format cannot hold a branch.
    UsageError
        For an unknown format.
    """

    def __init__(
        self,
        path: str | Path,
        like: FileInfo | str | Path | None = None,
        format: str | None = None,  # noqa: A002 - the word a user knows
        *,
        tree: str | None = None,
        overwrite: bool = False,
        compression: Any = None,
    ):
        if format is not None and format not in FORMATS:
            raise UsageError(f"there is no output format '{format}': choose one of {', '.join(FORMATS)}")
        self.path = check_output(path, overwrite)
        self.like = open_info(like) if isinstance(like, str | Path) else like
        self.format = format or self._default_format()
        self.tree = tree or (self.like.tree if self.like else "events")
        self.overwrite = overwrite
        self.entries = 0
        self.added: list[str] = []
        self._target = Target(self.path, beside(self.path), self.tree, compression, self.like)
        self._sink: Sink | None = None
        self._types: dict[str, str] = {}
        self._held: list[ak.Array] = []

    def _default_format(self) -> str:
        if self.path.suffix in (".parquet", ".pq"):
            return "parquet"
        kind = "ttree" if self.like is None else self.like.format.lower()
        return "ttree" if self.path.suffix == ".root" and kind == "parquet" else kind

    def __enter__(self) -> Self:
        return self

    def extend(self, raw: ak.Array) -> None:
        """Append events.

        Parameters
        ----------
        raw : ak.Array
            A record per event, one field per branch; the same fields and types each time.

        Raises
        ------
        OutputError
            Where the format cannot hold a branch, the branches differ from those before, or the disk is full.
        """
        if not raw.fields:
            raise OutputError(f"{self.path}: events without any branch cannot be written")
        if raw.layout.is_indexed:
            raw = ak.Array(raw.layout.project())
        if self._sink is None:
            with writing(self.path):
                self._sink = open_sink(self.format, self._target, raw)
            self.added, self._types = self._sink.added, branch_types(raw)
        self._check(raw)
        self._held.append(raw)
        # the bytes of a single chunk need no adding up: it is in memory already
        full = len(self._held) > 1 and sum(part.layout.nbytes for part in self._held) >= BASKET_BYTES
        if full or sum(map(len, self._held)) >= BASKET_EVENTS:
            self._flush()

    def _check(self, raw: ak.Array) -> None:
        if raw.fields != list(self._types):
            odd = sorted(set(raw.fields) ^ set(self._types)) or raw.fields
            raise OutputError(f"{self.path}: a chunk has other branches than the first ('{odd[0]}'): write events of one layout to a file")
        for name, kind in branch_types(raw).items():
            if kind != self._types[name]:
                raise OutputError(f"{self.path}: the branch '{name}' is {kind} here and {self._types[name]} in the first chunk")

    def _flush(self) -> None:
        whole = self._held[0] if len(self._held) == 1 else ak.concatenate(self._held)
        self._held = []
        if len(whole) and self._sink is not None:
            with writing(self.path):
                self._sink.extend(whole)
            self.entries += len(whole)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._sink is not None:
                with suppress(Exception):
                    self._sink.close(complete=False)
            self._target.temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._sink is None:
            raise OutputError(f"{self.path}: no events were given, not even a chunk of length 0, so that its branches are unknown")
        if self._held:
            self._flush()
        with writing(self.path):
            self._sink.close()
            check_output(self.path, self.overwrite)
            os.replace(self._target.temporary, self.path)


def write(
    path: str | Path,
    events: ak.Array | Mapping[str, Any],
    *,
    like: FileInfo | str | Path | None = None,
    schema: str | Schema | None = None,
    format: str | None = None,  # noqa: A002 - the word a user knows
    tree: str | None = None,
    overwrite: bool = False,
    compression: Any = None,
) -> Path:
    """Write events, in record or branch form, to one file.

    Records become branches as the schema names them, in its units (photon.pt in GeV to photon_pt in MeV for "atlas-open-data").

    Parameters
    ----------
    path, like, format, tree, overwrite, compression
        See `Writer`.
    events : ak.Array or mapping of str to arrays
        One record per event. In branch form with a schema given, energies are taken to be in GeV too.
    schema : str or Schema, optional
        By default the one `read` left in events.attrs; without it, or with "flat", branches are written as they are, and records
        become collection_field with nothing converted.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        Where the columns of a mapping differ in length.
    OutputError, UsageError
        See `Writer`.
    """
    if not isinstance(events, ak.Array):
        lengths = {name: len(column) for name, column in events.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the columns to write have different lengths: {', '.join(f'{n} has {size}' for n, size in lengths.items())}")
        events = ak.Array(dict(events))
    chosen = schema_named(schema if schema is not None else events.attrs.get("schema", "flat"))
    if tree is None and like is None and chosen.trees:
        tree = chosen.trees[0]
    with Writer(path, like, format, tree=tree, overwrite=overwrite, compression=compression) as out:
        out.extend(chosen.flatten(events))
    return out.path
