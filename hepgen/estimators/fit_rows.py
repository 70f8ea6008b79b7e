"""The rows of events that take part in a fit, with their weights."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError
from hepgen.events import Features, Selection

Matrix = NDArray[np.float64]


def rows_to_fit(
    features: Features,
    events: Any,
    weights: ArrayLike | None,
    name: str,
    selection: Selection | None = None,
    *,
    together: bool = True,
) -> tuple[Matrix, Matrix | None]:
    """Feature matrix (n, d) and signed weights (n,), or None, of the events that have the objects and pass the selection.


    Parameters
    ----------
    name
        Of the sample, for error messages: "sim" or "data".
    together
        Over several ranks, which all have to call this: each gives its part of the events and gets the rows of all.

    Raises
    ------
    InputError
        A column is missing, not finite or constant, no event is left, or the weights do not fit, are not finite or sum to nothing.
    """
    matrix, mask = features.to_matrix(events)
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
    if together:
        matrix, kept = of_all_ranks(matrix, kept)
    if not len(matrix):
        raise InputError(f"no event of {name} has the objects and passes the selection: nothing can be fitted")
    if kept is not None and kept.sum() <= 1e-9 * np.abs(kept).sum():
        raise InputError(f"{name}_weights sum to {kept.sum():.3g}: the sum of the weights must be positive")
    for column, label in zip(matrix.T, features.names, strict=True):
        if column.min() == column.max():
            raise InputError(f"column {label!r} of {name} is constant ({column[0]:.6g}): leave it out of the features")
    return matrix, kept


def of_all_ranks(rows: Any, weights: Any) -> tuple[Any, Any]:
    """Rows (n, ...) or awkward events, and their weights (n,) or None, of all ranks in their order."""
    if "torch" not in sys.modules:  # what starts ranks is torch
        return rows, weights
    from hepgen import ranks

    if ranks.count() == 1:
        return rows, weights
    import awkward as ak

    parts = ranks.objects((rows, weights))
    joined = ak.concatenate([part for part, _ in parts])
    return (
        joined if isinstance(rows, ak.Array) else np.asarray(joined),
        None if weights is None else np.concatenate([np.asarray(own) for _, own in parts]),
    )
