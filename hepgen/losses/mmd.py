"""Maximum mean discrepancy as a loss (sim-to-data paper, eq. 2; Gretton et al. 2012)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepgen import ranks
from hepgen.kernels.mmd import gaussian_sums, mmd2


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
        """Discrepancy of samples (n, F) from target (m, F), with signed weights (n,) and (m,); a scalar.

        Over several ranks that of the rows of all of them, each rank summing over the pairs of its own rows with all others.
        """
        if ranks.count() > 1:
            return self._over_ranks(samples, target, weights, target_weights)
        return mmd2(
            samples,
            target,
            self.bandwidth,
            x_weights=weights,
            y_weights=target_weights,
            cross_weight=self.cross_weight,
            per_feature=self.per_feature,
        )

    def _over_ranks(self, x: Tensor, y: Tensor, weights: Tensor | None, target_weights: Tensor | None) -> Tensor:
        w = torch.ones_like(x[:, 0]) if weights is None else weights
        v = torch.ones_like(y[:, 0]) if target_weights is None else target_weights
        w_sum, v_sum = ranks.total(w.sum()), ranks.total(v.sum())
        all_x, all_w, all_y, all_v = (ranks.gathered(part) for part in (x, w, y, v))
        sigma = self.bandwidth.expand(*self.bandwidth.shape[:-1], x.shape[1])
        parts = []
        for columns in range(x.shape[1]) if self.per_feature else [slice(None)]:
            one = slice(columns, columns + 1) if isinstance(columns, int) else columns
            width = sigma[..., one]
            xx = w @ gaussian_sums(x[:, one], all_x[:, one], width, y_weights=all_w) / w_sum**2
            yy = v @ gaussian_sums(y[:, one], all_y[:, one], width, y_weights=all_v) / v_sum**2
            xy = w @ gaussian_sums(x[:, one], all_y[:, one], width, y_weights=all_v) / (w_sum * v_sum)
            parts.append(xx + yy - self.cross_weight * xy)
        return ranks.total(torch.stack(parts).mean())
