"""A saved model applied to many files on many workers: a file for each part of the entries, and a manifest of what is done."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hepgen import __version__
from hepgen.applying import apply_file
from hepgen.errors import InputError, MissingDependency, OutputError, UsageError
from hepgen.estimators.base import Estimator
from hepgen.estimators.model_file import sha256_of
from hepgen.events import open_info
from hepgen.events.reading import Paths
from hepgen.events.sources import expand
from hepgen.kernels.dispatch import cores
from hepgen.progress import progress_bar
from hepgen.whole_files import locked, write_whole

MANIFEST = "manifest.json"
PART_SIZE = 1_000_000
TRIES = 3  # of a part whose worker is lost


@dataclass(frozen=True)
class Part:
    """Entries of a file, and the name of the file that is written of them."""

    file: str
    source: str
    entry_start: int
    entry_stop: int


@dataclass(frozen=True)
class AppliedParts:
    """What `apply_parts` did: events, those transformed or weighted, parts in all and parts that were there already."""

    events: int
    transformed: int
    parts: int
    skipped: int


def apply_parts(
    model: Estimator,
    sources: Paths,
    out: str | Path,
    *,
    scheduler: Any = None,
    part_size: int = PART_SIZE,
    overwrite: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> AppliedParts:
    """Apply a model to files on the workers of dask, into a folder with a file for each part and ``manifest.json``.

    A part appears under its name when it is whole, and in the manifest after that: what was stopped goes on with the parts that are not
    done, and a part whose worker is lost is done by another one. The parts in their order hold what one file would: random numbers follow
    the events.

    Parameters
    ----------
    model
        A fitted estimator; workers load a saved one from its file once per process.
    sources
        ROOT or Parquet files, or patterns.
    out
        A folder.
    scheduler
        Address of a dask scheduler, or a `distributed.Client`; a cluster of one worker for each core of this machine by default.
    part_size
        Entries of a part at most; no part spans two files.
    overwrite
        Begin anew in a folder that holds another job.
    options
        `tree`, `schema`, `seed`, `invalid`, `file_format`, `chunk_size` of `apply_file`.

    Raises
    ------
    OutputError
        The folder holds parts of another model, other files or other options, or cannot be written.
    UsageError
        Another process is writing to the folder.
    """
    if part_size < 1:
        raise UsageError(f"part_size must be at least 1, not {part_size}")
    folder = Path(out)
    files = expand(sources)
    infos = [open_info(file, options.get("tree")) for file in files]
    kind = options.get("file_format") or infos[0].format.lower()
    parts = list(_parts([(info.path, info.entries) for info in infos], part_size, ".parquet" if kind == "parquet" else ".root"))
    job = {
        "hepgen": __version__,
        "model_sha256": sha256_of(model.to_bytes()),
        "sources": [[info.path, info.entries, str(info.uuid)] for info in infos],
        "part_size": part_size,
        "options": options,
    }
    with ExitStack() as stack:
        try:
            alone = stack.enter_context(locked(folder / MANIFEST))
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
        if not alone:
            raise UsageError(f"another process is writing to {folder}: wait for it, or name another folder")
        done = _done_before(folder, job, overwrite=overwrite)
        found = {file: counts for file, counts in done.items() if (folder / file).exists()}
        left = [part for part in parts if part.file not in found]
        total = sum(info.entries for info in infos)
        report = stack.enter_context(progress_bar(f"apply to {len(files)} files", total, progress))
        skipped = len(found)
        _write_manifest(folder, job, parts, found)
        if left:
            client = stack.enter_context(_client(scheduler))
            for file, counts in _on_workers(client, model, left, folder, options):
                found[file] = counts
                _write_manifest(folder, job, parts, found)
                report(sum(events for events, _ in found.values()), f"{len(found)} of {len(parts)} parts")
    events, transformed = (sum(counts[i] for counts in found.values()) for i in (0, 1))
    return AppliedParts(events, transformed, len(parts), skipped)


def _parts(files: list[tuple[str, int]], size: int, suffix: str) -> Iterator[Part]:
    number = 0
    for path, entries in files:
        for first in range(0, max(entries, 1), size):
            yield Part(f"part-{number:05d}{suffix}", path, first, min(first + size, entries))
            number += 1


def _done_before(folder: Path, job: dict[str, Any], *, overwrite: bool) -> dict[str, tuple[int, int]]:
    """Counts of the parts that are done, by file; a folder of another job is refused, or cleared. What a lost worker left half goes."""
    for half in folder.glob(".part-*.part"):
        half.unlink(missing_ok=True)
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.glob("part-*")):
            if not overwrite:
                raise OutputError(f"{folder} holds parts and no {MANIFEST}: choose another folder, or pass --overwrite")
            _clear(folder)
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        done = {part["file"]: (part["events"], part["transformed"]) for part in known["parts"] if part["events"] is not None}
        same = known["job"] == json.loads(json.dumps(job))
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} is damaged ({error}): choose another folder, or pass --overwrite") from error
    if not same and not overwrite:
        raise OutputError(
            f"{folder} holds parts of another model, other files or other options: choose another folder, or pass --overwrite"
        )
    if overwrite:
        _clear(folder)
    return {} if overwrite else done


def _clear(folder: Path) -> None:
    for path in [*folder.glob("part-*"), folder / MANIFEST]:
        path.unlink(missing_ok=True)


def _write_manifest(folder: Path, job: dict[str, Any], parts: list[Part], done: dict[str, tuple[int, int]]) -> None:
    rows = [{**asdict(part), **dict(zip(("events", "transformed"), done.get(part.file, (None, None)), strict=True))} for part in parts]
    try:
        write_whole(folder / MANIFEST, json.dumps({"job": job, "parts": rows}, indent=1).encode())
    except OSError as error:
        raise OutputError(f"{folder / MANIFEST} cannot be written ({error.strerror}): choose another folder") from error


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise MissingDependency("workers need dask's scheduler: pip install hepgen[dask]") from error


def local_client(workers: int | None = None) -> Any:
    """A client of dask workers on this machine, one for each core by default, which keep the memory of a chunk for the next.

    dask has workers return memory to the system at once; to get it back for every chunk is a third of the CPU time of `apply_file`.
    """
    distributed = _distributed()
    dask = importlib.import_module("dask")
    with dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}):
        return distributed.Client(n_workers=workers or cores(), threads_per_worker=1, dashboard_address=":0")


@contextmanager
def _client(scheduler: Any) -> Iterator[Any]:
    distributed = _distributed()
    if isinstance(scheduler, distributed.Client):
        yield scheduler
        return
    try:
        made = distributed.Client(scheduler) if scheduler else local_client()
    except (OSError, ValueError) as error:
        raise UsageError(f"there is no dask scheduler at {scheduler} ({error})") from error
    with made as client:
        yield client


def _on_workers(
    client: Any, model: Estimator, parts: list[Part], folder: Path, options: dict[str, Any]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and counts of each part when it is done; on an error what has not begun is left."""
    distributed = _distributed()
    shared = client.scatter(model, broadcast=True) if model.ship != "path" else model
    futures = {client.submit(_apply_part, shared, part, str(folder.absolute()), options, pure=False, retries=TRIES): part for part in parts}
    try:
        for future in distributed.as_completed(list(futures)):
            yield futures[future].file, future.result()
    except distributed.KilledWorker as error:
        raise InputError(f"a part was lost with its worker more than {TRIES} times: does a worker have too little memory?") from error
    finally:
        client.cancel(list(futures))


def _apply_part(model: Estimator, part: Part, folder: str, options: dict[str, Any]) -> tuple[int, int]:
    """On a worker."""
    done = apply_file(
        model,
        part.source,
        Path(folder) / part.file,
        entries=(part.entry_start, part.entry_stop),
        workers=1,
        overwrite=True,  # by a worker that was lost after the part was whole
        progress=False,
        **options,
    )
    return done.events, done.transformed
