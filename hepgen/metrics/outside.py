"""The fraction of events that fall outside a selection, as a whole and cut by cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.metrics.checks import Float, checked_matrix, checked_weights, effective_entries

if TYPE_CHECKING:
    from hepgen.events.features import Features
    from hepgen.events.selections import Cut, Selection


@dataclass(frozen=True)
class FractionOutside:
    """The weighted fraction of events outside a selection, its error, how many events that is, and (label, fraction, error) of every cut.

    `skipped` are the labels of the cuts that the columns do not allow to compute.
    """

    fraction: float
    error: float
    events: int
    cuts: tuple[tuple[str, float, float], ...]
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, of types that JSON has; cuts by their label."""
        cuts = {label: {"fraction": fraction, "error": error} for label, fraction, error in self.cuts}
        return {"fraction": self.fraction, "error": self.error, "events": self.events, "cuts": cuts, "skipped": list(self.skipped)}


def fraction_outside(selection: Selection, features: Features, matrix: ArrayLike, weights: ArrayLike | None = None) -> FractionOutside:
    """Return how much of a (transformed) sample falls outside a selection.

    Parameters
    ----------
    selection : the cuts; those that cannot be computed from feature columns are passed over, as `Selection.matrix_mask` does, and named
    features : the features whose columns (or output columns only) `matrix` has
    matrix : (n, d) float64, GeV and rad
    weights : (n,) event weights of either sign

    Returns
    -------
    FractionOutside, with f = sum w [outside] / sum w and var(f) = sum w^2 ([outside] - f)^2 / (sum w)^2, binomial for equal weights. Where
    no event or every event is outside that is zero, and the error given is 1 / effective entries.

    Raises
    ------
    InputError
        Empty or not finite matrix, mismatched lengths, weights summing to zero.
    """
    x = checked_matrix(matrix, "the matrix")
    w = checked_weights(weights, len(x), "the matrix")
    computed = selection.matrix_cuts(features)

    def outside(cuts: tuple[Cut, ...]) -> NDArray[np.bool_]:
        return ~type(selection)(cuts).matrix_mask(features, x)

    every = outside(computed)
    return FractionOutside(
        *_fraction(every, w),
        int(every.sum()),
        tuple((cut.label, *_fraction(outside((cut,)), w)) for cut in computed),
        tuple(cut.label for cut in selection.cuts if cut not in computed),
    )


def _fraction(outside: NDArray[np.bool_], w: Float) -> tuple[float, float]:
    total = w.sum()
    fraction = float(w[outside].sum() / total)
    if outside.all() or not outside.any():
        return fraction, 1 / effective_entries(w)
    return fraction, float(np.sqrt((w**2 * (outside - fraction) ** 2).sum()) / abs(total))
