"""The Gaussian kernel sums of :mod:`hepgen.kernels.mmd` in Triton: the sweep over the pairs; torch does what surrounds it.

For many pairs the fastest shape of the tiles is measured once on a card, and kept on disk: results have the same bits for the same
shape.
"""

# Triton adds to tuples by + alone
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hepgen.kernels import dispatch
from hepgen.kernels.mmd_parts import Parts, check_rows, parts_of

_LOG2_E = math.log2(math.e)
_MOST_FEATURES = 16  # that a program holds at a time
_BLOCKS = 8 if dispatch.triton_interprets() else 4096  # wanted in a grid, so that the last of them are few beside all
_WORTH_TUNING = 1 << 24  # pairs; fewer take less time than to find the fastest shape of tiles

# rows and columns that a program works on together: a thread holds all features of some rows and one column
_SHAPES = [(128, 128, 1)] if dispatch.triton_interprets() else [(32, 32, 4), (32, 32, 8), (64, 32, 8), (16, 32, 8)]
_CONFIGS = [triton.Config({"ROWS": rows, "COLUMNS": columns}, num_warps=warps) for rows, columns, warps in _SHAPES]


@triton.jit
def _coordinates(points, first, features, count, at, F: tl.constexpr):
    """F features from `first` on of points (features, count), one tensor each; 0 beyond the last."""
    out = ()
    for f in tl.static_range(F):
        offset = (first + f).to(tl.int64) * count
        there = (at < count) & (tl.zeros_like(at) + (first + f) < features)  # of blocks: a scalar's is int32 in the interpreter
        out = out + (tl.load(points + offset + at, mask=there, other=0.0),)
    return out


@triton.jit
def _differences(rows, columns, F: tl.constexpr):
    out = ()
    for f in tl.static_range(F):
        out = out + (columns[f][None, :] - rows[f][:, None],)
    return out


@triton.jit
def _minus_squares(differences, exponent, F: tl.constexpr):
    for f in tl.static_range(F):
        exponent -= differences[f] * differences[f]
    return exponent


@triton.autotune(_CONFIGS, key=["F", "CHUNKS", "GRADIENT", "SEVERAL", "SYMMETRIC", "WIDE"], cache_results=True)
@triton.jit
def _sweep_kernel(
    x,  # (parts, features, n)
    y,  # (parts, features, m)
    weights,  # (m,)
    ratios,  # (parts, gaussians)
    counts,  # (parts,)
    sums,  # (parts, splits, n)
    slopes,  # (parts, splits, features, n)
    n,
    m,
    features,
    gaussians,
    splits,
    F: tl.constexpr,
    CHUNKS: tl.constexpr,
    GRADIENT: tl.constexpr,
    SEVERAL: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    TILES: tl.constexpr = 64  # that are summed in working precision
    SLICES: tl.constexpr = CHUNKS if GRADIENT else 1
    kind = tl.float64 if WIDE else tl.float32
    split = tl.program_id(1)
    part = tl.program_id(2) // SLICES
    chunk = tl.program_id(2) % SLICES  # of features, whose slopes this program makes
    x += part.to(tl.int64) * features * n
    y += part.to(tl.int64) * features * m
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    used = tl.load(counts + part)

    tiles = tl.cdiv(m, COLUMNS)
    first = tl.program_id(0) * ROWS // COLUMNS if SYMMETRIC else 0
    each = tl.cdiv(tiles - first, splits)
    begin = first + each * split
    end = tl.minimum(begin + each, tiles)
    if used == 0:
        end = begin
    own = _coordinates(x, chunk * F, features, n, rows, F)

    total = tl.zeros([ROWS], tl.float64)
    slope_totals = ()
    for _ in tl.static_range(F if GRADIENT else 0):
        slope_totals = slope_totals + (tl.zeros([ROWS], tl.float64),)
    tile = begin
    while tile < end:
        stop = tl.minimum(tile + TILES, end)
        kernel_sums = tl.zeros([ROWS, COLUMNS], kind)
        slope_sums = ()
        for _ in tl.static_range(F if GRADIENT else 0):
            slope_sums = slope_sums + (tl.zeros([ROWS, COLUMNS], kind),)
        while tile < stop:
            columns = tile * COLUMNS + tl.arange(0, COLUMNS)
            weight = tl.load(weights + columns, mask=columns < m, other=0.0)[None, :]
            exponent = tl.zeros([ROWS, COLUMNS], kind)
            diff = _differences(own, _coordinates(y, chunk * F, features, m, columns, F), F)
            if CHUNKS == 1:
                exponent = _minus_squares(diff, exponent, F)
            else:
                c = chunk * 0
                while c < CHUNKS * F:
                    others = _differences(_coordinates(x, c, features, n, rows, F), _coordinates(y, c, features, m, columns, F), F)
                    exponent = _minus_squares(others, exponent, F)
                    c += F
            if SEVERAL:
                value = tl.zeros([ROWS, COLUMNS], kind)
                slope = tl.zeros([ROWS, COLUMNS], kind)
                s = used * 0
                while s < used:
                    ratio = tl.load(ratios + part * gaussians + s).to(kind)
                    k = tl.exp2(exponent * ratio)
                    value += k
                    slope += k * ratio
                    s += 1
            else:
                value = tl.exp2(exponent)
                slope = value
            if SYMMETRIC:
                # of the columns left of a row none, right of it twice
                if tile * COLUMNS < (tl.program_id(0) + 1) * ROWS:
                    value *= (columns[None, :] >= rows[:, None]).to(kind) + (columns[None, :] > rows[:, None]).to(kind)
                else:
                    value += value
            kernel_sums += value * weight
            if GRADIENT:
                slope = slope * weight
                longer = ()
                for f in tl.static_range(F):
                    longer = longer + (slope_sums[f] + slope * diff[f],)
                slope_sums = longer
            tile += 1
        total += tl.sum(kernel_sums, 1).to(tl.float64)
        if GRADIENT:
            larger = ()
            for f in tl.static_range(F):
                larger = larger + (slope_totals[f] + tl.sum(slope_sums[f], 1).to(tl.float64),)
            slope_totals = larger

    at = (part * splits + split).to(tl.int64)
    if chunk == 0:
        tl.store(sums + at * n + rows, total, mask=rows < n)
    for f in tl.static_range(F if GRADIENT else 0):
        g = chunk * F + f
        tl.store(slopes + (at * features + g) * n + rows, slope_totals[f], mask=(tl.zeros_like(rows) + g < features) & (rows < n))


class _Points(NamedTuple):
    scaled: Tensor  # (parts, features, rows)
    weights: Tensor  # (rows,)


class _RowSums(NamedTuple):
    kernel: Tensor  # (parts, rows) of float64
    slopes: Tensor  # (parts, features, rows) of float64, empty where not wanted


class _Kernel:
    """The kernel in parts, and the coordinates in which its distances are taken."""

    def __init__(self, sigma: Tensor, per_feature: bool, centre_of: Tensor) -> None:
        self.parts: Parts = parts_of(sigma, per_feature)
        self.per_feature, self.bandwidths, (_, self.features) = per_feature, *sigma.shape[:1], sigma.shape
        self.scale = (_LOG2_E / self.parts.sigma).sqrt()
        self.centre = centre_of.mean(0, dtype=torch.float64).nan_to_num(0.0, 0.0, 0.0)
        self.share = 1.0 / (self.bandwidths * (self.features if per_feature else 1))

    def points(self, given: Tensor, weights: Tensor | None) -> _Points:
        check_rows(given)
        moved = given.detach().double() - self.centre
        columns = moved.T[:, None] if self.per_feature else moved.T[None]
        scaled = (columns * self.scale[:, :, None]).to(given.dtype)
        return _Points(scaled.contiguous(), torch.ones_like(given[:, 0]) if weights is None else weights.detach().contiguous())

    def total(self, rows: _Points, sums: _RowSums) -> Tensor:
        """(parts,)"""
        return sums.kernel @ rows.weights.double()

    def gradient(self, slopes: Tensor) -> Tensor:
        """(rows, features) of slopes (parts, features, rows): dk/dx_f = factor k (y_f - x_f)."""
        factors = self.share * 2 * math.log(2) * self.scale
        if self.parts.counts is not None:
            factors = factors * (self.parts.counts > 0)[:, None]
        scaled = slopes * factors[:, :, None]
        return (scaled[:, 0] if self.per_feature else scaled.sum(0)).T

    def sweep(self, x: _Points, y: _Points, *, gradient: bool, symmetric: bool = False) -> _RowSums:
        """The sums of every row of x over the columns y; with `symmetric` all that counts is their total."""
        (parts, features, n), m, device = x.scaled.shape, y.scaled.shape[2], x.scaled.device
        chunks = triton.cdiv(features, _MOST_FEATURES)
        chunk = triton.cdiv(features, chunks)
        slices = chunks if gradient else 1
        splits = max(1, min(_BLOCKS // (triton.cdiv(n, 32) * parts * slices), triton.cdiv(m, 64)))
        sums = torch.empty(parts, splits, n, dtype=torch.float64, device=device)
        slopes = torch.empty((parts, splits, features, n) if gradient else (0,), dtype=torch.float64, device=device)
        ratios, counts = self.parts.ratios, self.parts.counts
        if counts is None:
            counts = torch.full((parts,), self.bandwidths, dtype=torch.int32, device=device)
        tuned = n * m >= _WORTH_TUNING
        kernel: Any = _sweep_kernel if tuned else _sweep_kernel.fn
        kernel[lambda meta: (triton.cdiv(n, meta["ROWS"]), splits, parts * slices)](
            x.scaled,
            y.scaled,
            y.weights,
            sums if ratios is None else ratios,
            counts,
            sums,
            slopes,
            n,
            m,
            features,
            self.bandwidths,
            splits,
            F=chunk,
            CHUNKS=chunks,
            GRADIENT=gradient,
            SEVERAL=self.bandwidths > 1,
            SYMMETRIC=symmetric,
            WIDE=x.scaled.dtype == torch.float64,
            **({} if tuned else _CONFIGS[0].all_kwargs()),
        )
        return _RowSums(sums.sum(1), slopes.sum(1) if gradient else slopes)


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
    kernel = _Kernel(sigma, per_feature, y)
    a, b = kernel.points(x, wx), kernel.points(y, wy)
    sx, sy = a.weights.sum(dtype=torch.float64), b.weights.sum(dtype=torch.float64)
    x_side, y_side = bool(wanted & 5), bool(wanted & 10)
    xx = kernel.sweep(a, a, gradient=bool(wanted & 1), symmetric=not x_side)
    value = kernel.total(a, xx) / sx.square()
    if y_mean is None or y_side:
        yy = kernel.sweep(b, b, gradient=bool(wanted & 2), symmetric=not y_side)
        value = value + kernel.total(b, yy) / sy.square()
    if x_side or not y_side:
        xy = kernel.sweep(a, b, gradient=bool(wanted & 1))
        cross = kernel.total(a, xy)
    if y_side:
        yx = kernel.sweep(b, a, gradient=bool(wanted & 2))
        if not x_side:
            cross = kernel.total(b, yx)
    value = (value - cross_weight * cross / (sx * sy)).sum() * kernel.share
    if y_mean is not None and not y_side:
        value = value + y_mean
    gx, gy, gwx, gwy = (x.new_empty(0) for _ in range(4))
    if x_side:
        gx, gwx = _gradients(kernel, a, xx, xy, (sx, sy), cross, cross_weight, wanted & 1, wanted & 4)
    if y_side:
        gy, gwy = _gradients(kernel, b, yy, yx, (sy, sx), cross, cross_weight, wanted & 2, wanted & 8)
    return value.to(x.dtype), gx, gy, gwx, gwy


def _gradients(
    kernel: _Kernel,
    points: _Points,
    own: _RowSums,
    other: _RowSums,
    weight_sums: tuple[Tensor, Tensor],
    cross: Tensor,
    cross_weight: float,
    of_points: int,
    of_weights: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of one side's points and weights, empty where not wanted; weight_sums: of this side and of the other."""
    s, t = weight_sums
    dtype = points.weights.dtype
    by_points, by_weights = points.weights.new_empty(0), points.weights.new_empty(0)
    if of_points:
        slopes = own.slopes * (2 / s.square()) - other.slopes * (cross_weight / (s * t))
        by_points = (kernel.gradient(slopes) * points.weights[:, None]).to(dtype).contiguous()
    if of_weights:
        # d/dw_i of A / s^2 - c C / (s t): 2 a_i / s^2 - 2 A / s^3 - c (c_i - C / s) / (s t)
        mean = kernel.total(points, own) / s
        of_own = 2 * (own.kernel - mean[:, None]) / s.square()
        of_other = cross_weight * (other.kernel - (cross / s)[:, None]) / (s * t)
        by_weights = ((of_own - of_other).sum(0) * kernel.share).to(dtype)
    return by_points, by_weights


def kernel_mean(x: Tensor, sigma: Tensor, w: Tensor | None, per_feature: bool) -> Tensor:
    """The mean of the kernel over all pairs of one sample, in float64."""
    kernel = _Kernel(sigma, per_feature, x)
    points = kernel.points(x, w)
    total = kernel.total(points, kernel.sweep(points, points, gradient=False, symmetric=True)).sum()
    return kernel.share * total / points.weights.sum(dtype=torch.float64).square()


def gaussian_sums(x: Tensor, y: Tensor, sigma: Tensor, wy: Tensor | None, gradient: bool) -> tuple[Tensor, Tensor]:
    """Row sums, and their gradient with respect to x where it is wanted, else an empty tensor."""
    if x.shape[0] == 0 or y.shape[0] == 0:
        return x.new_zeros(x.shape[:1]), x.new_zeros(x.shape if gradient else (0,))
    kernel = _Kernel(sigma, False, y)
    sums = kernel.sweep(kernel.points(x, None), kernel.points(y, wy), gradient=gradient)
    rows = (sums.kernel.sum(0) * kernel.share).to(x.dtype)
    return rows, kernel.gradient(sums.slopes).to(x.dtype).contiguous() if gradient else x.new_empty(0)


def compile_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Kernels as the compiler meets them: (kernel, argument types, constants, options)."""
    cases = []
    sizes = {"n": "i32", "m": "i32", "features": "i32", "gaussians": "i32", "splits": "i32"}
    wide = {"ratios": "*fp64", "counts": "*i32", "sums": "*fp64", "slopes": "*fp64"}
    for name in ("fp32", "fp64"):
        types = {"x": f"*{name}", "y": f"*{name}", "weights": f"*{name}"} | wide
        for features, several, gradient, ones in (
            (6, False, True, False),
            (6, True, False, False),
            (33, True, True, False),
            (1, False, True, True),
        ):
            chunks = triton.cdiv(features, _MOST_FEATURES)
            constants = {"F": triton.cdiv(features, chunks), "CHUNKS": chunks, "GRADIENT": gradient, "SEVERAL": several}
            constants |= {"SYMMETRIC": not gradient, "WIDE": name == "fp64", "ROWS": 16, "COLUMNS": 32}
            # numbers that are 1 become constants
            constants |= dict.fromkeys(sizes, 1) if ones else {}
            options = {"num_warps": 8, "spills": name == "fp64"}  # which is there to be exact
            cases.append((_sweep_kernel, types | ({} if ones else sizes), constants, options))
    return cases
