"""The density estimates of :mod:`hepgen.kernels.density` in CUDA C++. Densities and slopes are (F, G) here."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hepgen.kernels import dispatch
from hepgen.kernels.cuda import address, call
from hepgen.kernels.density_parts import Sums, margin, sums_of, weight_gradient

_GRAD_X, _GRAD_W = 1, 2


class _Sample(NamedTuple):
    x: Tensor
    weights: Tensor | None
    sums: Sums

    def addresses(self) -> tuple[int, ...]:
        tensors = (self.x, self.weights, self.sums.total, self.sums.peak)
        return (*(address(t) for t in tensors), *self.x.shape)


class _Grid(NamedTuple):
    points: Tensor
    bandwidth: Tensor
    size: int
    pad: int

    def addresses(self) -> tuple[Any, ...]:
        return self.points.data_ptr(), self.size, self.points.ndim == 1, self.bandwidth.data_ptr(), self.pad

    def bins(self) -> int:
        return self.size + 2 * self.pad + 1


def _sample(samples: Tensor, weights: Tensor | None) -> _Sample:
    weights = None if weights is None else weights.contiguous()
    return _Sample(samples.contiguous(), weights, sums_of(weights))


def _grid(grid: Tensor, bandwidth: Tensor, reach: int) -> _Grid:
    size = grid.shape[0]
    return _Grid(grid.double().contiguous(), bandwidth.contiguous(), size, margin(size, reach))


class _Workspace(NamedTuple):
    """The axes of the features, and behind them what else the kernels need."""

    memory: Tensor
    axes: int  # addresses
    rest: int


def _workspace(x: Tensor, numbers: int) -> _Workspace:
    """Memory for the axes and so many numbers of 64 bits."""
    axes = x.shape[1] * dispatch.cuda().kde_axis_numbers  # type: ignore[union-attr]
    memory = x.new_empty((axes + numbers,), dtype=torch.float64)
    start = memory.data_ptr()
    return _Workspace(memory, start, start + 8 * axes)


def _call(name: str, x: Tensor, *arguments: Any) -> None:
    call(name, x.device, x.dtype == torch.float64, *arguments)


def _binned(sample: _Sample, grid: _Grid) -> tuple[Tensor, _Workspace]:
    x = sample.x
    features = x.shape[1]
    workspace = _workspace(x, features * (grid.bins() + 1))
    density = x.new_empty((features, grid.size))
    _call("kde", x, sample.addresses(), grid.addresses(), workspace.axes, workspace.rest, density)
    return density, workspace


def _exact(sample: _Sample, grid: _Grid) -> Tensor:
    x, arguments = sample.x, (sample.addresses(), grid.addresses())
    density = x.new_empty((x.shape[1], grid.size))
    if grid.size:
        size = dispatch.cuda().kde_exact_workspace(x.dtype == torch.float64, *arguments)  # type: ignore[union-attr]
        _call("kde_exact", x, *arguments, x.new_empty(size, dtype=torch.float64), density)
    return density


def density(samples: Tensor, grid: Tensor, bandwidth: Tensor, weights: Tensor | None, binned: bool, reach: int) -> Tensor:
    """The densities (F, G)."""
    sample, points = _sample(samples, weights), _grid(grid, bandwidth, reach)
    return _binned(sample, points)[0] if binned else _exact(sample, points)


def gradients(
    slope: Tensor,
    density: Tensor,
    samples: Tensor,
    grid: Tensor,
    bandwidth: Tensor,
    weights: Tensor | None,
    binned: bool,
    reach: int,
    wanted: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of the samples (1) and the weights (2) that are wanted, empty ones otherwise."""
    return _gradients(slope, density, _sample(samples, weights), _grid(grid, bandwidth, reach), binned, wanted)


def _gradients(slope: Tensor, density: Tensor, sample: _Sample, grid: _Grid, binned: bool, wanted: int) -> tuple[Tensor, Tensor]:
    x, slope = sample.x, slope.contiguous()
    gx = x.new_empty((x.shape[0] if wanted & _GRAD_X else 0, x.shape[1]))
    values = torch.empty_like(x) if wanted & _GRAD_W else None
    out = (gx.data_ptr() if wanted & _GRAD_X else 0, address(values))
    arguments = (sample.addresses(), grid.addresses(), slope)
    if binned:
        workspace = _workspace(x, 2 * x.shape[1] * grid.bins())
        _call("kde_gradients", x, *arguments, workspace.axes, workspace.rest, *out)
    else:
        _call("kde_exact_gradients", x, *arguments, *out)
    if values is None or sample.sums.total is None:
        return gx, x.new_empty((0,))
    return gx, weight_gradient(values, slope, density, sample.sums.total)


def divergence(
    samples: Tensor,
    grid: Tensor,
    bandwidth: Tensor,
    target: Tensor,
    weights: Tensor | None,
    floor: float,
    reach: int,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The divergence, and its gradients as in :func:`gradients`; target (G, F)."""
    sample, points = _sample(samples, weights), _grid(grid, bandwidth, reach)
    density, workspace = _binned(sample, points)
    value, slope = density.new_empty(()), torch.empty_like(density)
    masses = target.T.to(torch.float64, memory_format=torch.contiguous_format).contiguous()
    _call("kde_divergence", density, points.addresses(), len(density), workspace.axes, density, masses, floor, value, slope)
    if not wanted:
        return value, samples.new_empty((0, samples.shape[1])), samples.new_empty((0,))
    return value, *_gradients(slope, density, sample, points, True, wanted)
