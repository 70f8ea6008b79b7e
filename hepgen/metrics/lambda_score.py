"""The -2 ln Lambda of paper C: how likely reference events are in the binned density of generated ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, as_array, checked_column, checked_matrix, checked_weights, positive_integer

MOST_CELLS = 10_000_000


@dataclass(frozen=True)
class LambdaScore:
    """A `score` -2 ln Lambda, lower is better, over `events` reference events (their sum of weights).

    `floor` is the score of the reference against itself, which none can go below; `empty` the share of the reference in cells where
    nothing was generated.
    """

    score: float
    floor: float
    events: float
    empty: float

    @property
    def per_event(self) -> float:
        """The score divided by the number of reference events."""
        return self.score / self.events

    @property
    def excess(self) -> float:
        """(score - floor) / events: twice the Kullback-Leibler divergence of the generated from the reference cells, 0 at best."""
        return (self.score - self.floor) / self.events

    def to_dict(self) -> dict[str, float]:
        """The numbers, of types that JSON has."""
        return {
            "value": self.score, "per_event": self.per_event, "floor": self.floor, "floor_per_event": self.floor / self.events,
            "excess": self.excess, "empty": self.empty,
        }  # fmt: skip


class LambdaReference:
    """A reference sample in uniformised bins, to score generated samples against: `lambda_score` where there are many of them.

    Parameters
    ----------
    reference : (n, d) matrix, the x of paper C
    weights : (n,) event weights of either sign
    bins : number of bins a column, whose edges are quantiles of the reference, by abs(weight), so that each column is uniform in them (a
        column of few values has fewer); or one array of rising edges a column, the outer bins open, as in `LambdaReference.edges`
    pseudo_count : generated events added to each cell, in units of effective generated rows
    names : d column names, for error messages

    Raises
    ------
    InputError, UsageError
        Empty, not finite, mismatched, weights summing to zero, a constant column; edges that do not rise, more than 1e7 cells.
    """

    def __init__(
        self,
        reference: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        bins: int | Sequence[ArrayLike] = 10,
        pseudo_count: float = 0.5,
        names: Sequence[str] | None = None,
    ) -> None:
        x = checked_matrix(reference, "the reference", names)
        w = checked_weights(weights, len(x), "the reference")
        if w.sum() < 0:
            raise InputError("the weights of the reference sum to less than zero: it has no number of events to score")
        if not 0 <= pseudo_count < float("inf"):
            raise UsageError(f"pseudo_count is {pseudo_count!r}, expected a number of at least 0")
        self.names = tuple(names) if names is not None else tuple(str(column) for column in range(x.shape[1]))
        self.edges = _uniform_edges(x, w, bins, self.names) if isinstance(bins, (int, np.integer)) else _given_edges(bins, self.names)
        self.pseudo_count = float(pseudo_count)
        self._shape = tuple(len(edges) - 1 for edges in self.edges)
        if np.prod(self._shape, dtype=float) > MOST_CELLS:
            raise UsageError(f"{' x '.join(map(str, self._shape))} bins are more than {MOST_CELLS:.0e} cells: give fewer bins or columns")
        content: Float = np.asarray(np.bincount(self._cells(x), w), dtype=np.float64)
        self._occupied = np.flatnonzero(content)
        self._content = content[self._occupied]
        self._events = float(w.sum())

    def score(self, generated: ArrayLike | Iterator[ArrayLike], weights: ArrayLike | None = None) -> LambdaScore:
        """Return -2 ln Lambda of a generated sample; parameters and errors as in `lambda_score`."""
        counts, total, squares = np.zeros(int(np.prod(self._shape))), 0.0, 0.0
        for matrix in _copies(generated):
            x = checked_matrix(matrix, "the generated sample", self.names)
            w = checked_weights(weights, len(x), "the generated sample")
            counts += np.bincount(self._cells(x), w, minlength=len(counts))
            total, squares = total + float(w.sum()), squares + float(w @ w)
        if not squares:
            raise InputError("the generated sample has no copies: there is nothing to score")
        # cells of negative content are empty ones
        shares = np.maximum(counts / total, 0.0)
        rows = total**2 / squares
        p = (rows * shares / shares.sum() + self.pseudo_count) / (rows + self.pseudo_count * len(shares))
        m = self._content
        with np.errstate(divide="ignore"):
            score = -2 * float(m @ np.log(p[self._occupied]))
        own = m[m > 0]
        floor = -2 * float(own @ np.log(own / own.sum()))
        return LambdaScore(score, floor, self._events, float(m[shares[self._occupied] == 0].sum()) / self._events)

    def _cells(self, x: Float) -> NDArray[np.intp]:
        index = tuple(np.searchsorted(edges[1:-1], x[:, column], side="right") for column, edges in enumerate(self.edges))
        return np.asarray(np.ravel_multi_index(index, self._shape), dtype=np.intp)


def lambda_score(
    reference: ArrayLike,
    generated: ArrayLike | Iterator[ArrayLike],
    reference_weights: ArrayLike | None = None,
    generated_weights: ArrayLike | None = None,
    *,
    bins: int | Sequence[ArrayLike] = 10,
    pseudo_count: float = 0.5,
    names: Sequence[str] | None = None,
) -> LambdaScore:
    """Return -2 ln Lambda(X | Y) of reference events X in the binned density of generated events Y (paper C, eq. 2), lower is better.

        -2 ln Lambda = -2 sum_k m_k ln p_Y(k),        p_Y(k) = (N s_k + c) / (N + c K)

    with m_k the reference's weight in cell k of K, s_k the share of generated weight in it, c the pseudo-count and N the effective
    generated rows, (sum w)^2 / sum w^2. For c = 0 that is the paper's n_k / N, infinite where a cell of the reference stays empty.

    Parameters
    ----------
    reference : (n, d) matrix; the paper takes pt, eta and ID of the object and pt / m of the pair
    generated : (N, d) matrix; or several copies of the events with fresh latents, (copies, N, d) or an iterator over (N, d) matrices, of
        which only one is kept in memory
    reference_weights : (n,) event weights of either sign. Events taken away count with -2 m_k ln p too, and leave the floor's sum.
    generated_weights : (N,) event weights of either sign, of each copy; only their ratios matter. Copies as rows of one matrix have weights
        w / copies.
    bins, pseudo_count, names : as in `LambdaReference`

    Returns
    -------
    LambdaScore

    Raises
    ------
    InputError, UsageError
        As `LambdaReference`, for either sample.
    """
    return LambdaReference(reference, reference_weights, bins=bins, pseudo_count=pseudo_count, names=names).score(
        generated, generated_weights
    )


def _copies(generated: ArrayLike | Iterator[ArrayLike]) -> Iterable[ArrayLike]:
    if isinstance(generated, Iterator):
        return generated
    array = as_array(generated, "the generated sample")
    return array if array.ndim == 3 else [array]


def _uniform_edges(x: Float, w: Float, bins: int, names: tuple[str, ...]) -> tuple[Float, ...]:
    shares = np.arange(1, positive_integer(bins, "bins")) / bins
    found = []
    for column, name in zip(x.T, names, strict=True):
        order = np.argsort(column, kind="stable")
        values, mass = column[order], np.abs(w[order])
        below = (np.cumsum(mass) - mass / 2) / mass.sum()
        inner = np.unique(np.interp(shares, below, values))
        low, high = float(values[0]), float(values[-1])
        if low == high:
            raise InputError(f"column {name} of the reference is constant: it has no bins")
        found.append(np.array([low, *inner[inner > low], np.nextafter(high, np.inf)]))
    return tuple(found)


def _given_edges(bins: Sequence[ArrayLike], names: tuple[str, ...]) -> tuple[Float, ...]:
    if len(bins) != len(names):
        raise UsageError(f"bins has the edges of {len(bins)} columns, but there are {len(names)}: {', '.join(names)}")
    found = tuple(checked_column(edges, f"the bin edges of column {name}") for edges, name in zip(bins, names, strict=True))
    for edges, name in zip(found, names, strict=True):
        if len(edges) < 2 or not all(low < high for low, high in pairwise(edges)):
            raise UsageError(f"the bin edges of column {name} must be at least two rising numbers")
    return found
