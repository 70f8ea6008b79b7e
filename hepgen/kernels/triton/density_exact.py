"""The exact density estimates of :mod:`hepgen.kernels.density` in Triton: every sample meets every grid point.

In float32 differences are made from both halves of a grid point, and sums are carried on in float64 after some terms.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hepgen.kernels import dispatch

_GRAD_X, _GRAD_W = 1, 2
# points or samples that a block holds, those that pass by together, and tiles whose sums are made in the samples' dtype
_TILES = {torch.float32: (128, 32, 4), torch.float64: (32, 32, 1)}
if dispatch.triton_interprets():
    _TILES = dict.fromkeys(_TILES, (256, 128, 1))
_BLOCKS = 4 if dispatch.triton_interprets() else 2048  # wanted in a grid
_FACTOR = {torch.float32: math.sqrt(math.log2(math.e) / 2), torch.float64: math.sqrt(0.5)}


@triton.jit
def _kernel(d, scale, WIDE: tl.constexpr):
    y = d * scale
    return tl.exp(-y * y) if WIDE else tl.exp2(-y * y)


@triton.jit
def _exact_kernel(
    x,  # (rows, features)
    weights,
    high,  # (features, points), with low
    low,
    scales,  # (features,)
    partial,  # (splits, features, points)
    rows,
    features,
    points,
    chunk,
    WEIGHTED: tl.constexpr,
    WIDE: tl.constexpr,
    HELD: tl.constexpr,
    PASSING: tl.constexpr,
    RUN: tl.constexpr,
):
    f = tl.program_id(1)
    g = tl.program_id(0) * HELD + tl.arange(0, HELD)
    at = f.to(tl.int64) * points + g
    above = tl.load(high + at, mask=g < points, other=0.0)
    below = tl.load(low + at, mask=g < points, other=0.0)
    scale = tl.load(scales + f)
    total = tl.zeros([HELD], tl.float64)
    row = tl.program_id(2).to(tl.int64) * chunk
    end = tl.minimum(row + chunk, rows)
    while row < end:
        part = tl.zeros([HELD, PASSING], x.dtype.element_ty)
        for run in tl.static_range(RUN):
            i = row + run * PASSING + tl.arange(0, PASSING)
            there = i < end
            numbers = tl.load(x + i * features + f, mask=there, other=0.0)
            d = above[:, None] - numbers[None, :]
            if not WIDE:
                d += below[:, None]
            k = _kernel(d, scale, WIDE)
            if WEIGHTED:
                part += k * tl.load(weights + i, mask=there, other=0.0)[None, :]
            else:
                part += tl.where(there[None, :], k, 0.0)
        total += tl.sum(part, 1).to(tl.float64)
        row += PASSING * RUN
    to = (tl.program_id(2).to(tl.int64) * features + f) * points + g
    tl.store(partial + to, total, mask=g < points)


@triton.jit
def _gradient_kernel(
    x,
    weights,
    high,
    low,
    scales,
    norms,  # (features,)
    bandwidth,
    slope,  # (features, points)
    out_x,
    out_values,
    rows,
    features,
    points,
    WEIGHTED: tl.constexpr,
    WIDE: tl.constexpr,
    WANTED: tl.constexpr,
    HELD: tl.constexpr,
    PASSING: tl.constexpr,
    RUN: tl.constexpr,
):
    f = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * HELD + tl.arange(0, HELD)
    there = row < rows
    numbers = tl.load(x + row * features + f, mask=there, other=0.0)
    scale = tl.load(scales + f)
    turned = tl.zeros([HELD], tl.float64)
    values = tl.zeros([HELD], tl.float64)
    g = f * 0
    while g < points:
        part = tl.zeros([HELD, PASSING], x.dtype.element_ty)
        value = tl.zeros([HELD, PASSING], x.dtype.element_ty)
        for run in tl.static_range(RUN):
            i = g + run * PASSING + tl.arange(0, PASSING)
            at = f.to(tl.int64) * points + i
            d = tl.load(high + at, mask=i < points, other=0.0)[None, :] - numbers[:, None]
            if not WIDE:
                d += tl.load(low + at, mask=i < points, other=0.0)[None, :]
            term = _kernel(d, scale, WIDE) * tl.load(slope + at, mask=i < points, other=0.0)[None, :]
            part += term * d
            value += term
        turned += tl.sum(part, 1).to(tl.float64)
        values += tl.sum(value, 1).to(tl.float64)
        g += PASSING * RUN
    norm = tl.load(norms + f)
    b = tl.load(bandwidth + f)
    if WANTED & 2:
        tl.store(out_values + row * features + f, (values * norm).to(out_values.dtype.element_ty), mask=there)
    if WANTED & 1:
        turned *= norm / b / b
        if WEIGHTED:
            turned *= tl.load(weights + row, mask=there, other=0.0).to(tl.float64)
        turned = tl.where(tl.abs(numbers) == float("inf"), 0.0, turned)  # 0 * infinity
        tl.store(out_x + row * features + f, turned.to(out_x.dtype.element_ty), mask=there)


def _points(grid: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The grid (F, G) in the dtype of x, and what it is short of."""
    columns = (grid[:, None].expand(-1, x.shape[1]) if grid.ndim == 1 else grid).T
    high = columns.to(x.dtype).contiguous()
    return high, (columns - high).to(x.dtype).contiguous()


def _scales(x: Tensor, bandwidth: Tensor) -> Tensor:
    return (_FACTOR[x.dtype] / bandwidth).clamp_max(torch.finfo(x.dtype).max).to(x.dtype)


def _norms(x: Tensor, bandwidth: Tensor, total: Tensor | None) -> Tensor:
    """1 / (sum of weights * b * sqrt(2 pi)), NaN for a bandwidth that is not positive and finite."""
    good = (bandwidth > 0) & torch.isfinite(bandwidth) & torch.isfinite(1 / bandwidth)
    return torch.where(good, 1 / ((x.shape[0] if total is None else total) * bandwidth * math.sqrt(2 * math.pi)), torch.nan)


def density(x: Tensor, grid: Tensor, bandwidth: Tensor, weights: Tensor | None, total: Tensor | None) -> Tensor:
    """The densities (F, G)."""
    (rows, features), points = x.shape, len(grid)
    if points == 0:
        return x.new_empty((features, 0))
    high, low = _points(grid, x)
    held, passing, run = _TILES[x.dtype]
    across = triton.cdiv(points, held)
    splits = max(1, min(_BLOCKS // (across * features), rows // (2 * passing * run)))
    chunk = triton.cdiv(triton.cdiv(rows, splits), passing * run) * passing * run
    splits = triton.cdiv(rows, chunk)
    partial = x.new_empty((splits, features, points), dtype=torch.float64)
    _exact_kernel[across, features, splits](
        x, weights, high, low, _scales(x, bandwidth), partial, rows, features, points, chunk, WEIGHTED=weights is not None,
        WIDE=x.dtype == torch.float64, HELD=held, PASSING=passing, RUN=run,
    )  # fmt: skip
    return (partial.sum(0) * _norms(x, bandwidth, total)[:, None]).to(x.dtype)


def gradients(
    slope: Tensor, x: Tensor, grid: Tensor, bandwidth: Tensor, weights: Tensor | None, total: Tensor | None, wanted: int
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the samples, and the field at every sample (n, F), where they are wanted."""
    (rows, features), points = x.shape, len(grid)
    gx = x.new_empty((rows if wanted & _GRAD_X else 0, features))
    values = torch.empty_like(x) if wanted & _GRAD_W else None
    high, low = _points(grid, x)
    held, passing, run = _TILES[x.dtype]
    _gradient_kernel[triton.cdiv(rows, held), features](
        x, weights, high, low, _scales(x, bandwidth), _norms(x, bandwidth, total), bandwidth, slope.contiguous(), gx, values, rows,
        features, points, WEIGHTED=weights is not None, WIDE=x.dtype == torch.float64, WANTED=wanted, HELD=held, PASSING=passing,
        RUN=run,
    )  # fmt: skip
    return gx, values


def compile_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Kernels as the compiler meets them: kernel, types, constants, options."""
    cases: list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]] = []
    for kind in ("*fp32", "*fp64"):
        types = dict.fromkeys(("x", "weights", "high", "low", "scales", "slope", "out_x", "out_values"), kind)
        types |= dict.fromkeys(("partial", "norms", "bandwidth"), "*fp64") | dict.fromkeys(("rows", "features", "points", "chunk"), "i32")
        wide = kind == "*fp64"
        held, passing, run = _TILES[torch.float64 if wide else torch.float32]
        shape = {"WEIGHTED": True, "WIDE": wide, "HELD": held, "PASSING": passing, "RUN": run}
        for kernel, constants in ((_exact_kernel, shape), (_gradient_kernel, shape | {"WANTED": 3})):
            names = [name for name in kernel.arg_names if name not in constants]
            cases.append((kernel, {name: types[name] for name in names}, constants, {}))
    return cases
