"""The binned density estimates of :mod:`hepgen.kernels.density` in Triton; exact ones are in :mod:`hepgen.kernels.triton.density_exact`.

Shares of samples are summed as integers in global memory, so that their order does not matter: Triton has no sums by index in shared
memory. In float32 without weights one integer holds a bin's count and, below it, the sum of the offsets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hepgen.kernels import dispatch
from hepgen.kernels.density_parts import REACH, Sums, margin, sums_of, weight_gradient
from hepgen.kernels.triton import density_exact

_GRAD_X, _GRAD_W = 1, 2
_AXIS = 8  # numbers of a feature's axis: origin, 1 / step, step, step / bandwidth, reach, norm, scale
_NEAR = tl.constexpr(2.0**-50)  # of a position, beyond its rounding
_REPLICAS = 1 if dispatch.triton_interprets() else 16  # of the bins, so that blocks meet seldom
_ELEMENTS = 4096 if dispatch.triton_interprets() else 1024  # of a block
_OUT, _TAPS = (512, 128) if dispatch.triton_interprets() else (32, 64)  # of a convolution's block


@triton.jit
def _axis_kernel(
    grid,
    bandwidth,
    total,
    peak,
    axes,
    points,
    between,
    across,
    rows,
    pad,
    bits,
    WIDTHS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    f = tl.program_id(0)
    grid += f * across
    zero = tl.full([], 0.0, tl.float64)
    first = tl.load(grid)
    last = tl.load(grid + (points - 1) * between)
    step = (last - first) / (zero + (points - 1))
    slack = 1e-3 * step + 1e-6 * tl.maximum(tl.abs(first), tl.abs(last))  # float32 grids wobble in their last digits
    uneven = tl.zeros([BLOCK], tl.int32)
    i = f * 0 + 1
    while i < points:
        g = i + tl.arange(0, BLOCK)
        gap = tl.load(grid + g * between, mask=g < points, other=0.0) - tl.load(grid + (g - 1) * between, mask=g < points, other=0.0)
        uneven += tl.where((g < points) & ~(tl.abs(gap - step) <= slack), 1, 0)
        i += BLOCK
    b = tl.load(bandwidth + f)
    reach = tl.ceil(WIDTHS * b / step)
    good = (tl.sum(uneven) == 0) & (step > 0) & (b > 0) & (reach <= zero + pad)
    weight_sum = zero + rows
    exponent = tl.full([], -1, tl.int64)
    if WEIGHTED:
        weight_sum = tl.load(total)
        exponent = ((tl.load(peak).to(tl.float64).to(tl.int64, bitcast=True) >> 52) & 2047) - 1023
    exponent = tl.minimum(tl.maximum(bits - 1 - exponent, -1022), 1023)
    scale = ((exponent + 1023) << 52).to(tl.float64, bitcast=True)
    nan = zero + float("nan")
    axes += f * 8
    tl.store(axes, tl.where(good, first, nan))
    tl.store(axes + 1, tl.where(good, 1.0 / step, nan))
    tl.store(axes + 2, tl.where(good, step, nan))
    tl.store(axes + 3, tl.where(good, step / b, zero + 1.0))
    tl.store(axes + 4, tl.where(good, reach, zero))
    tl.store(axes + 5, tl.where(good, 0.3989422804014327 / (weight_sum * b), nan))
    tl.store(axes + 6, scale)


@triton.jit
def _locate(x, axes, f, pad, last):
    """Bin and offset of samples, and whether they are in a bin at all."""
    p = (x.to(tl.float64) - tl.load(axes + f * 8)) * tl.load(axes + f * 8 + 1) + pad
    inside = (p >= 0) & (p < last)
    p = tl.where(inside, p, 0.0)
    left = tl.minimum(tl.floor(p + p * _NEAR), last - 1)  # slopes jump from bin to bin: rounding shall not take what is on a border down
    return left.to(tl.int64), p - left, inside


@triton.jit
def _bin_kernel(
    x,  # flat (rows, features)
    weights,
    axes,
    bins,  # (replicas, features, size)
    poison,  # (features,)
    count,
    pad,
    size,
    FEATURES: tl.constexpr,
    REPLICAS: tl.constexpr,
    BITS: tl.constexpr,
    COUNT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    PACKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    element = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = element < count
    f = (element % FEATURES).to(tl.int32)
    numbers = tl.load(x + element, mask=there, other=0.0)
    left, t, inside = _locate(numbers, axes, f, pad, size - 1)
    inside &= there
    at = bins + ((block % REPLICAS) * FEATURES + f).to(tl.int64) * size + left
    if PACKED:
        offset = tl.floor(t * (1 << BITS) + 0.5).to(tl.int64)
        tl.atomic_add(at, offset + (1 << COUNT), mask=inside, sem="relaxed")
    else:
        scale = tl.load(axes + 6)
        w = tl.zeros([BLOCK], tl.float64) + scale
        if WEIGHTED:
            w *= tl.load(weights + element // FEATURES, mask=there, other=0.0).to(tl.float64)
        moved = tl.floor(w * t + 0.5).to(tl.int64)
        tl.atomic_add(at, tl.floor(w + 0.5).to(tl.int64) - moved, mask=inside, sem="relaxed")
        tl.atomic_add(at + 1, moved, mask=inside, sem="relaxed")
    tl.store(poison + f, tl.full([BLOCK], 1, tl.int32), mask=there & (numbers != numbers))  # noqa: PLR0124 - NaN


@triton.jit
def _density_kernel(axes, bins, poison, density, points, pad, size, BLOCK: tl.constexpr, TAPS: tl.constexpr):
    f = tl.program_id(1)
    g = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ratio = tl.load(axes + f * 8 + 3)
    reach = tl.load(axes + f * 8 + 4).to(tl.int32)
    bins += f.to(tl.int64) * size
    total = tl.zeros([BLOCK], tl.float64)
    j = -reach
    while j <= reach:
        taps = j + tl.arange(0, TAPS)
        d = taps.to(tl.float64) * ratio
        kernel = tl.where(taps <= reach, tl.exp(-0.5 * d * d), 0.0)
        at = g[:, None] + pad + taps[None, :]
        total += tl.sum(tl.load(bins + at, mask=(at >= 0) & (at < size), other=0).to(tl.float64) * kernel[None, :], 1)
        j += TAPS
    value = total / tl.load(axes + f * 8 + 6) * tl.load(axes + f * 8 + 5)
    value = tl.where(tl.load(poison + f) != 0, float("nan"), value)
    tl.store(density + f.to(tl.int64) * points + g, value.to(density.dtype.element_ty), mask=g < points)


@triton.jit
def _field_kernel(axes, slope, values, slopes, points, pad, size, BLOCK: tl.constexpr, TAPS: tl.constexpr):
    """The field at every bin, and its slope from there to the next."""
    f = tl.program_id(1)
    bins = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ratio = tl.load(axes + f * 8 + 3)
    reach = tl.load(axes + f * 8 + 4).to(tl.int32)
    slope += f.to(tl.int64) * points
    here = tl.zeros([BLOCK], tl.float64)
    following = tl.zeros([BLOCK], tl.float64)
    first = tl.program_id(0) * BLOCK - pad  # on the grid
    felt = (first + BLOCK >= -reach) & (first <= points + reach)
    j = -reach
    end = tl.where(felt, reach + 1, -reach - 1)
    while j <= end:
        taps = j + tl.arange(0, TAPS)
        d = taps.to(tl.float64) * ratio
        e = (taps - 1).to(tl.float64) * ratio
        at = bins[:, None] - pad + taps[None, :]
        s = tl.load(slope + at, mask=(at >= 0) & (at < points), other=0.0).to(tl.float64)
        here += tl.sum(s * tl.where(taps <= reach, tl.exp(-0.5 * d * d), 0.0)[None, :], 1)
        following += tl.sum(s * tl.where((taps > -reach) & (taps <= reach + 1), tl.exp(-0.5 * e * e), 0.0)[None, :], 1)
        j += TAPS
    norm = tl.load(axes + f * 8 + 5)
    at = f.to(tl.int64) * size + bins
    tl.store(values + at, (here * norm).to(values.dtype.element_ty), mask=bins < size)
    rise = (following - here) * norm * tl.load(axes + f * 8 + 1)
    tl.store(slopes + at, rise.to(slopes.dtype.element_ty), mask=bins < size)


@triton.jit
def _gather_kernel(
    x,  # flat (rows, features), as what goes out
    weights,
    axes,
    values,  # (features, size), as the slopes
    slopes,
    out_x,
    out_values,
    count,
    pad,
    size,
    FEATURES: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WANTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = element < count
    f = (element % FEATURES).to(tl.int32)
    numbers = tl.load(x + element, mask=there, other=0.0)
    left, t, inside = _locate(numbers, axes, f, pad, size - 1)
    inside &= there
    at = f.to(tl.int64) * size + left
    slope = tl.load(slopes + at, mask=inside, other=0.0)
    slope = tl.where(numbers != numbers, numbers, slope)  # noqa: PLR0124 - NaN
    if WANTED & 2:
        value = tl.load(values + at, mask=inside, other=0.0).to(tl.float64)
        value += tl.where(inside, t * tl.load(axes + f * 8 + 2), 0.0) * slope.to(tl.float64)
        tl.store(out_values + element, value.to(out_values.dtype.element_ty), mask=there)
    if WANTED & 1:
        if WEIGHTED:
            slope *= tl.load(weights + element // FEATURES, mask=there, other=0.0)
        tl.store(out_x + element, slope, mask=there)


@triton.jit
def _divergence_kernel(axes, density, target, value, slope, count, points, features, FLOOR: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float64)
    floor = tl.full([BLOCK], FLOOR, tl.float64)
    i = tl.program_id(0)
    while i < count:
        at = i + tl.arange(0, BLOCK)
        there = at < count
        step = tl.load(axes + at // points * 8 + 2, mask=there, other=1.0)
        t = tl.load(target + at, mask=there, other=0.0)
        given = step * tl.load(density + at, mask=there, other=1.0).to(tl.float64)
        mass = tl.where(given < floor, floor, given)
        total += tl.where(t == 0, 0.0, t * tl.log(tl.where(t == 0, 1.0, t) / mass)) + 0.0 * given  # NaN even where the target is zero
        tl.store(slope + at, tl.where(given < floor, 0.0, -t * step / mass / features).to(slope.dtype.element_ty), mask=there)
        i += BLOCK
    tl.store(value, (tl.sum(total) / features).to(value.dtype.element_ty))


# --- launches


class _Task(NamedTuple):
    x: Tensor  # contiguous, as the others
    weights: Tensor | None
    sums: Sums
    grid: Tensor
    bandwidth: Tensor
    pad: int

    def bins(self) -> int:
        return len(self.grid) + 2 * self.pad + 1


def _task(samples: Tensor, grid: Tensor, bandwidth: Tensor, weights: Tensor | None, reach: int) -> _Task:
    weights = None if weights is None else weights.detach().contiguous()
    pad = margin(len(grid), reach)
    return _Task(samples.detach().contiguous(), weights, sums_of(weights), grid.double().contiguous(), bandwidth.contiguous(), pad)


def _axes(task: _Task, bits: int) -> Tensor:
    (rows, features), points = task.x.shape, len(task.grid)
    axes = task.x.new_empty((features, _AXIS), dtype=torch.float64)
    between, across = (1, 0) if task.grid.ndim == 1 else (features, 1)
    _axis_kernel[(features,)](
        task.grid, task.bandwidth, task.sums.total, task.sums.peak, axes, points, between, across, rows, task.pad, bits,
        WIDTHS=REACH[task.x.dtype], WEIGHTED=task.weights is not None, BLOCK=1024,
    )  # fmt: skip
    return axes


def _binned(task: _Task) -> tuple[Tensor, Tensor]:
    (rows, features), size, points = task.x.shape, task.bins(), len(task.grid)
    blocks = triton.cdiv(rows * features, _ELEMENTS)
    packed = task.weights is None and task.x.dtype == torch.float32
    replicas = max(1, min(_REPLICAS, blocks))
    most = triton.cdiv(blocks, replicas) * (_ELEMENTS // features + 1)  # samples of a replica's bin
    bits = min(32, 63 - 2 * most.bit_length()) if packed else min(52, 61 - rows.bit_length())
    axes = _axes(task, bits)
    bins = task.x.new_zeros((replicas, features, size), dtype=torch.int64)
    poison = task.x.new_zeros((features,), dtype=torch.int32)
    _bin_kernel[(blocks,)](
        task.x, task.weights, axes, bins, poison, rows * features, task.pad, size, FEATURES=features, REPLICAS=replicas, BITS=bits,
        COUNT=bits + most.bit_length(), WEIGHTED=task.weights is not None, PACKED=packed, BLOCK=_ELEMENTS,
    )  # fmt: skip
    shares = _unpacked(bins, bits, bits + most.bit_length()) if packed else bins.sum(0)
    density = task.x.new_empty((features, points))
    _density_kernel[triton.cdiv(points, _OUT), features](axes, shares, poison, density, points, task.pad, size, BLOCK=_OUT, TAPS=_TAPS)
    return density, axes


def _unpacked(bins: Tensor, bits: int, count: int) -> Tensor:
    moved = (bins & ((1 << count) - 1)).sum(0)
    shares = ((bins >> count).sum(0) << bits) - moved
    shares[:, 1:] += moved[:, :-1]
    return shares


def _gradients(slope: Tensor, density: Tensor, task: _Task, wanted: int) -> tuple[Tensor, Tensor]:
    x, size, points = task.x, task.bins(), len(task.grid)
    rows, features = x.shape
    axes, tables = _axes(task, 0), x.new_empty((2, features, size))
    slope = slope.contiguous()
    _field_kernel[triton.cdiv(size, _OUT), features](axes, slope, tables[0], tables[1], points, task.pad, size, BLOCK=_OUT, TAPS=_TAPS)
    gx = x.new_empty((rows if wanted & _GRAD_X else 0, features))
    values = torch.empty_like(x) if wanted & _GRAD_W else None
    _gather_kernel[(triton.cdiv(rows * features, _ELEMENTS),)](
        x, task.weights, axes, tables[0], tables[1], gx, values, rows * features, task.pad, size, FEATURES=features,
        WEIGHTED=task.weights is not None, WANTED=wanted, BLOCK=_ELEMENTS,
    )  # fmt: skip
    return gx, _weight_part(values, slope, density, task.sums, x)


def _weight_part(values: Tensor | None, slope: Tensor, density: Tensor, sums: Sums, like: Tensor) -> Tensor:
    if values is None or sums.total is None:
        return like.new_empty((0,))
    return weight_gradient(values, slope, density, sums.total)


def density(samples: Tensor, grid: Tensor, bandwidth: Tensor, weights: Tensor | None, binned: bool, reach: int) -> Tensor:
    """The densities (F, G)."""
    task = _task(samples, grid, bandwidth, weights, reach)
    return _binned(task)[0] if binned else density_exact.density(task.x, task.grid, task.bandwidth, task.weights, task.sums.total)


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
    task = _task(samples, grid, bandwidth, weights, reach)
    if binned:
        return _gradients(slope, density, task, wanted)
    gx, values = density_exact.gradients(slope, task.x, task.grid, task.bandwidth, task.weights, task.sums.total, wanted)
    return gx, _weight_part(values, slope, density, task.sums, task.x)


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
    task = _task(samples, grid, bandwidth, weights, reach)
    density, axes = _binned(task)
    features, points = density.shape
    value, slope = density.new_empty(()), torch.empty_like(density)
    _divergence_kernel[(1,)](
        axes, density, target.T.double().contiguous(), value, slope, features * points, points, features, FLOOR=floor, BLOCK=1024
    )
    if not wanted:
        return value, samples.new_empty((0, samples.shape[1])), samples.new_empty((0,))
    return value, *_gradients(slope, density, task, wanted)


def compile_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Kernels as the compiler meets them: kernel, types, constants, options."""
    cases: list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]] = []
    sizes = dict.fromkeys(("points", "pad", "size", "count", "features", "rows", "between", "across", "bits"), "i32")
    wide = dict.fromkeys(("grid", "bandwidth", "total", "axes", "target"), "*fp64")
    for kind in ("*fp32", "*fp64"):
        own = dict.fromkeys(("x", "weights", "slope", "values", "slopes", "out_x", "out_values", "density", "value", "peak"), kind)
        types = sizes | wide | own | {"bins": "*i64", "poison": "*i32"}
        elements = {"FEATURES": 6, "BLOCK": 1024}
        tile = {"BLOCK": 32, "TAPS": 64}
        packed = kind == "*fp32"
        chosen: list[tuple[Any, dict[str, Any]]] = [
            (_axis_kernel, {"WIDTHS": 6.5, "WEIGHTED": True, "BLOCK": 1024}),
            (_bin_kernel, elements | {"REPLICAS": 16, "BITS": 20, "COUNT": 40, "WEIGHTED": not packed, "PACKED": packed}),
            (_density_kernel, tile),
            (_field_kernel, tile),
            (_gather_kernel, elements | {"WEIGHTED": not packed, "WANTED": 1 if packed else 3}),
            (_divergence_kernel, {"FLOOR": 1e-9, "BLOCK": 1024}),
        ]
        for kernel, constants in chosen:
            names = [name for name in kernel.arg_names if name not in constants]
            cases.append((kernel, {name: types[name] for name in names}, constants, {}))
    return cases + density_exact.compile_cases()
