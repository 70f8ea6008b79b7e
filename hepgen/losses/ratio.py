"""From the output of a ratio network to the log of the likelihood ratio, on numpy arrays; the losses are in `hepgen.losses.ratio_loss`.

A network's output z goes through a link to f(z), which the loss turns into an estimate of a ratio of densities (De Luca, Nachman,
Silverstein and Zheng; Rizvi, Pettee and Nachman):

    BCE:  ratio = f / (1 - f),   f = sigmoid(z), the normal CDF(z) ("cdf"), or 1/2 + arctan(z) / pi ("arctan")
    MLC:  ratio = f,             f = max(z, 0) ("relu"), z^2 ("square"), or exp(z) ("exp")

The log is computed from z, never from f: where f rounds to 1 the ratio is still right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import UsageError

Floats = NDArray[np.float64]

#: Losses and their links, the default one first.
LINKS = {"bce": ("sigmoid", "cdf", "arctan"), "mlc": ("exp", "square", "relu")}


def checked_link(loss: str, link: str | None) -> str:
    """Return the link of a loss, its default for None.

    Raises
    ------
    UsageError
        A loss that is not known, or a link that it does not have.
    """
    if loss not in LINKS:
        raise UsageError(f"loss {loss!r} is not known: choose one of {', '.join(LINKS)}")
    if link is None:
        return LINKS[loss][0]
    if link not in LINKS[loss]:
        raise UsageError(f"the loss {loss!r} has no link {link!r}: choose one of {', '.join(LINKS[loss])}")
    return link


def log_ratio(z: ArrayLike, loss: str = "bce", link: str | None = None) -> Floats:
    """Log of the likelihood ratio from the output of a network, before any correction for class sizes.

    Parameters
    ----------
    z : array of any shape
    loss : {"bce", "mlc"}
    link
        Of the loss, see the module; "sigmoid" and "exp" by default.

    Returns
    -------
    float64 array of that shape
        -inf where "relu" or "square" give f = 0; NaN where z is.

    Raises
    ------
    UsageError
        A loss or link that is not known.
    """
    values: Any = np.asarray(z, dtype=np.float64)
    match checked_link(loss, link):
        case "cdf":
            from scipy.special import log_ndtr

            return np.asarray(log_ndtr(values) - log_ndtr(-values))
        case "arctan":
            # pi f = pi/2 + arctan(z) = atan2(1, -z), which keeps its digits however small it is
            return np.asarray(np.log(np.arctan2(1.0, -values)) - np.log(np.arctan2(1.0, values)))
        case "relu":
            with np.errstate(divide="ignore"):
                return np.asarray(np.log(np.maximum(values, 0.0)))
        case "square":
            with np.errstate(divide="ignore"):
                return np.asarray(2.0 * np.log(np.abs(values)))
    return np.asarray(values).copy()


def ratio(z: ArrayLike, loss: str = "bce", link: str | None = None) -> Floats:
    """The likelihood ratio itself, ``exp(log_ratio(z))``; inf where it is beyond float64."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(log_ratio(z, loss, link)))
