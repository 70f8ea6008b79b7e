"""Events of a saved generator written to a file of any length: chunk by chunk, under its name only when it is whole."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hepgen.errors import UsageError
from hepgen.estimators import EventGenerator
from hepgen.events import Writer
from hepgen.events import schema as schema_named
from hepgen.kernels import threads
from hepgen.kernels.dispatch import cores
from hepgen.progress import progress_bar

if TYPE_CHECKING:
    import awkward as ak

CHUNK = 65_536


class Sampled(NamedTuple):
    """What `sample_file` wrote: the file, how many events, the seed they follow, and the seconds it took."""

    path: Path
    events: int
    seed: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events a second, writing included."""
        return self.events / self.seconds


def sample_file(
    model: EventGenerator,
    out: str | Path,
    events: int,
    *,
    seed: int | None = None,
    first: int = 0,
    file_format: str | None = None,
    chunk_size: int = CHUNK,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Sampled:
    """Write new events of a generator, with the branches, types and units of the files it was fitted to.

    ``run`` (the seed), ``luminosityBlock`` (1) and ``event`` (the number of the event) are added in front, but for those of them that the
    model generates itself: what is done with the events later knows them by these.

    Parameters
    ----------
    model
        A fitted `hepgen.EventGenerator`.
    out
        ROOT or Parquet file; it appears under its name only when it is whole.
    events
        How many.
    seed
        Of the random numbers; the one of the fit by default.
    first
        Number of the first event. An event depends on the seed and its number alone, so that files of many jobs are parts of one sample.
    file_format
        "ttree", "rntuple" or "parquet"; by default Parquet for a name in .parquet or .pq, else a TTree.
    chunk_size
        Events that are drawn and written together.
    workers
        Threads that draw a chunk each, while this one writes; `workers` + 2 chunks are in memory at once. One for each core, at most 8, by
        default. Neither they nor `chunk_size` change the events.
    overwrite
        Replace `out`.
    progress
        Show a progress bar (default: on a terminal).

    Returns
    -------
    Sampled

    Raises
    ------
    UsageError
        The model is no generator or not fitted, or a number makes no sense.
    OutputError
        `out` exists already or cannot be written.
    """
    if not isinstance(model, EventGenerator):
        raise UsageError(f"the model is a {type(model).__name__}, which makes no new events: use hepgen apply")
    for name, number, least in (("events", events, 1), ("first", first, 0), ("chunk_size", chunk_size, 1), ("workers", workers, 1)):
        if number is not None and number < least:
            raise UsageError(f"{name} must be at least {least}, got {number}")
    seed = model.seed if seed is None else seed
    view = schema_named(model.schema or "flat")
    records = schema_named("flat") if model.branches else view  # branches are in the units of the file already

    def draw(start: int) -> ak.Array:
        with threads(1):
            return numbered(records.flatten(model.sample(min(chunk_size, first + events - start), seed=seed, first=start)), seed, start)

    began, workers = time.perf_counter(), workers or min(cores(), 8)
    tree = view.trees[0] if view.trees else "events"
    with (
        Writer(out, format=file_format, tree=tree, overwrite=overwrite) as writer,
        progress_bar(f"sample to {Path(out).name}", events, progress) as report,
        closing(_ahead(draw, range(first, first + events, chunk_size), workers)) as chunks,
    ):
        done = 0
        for chunk in chunks:
            writer.extend(chunk)
            done += len(chunk)
            report(done, "")
    return Sampled(Path(out), done, seed, time.perf_counter() - began)


def numbered(events: ak.Array, seed: int, first: int) -> ak.Array:
    """Branches of events with ``run``, ``luminosityBlock`` and ``event`` before them, where they have none of that name."""
    import awkward as ak

    n = len(events)
    identity: dict[str, Any] = {
        "run": np.full(n, seed & 0xFFFFFFFF, np.uint32),
        "luminosityBlock": np.ones(n, np.uint32),
        "event": np.arange(first, first + n, dtype=np.uint64),
    }
    return ak.zip(identity | {name: events[name] for name in events.fields}, depth_limit=1)


def _ahead(draw: Callable[[int], ak.Array], starts: Iterable[int], workers: int) -> Generator[ak.Array, None, None]:
    """Chunks in their order, drawn ahead in threads; on an error what has not begun is left."""
    waiting: deque[Future[ak.Array]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in starts:
                waiting.append(pool.submit(copy_context().run, draw, start))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
