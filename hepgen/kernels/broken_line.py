"""A strictly rising broken line with straight tails, on numpy arrays: the map of the quantile scalings, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hepgen.kernels import dispatch

Floats = npt.NDArray[np.float64]

_SERIAL_NUMBERS = 1 << 15  # below this a thread costs more than it brings


def broken_line(numbers: Floats, x: Floats, y: Floats, tails: tuple[float, float]) -> Floats:
    """Return the values of the line through (x_k, y_k) at every number.

    Parameters
    ----------
    numbers : (n,) float64
    x, y : (k,) float64
        Points of the line, k >= 2, both rising.
    tails : (float, float)
        Slopes below x_0 and above x_(k-1).

    Returns
    -------
    (n,) float64
        NaN for NaN. A number's value does not depend on the others, nor on the number of threads.
    """
    if dispatch.choose("broken_line") == "reference":
        return broken_line_reference(numbers, x, y, tails)
    core: Any = dispatch.core()
    threads = dispatch.thread_count() if len(numbers) > _SERIAL_NUMBERS else 1
    values: Floats = core.broken_line(numbers, x, y, *tails, threads)
    return values


def broken_line_reference(numbers: Floats, x: Floats, y: Floats, tails: tuple[float, float]) -> Floats:
    """:func:`broken_line` by ``numpy.interp``."""
    values = np.interp(numbers, x, y)
    for outside, knot, value, slope in ((numbers < x[0], x[0], y[0], tails[0]), (numbers > x[-1], x[-1], y[-1], tails[1])):
        if outside.any():
            values[outside] = value + slope * (numbers[outside] - knot)
    return values
