"""What the density estimates of :mod:`hepgen.kernels.density` ask of grids and bandwidths, and what the GPU backends share beside kernels.

What lies on a device is never read back here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hepgen.errors import UsageError

Bandwidth = float | Sequence[float] | Tensor

REACH = {torch.float32: 6.5, torch.float64: 8.0}  # the binned method cuts the kernel after so many bandwidths
LARGEST_GRID = 1 << 22  # with the margins
TOO_FEW_POINTS = "kde: the binned method needs a grid of at least two points"
NOT_UNIFORM = "kde: the binned method needs a uniform, increasing grid (torch.linspace): use method='exact' for others"
TOO_WIDE = "kde: the bandwidth spans {} grid steps, too many for the binned method: use method='exact'"
_UNKNOWN = 8  # of a bandwidth that the host does not know: margins of so many grids, which is room for one as wide as the grid


def check_bandwidth(b: Tensor) -> None:
    """Refuse what is not positive and finite."""
    _check_numbers(b.reshape(-1).tolist())


def _check_numbers(b: Sequence[float]) -> None:
    if not all(x > 0 and math.isfinite(x) and math.isfinite(1 / x) for x in b):
        raise UsageError(f"kde: bandwidth must be positive and finite, got {b[0] if len(b) == 1 else list(b)}")


def _host_numbers(bandwidth: Bandwidth) -> Sequence[float] | None:
    """One number, or one for each feature; None where they are on a device."""
    if isinstance(bandwidth, float | int):
        return (float(bandwidth),)
    if isinstance(bandwidth, Tensor) and bandwidth.device.type != "cpu":
        return None
    numbers: list[float] = torch.as_tensor(bandwidth, dtype=torch.float64).reshape(-1).tolist()
    return numbers


def check_grid(grid: Tensor) -> None:
    """Refuse what is not finite."""
    if not bool(torch.isfinite(grid).all()):
        raise UsageError("kde: grid must be finite")


def uniform_steps(grid: Tensor) -> Tensor | None:
    """Return the (F,) steps of a uniform, increasing grid (G, F), None for others."""
    if grid.shape[0] < 2:
        return None
    steps = (grid[-1] - grid[0]) / (grid.shape[0] - 1)
    even = (grid.diff(dim=0) - steps).abs() <= 1e-3 * steps + 1e-6 * grid.abs().amax(0)  # float32 grids wobble in their last digits
    return steps if bool((steps > 0).all()) and bool(even.all()) else None


# --- grids on their way to a GPU


class _HostGrid(NamedTuple):
    version: int
    steps: Sequence[float] | None  # F or 1, where it is uniform
    points: Tensor  # on the device


_host_grids = WeakTensorKeyDictionary()  # grids on the CPU as they were checked and sent to a GPU


def _host_grid(grid: Tensor, device: torch.device) -> _HostGrid:
    version = -1 if grid.is_inference() else grid._version  # -1: changes would not be seen
    known: _HostGrid | None = _host_grids.get(grid)
    if known is None or known.version != version or version < 0 or known.points.device != device:
        points = grid.detach().double()
        check_grid(points)
        steps = uniform_steps(points if points.ndim == 2 else points[:, None])
        with torch.inference_mode(False):
            known = _HostGrid(version, None if steps is None else steps.tolist(), points.to(device, copy=True))
        _host_grids[grid] = known
    return known


def prepare_grid(samples: Tensor, grid: Tensor, bandwidth: Bandwidth, binned: bool, backend: str) -> tuple[Tensor, int]:
    """The grid on the device, and the widest kernel's half width in grid steps: -1 where the host does not know it.

    For a GPU the host checks what it has; what lies on the device is not read back. For "cpp" all is left to the core.
    """
    if backend == "cpp":
        return grid.detach(), -1
    if torch.compiler.is_compiling():
        return grid.detach().to(samples.device, torch.float64), -1
    if binned and grid.shape[0] < 2:
        raise UsageError(TOO_FEW_POINTS)
    b = _host_numbers(bandwidth)
    if b is not None:
        _check_numbers(b)
    if grid.device.type != "cpu":
        return grid.detach().double(), -1
    host = _host_grid(grid, samples.device)
    if not binned:
        return host.points, -1
    if host.steps is None:
        raise UsageError(NOT_UNIFORM)
    if b is None:
        return host.points, -1
    pairs = zip(b, host.steps, strict=True) if len(b) == len(host.steps) else ((max(b), min(host.steps)),)
    reach = math.ceil(REACH[samples.dtype] * max(width / step for width, step in pairs))
    if grid.shape[0] + 2 * reach + 1 > LARGEST_GRID:
        raise UsageError(TOO_WIDE.format(reach))
    return host.points, reach


# --- what the kernels are given


def margin(points: int, reach: int) -> int:
    """Bins on either side of the grid; `reach` is that of the widest kernel in steps of its grid, -1 where it is not known."""
    return max(reach, 1) if reach >= 0 else max(1, min(_UNKNOWN * points, (LARGEST_GRID - points) // 2))


class Sums(NamedTuple):
    """The sum of the weights in float64, and the largest of their absolute values; None without weights."""

    total: Tensor | None
    peak: Tensor | None


def sums_of(weights: Tensor | None) -> Sums:
    """Return the sums that the kernels scale with."""
    if weights is None:
        return Sums(None, None)
    return Sums(weights.sum(dtype=torch.float64), torch.linalg.vector_norm(weights, torch.inf))


def weight_gradient(values: Tensor, slope: Tensor, density: Tensor, total: Tensor) -> Tensor:
    """What the weights get: the field at their samples, values (n, F), less what all get because densities are normalised."""
    correction = (slope.double() * density.double()).sum() / total
    return (values.sum(1, dtype=torch.float64) - correction).to(values.dtype)
