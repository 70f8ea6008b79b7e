"""Rows of numbers on disk in a random order, for samples that do not fit into memory.

The files have no name: they take space until the process ends, however it ends, and nobody has to clear them up. They are written as files
and mapped afterwards, so that a full disk is an error and not a crash.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hepgen.errors import OutputError

BUCKET_BYTES = 64 << 20  # of rows that are shuffled in memory together
MOST_BUCKETS = 256  # open at a time
PART_BYTES = 32 << 20


def shuffled_rows(
    parts: Iterable[NDArray[np.float64]], width: int, expected: int, seed: tuple[int, ...], folder: Path | None = None
) -> Any:
    """All rows of the parts in one random order, mapped from a file: (n, width) float64.

    Every row goes to a bucket drawn for it, and every bucket is shuffled in memory, which makes every order as likely as any other. The
    order depends on the rows, `expected` and the seed, not on where one part ends and the next begins.

    Parameters
    ----------
    parts
        Matrices (n, width).
    expected
        About how many rows there will be, from which the number of buckets follows.
    seed
        Of the order.
    folder
        Where the file is; that for temporary files where None.

    Raises
    ------
    OutputError
        The folder cannot be written, or the disk is full.
    """
    count = min(max(math.ceil(expected * width * 8 / BUCKET_BYTES), 1), MOST_BUCKETS)
    drawn = np.random.default_rng([*seed, 0])
    with _told(folder), contextlib.ExitStack() as stack:
        buckets = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(count)]
        for part in parts:
            where = (drawn.random(len(part)) * count).astype(np.intp)
            order = np.argsort(where, kind="stable")
            ends = np.searchsorted(where[order], np.arange(count + 1))
            rows = part[order]
            for bucket, start, stop in zip(buckets, ends[:-1], ends[1:], strict=True):
                bucket.write(np.ascontiguousarray(rows[start:stop]).data)
        return mapped(_emptied(buckets, width, seed), (width,), np.float64, folder)


def _emptied(buckets: Sequence[IO[bytes]], width: int, seed: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Each bucket in a random order; its file is empty afterwards."""
    for number, bucket in enumerate(buckets):
        bucket.seek(0)
        rows = np.frombuffer(bucket.read(), dtype=np.float64).reshape(-1, width)
        bucket.seek(0)
        bucket.truncate()
        yield rows[np.random.default_rng([*seed, 1, number]).permutation(len(rows))]


def mapped(parts: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None = None) -> Any:
    """Parts (n, *shape) one after the other in a file, mapped; see `shuffled_rows`."""
    with _told(folder), tempfile.TemporaryFile(dir=folder) as file:  # the map outlives it
        length = 0
        for part in parts:
            rows = np.ascontiguousarray(part, dtype=dtype)
            file.write(rows.data)
            length += len(rows)
        file.flush()
        # shared, for a private map of more than the machine's memory is refused; nobody writes to it
        return np.memmap(file, dtype, "r+", shape=(length, *shape)) if length else np.empty((0, *shape), dtype)


def slices(length: int, width: int) -> Iterator[slice]:
    """Consecutive rows of float64 that are a few megabytes each."""
    step = max(PART_BYTES // (8 * max(width, 1)), 1)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


@contextlib.contextmanager
def _told(folder: Path | None) -> Iterator[None]:
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        where = folder if folder is not None else tempfile.gettempdir()
        raise OutputError(
            f"the rows of a streamed fit cannot be kept in {where} ({error.strerror or error}): "
            "give another folder for the checkpoint, or for temporary files by TMPDIR"
        ) from error
