"""Events of files that are gone through in parts: what a fit takes in place of events that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError, UsageError
from hepgen.events.reading import chunks, open_info
from hepgen.events.schemas import Schema
from hepgen.events.schemas import schema as schema_named
from hepgen.events.sources import expand

Weights = NDArray[np.float64]


class Part(NamedTuple):
    """Some consecutive events of one file: records in GeV and rad, their signed weights (n,), and where in the file they begin."""

    events: ak.Array
    weights: Weights
    file: str
    entry_start: int


@dataclass(frozen=True)
class EventStream:
    """The events of files, in parts, as often as they are asked for; nothing is read before.

    Attributes
    ----------
    paths
        .root or .parquet files, or globs; see `hepgen.events.read`.
    tree, schema
        Found by themselves where None.
    weights : str
        "auto" (the schema's event weight), "none", or the name of a branch.
    entry_start, entry_stop
        Entries of all files together, counted from the first: not negative.
    chunk_size
        Events of a part, at most.

    Raises
    ------
    InputError
        A file does not exist.
    UsageError
        A negative entry.
    """

    paths: str | Path | Iterable[str | Path]
    tree: str | None = None
    schema: str | None = None
    weights: str = "auto"
    entry_start: int = 0
    entry_stop: int | None = None
    chunk_size: int = 100_000

    def __post_init__(self) -> None:
        if min(self.entry_start, self.entry_stop or 0) < 0:
            raise UsageError(
                f"the entries {self.entry_start} to {self.entry_stop} of a stream are counted from its first: give none below 0"
            )
        object.__setattr__(self, "paths", tuple(expand(self.paths)))  # as they were when it was made

    def __len__(self) -> int:
        """Entries, before any selection."""
        total = sum(open_info(file, self.tree).entries for file in expand(self.paths))
        return len(range(*slice(self.entry_start, self.entry_stop).indices(total)))

    def share(self, number: int, count: int) -> EventStream:
        """The part with this number of `count` parts of equally many entries."""
        if count == 1:
            return self
        start, n = self.entry_start, len(self)
        return replace(self, entry_start=start + n * number // count, entry_stop=start + n * (number + 1) // count)

    def parts(self, columns: Callable[[Collection[str]], set[str]]) -> Iterator[Part]:
        """Go through the events.

        Parameters
        ----------
        columns
            From the branches of a file to the names that are needed of them, such as `hepgen.Features.columns`; those of the weights come
            by themselves.

        Raises
        ------
        InputError
            As `hepgen.events.chunks`.
        """
        info = open_info(expand(self.paths)[0], self.tree)
        view = schema_named(self.schema or info.schema)
        names = columns(info.branches) | weight_columns(view, info.branches, self.weights)
        options: dict[str, Any] = {"tree": self.tree, "schema": view, "columns": names, "chunk_size": self.chunk_size}
        for chunk in chunks(self.paths, **options, entry_start=self.entry_start, entry_stop=self.entry_stop):
            events = chunk.schema.view(chunk.raw)
            try:
                yield Part(events, weights_of(view, events, self.weights), chunk.file, chunk.entry_start)
            except InputError as error:
                raise InputError(f"{chunk.file}: {error}") from error


def weight_columns(view: Schema, branches: Collection[str], weights: str) -> set[str]:
    """What has to be read for weights "auto", "none" or of a branch."""
    return set(view.weight_columns(branches)) if weights == "auto" else {weights} - {"none"}


def weights_of(view: Schema, events: ak.Array, weights: str) -> Weights:
    """Weights (n,) of events that hold the columns of `weight_columns`."""
    if weights == "auto":
        return view.weight(events)
    return np.ones(len(events)) if weights == "none" else np.asarray(events[weights], dtype=np.float64)
