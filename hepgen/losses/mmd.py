"""Maximum mean discrepancy as a loss (sim-to-data paper, eq. 2; Gretton et al. 2012)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepgen.kernels.mmd import mmd2


class MMD(nn.Module):
    """Squared MMD of generated samples against target samples under k(a, b) = exp(-|a - b|^2 / bandwidth).

    Parameters
    ----------
    bandwidth
        sigma of the kernel, one number or one per feature (F,); rows of them (S, F) or (S, 1) for the mean of several kernels.
    cross_weight
        Weight of the cross term: 2 is zero for equal distributions; 1 is what the paper prints.
    per_feature
        Mean of the one-dimensional discrepancies instead of the joint kernel, which alone sees correlations.
    """

    bandwidth: Tensor

    def __init__(self, bandwidth: float | Tensor, *, cross_weight: float = 2.0, per_feature: bool = False) -> None:
        super().__init__()
        self.register_buffer("bandwidth", torch.as_tensor(bandwidth, dtype=torch.float64))
        self.cross_weight, self.per_feature = cross_weight, per_feature

    def forward(self, samples: Tensor, target: Tensor, weights: Tensor | None = None, target_weights: Tensor | None = None) -> Tensor:
        """Discrepancy of samples (n, F) from target (m, F), with signed weights (n,) and (m,); a scalar."""
        return mmd2(
            samples,
            target,
            self.bandwidth.to(samples.dtype),
            x_weights=weights,
            y_weights=target_weights,
            cross_weight=self.cross_weight,
            per_feature=self.per_feature,
        )
