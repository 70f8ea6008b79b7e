"""One face over the files events come in: TTree, RNTuple and Parquet, opened, listed and read in steps."""

from __future__ import annotations

import glob
import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import awkward as ak
import numpy as np

from hepgen.errors import HepgenError, InputError, UsageError

#: trees looked for first where a file holds several and none is named
KNOWN_TREES = ("mini", "Events", "CollectionTree", "events", "nominal")


class Source(Protocol):
    """An open tree: its branches in file order, and its entries in steps."""

    format: str
    tree: str
    entries: int
    branches: dict[str, str]
    skipped: dict[str, str]
    counters: dict[str, str]
    compression: Any
    uuid: int

    def iterate(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[ak.Array]:
        """Records of the named branches, in this order, at most `step` entries at a time; one of length 0 where start >= stop."""

    def close(self) -> None:
        """Close the file handle; harmless twice."""


def near(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that names what is close to `name` (or a few of what there is)."""
    names = list(known)
    folded = {item.lower(): item for item in reversed(names)}
    close = [folded[item] for item in get_close_matches(name.lower(), folded, n=3, cutoff=0.6)]
    if close:
        return f"did you mean {' or '.join(repr(item) for item in close)}?"
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"there is {listed}" if names else "there is nothing"


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what the readers raise on a damaged file into one sentence."""
    try:
        yield
    except (HepgenError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")[:160]
        raise InputError(
            f"{path} cannot be read: it is damaged or cut short ({type(error).__name__}: {first}); copy or download it again"
        ) from error


def expand(paths: str | Path | Iterable[str | Path]) -> list[str]:
    """File names behind one path, a glob or a list of them, in the order given (a glob sorted).

    Raises
    ------
    InputError
        Where a file does not exist or a glob matches nothing.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files: list[str] = []
    for item in given:
        name = str(item)
        if "://" in name or Path(name).exists():
            files.append(name)
            continue
        matches = sorted(glob.glob(name, recursive=True)) if any(mark in name for mark in "*?[") else []
        if not matches:
            raise InputError(_no_file(name))
        files += matches
    if not files:
        raise UsageError("no input file was given: name at least one ROOT or Parquet file")
    return files


def _no_file(name: str) -> str:
    folder = Path(name).parent
    if any(mark in name for mark in "*?["):
        return f"no file matches {name}: check the pattern"
    if not folder.is_dir():
        return f"{name} does not exist: there is no folder {folder}"
    close = get_close_matches(Path(name).name, [item.name for item in folder.iterdir()], n=2)
    return f"{name} does not exist" + (f": did you mean {' or '.join(close)}?" if close else ": check the path")


def _kind(path: str) -> str:
    """'root' or 'parquet', by the first bytes; a ROOT file shorter than its own header says is refused here."""
    if "://" in path:
        return "parquet" if path.endswith((".parquet", ".pq")) else "root"
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: name a file, or a pattern such as {path.rstrip('/')}/*.root")
    try:
        size = Path(path).stat().st_size
        with Path(path).open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror or error}") from error
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes): it was never written; copy or make it again")
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:4] != b"root":
        raise InputError(f"{path} is neither a ROOT nor a Parquet file (it begins with {head[:8]!r}): name the right file")
    if len(head) < 24:
        raise InputError(f"{path} is cut short: only {size} bytes are there; copy or download it again")
    version = struct.unpack(">i", head[4:8])[0]
    end = struct.unpack(">q", head[12:20])[0] if version >= 1_000_000 else struct.unpack(">i", head[12:16])[0]
    if size < end:
        raise InputError(f"{path} is cut short: {size} bytes are there and its header says {end}; copy or download it again")
    return "root"


def open_source(path: str, tree: str | None = None) -> Source:
    """Open a file and one tree in it.

    Raises
    ------
    InputError
        Where the file is missing, empty, cut short, damaged or of another kind, or has no such tree.
    """
    kind = _kind(expand(path)[0])
    with reading(path):
        source = ParquetSource(path, tree) if kind == "parquet" else _open_root(path, tree)
    if not source.branches and not source.skipped:
        source.close()
        raise InputError(f"{path}: the tree {source.tree!r} has no branches: the file is damaged, or was never filled")
    return source


@contextmanager
def open_root(path: str) -> Iterator[Any]:
    """An open ROOT file, closed in any case; missing and damaged files are told in one sentence."""
    import uproot

    name = expand(path)[0]
    if _kind(name) != "root":
        raise InputError(f"{name} is no ROOT file: name the right file")
    with reading(name):
        file = uproot.open(name, array_cache=None, object_cache=None)
    with file:
        yield file


def _open_root(path: str, tree: str | None) -> Source:
    import uproot

    file = uproot.open(path, array_cache=None, object_cache=None)
    try:
        classes = file.classnames(recursive=True, cycle=False)
        trees = [name for name, kind in classes.items() if kind == "TTree" or kind.endswith("RNTuple")]
        name = _pick_tree(path, trees, tree)
        return TTreeSource(path, file, name) if classes[name] == "TTree" else RNTupleSource(path, file, name)
    except BaseException:
        file.close()
        raise


def _pick_tree(path: str, trees: list[str], asked: str | None) -> str:
    if asked is not None:
        if asked.split(";")[0] in trees:
            return asked.split(";")[0]
        raise InputError(f"{path} has no tree '{asked}': {near(asked, trees)}")
    if not trees:
        raise InputError(f"{path} has no TTree and no RNTuple: it holds no events")
    known = [name for name in KNOWN_TREES if name in trees]
    if len(trees) > 1 and not known:
        raise InputError(f"{path} has several trees ({', '.join(trees[:8])}): say which with tree=")
    return known[0] if known else trees[0]


def _record(contents: Sequence[Any], names: Sequence[str], length: int) -> ak.Array:
    return ak.Array(ak.contents.RecordArray(list(contents), list(names), length=length))


class TTreeSource:
    """Leaf branches of a TTree; a branch that uproot cannot turn into an array is listed in `skipped`, with the reason."""

    format = "TTree"

    def __init__(self, path: str, file: Any, tree: str):
        self.path, self.tree, self._file = path, tree, file
        self.uuid = int(file.file.uuid.int)
        self._tree = file[tree]
        self.entries = int(self._tree.num_entries)
        self.branches: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.counters: dict[str, str] = {}
        self._branch: dict[str, Any] = {}
        for full, branch in self._tree.iteritems(recursive=True, full_paths=True):
            name = branch.name
            reason = self._unreadable(branch)
            if reason == "parent":
                continue
            if name in self._branch:
                self.skipped[full] = f"another branch has the name {name} too"
                continue
            if reason:
                self.skipped[name] = reason
                continue
            self.branches[name] = branch.typename
            self._branch[name] = branch
            count = branch.count_branch
            if count is not None:
                self.counters[name] = count.name
        # files written by uproot say it in the file's header only
        known = (branch.compression for branch in self._branch.values() if branch.num_baskets)
        self.compression = next((kind for kind in known if kind is not None), file.file.compression)

    def _unreadable(self, branch: Any) -> str | None:
        from uproot.interpretation.grouped import AsGrouped
        from uproot.interpretation.identify import UnknownInterpretation
        from uproot.interpretation.jagged import AsJagged
        from uproot.interpretation.numerical import AsDtype
        from uproot.interpretation.objects import AsStridedObjects

        try:
            kind = branch.interpretation
        except UnknownInterpretation:
            kind = None
        if branch.branches and (kind is None or isinstance(kind, AsGrouped | UnknownInterpretation)):
            return "parent"
        if kind is None or isinstance(kind, UnknownInterpretation):
            return f"no rule to read the type {branch.typename}"
        plain = isinstance(kind, AsDtype | AsJagged) and not isinstance(kind, AsStridedObjects)
        if plain or branch.typename.startswith(("std::vector<", "std::string", "char*")):
            return None
        if self.entries == 0:
            return None if branch.num_baskets == 0 else f"objects of type {branch.typename}"
        # C++ objects: uproot offers a rule for many that then fails on the bytes, so that the first entry is tried
        try:
            branch.array(entry_start=0, entry_stop=1, library="ak")
        except Exception:
            return f"objects of type {branch.typename} cannot be deserialised"
        return None

    def iterate(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[ak.Array]:
        """See `Source.iterate`."""
        if not names or start >= stop:
            yield _record([self._branch[name].array(entry_start=0, entry_stop=0, library="ak").layout for name in names], names, 0)
            return
        # uproot's search for a name with a dot in it goes through all branches: such branches are read one by one
        together = {id(self._branch[name]) for name in names if "." not in name}
        steps = self._tree.iterate(
            filter_branch=lambda branch: id(branch) in together, entry_start=start, entry_stop=stop, step_size=step, library="ak"
        )
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            layout: Any = next(steps).layout if together else None
            contents = [layout.content(name) if "." not in name else self._one(name, begin, end) for name in names]
            yield _record(contents, names, end - begin)

    def _one(self, name: str, start: int, stop: int) -> Any:
        return self._branch[name].array(entry_start=start, entry_stop=stop, library="ak", array_cache=None).layout

    def close(self) -> None:
        """Close the file handle; harmless twice."""
        self._file.close()


class RNTupleSource:
    """Top-level fields of an RNTuple; the unnamed collection behind projected fields is left out, since they repeat it."""

    format = "RNTuple"

    def __init__(self, path: str, file: Any, tree: str):
        self.path, self.tree, self._file = path, tree, file
        self.uuid = int(file.file.uuid.int)
        self._tree = file[tree]
        self.entries = int(self._tree.num_entries)
        self.skipped: dict[str, str] = {}
        self.counters: dict[str, str] = {}
        self.compression = None  # uproot holds it per page
        names = self._tree.keys(recursive=False)
        types = self._tree.typenames(recursive=False)
        named = [name for name in names if types[name] or not name.startswith("_collection")]
        self.branches = {name: str(types[name]) for name in (named or names)}

    def iterate(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[ak.Array]:
        """See `Source.iterate`."""
        if not names or start >= stop:
            empty = self._tree.arrays(entry_start=0, entry_stop=0)
            yield _record([empty.layout.content(name) for name in names], names, 0)
            return
        wanted = frozenset(names)
        ends = np.array([cluster.num_first_entry + cluster.num_entries for cluster in self._tree.ntuple.cluster_summaries])
        held: Any = None
        have = start  # entries up to here are read; whole clusters, so that none is read twice
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            if have < end:
                until = min(int(ends[np.searchsorted(ends, end)]), stop)
                array = self._tree.arrays(filter_field=lambda field: field.path in wanted, entry_start=have, entry_stop=until)
                part = _record([array.layout.content(name) for name in names], names, len(array)).layout
                held = part if held is None or held.length == 0 else ak.concatenate([held, part], highlevel=False)
                have = until
            yield ak.Array(held[: end - begin])
            held = held[end - begin :]

    def close(self) -> None:
        """Close the file handle; harmless twice."""
        self._file.close()


class ParquetSource:
    """Top-level columns of a Parquet file."""

    format = "Parquet"

    def __init__(self, path: str, tree: str | None):
        import pyarrow.parquet

        self.path = path
        self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)  # what is buffered stays to the end, the whole file in the end
        schema = self._file.schema_arrow
        self.tree = (schema.metadata or {}).get(b"hepgen.tree", b"events").decode()
        if tree is not None and tree != self.tree:
            self._file.close()
            raise InputError(f"{path} has no tree '{tree}': a Parquet file holds one table, here '{self.tree}'; leave tree= out")
        self.entries = int(self._file.metadata.num_rows)
        # Parquet has no UUID: the name and size of the file stand for it
        self.uuid = int.from_bytes(hashlib.sha256(f"{Path(path).name} {self.entries}".encode()).digest()[:16], "big")
        self.branches = {field.name: str(field.type) for field in schema}
        self.skipped: dict[str, str] = {}
        self.counters: dict[str, str] = {}
        self.compression = None

    def iterate(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[ak.Array]:
        """See `Source.iterate`."""
        if not names or start >= stop:
            table = self._file.schema_arrow.empty_table().select(list(names))
            yield self._awkward(table, names)
            return
        groups, skip = self._row_groups(start, stop)
        left = stop - start
        for batch in self._file.iter_batches(batch_size=step, row_groups=groups, columns=list(names)):
            part = batch.slice(skip, left)
            skip = max(0, skip - batch.num_rows)
            left -= part.num_rows
            if part.num_rows:
                yield self._awkward(part, names)
            if left == 0:
                return

    def _row_groups(self, start: int, stop: int) -> tuple[list[int], int]:
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        return list(range(first, last + 1)), start - (int(ends[first - 1]) if first else 0)

    @staticmethod
    def _awkward(table: Any, names: Sequence[str]) -> ak.Array:
        # whole, since only the table's schema says which columns may hold None: the type must not follow the chunk
        layout = ak.from_arrow(table, highlevel=False)
        while layout.is_indexed or layout.is_option:
            layout = layout.content if layout.is_option else layout.project()
        return _record([layout.content(name) for name in names], names, table.num_rows)

    def close(self) -> None:
        """Close the file handle; harmless twice."""
        self._file.close()
