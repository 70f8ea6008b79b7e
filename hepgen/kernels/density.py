"""Gaussian kernel density estimates of one-dimensional marginals, all features at once, differentiable in the samples.

p_f(g) = sum_i w_i N(g; x_if, b_f) / sum_i w_i, with N the normal density and b the bandwidth as a standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hepgen.errors import InputError, UsageError
from hepgen.kernels import dispatch

_EXACT_NUMBERS = 1 << 19  # the exact method holds so many kernel values at once: they stay in cache
# exp(-this) stands for all that is smaller: nothing beside a sum, and far from denormal numbers, which are very slow
_FAR = {torch.float32: 60.0, torch.float64: 600.0}
_REACH = 8.0  # the binned method cuts the kernel after so many bandwidths: exp(-32) = 1.3e-14 of its peak
_LARGEST_GRID = 1 << 22

Bandwidth = float | Sequence[float] | Tensor


def kde(samples: Tensor, grid: Tensor, bandwidth: Bandwidth, *, weights: Tensor | None = None, method: str = "exact") -> Tensor:
    """Estimate the density of every feature's marginal on a grid.

    Parameters
    ----------
    samples : (n, F) tensor of float32 or float64
        Differentiable.
    grid : (G, F) or (G,) tensor
        Where the densities are wanted; one column per feature, or one grid for all. A constant.
    bandwidth : float or (F,) tensor
        Standard deviation of the Gaussian, in the units of the samples. A constant.
    weights : (n,) tensor, optional
        Event weights, signed ones too, differentiable. The density is normalised to their sum.
    method : {"exact", "binned"}
        "exact" sums every sample at every point, O(n G). "binned" shares each sample between the two nearest points of
        the grid, which must be uniform, and convolves, O(n + G log G); the gradient is that of what is computed. The
        binned density differs from the exact one by at most (h / b)^2 / 8 of the largest density that one sample makes, h
        the grid step: 0.2 % at h = b / 8, and much less once samples are many.

    Returns
    -------
    (G, F) tensor of the dtype of samples
        NaN for a feature that holds NaN. A sample further than 8 bandwidths from the grid adds nothing when binned.

    Raises
    ------
    InputError
        If there are no samples.
    UsageError
        If shapes or dtypes do not fit, the bandwidth is not positive, or "binned" gets a grid that is not uniform and increasing.
    BackendError
        If a backend other than "reference" was asked for by name.
    """
    grid, b = _check(samples, grid, bandwidth, weights)
    dispatch.choose("kde", device=samples.device.type)
    w = None if weights is None else weights.to(device=samples.device, dtype=samples.dtype)
    if method == "exact":
        return _exact(samples, grid, b.to(samples.dtype), w)
    if method != "binned":
        raise UsageError(f"kde: method must be 'exact' or 'binned', got {method!r}")
    return _binned(samples, grid, b, w)


def _check(samples: Tensor, grid: Tensor, bandwidth: Bandwidth, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the grid as (G, F) and the bandwidth as (F,), both float64."""
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise UsageError(f"kde: samples must have shape (n, F), got {tuple(samples.shape)}")
    if samples.dtype not in {torch.float32, torch.float64}:
        raise UsageError(f"kde: samples must be float32 or float64, got {samples.dtype}")
    if samples.shape[0] == 0:
        raise InputError("kde needs at least one sample")
    features = samples.shape[1]
    if grid.ndim not in {1, 2} or (grid.ndim == 2 and grid.shape[1] != features):
        raise UsageError(f"kde: grid must have shape (G,) or (G, {features}), got {tuple(grid.shape)}")
    if weights is not None and weights.shape != samples.shape[:1]:
        raise UsageError(f"kde: weights must have shape ({samples.shape[0]},), got {tuple(weights.shape)}")
    b = torch.as_tensor(bandwidth, dtype=torch.float64, device=samples.device).detach()
    if b.ndim > 1 or (b.ndim == 1 and b.shape[0] != features):
        raise UsageError(f"kde: bandwidth must be a number or hold one value per feature ({features}), got shape {tuple(b.shape)}")
    if not bool((b > 0).all()) or not bool(torch.isfinite(b).all()):
        raise UsageError(f"kde: bandwidth must be positive and finite, got {b.tolist()}")
    grid = grid.detach().to(device=samples.device, dtype=torch.float64)
    if grid.ndim == 1:
        grid = grid[:, None].expand(-1, features)
    return grid, b.expand(features)


def _exact_part(samples: Tensor, grid: Tensor, weights: Tensor | None) -> Tensor:
    """Sum exp(-(g - x)^2) over the samples. (F, n), (F, G) -> (F, G); the samples run innermost, which vectorises."""
    squares = (grid[:, :, None] - samples[:, None, :]).square()
    k = torch.exp(-squares.clamp_max(_FAR[samples.dtype]))
    return k.sum(2) if weights is None else k @ weights


def _exact(samples: Tensor, grid: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    """Sum in chunks of the grid; a chunk's kernel values are made again for the gradient instead of kept."""
    unit = b * math.sqrt(2)
    rows, points = (samples / unit).T.contiguous(), (grid.to(samples.dtype) / unit).T.contiguous()
    parts = points.split(max(1, _EXACT_NUMBERS // samples.numel()), dim=1)
    needs_gradient = torch.is_grad_enabled() and (samples.requires_grad or (weights is not None and weights.requires_grad))
    if needs_gradient and len(parts) > 1:
        sums = [checkpoint(_exact_part, rows, part, weights, use_reentrant=False) for part in parts]
    else:
        sums = [_exact_part(rows, part, weights) for part in parts]
    density: Tensor = torch.cat(sums, dim=1).T / (_weight_sum(samples, weights) * b * math.sqrt(2 * math.pi))
    return density


def _weight_sum(samples: Tensor, weights: Tensor | None) -> Tensor | int:
    return samples.shape[0] if weights is None else weights.sum()


def _grid_steps(grid: Tensor) -> Tensor:
    """Return the (F,) steps of a uniform grid."""
    if grid.shape[0] < 2:
        raise UsageError("kde: the binned method needs a grid of at least two points")
    steps = (grid[-1] - grid[0]) / (grid.shape[0] - 1)
    largest = grid.abs().amax(0)
    even = (grid.diff(dim=0) - steps).abs() <= 1e-3 * steps + 1e-6 * largest  # float32 grids wobble in their last digits
    if not bool((steps > 0).all()) or not bool(even.all()):
        raise UsageError("kde: the binned method needs a uniform, increasing grid (torch.linspace): use method='exact' for others")
    return steps


def _fast_length(n: int) -> int:
    """Return the smallest 2^a 3^b 5^c that is not below n: lengths at which a Fourier transform is fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _binned(samples: Tensor, grid: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    steps = _grid_steps(grid)
    points, features = grid.shape
    reach = math.ceil(_REACH * float((b / steps).max()))  # in steps; the grid grows by this on both sides
    size = _fast_length(points + 2 * reach + 1)
    if size > _LARGEST_GRID:
        raise UsageError(f"kde: the bandwidth spans {reach} grid steps, too many for the binned method: use method='exact'")
    position = (samples.double() - (grid[0] - reach * steps)) / steps
    counts = _share(position, size, None if weights is None else weights.double())
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64, device=grid.device)[:, None] * (steps / b)
    kernel = torch.exp(-0.5 * taps.square())  # (2 reach + 1, F)
    kernel = torch.cat([kernel, kernel.new_zeros(size - kernel.shape[0], features)]).roll(-reach, 0)
    # circular: what wraps around stays within the margins that are cut off
    sums = torch.fft.irfft(torch.fft.rfft(counts) * torch.fft.rfft(kernel.T), n=size).T[reach : reach + points]
    if weights is None:
        sums = sums.clamp_min(0.0)  # rounding of the transform, 1e-16 of the peak
    density: Tensor = sums / (_weight_sum(samples, weights) * b * math.sqrt(2 * math.pi))
    return density.to(samples.dtype)


def _share(position: Tensor, size: int, weights: Tensor | None) -> Tensor:
    """Linear binning: sample at l + t gives w (1 - t) to bin l and w t to bin l + 1. (n, F) -> (F, size)

    Written as sum w at l, minus sum w t at l, plus sum w t at l + 1: one scatter for the counts, one for what moves.
    """
    features = position.shape[1]
    inside = (position >= 0) & (position < size - 1)
    nan = position.isnan()
    left = torch.where(inside, position.detach().floor(), 0.0)
    t = torch.where(inside, position - left, 0.0)
    index = (left.long() + torch.arange(features, device=position.device) * size).reshape(-1)
    ones = inside.to(position.dtype) if weights is None else inside * weights[:, None]
    moved = t if weights is None else t * weights[:, None]
    count = position.new_zeros(features * size).scatter_add(0, index, ones.reshape(-1)).view(features, size)
    shift = position.new_zeros(features * size).scatter_add(0, index, moved.reshape(-1)).view(features, size)
    count = count - shift + F.pad(shift[:, :-1], (1, 0))
    poison = torch.where(nan.any(0), torch.nan, 0.0).to(position.dtype)
    return count + poison[:, None]
