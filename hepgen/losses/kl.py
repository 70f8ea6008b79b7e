"""Kullback-Leibler divergence between Gaussian kernel density estimates of one-dimensional marginals (sim-to-data paper, eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepgen.kernels.density import kde


def silverman_bandwidth(samples: Tensor, weights: Tensor | None = None, *, events: float | None = None) -> Tensor:
    """Silverman's rule per feature, (F,): 0.9 min(std, IQR / 1.34) n^(-1/5) of samples (n, F).

    `events` replaces n where the density will be estimated from batches of another size.
    """
    count = float(events if events is not None else len(samples))
    mean = weighted_means(samples, weights)
    variance = weighted_means((samples - mean).square(), weights)
    low, high = torch.quantile(samples[: 1 << 20], torch.tensor([0.25, 0.75], dtype=samples.dtype, device=samples.device), dim=0)
    spread = torch.minimum(variance.clamp_min(0).sqrt(), (high - low) / 1.34)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    scale = 0.9 * float(count**-0.2)
    return scale * spread


def weighted_means(samples: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted mean of every column of (n, F)."""
    return samples.mean(0) if weights is None else (weights[:, None] * samples).sum(0) / weights.sum()


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
            bandwidth = silverman_bandwidth(target, weights, events=batch_size)
        low, high = target.amin(0) - 4 * bandwidth, target.amax(0) + 4 * bandwidth
        steps = torch.linspace(0, 1, points, dtype=target.dtype, device=target.device)
        self.register_buffer("grid", low + steps[:, None] * (high - low))
        self.register_buffer("bandwidth", bandwidth.clone())
        masses = self._masses(target, weights)
        self.register_buffer("target", masses / masses.sum(0))

    def forward(self, samples: Tensor, weights: Tensor | None = None) -> Tensor:
        """Divergence of samples (n, F) with signed weights (n,), a scalar."""
        ours = self._masses(samples, weights)
        return (self.target * (torch.log(self.target) - torch.log(ours))).sum(0).mean()

    def _masses(self, samples: Tensor, weights: Tensor | None) -> Tensor:
        """Probability of each grid step, (points, F): sums to what lies on the grid, so that samples beyond it raise the divergence."""
        step = (self.grid[-1] - self.grid[0]) / (len(self.grid) - 1)
        # A floor keeps the logarithm finite where one side has no events, or where signed weights leave a negative density.
        return (kde(samples, self.grid, self.bandwidth, weights=weights, method="binned") * step).clamp_min(1e-9)
