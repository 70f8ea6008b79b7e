"""What every figure of merit asks of its arrays, said in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError

Float = NDArray[np.float64]


def as_array(values: ArrayLike, what: str) -> Float:
    """Return `values` as float64; InputError where they are not numbers in a rectangular array."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not a rectangular array of numbers ({error}): pass plain columns") from None


def checked_column(values: ArrayLike, what: str) -> Float:
    """Return one column, (n,) float64, after checking that it is flat, has entries and is finite."""
    column = as_array(values, what)
    if column.ndim != 1:
        raise InputError(f"{what} has shape {column.shape}, expected (n,): pass one column")
    if not len(column):
        raise InputError(f"{what} has no entries: check the selection that made it")
    bad = np.flatnonzero(~np.isfinite(column))
    if len(bad):
        raise InputError(f"{what} has {len(bad)} NaN or infinite entries (first at {bad[:5].tolist()}): remove them first")
    return column


def checked_matrix(matrix: ArrayLike, what: str, names: Sequence[str] | None = None) -> Float:
    """Return a feature matrix, (n, d) float64, after checking its shape, that it has events and that all of them are finite."""
    array = as_array(matrix, what)
    if array.ndim != 2:
        raise InputError(f"{what} has shape {array.shape}, expected (events, columns)")
    if names is not None and len(names) != array.shape[1]:
        raise InputError(f"{what} has {array.shape[1]} columns, but {len(names)} names were given ({', '.join(names)})")
    if not array.shape[0] or not array.shape[1]:
        raise InputError(f"{what} has no events or no columns (shape {array.shape}): check the selection that made it")
    for column in range(array.shape[1]):
        label = f"column {names[column] if names is not None else column} of {what}"
        checked_column(array[:, column], label)
    return array


def checked_weights(weights: ArrayLike | None, n: int, what: str) -> Float:
    """Return signed event weights, (n,) float64 (ones for None), after checking that they match, are finite and do not sum to zero."""
    if weights is None:
        return np.ones(n)
    array = as_array(weights, f"the weights of {what}")
    if array.shape != (n,):
        raise InputError(f"the weights of {what} have shape {array.shape}, expected ({n},): one weight an event")
    checked_column(array, f"the weights of {what}")
    total, scale = float(array.sum()), float(np.abs(array).sum())
    if abs(total) <= 1e-12 * scale or scale == 0:
        raise InputError(f"the weights of {what} sum to zero: nothing can be normalised to them")
    return array


def effective_entries(weights: Float) -> float:
    """Return (sum w)^2 / sum w^2, the number of unweighted events with the same relative error."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def positive_integer(value: Any, option: str) -> int:
    """Return `value` as an int >= 1; UsageError naming the option otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise UsageError(f"{option} is {value!r}, expected a whole number of at least 1")
    return int(value)
