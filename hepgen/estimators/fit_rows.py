"""The rows of events that take part in a fit, with their weights: in memory, or on disk where the events are a stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators.disk_rows import shuffled_rows, slices
from hepgen.events import EventStream, Features, Selection

if TYPE_CHECKING:
    from collections.abc import Collection

Matrix = NDArray[np.float64]
LEARNT = 1 << 20  # rows of a stream that scalings and densities are learnt from


@dataclass(frozen=True)
class FitRows:
    """Feature matrix (n, d) and signed weights (n,), or None for one each.

    Over several ranks those of all of them; `on_disk`, this rank's alone, in a random order.
    """

    matrix: Matrix
    weights: Matrix | None
    on_disk: bool = False

    def __len__(self) -> int:
        return len(self.matrix)

    def learnt(self) -> FitRows:
        """What scalings and densities are learnt from, in memory: everything, or on disk the first million rows of all ranks."""
        if not self.on_disk:
            return self
        matrix, weights = self.first(LEARNT // _ranks())
        return FitRows(*of_all_ranks(matrix, weights))

    def first(self, most: int) -> tuple[Matrix, Matrix | None]:
        """Copies of the first rows, at most so many."""
        return np.array(self.matrix[:most]), None if self.weights is None else np.array(self.weights[:most])

    def take(self, rows: NDArray[np.int64] | slice) -> FitRows:
        """Some rows, and on disk a slice of them, which is read when it is used."""
        return FitRows(self.matrix[rows], None if self.weights is None else self.weights[rows], self.on_disk)

    def split(self, share: float, seed: tuple[int, ...]) -> tuple[FitRows, FitRows]:
        """Rows without a share of them, and that share, drawn by the seed; both in order."""
        kept = max(round(share * len(self)), 1)
        if self.on_disk:  # in a random order already
            return self.take(slice(kept, None)), self.take(slice(kept))
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[kept:])), self.take(np.sort(order[:kept]))

    def parts(self) -> Iterator[tuple[Matrix, Matrix]]:
        """All rows and their weights, some megabytes at a time."""
        for rows in slices(*self.matrix.shape):
            matrix = self.matrix[rows]
            yield matrix, np.ones(len(matrix)) if self.weights is None else self.weights[rows]

    def limits(self) -> Matrix:
        """Smallest and largest value of every column, (d, 2)."""
        return np.stack(over_ranks(self.on_disk, np.min, self.matrix.min(0)) + over_ranks(self.on_disk, np.max, self.matrix.max(0)), axis=1)

    def events(self) -> int:
        """How many rows there are, over all ranks."""
        return int(over_ranks(self.on_disk, np.sum, len(self))[0])

    def mean_weight(self) -> float:
        """Over all ranks."""
        total = 1.0 * len(self) if self.weights is None else float(self.weights.sum())
        return float(over_ranks(self.on_disk, np.sum, total)[0]) / self.events()


def over_ranks(apart: bool, how: Any, mine: Any) -> list[Any]:
    """One value of what every rank has, in a list: `how` reduces the first axis. Where all have the same (not `apart`), that."""
    if not apart or _ranks() == 1:
        return [mine]
    from hepgen import ranks

    return [how(np.stack(ranks.objects(np.asarray(mine))), axis=0)]


def _ranks() -> int:
    if "torch" not in sys.modules:  # what starts ranks is torch
        return 1
    from hepgen import ranks

    return ranks.count()


def rows_to_fit(
    features: Features,
    events: Any,
    weights: ArrayLike | None,
    name: str,
    selection: Selection | None = None,
    *,
    seed: int = 1,
    folder: Path | None = None,
) -> FitRows:
    """The rows of the events that have the objects and pass the selection; over several ranks all call this, each with its part.

    Parameters
    ----------
    events
        Events, or an `EventStream`, which brings its weights with it.
    name
        Of the sample, for error messages: "sim" or "data".
    seed, folder
        Of the order of the rows of a stream, and where they are kept on disk: the folder for temporary files by default.

    Raises
    ------
    InputError
        A column is missing, not finite or constant, no event is left, or the weights do not fit, are not finite or sum to nothing.
    UsageError
        A stream and weights beside it.
    """
    if isinstance(events, EventStream):
        if weights is not None:
            raise UsageError(f"{name} is a stream, which reads its weights itself: name them by EventStream(weights=), not {name}_weights")
        rows = _streamed(features, events, name, selection, seed, folder)
    else:
        rows = FitRows(*of_all_ranks(*_passing(features, events, weights, name, selection)))
    _check(rows, features, name)
    return rows


def rows_of(
    features: Features, events: Any, weights: ArrayLike | None, name: str, selection: Selection | None = None
) -> tuple[Matrix, Matrix | None]:
    """Feature matrix (n, d) and weights of the events of this process that have the objects and pass the selection; see `rows_to_fit`."""
    rows = FitRows(*_passing(features, events, weights, name, selection))
    _check(rows, features, name)
    return rows.matrix, rows.weights


def _passing(
    features: Features, events: Any, weights: ArrayLike | None, name: str, selection: Selection | None, entry_start: int = 0
) -> tuple[Matrix, Matrix | None]:
    matrix, mask = features.to_matrix(events, entry_start=entry_start)
    kept = None if weights is None else np.asarray(weights, dtype=np.float64)
    if kept is not None:
        if kept.shape != mask.shape:
            raise InputError(f"{name}_weights has shape {kept.shape}, and there are {len(mask)} events: give one weight per event")
        bad = np.flatnonzero(~np.isfinite(kept))
        if len(bad):
            raise InputError(f"{name}_weights holds {len(bad)} values that are not finite, the first at event {bad[0]}")
        kept = kept[mask]
    if selection is not None:
        passed = np.asarray(selection.mask(events))[mask]
        matrix, kept = matrix[passed], None if kept is None else kept[passed]
    return matrix, kept


def _streamed(features: Features, stream: EventStream, name: str, selection: Selection | None, seed: int, folder: Path | None) -> FitRows:
    def columns(branches: Collection[str]) -> set[str]:
        return set(features.columns(branches)) | (set(selection.columns(branches)) if selection is not None else set())

    differ = False  # some weight from one

    def parts() -> Iterator[Matrix]:
        nonlocal differ
        for part in stream.parts(columns):
            try:
                matrix, weights = _passing(features, part.events, part.weights, name, selection, part.entry_start)
            except InputError as error:
                raise InputError(f"{part.file}: {error}") from error
            assert weights is not None
            differ |= bool((weights != 1).any())
            yield np.concatenate([matrix, weights[:, None]], axis=1)

    d = len(features)
    order = (seed, 8, int.from_bytes(name.encode(), "big"))
    rows = shuffled_rows(parts(), d + 1, len(stream), order, folder)
    return FitRows(rows[:, :d], rows[:, d] if over_ranks(True, np.any, differ)[0] else None, on_disk=True)


def _check(rows: FitRows, features: Features, name: str) -> None:
    """Over several ranks all fail together."""
    if not rows.events():
        raise InputError(f"no event of {name} has the objects and passes the selection: nothing can be fitted")
    if rows.on_disk and min(over_ranks(True, np.min, len(rows))) < 2:
        raise InputError(f"a rank has no two events of {name} that have the objects and pass the selection: take fewer ranks")
    if rows.weights is not None:
        sums = np.sum([[weights.sum(), np.abs(weights).sum()] for _, weights in rows.parts()], axis=0)
        (sums,) = over_ranks(rows.on_disk, np.sum, sums)
        if sums[0] <= 1e-9 * sums[1]:
            raise InputError(f"{name}_weights sum to {sums[0]:.3g}: the sum of the weights must be positive")
    for (low, high), label in zip(rows.limits(), features.names, strict=True):
        if low == high:
            raise InputError(f"column {label!r} of {name} is constant ({low:.6g}): leave it out of the features")


def of_all_ranks(rows: Any, weights: Any) -> tuple[Any, Any]:
    """Rows (n, ...) or events, and their weights (n,) or None, of all ranks in their order."""
    if _ranks() == 1:
        return rows, weights
    from hepgen import ranks

    parts = ranks.objects((rows, weights))
    joined = _one_after_the_other([part for part, _ in parts])
    return joined, None if weights is None else np.concatenate([np.asarray(own) for _, own in parts])


def _one_after_the_other(parts: list[Any]) -> Any:
    import awkward as ak

    if isinstance(parts[0], Mapping):
        return {name: _one_after_the_other([part[name] for part in parts]) for name in parts[0]}
    joined = ak.concatenate(parts)
    return joined if isinstance(parts[0], ak.Array) else ak.to_numpy(joined)
