"""Element-wise bijections of a flow, kept apart from the masked network that feeds them their parameters."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from hepgen.networks.frozen import AFFINE_BOUND


class Bijection(Protocol):
    """What a flow asks of an element-wise map: its parameter count and both directions with log-derivatives.

    ``x``, ``z`` and the returned log-derivative of the direction taken are (..., d); ``parameters`` is (..., d, ``outputs``).
    """

    outputs: int

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Towards the base: ``z(x)`` and ``log |dz/dx|``."""
        ...

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Towards the data: ``x(z)`` and ``log |dx/dz|``."""
        ...


class Affine:
    """x = z exp(a) + m with (m, a) per element (Papamakarios et al. 2017, eq. 4; the flow of the sim-to-data paper).

    The raw log-scale r passes through ``a = r / (1 + |r| / bound)``, so that no input drives the scale to overflow;
    near 0 it is r itself.
    """

    outputs = 2

    def __init__(self, bound: float = AFFINE_BOUND) -> None:
        self.bound = bound

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = (x - m) exp(-a) and log |dz/dx| = -a."""
        shift, log_scale = self._split(parameters)
        return (x - shift) * torch.exp(-log_scale), -log_scale

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = z exp(a) + m and log |dx/dz| = a."""
        shift, log_scale = self._split(parameters)
        return z * torch.exp(log_scale) + shift, log_scale

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(-1)
        return shift, raw / (1 + raw.abs() / self.bound)
