"""The losses of ratio networks as functions of their output z, in log space; see `hepgen.losses.ratio` for the links."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepgen.losses.ratio import checked_link

#: Below this f of the links "relu" and "square", ln f goes on as its tangent: finite at 0, and its gradient leads out of f = 0.
LEAST_F = 1e-3


class RatioLoss(nn.Module):
    """Loss of a network that estimates the ratio of the densities of data (y = 1) and simulation (y = 0).

        BCE:  -1/2 (E_data[ln f] + E_sim[ln(1 - f)]),        MLC:  -1/2 (E_data[ln f] + E_sim[1 - f])

    The published L = -E[y ln f + (1 - y) ln(1 - f)] and -E[y ln f + (1 - y)(1 - f)] are these where the samples have one size; here each
    sample counts one half whatever its size, so that the minimum is at the ratio of the densities themselves (their printed forms lack
    the minus sign). E[l] is mean(w l) for event weights w of mean one over their whole sample: a batch's own sum of signed
    weights, which may vanish, does not enter.

    Parameters
    ----------
    loss : {"bce", "mlc"}
    link
        "sigmoid", "cdf", "arctan" of BCE, "exp", "square", "relu" of MLC; the first of them by default.

    Raises
    ------
    UsageError
        A loss or link that is not known.
    """

    def __init__(self, loss: str = "bce", link: str | None = None) -> None:
        super().__init__()
        self.loss, self.link = loss, checked_link(loss, link)

    def forward(self, z_sim: Tensor, z_data: Tensor, sim_weights: Tensor | None = None, data_weights: Tensor | None = None) -> Tensor:
        """The loss (...) of outputs (..., n) and (..., m) with signed weights of those shapes and of mean one."""
        return 0.5 * (_mean(self.data_terms(z_data), data_weights) + _mean(self.sim_terms(z_sim), sim_weights))

    def data_terms(self, z: Tensor) -> Tensor:
        """-ln f(z), element by element."""
        match self.link:
            case "sigmoid":
                return F.softplus(-z)
            case "cdf":
                return -_log_cdf(z)
            case "arctan":
                return -_log_arctan(z)
            case "exp":
                return -z
            case "square":
                return -_log(z.square())
        return -_log(z, F.relu(z))

    def sim_terms(self, z: Tensor) -> Tensor:
        """-ln(1 - f(z)) of BCE, f(z) - 1 of MLC, element by element."""
        match self.link:
            case "sigmoid":
                return F.softplus(z)
            case "cdf":
                return -_log_cdf(-z)
            case "arctan":
                return -_log_arctan(-z)
            case "exp":
                return torch.expm1(z)
            case "square":
                return z.square() - 1
        return F.relu(z) - 1

    @property
    def start(self) -> float:
        """The z at which the ratio is one."""
        return 1.0 if self.link in {"square", "relu"} else 0.0

    def extra_repr(self) -> str:
        """Loss and link."""
        return f"{self.loss!r}, link={self.link!r}"


def _mean(terms: Tensor, weights: Tensor | None) -> Tensor:
    return (terms if weights is None else weights * terms).mean(-1)


def _log_cdf(z: Tensor) -> Tensor:
    value: Tensor = torch.special.log_ndtr(z)
    return value


def _log_arctan(z: Tensor) -> Tensor:
    """ln(1/2 + arctan(z) / pi), from the smaller of f and 1 - f."""
    positive = z >= 0
    part = torch.atan2(torch.ones_like(z), torch.where(positive, z, -z)) / math.pi
    return torch.where(positive, torch.log1p(-part), torch.log(part))


def _log(continued: Tensor, f: Tensor | None = None) -> Tensor:
    """ln f where f > LEAST_F, and its tangent there, of `continued`, below."""
    f = continued if f is None else f
    return torch.where(f > LEAST_F, f.clamp_min(LEAST_F).log(), math.log(LEAST_F) + (continued - LEAST_F) / LEAST_F)
