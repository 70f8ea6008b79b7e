"""A saved model applied to a file of any length: chunk by chunk, every other branch as it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.events import Writer, chunks, identity, open_info
from hepgen.events import schema as schema_named
from hepgen.events.reading import Chunk
from hepgen.kernels import threads
from hepgen.kernels.dispatch import cores
from hepgen.progress import progress_bar


@dataclass(frozen=True)
class Applied:
    """What `apply_file` did: events read, events transformed, and events passed through because they lack the objects."""

    events: int
    transformed: int
    untouched: int


def apply_file(
    model: Any,
    source: str | Path,
    out: str | Path,
    *,
    tree: str | None = None,
    schema: str | None = None,
    seed: int | None = None,
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

    def transform(chunk: Chunk) -> tuple[Any, NDArray[np.bool_]]:
        events = view.view(chunk.raw, columns=wanted)
        keys = identity(chunk.raw)
        if keys is None:
            keys = np.arange(chunk.entry_start, chunk.entry_stop, dtype=np.uint64)[:, None]
        with threads(1):
            moved, mask = model.transform_counted(events, seed=seed, identity=keys, entry_start=chunk.entry_start)
        return view.unview(chunk.raw, moved, wanted), mask

    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    workers = workers or min(cores(), 8)
    counts = np.zeros(2, dtype=int)
    with (
        Writer(out, like=info, format=file_format or info.format.lower(), overwrite=overwrite) as writer,
        progress_bar(f"apply to {Path(source).name}", info.entries, progress) as report,
        ThreadPoolExecutor(workers) as pool,
    ):
        for moved, mask in _in_order(pool, transform, chunks(source, tree=tree, schema=view, chunk_size=chunk_size), workers + 1):
            writer.extend(moved)
            counts += (len(mask), int(mask.sum()))
            report(int(counts[0]), "")
    return Applied(int(counts[0]), int(counts[1]), int(counts[0] - counts[1]))


Item = TypeVar("Item")
Result = TypeVar("Result")


def _in_order(pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Results of the items in their order, `ahead` of them in work at once; on an error what has not begun is left."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
