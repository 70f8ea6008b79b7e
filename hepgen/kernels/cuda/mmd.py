"""The Gaussian kernel sums of :mod:`hepgen.kernels.mmd` in CUDA C++."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hepgen.kernels.cuda import address, call_with_workspace
from hepgen.kernels.mmd_parts import Parts, check_rows, parts_of

_BOXES_FROM = 1 << 30  # pairs from which on tiles out of the kernel's reach are looked for


class _Sample(NamedTuple):
    points: Tensor
    weights: Tensor | None
    weight_sum: Tensor | None

    def addresses(self) -> tuple[int, ...]:
        return (*(address(tensor) for tensor in self), self.points.shape[0])


def _sample(points: Tensor, weights: Tensor | None) -> _Sample:
    check_rows(points)
    points = points.contiguous()
    if weights is None:
        return _Sample(points, None, None)
    weights = weights.contiguous()
    return _Sample(points, weights, weights.sum(dtype=torch.float64))


def _kernel(parts: Parts, centre: Tensor, columns: int, gaussians: int, per_feature: bool, pairs: int) -> tuple[Any, ...]:
    tensors = (centre, *parts)
    return (*(address(t) for t in tensors), columns, len(parts.sigma), gaussians, per_feature, pairs >= _BOXES_FROM)


def mmd2(
    x: Tensor,
    y: Tensor,
    sigma: Tensor,
    wx: Tensor | None,
    wy: Tensor | None,
    cross_weight: float,
    per_feature: bool,
    y_mean: Tensor | None,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The squared discrepancy, and the gradients of x (1), y (2), wx (4) and wy (8) that are wanted, empty ones otherwise."""
    shapes = (x.shape, y.shape, x.shape[:1], y.shape[:1])
    gradients = [x.new_empty(shape if wanted & 1 << bit else (0,)) for bit, shape in enumerate(shapes)]
    value = x.new_empty(())
    a, b, parts = _sample(x, wx), _sample(y, wy), parts_of(sigma, per_feature)
    centre = b.points.mean(0, dtype=torch.float64)
    kernel = _kernel(parts, centre, x.shape[1], len(sigma), per_feature, x.shape[0] * y.shape[0])
    results = (value.data_ptr(), 0, *(g.data_ptr() if wanted & 1 << bit else 0 for bit, g in enumerate(gradients)))
    call_with_workspace("mmd2", x, a.addresses(), b.addresses(), kernel, cross_weight, address(y_mean), results)
    gx, gy, gwx, gwy = gradients
    return value, gx, gy, gwx, gwy


def kernel_mean(x: Tensor, sigma: Tensor, w: Tensor | None, per_feature: bool) -> Tensor:
    """The mean of the kernel over all pairs of one sample, in float64."""
    constant = x.new_empty((), dtype=torch.float64)
    a, parts = _sample(x, w), parts_of(sigma, per_feature)
    centre = a.points.mean(0, dtype=torch.float64)
    kernel = _kernel(parts, centre, x.shape[1], len(sigma), per_feature, x.shape[0] ** 2)
    call_with_workspace("mmd2", x, a.addresses(), (0, 0, 0, 0), kernel, 0.0, 0, (0, constant.data_ptr(), 0, 0, 0, 0))
    return constant


def gaussian_sums(x: Tensor, y: Tensor, sigma: Tensor, wy: Tensor | None, gradient: bool) -> tuple[Tensor, Tensor]:
    """Row sums, and their gradient with respect to x where it is wanted, else an empty tensor."""
    if x.shape[0] == 0 or y.shape[0] == 0:
        return x.new_zeros(x.shape[:1]), x.new_zeros(x.shape if gradient else (0,))
    sums, points = x.new_empty(x.shape[:1]), x.new_empty(x.shape if gradient else (0,))
    a, b, parts = _sample(x, None), _sample(y, wy), parts_of(sigma, False)
    centre = b.points.mean(0, dtype=torch.float64)
    kernel = _kernel(parts, centre, x.shape[1], len(sigma), False, x.shape[0] * y.shape[0])
    call_with_workspace("gaussian_sums", x, a.addresses(), b.addresses(), kernel, sums.data_ptr(), points.data_ptr() if gradient else 0)
    return sums, points
