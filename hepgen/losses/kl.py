"""Kullback-Leibler divergence between Gaussian kernel density estimates of one-dimensional marginals (sim-to-data paper, eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepgen.kernels import kde, kde_bandwidth, kde_divergence

_LEAST_MASS = 1e-9  # keeps the logarithm finite where one side has no events, or where signed weights leave a negative density


class KLOfKDE(nn.Module):
    """KL(target || samples), each marginal by its Gaussian KDE, averaged over the features.

    The target's densities and the bandwidths are fixed when the object is made; the samples' densities are estimated
    anew in every call, by linear binning and convolution, with the exact gradient of what is computed.

    Parameters
    ----------
    target
        Target samples (m, F).
    weights
        Signed weights (m,) of the target, or None.
    bandwidth
        One bandwidth per feature (F,); Silverman's rule at the batch size by default.
    batch_size
        Number of samples that one call will see; sets the default bandwidth.
    points
        Grid points per feature.
    """

    grid: Tensor
    bandwidth: Tensor
    target: Tensor

    def __init__(
        self,
        target: Tensor,
        weights: Tensor | None = None,
        *,
        bandwidth: Tensor | None = None,
        batch_size: int | None = None,
        points: int = 512,
    ) -> None:
        super().__init__()
        if bandwidth is None:
            bandwidth = kde_bandwidth(target, "silverman", weights, events=batch_size)
        low, high = target.amin(0) - 4 * bandwidth, target.amax(0) + 4 * bandwidth
        steps = torch.linspace(0, 1, points, dtype=target.dtype, device=target.device)
        self.register_buffer("grid", low + steps[:, None] * (high - low))
        self.register_buffer("bandwidth", bandwidth.clone())
        step = (self.grid[-1] - self.grid[0]) / (points - 1)
        masses = (kde(target, self.grid, self.bandwidth, weights=weights, method="binned") * step).clamp_min(_LEAST_MASS)
        self.register_buffer("target", masses / masses.sum(0))

    def forward(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Divergence of samples (n, F) with signed weights (n,), a scalar.

        The samples' masses sum to what lies on the grid, so that samples beyond it raise the divergence.
        """
        value: Tensor = kde_divergence(samples, self.grid, self.bandwidth, self.target, weights=weights, floor=_LEAST_MASS)
        return value
