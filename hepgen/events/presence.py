"""Which objects an event has: the patterns of presence that occur, as one-hot columns beside the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events.layouts import Bools, Floats, Ints


@dataclass(frozen=True)
class Presence:
    """The patterns of presence of d columns, and how often each occurs.

    An event is a row of values (n, d), 0 where the object of a column is absent, followed by one column per pattern that is 1 for the
    event's own and 0 for the others; no such columns where all events have the same objects. Read back, a row has the pattern whose column
    is the largest: no pattern comes out that was not learnt.

    Attributes
    ----------
    patterns : (P, d) bool
        The columns that are there, the most frequent pattern first.
    shares : (P,) float64
        Positive, of sum one.
    """

    patterns: Bools
    shares: Floats

    @classmethod
    def learn(cls, present: Bools, weights: Floats | None = None) -> Presence:
        """The patterns of events (n, d) with signed weights (n,).

        Raises
        ------
        InputError
            The weights of the events with one of the patterns sum to nothing or less.
        """
        if not len(present):
            raise InputError("there is no event to learn from")
        _, first, which = np.unique(np.packbits(present, axis=1), axis=0, return_index=True, return_inverse=True)
        sums = np.bincount(which.ravel(), weights, len(first)).astype(np.float64)
        for pattern in np.flatnonzero(~(sums > 0)):
            raise InputError(
                f"the weights of the {int((which == pattern).sum())} events that have the objects of event {first[pattern]} sum to "
                f"{sums[pattern]:g}: leave these events out"
            )
        order = np.argsort(-sums, kind="stable")
        return cls(present[first[order]], sums[order] / sums.sum())

    @property
    def columns(self) -> int:
        """d."""
        return int(self.patterns.shape[1])

    @property
    def codes(self) -> int:
        """Columns that say the pattern: P, or 0 where there is one pattern only."""
        return len(self.patterns) if len(self.patterns) > 1 else 0

    @property
    def width(self) -> int:
        """Columns of values and pattern together."""
        return self.columns + self.codes

    def index(self, present: Bools) -> Ints:
        """The pattern of events (n, d), (n,) int64; -1 where it is none of those learnt."""
        known = {row.tobytes(): k for k, row in enumerate(np.packbits(self.patterns, axis=1))}
        rows, which = np.unique(np.packbits(present, axis=1), axis=0, return_inverse=True)
        found = np.array([known.get(row.tobytes(), -1) for row in rows], dtype=np.int64)
        return found[which.ravel()] if len(found) else np.zeros(0, dtype=np.int64)

    def one_hot(self, index: Ints) -> Floats:
        """The columns that say the pattern, (n, codes)."""
        return np.eye(self.codes)[index] if self.codes else np.empty((len(index), 0))

    def encode(self, values: Floats, index: Ints) -> Floats:
        """Values (n, d), whatever they are where absent, and patterns (n,) -> rows (n, width)."""
        filled = np.where(self.patterns[index], values, 0.0)
        return np.concatenate([filled, self.one_hot(index)], axis=1)

    def decode(self, rows: Floats) -> tuple[Floats, Ints]:
        """Rows (n, width) -> values (n, d), NaN where absent, and patterns (n,)."""
        if rows.shape[1] != self.width:
            raise UsageError(f"the rows have {rows.shape[1]} columns, and values and pattern together have {self.width}")
        index = rows[:, self.columns :].argmax(axis=1) if self.codes else np.zeros(len(rows), dtype=np.int64)
        return np.where(self.patterns[index], rows[:, : self.columns], np.nan), index

    def draw(self, uniform: Floats) -> Ints:
        """The patterns (n,) that uniform numbers (n,) in (0, 1) stand for, each as often as it occurs."""
        edges = np.cumsum(self.shares)[:-1]
        return np.searchsorted(edges, uniform, side="right").astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """All of it, of types that JSON has."""
        return {"patterns": self.patterns.astype(int).tolist(), "shares": self.shares.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Presence:
        """The patterns that `to_dict` described; ModelFileError when it is no such description."""
        try:
            found = cls(np.asarray(data["patterns"], dtype=bool), np.asarray(data["shares"], dtype=np.float64))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"the description of the objects that events have is damaged ({error})") from error
        if found.patterns.ndim != 2 or found.shares.shape != found.patterns.shape[:1] or not (found.shares > 0).all():
            raise ModelFileError("the description of the objects that events have is damaged: patterns and shares do not fit")
        return found


def any_present(patterns: Bools, columns: npt.ArrayLike) -> Bools:
    """Which rows (n,) of patterns (n, d) have one of the columns."""
    return np.asarray(patterns[:, np.asarray(columns, dtype=np.int64)].any(axis=1))
