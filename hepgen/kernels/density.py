"""Gaussian kernel density estimates of one-dimensional marginals, all features at once, differentiable in the samples.

p_f(g) = sum_i w_i N(g; x_if, b_f) / sum_i w_i, with N the normal density and b the bandwidth as a standard deviation.
"""

# the fakes of custom ops take all that the ops take
# ruff: noqa: ARG001

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hepgen.errors import InputError, UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.autocast import in_full_precision
from hepgen.kernels.compiled import array, first_derivatives_only, implementation, must_dispatch, run_op, untraced
from hepgen.kernels.constants import constant, filled
from hepgen.kernels.density_parts import (
    LARGEST_GRID,
    NOT_UNIFORM,
    REACH,
    TOO_FEW_POINTS,
    TOO_WIDE,
    Bandwidth,
    check_bandwidth,
    check_grid,
    prepare_grid,
    uniform_steps,
)

_EXACT_NUMBERS = 1 << 19  # the exact method holds so many kernel values at once: they stay in cache
# exp(-this) stands for all that is smaller: nothing beside a sum, and far from denormal numbers, which are very slow
_FAR = {torch.float32: 60.0, torch.float64: 600.0}
_REACH = REACH[torch.float64]  # exp(-32) = 1.3e-14 of the kernel's peak
_GRAD_X, _GRAD_W = 1, 2
# ns of one thread for a tap of the direct convolution, a step of the Fourier transform, and a call of it; as measured
_DIRECT_NS = {"avx512": 0.042, "avx2": 0.073, "baseline": 0.14}
_FOURIER_NS, _FOURIER_CALL_NS = 1.0, 80_000


@in_full_precision
def kde(samples: Tensor, grid: Tensor, bandwidth: Bandwidth, *, weights: Tensor | None = None, method: str = "exact") -> Tensor:
    """Estimate the density of every feature's marginal on a grid.

    Parameters
    ----------
    samples : (n, F) tensor of float32 or float64
        Differentiable to first order.
    grid : (G, F) or (G,) tensor
        Where the densities are wanted; one column per feature, or one grid for all. A constant.
    bandwidth : float or (F,) tensor
        Standard deviation of the Gaussian, in the units of the samples. A constant; :func:`hepgen.kernels.kde_bandwidth` has rules for it.
    weights : (n,) tensor, optional
        Event weights, signed ones too, differentiable. The density is normalised to their sum.
    method : {"exact", "binned"}
        "exact" counts every sample at every point of any grid. The CPU's compiled backend cuts the kernel and its expansion
        (Greengard and Strain, SIAM J. Sci. Stat. Comput. 12 (1991) 79) where they are below 1e-9 (float32) or 1e-16 (float64) of the
        density that one sample makes at its peak, times sum |w| / |sum w|: work O(n + G). Those of a GPU sum over all pairs.
        "binned" shares each sample between the two nearest points of the grid, which must be uniform, and convolves,
        O(n + G log G), or O(n + G b / h) on a GPU; the gradient is that of what is computed. The binned density differs from the
        exact one by at most (h / b)^2 / 8 of the largest density that one sample makes, h the grid step: 0.2 % at h = b / 8, and
        much less once samples are many. In float32 without weights a GPU rounds positions to 2^-14 of a step or finer.

    Returns
    -------
    (G, F) tensor of the dtype of samples
        NaN for a feature that holds NaN. A sample further than 8 bandwidths from the grid (6.5 in float32) adds nothing when
        binned. The same bits for any number of threads, and from run to run on a GPU. Numbers that lie on a GPU, or are traced by
        torch.compile, are not looked at: a grid or bandwidth that is not as it must be makes its feature NaN instead of an error,
        and so does, binned, a bandwidth wider than the grid.

    Raises
    ------
    InputError
        If there are no samples.
    UsageError
        If shapes or dtypes do not fit, the bandwidth is not positive, the grid is not finite, or "binned" gets a grid that is
        not uniform and increasing.
    BackendError
        If the backend asked for does not exist for these tensors.
    """
    b, w = check_density(samples, grid, bandwidth, weights)
    if method not in {"exact", "binned"}:
        raise UsageError(f"kde: method must be 'exact' or 'binned', got {method!r}")
    backend = _choose("kde", samples.device.type)
    if backend == "reference":
        return kde_reference(samples, grid.detach(), b, w, method=method)
    points, reach = prepare_grid(samples, grid, bandwidth, method == "binned", backend)
    density: Tensor = run_op(torch.ops.hepgen.kde, _density, samples, points, b, w, method == "binned", reach, backend)
    return density.T


# --- what the arguments must be


def _choose(op: str, device: str) -> str:
    return dispatch.choose(op, device=device)


# torch.compile asks once, while it traces: what torch.compiler.assume_constant_result sets, without loading its compiler
_choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_density(samples: Tensor, grid: Tensor, bandwidth: Bandwidth, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Check shapes and dtypes; return the bandwidth as (F,) float64 and the weights in the dtype of the samples."""
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
    for name, given in (("grid", grid), ("weights", weights), ("bandwidth", bandwidth)):
        if isinstance(given, Tensor) and given.is_complex():
            raise UsageError(f"kde: {name} must be real, got {given.dtype}")
    if isinstance(bandwidth, Tensor) and bandwidth.requires_grad:
        raise UsageError("kde: the bandwidth is a constant: no gradient flows to it, detach it")
    w = None if weights is None else weights.to(device=samples.device, dtype=samples.dtype)
    if isinstance(bandwidth, float | int) and untraced():
        return filled(float(bandwidth), (features,), samples.device), w
    b = torch.as_tensor(bandwidth, dtype=torch.float64)
    if b.ndim > 1 or (b.ndim == 1 and b.shape[0] != features):
        raise UsageError(f"kde: bandwidth must be a number or hold one value per feature ({features}), got shape {tuple(b.shape)}")
    return (b if b.device == samples.device else constant(b, samples.device)).expand(features).contiguous(), w


# --- reference: plain torch


def kde_reference(samples: Tensor, grid: Tensor, b: Tensor, weights: Tensor | None, *, method: str) -> Tensor:
    """:func:`kde` in plain torch; b (F,) of float64."""
    if not torch.compiler.is_compiling():
        check_bandwidth(b)
        check_grid(grid)
    grid = grid.to(device=samples.device, dtype=torch.float64)
    if grid.ndim == 1:
        grid = grid[:, None].expand(-1, samples.shape[1])
    return _exact(samples, grid, b.to(samples.dtype), weights) if method == "exact" else _binned(samples, grid, b, weights)


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
        raise UsageError(TOO_FEW_POINTS)
    steps = uniform_steps(grid)
    if steps is None:
        raise UsageError(NOT_UNIFORM)
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
    if size > LARGEST_GRID:
        raise UsageError(TOO_WIDE.format(reach))
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


# --- the compiled backends as custom ops; densities and slopes are (F, G) here


def _arrays(samples: Tensor, grid: Tensor, bandwidth: Tensor, weights: Tensor | None) -> tuple[Any, Any, Any, Any]:
    return array(samples), array(grid.double()), array(bandwidth), array(weights)


def call_core(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the compiled core, whose complaints are about what the user gave."""
    try:
        return function(*arguments, dispatch.thread_count())
    except ValueError as error:
        raise UsageError(f"kde: {error}") from None


def _fourier_is_faster(features: int, points: int, reach: float) -> bool:
    size = points + 2 * reach + 1
    direct = features * points * (2 * reach + 1) * _DIRECT_NS[dispatch.instruction_set()]
    return direct > _FOURIER_CALL_NS + features * size * math.log2(size) * _FOURIER_NS


def _fourier_reach(x: Any, grid: Any, b: Any) -> int:
    """Half width of the widest kernel in steps of the grid where the Fourier transform is the faster way, else 0."""
    reach = int(call_core(lambda *arguments: _core().kde_reach(*arguments[:-1]), x, grid, b))
    return reach if _fourier_is_faster(len(b), len(grid), reach) else 0


def _convolve(signal: Any, grid: Any, bandwidth: Any, reach: int) -> Any:
    """Circular convolution of (F, bins) with every feature's kernel: scipy's transform gives the same bits for any number of threads."""
    import scipy.fft

    bins = signal.shape[1]
    size = scipy.fft.next_fast_len(bins, real=True)
    columns = grid[:, None] if grid.ndim == 1 else grid
    steps = (columns[-1] - columns[0]) / (len(columns) - 1)
    distance = np.minimum(np.arange(size), size - np.arange(size))
    kernel = np.exp(-0.5 * (distance * (steps / bandwidth)[:, None]) ** 2)
    kernel[:, distance > reach] = 0.0
    workers = dispatch.thread_count()
    product = scipy.fft.rfft(signal, size, workers=workers) * scipy.fft.rfft(kernel, workers=workers)
    return scipy.fft.irfft(product, size, workers=workers)[:, :bins]


def _by_fourier(arrays: tuple[Any, Any, Any, Any], reach: int) -> Any:
    x, grid, b, w = arrays
    counts = call_core(_core().kde_counts, x, grid, b, w, reach)
    sums = _convolve(counts, grid, b, reach)[:, reach : reach + len(grid)]
    if w is None:
        sums = sums.clip(0.0)  # rounding of the transform, 1e-16 of the peak
    return (sums / _norms(x, b, w)).astype(x.dtype)


def _norms(x: Any, b: Any, w: Any) -> Any:
    total = len(x) if w is None else w.sum(dtype=np.float64)
    return total * b[:, None] * math.sqrt(2 * math.pi)


def _gradients_by_fourier(arrays: tuple[Any, Any, Any, Any], reach: int, density: Any, slope: Any, wanted: int) -> Any:
    x, grid, b, w = arrays
    padded = np.zeros((x.shape[1], len(grid) + 2 * reach + 1))
    padded[:, reach : reach + len(grid)] = slope / _norms(x, b, w)
    gx, gw = call_core(_core().kde_counts_gradients, x, grid, b, w, reach, np.ascontiguousarray(_convolve(padded, grid, b, reach)), wanted)
    if wanted & _GRAD_W:
        gw -= np.vdot(slope.astype(float), density) / w.sum(dtype=np.float64)
    return gx, gw


def _core() -> Any:
    return dispatch.core()


def _density(samples: Tensor, grid: Tensor, bandwidth: Tensor, weights: Tensor | None, binned: bool, reach: int, backend: str) -> Tensor:
    if backend != "cpp":
        density: Tensor = implementation(backend, "density").density(samples, grid, bandwidth, weights, binned, reach)
        return density
    arrays = x, g, b, _ = _arrays(samples, grid, bandwidth, weights)
    if binned and (steps := _fourier_reach(x, g, b)):
        return torch.from_numpy(_by_fourier(arrays, steps))
    return torch.from_numpy(call_core(_core().kde, binned, *arrays))


_kde = torch.library.custom_op("hepgen::kde", _density, mutates_args=())


@_kde.register_fake
def _(samples: Tensor, grid: Tensor, bandwidth: Tensor, weights: Tensor | None, binned: bool, reach: int, backend: str) -> Tensor:
    return samples.new_empty((samples.shape[1], grid.shape[0]))


def _gradients(
    slope: Tensor,
    density: Tensor,
    samples: Tensor,
    grid: Tensor,
    bandwidth: Tensor,
    weights: Tensor | None,
    binned: bool,
    reach: int,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    if backend != "cpp":
        results: tuple[Tensor, Tensor] = implementation(backend, "density").gradients(
            slope, density, samples, grid, bandwidth, weights, binned, reach, wanted
        )
        return results
    arrays = x, g, b, _ = _arrays(samples, grid, bandwidth, weights)
    values, slopes = array(density), array(slope)
    if binned and (steps := _fourier_reach(x, g, b)):
        gx, gw = _gradients_by_fourier(arrays, steps, values, slopes, wanted)
    else:
        gx, gw = call_core(_core().kde_gradients, binned, *arrays, values, slopes, wanted)
    return torch.from_numpy(gx), torch.from_numpy(gw)


_kde_gradients = torch.library.custom_op("hepgen::kde_gradients", _gradients, mutates_args=())


@_kde_gradients.register_fake
def _(
    slope: Tensor,
    density: Tensor,
    samples: Tensor,
    grid: Tensor,
    bandwidth: Tensor,
    weights: Tensor | None,
    binned: bool,
    reach: int,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    rows, features = samples.shape
    return samples.new_empty((rows if wanted & _GRAD_X else 0, features)), samples.new_empty((rows if wanted & _GRAD_W else 0,))


def _kde_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    samples, grid, bandwidth, weights, ctx.binned, ctx.reach, ctx.backend = inputs
    ctx.weighted = weights is not None
    ctx.save_for_backward(output, samples, grid, bandwidth, *([weights] if ctx.weighted else []))


def _kde_backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    density, samples, grid, bandwidth, *weights = ctx.saved_tensors
    need_x, _, _, need_w, *_ = ctx.needs_input_grad
    wanted = _GRAD_X * need_x + _GRAD_W * (need_w and ctx.weighted)
    gradients = torch.ops.hepgen.kde_gradients if must_dispatch(slope) else _gradients
    w = weights[0] if ctx.weighted else None
    gx, gw = gradients(slope, density, samples, grid, bandwidth, w, ctx.binned, ctx.reach, wanted, ctx.backend)
    return gx if wanted & _GRAD_X else None, None, None, gw if wanted & _GRAD_W else None, None, None, None


_kde.register_autograd(_kde_backward, setup_context=_kde_setup)
_kde_gradients.register_autograd(first_derivatives_only)
