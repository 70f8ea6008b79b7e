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

from hepgen.errors import UsageError
from hepgen.estimators.base import Invalid
from hepgen.estimators.transformer import Counts
from hepgen.events import Writer, chunks, identity, open_info
from hepgen.events import schema as schema_named
from hepgen.events.reading import Chunk
from hepgen.kernels import threads
from hepgen.kernels.dispatch import cores
from hepgen.progress import progress_bar
from hepgen.stages import IDLE, Clock, stage

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Applied:
    """What `apply_file` did.

    Attributes
    ----------
    events, transformed, untouched : int
        Events read, events transformed, and events passed through because they lack the objects or a finite column.
    clock : Clock
        Seconds of all threads spent "reading", in "awkward" (columns to a matrix and back, units, energies), in the "kernel" (noise,
        scalings, network, draws) and "writing".
    """

    events: int
    transformed: int
    untouched: int
    clock: Clock


def apply_file(
    model: Any,
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
) -> Applied:
    """Transform every event of a file into a new file with the same branches, types and order of events.

    Parameters
    ----------
    model
        A fitted estimator with ``columns`` and ``transform_counted``.
    source, out
        ROOT or Parquet files; `out` appears under its name only when it is whole.
    tree, schema
        Name of the tree and of the schema; detected by default.
    seed
        Noise seed, the model's own by default. Random numbers follow the run and event numbers, or else the entry in the file,
        so that the result does not depend on `chunk_size`.
    invalid
        What an event with NaN or inf among its features gets: an error, itself unchanged ("identity"), or "nan".
    file_format
        "ttree", "rntuple" or "parquet"; by default that of the input.
    chunk_size
        Events that are read, transformed and written together.
    workers
        Threads that transform a chunk each, while this one reads and writes; `workers` + 2 chunks are in memory at once. One for
        each core, at most 8, by default. The output does not depend on them.
    overwrite
        Replace `out`.
    progress
        Show a progress bar (default: on a terminal).

    Returns
    -------
    Applied
        The counts.
    """
    info = open_info(source, tree)
    view = schema_named(schema or info.schema)
    wanted = view.branches(model.columns(info.branches), info.branches)

    @stage("awkward")
    def transform(chunk: Chunk) -> tuple[Any, Counts]:
        events = view.view(chunk.raw, columns=wanted)
        keys = identity(chunk.raw)
        if keys is None:
            keys = np.arange(chunk.entry_start, chunk.entry_stop, dtype=np.uint64)[:, None]
        with threads(1):
            moved, met = model.transform_counted(events, seed=seed, identity=keys, invalid=invalid, entry_start=chunk.entry_start)
        return view.unview(chunk.raw, moved, wanted), met

    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    workers = workers or min(cores(), 8)
    counts = np.zeros(2, dtype=int)
    clock = Clock()
    with (
        clock.running(),
        stage("writing"),
        Writer(out, like=info, format=file_format or info.format.lower(), overwrite=overwrite) as writer,
        progress_bar(f"apply to {Path(source).name}", info.entries, progress) as report,
        ThreadPoolExecutor(workers) as pool,
    ):
        read = _timed("reading", chunks(source, tree=tree, schema=view, chunk_size=chunk_size))
        for moved, met in _in_order(pool, transform, read, workers + 1):
            writer.extend(moved)
            counts += (met.total, met.transformed)
            report(int(counts[0]), "")
    return Applied(int(counts[0]), int(counts[1]), int(counts[0] - counts[1]), clock)


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
