"""What a fit of ratios sums over the rows of its two samples."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from hepgen.estimators.fit_rows import FitRows

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Over rows of the simulation: of their own weights, of those times the ratios, and of what a clip takes."""

    own: float = 0.0
    reweighted: float = 0.0
    own_squares: float = 0.0
    squares: float = 0.0
    clipped: float = 0
    lost: float = 0.0
    unclipped: float = 0.0

    @property
    def all(self) -> Matrix:
        """One after the other, (7,)."""
        return np.array(astuple(self))

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(self.all + other.all).tolist())


def together(sim: FitRows, data: FitRows) -> tuple[Matrix, Matrix | None]:
    """Rows and weights of both samples as one, in which each has the same sum."""
    weights = [np.full(len(rows), 1 / len(rows)) if rows.weights is None else rows.weights / rows.weights.sum() for rows in (sim, data)]
    return np.concatenate([sim.matrix, data.matrix]), np.concatenate(weights)
