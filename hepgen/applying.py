"""A saved model applied to a file of any length: chunk by chunk, every other branch as it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hepgen.errors import InputError, UsageError
from hepgen.estimators.base import Estimator, Invalid
from hepgen.estimators.model_file import sha256_of
from hepgen.estimators.ratio_arrays import counted
from hepgen.events import Writer, chunks, entry_identity, identity, identity_columns, open_info
from hepgen.events import schema as schema_named
from hepgen.events.reading import Chunk, Paths
from hepgen.events.sources import expand
from hepgen.events.weight_files import write_weights
from hepgen.kernels import threads
from hepgen.kernels.dispatch import cores
from hepgen.progress import progress_bar
from hepgen.stages import IDLE, Clock, stage

if TYPE_CHECKING:
    from rich.table import Table

    from hepgen.estimators.weigher import Weigher


@dataclass(frozen=True)
class Applied:
    """What `apply_file` did.

    Attributes
    ----------
    events, transformed, untouched : int
        Events read, events transformed (or weighted), and events passed through because they lack the objects or a finite column.
    clock : Clock
        Seconds of all threads spent "reading", in "awkward" (columns to a matrix and back, units, energies), in the "kernel" (noise,
        scalings, network, draws) and "writing".
    """

    events: int
    transformed: int
    untouched: int
    clock: Clock


def apply_file(
    model: Estimator,
    source: str | Path,
    out: str | Path,
    *,
    tree: str | None = None,
    schema: str | None = None,
    seed: int | None = None,
    invalid: Invalid = "raise",
    file_format: str | None = None,
    chunk_size: int = 50_000,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
    entries: tuple[int, int] | None = None,
) -> Applied:
    """Apply a model to every event of a file, into a new file with the same branches, types and order of events.

    A model that transforms changes the columns of its features; one that weights adds the branches ``hepgen_weight``, and
    ``hepgen_weight_up`` and ``hepgen_weight_down`` of an ensemble, without the event's own weight.

    Parameters
    ----------
    model
        A fitted estimator.
    source, out
        ROOT or Parquet files; `out` appears under its name only when it is whole.
    tree, schema
        Name of the tree and of the schema; detected by default.
    seed
        Noise seed, the model's own by default. Random numbers follow the run and event numbers, or else the file and the entry in it,
        so that the result does not depend on `chunk_size`.
    invalid
        What an event with NaN or inf among its features gets: an error, itself unchanged ("identity"), or "nan".
    file_format
        "ttree", "rntuple" or "parquet"; by default by the name of `out`, and that of the input where both fit.
    chunk_size
        Events that are read, transformed and written together.
    workers
        Threads that transform a chunk each, while this one reads and writes; `workers` + 2 chunks are in memory at once. One for
        each core, at most 8, by default. The output does not depend on them.
    overwrite
        Replace `out`.
    progress
        Show a progress bar (default: on a terminal).
    entries
        First and one past the last entry of `source` to take; all by default.

    Returns
    -------
    Applied
        The counts.
    """
    info = open_info(source, tree)
    view = schema_named(schema or info.schema)
    wanted = view.branches(model.columns(info.branches), info.branches)

    @stage("awkward")
    def rewrite(chunk: Chunk) -> tuple[Any, int]:
        keys = identity(chunk.raw)
        if keys is None:
            keys = entry_identity(info.uuid, chunk.entry_start, len(chunk))
        with threads(1):
            return model.rewrite(chunk.raw, view, wanted, identity=keys, seed=seed, invalid=invalid, entry_start=chunk.entry_start)

    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    workers = workers or min(cores(), 8)
    counts = np.zeros(2, dtype=int)
    clock = Clock()
    with (
        clock.running(),
        stage("writing"),
        Writer(out, like=info, format=file_format, overwrite=overwrite) as writer,
        progress_bar(f"apply to {Path(source).name}", info.entries, progress) as report,
        ThreadPoolExecutor(workers) as pool,
    ):
        first, last = entries or (0, None)
        part = chunks(source, tree=tree, schema=view, chunk_size=chunk_size, entry_start=first, entry_stop=last)
        read = _timed("reading", part)
        for written, answered in _in_order(pool, rewrite, read, workers + 1):
            writer.extend(written)
            counts += (len(written), answered)
            report(int(counts[0]), "")
    return Applied(int(counts[0]), int(counts[1]), int(counts[0] - counts[1]), clock)


def weigh_files(
    model: Weigher,
    sources: Paths,
    out: str | Path,
    *,
    tree: str | None = None,
    schema: str | None = None,
    replicas: bool = False,
    invalid: Invalid = "raise",
    overwrite: bool = False,
    progress: bool | None = None,
) -> Path:
    """Write the weights of every event of files to a weight file, by run and event number; see `hepgen.events.weight_files`.

    Parameters
    ----------
    model
        A fitted `hepgen.Reweighter`.
    sources
        ROOT or Parquet files of one sample; only the columns of the model and of the identity are read.
    out
        A new Parquet file; all keys and weights are held until it is written.
    replicas
        Write the weights of all members too.
    tree, schema, invalid, overwrite, progress
        As in `apply_file`; weights are never NaN, so that `invalid` is "raise" or "identity".

    Raises
    ------
    InputError
        The events carry no run and event numbers, or two events have the same.
    """
    if invalid == "nan":
        raise UsageError("a weight file holds no NaN: choose invalid='raise' or 'identity'")
    files = expand(sources)
    info = open_info(files[0], tree)
    view = schema_named(schema or info.schema)
    named = identity_columns(info.branches)
    if not named:
        raise InputError(f"{files[0]} has no run and event numbers to find weights by: write them into the file with hepgen apply")
    columns = {*view.branches(model.columns(info.branches), info.branches), *named}
    keys, weights, members = [], [], []
    wanted = ("nominal", "replicas") if replicas else ("nominal",)
    total = sum(open_info(file, tree).entries for file in files)
    with progress_bar(f"weigh {files[0]}", total, progress) as report:
        for chunk in chunks(files, tree=tree, schema=view, columns=columns):
            events = view.view(chunk.raw)
            found, _ = counted(model, events, wanted, invalid, entry_start=chunk.entry_start)
            keys.append(identity(chunk.raw))
            weights.append(found["nominal"])
            members += [found["replicas"]] if replicas else []
            report(sum(map(len, weights)), "")
    return write_weights(
        out,
        np.concatenate(keys),  # type: ignore[arg-type]
        np.concatenate(weights),
        replicas=np.concatenate(members) if replicas else None,
        names=[".".join(view.path(name, info.branches)) for name in named],  # as events that are read have them
        normalisation=getattr(model, "normalise", None),
        model_sha256=sha256_of(model.to_bytes()),
        overwrite=overwrite,
    )


def profile_table(done: Applied, seconds: float) -> Table:
    """Where the time of `apply_file`, which took so many seconds on the wall, went."""
    from rich.table import Table as RichTable

    rate = done.events / seconds if seconds > 0 else 0.0
    table = RichTable(title=f"{done.events} events in {seconds:.2f} s: {rate:,.0f} events/s")
    table.add_column("stage")
    for name in ("seconds, all threads", "share"):
        table.add_column(name, justify="right")
    for name, share in done.clock.shares().items():
        table.add_row(name, f"{done.clock.seconds[name]:.2f}", f"{100 * share:.0f} %")
    return table


Item = TypeVar("Item")
Result = TypeVar("Result")


def _in_order(pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Results of the items in their order, `ahead` of them in work at once; on an error what has not begun is left."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(copy_context().run, function, item))
            if len(waiting) == ahead:
                yield _result(waiting)
        while waiting:
            yield _result(waiting)
    finally:
        for future in waiting:
            future.cancel()


def _result(waiting: deque[Future[Result]]) -> Result:
    with stage(IDLE):
        return waiting.popleft().result()


def _timed(name: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items, their making counted to a stage."""
    each = iter(items)
    while True:
        with stage(name):
            item = next(each, None)
        if item is None:
            return
        yield item
