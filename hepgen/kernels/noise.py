"""The noise of Energy Conserving Descent in numpy: the same bits as the compiled kernel makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hepgen.kernels.philox import normal_quantile, philox4x32

_STREAM = 0x45434400  # of the noise, among all that is drawn with one seed
_TENSOR_SHIFT = 40


def noise(count: int, dtype: torch.dtype, tensor: int, seed: int, step: int) -> Any:
    """Return z of elements 0 ... count of a tensor, a numpy array: the same bits as the compiled kernel makes.

    The counter of Philox4x32-10 is (block and tensor, step, stream), the key is the seed. float64: 32 numbers from 16
    blocks, through :func:`hepgen.kernels.philox.normal_quantile`; float32: 64 numbers from 16 blocks, one word each.
    """
    double = dtype == torch.float64
    group = 32 if double else 64
    element = np.arange(count, dtype=np.uint64)
    block = element // group * 16 + element % 16
    part = (element % group // 16).astype(np.int64)
    counter = (
        block & 0xFFFFFFFF,
        (block >> 32) | (tensor << (_TENSOR_SHIFT - 32)),
        np.full_like(block, step),
        np.full_like(block, _STREAM),
    )
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    if not double:
        return _short_quantile(np.choose(part, words).astype(np.uint32))
    bits = np.where(part == 0, words[1] << np.uint64(32) | words[0], words[3] << np.uint64(32) | words[2])
    return normal_quantile(((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def _short_quantile(bits: Any) -> Any:
    """Return float32 normals: the highest bit is the sign, the others k give the tail's probability (k + 1/2) / 2^32 (AS 241, PPND7)."""
    one = np.float32

    def ratio(x: Any, top: Sequence[float], bottom: Sequence[float]) -> Any:
        def horner(coefficients: Sequence[float]) -> Any:
            total = np.full_like(x, one(coefficients[0]))
            for c in coefficients[1:]:
                total = total * x + one(c)
            return total

        return horner(top) / horner(bottom)

    p = (bits & 0x7FFFFFFF).astype(np.int32).astype(one) * one(2.0**-32) + one(2.0**-33)
    from_centre = one(0.5) - p
    centre = from_centre * ratio(
        one(0.180625) - from_centre * from_centre,
        (5.9109374720e1, 1.5929113202e2, 5.0434271938e1, 3.3871327179),
        (6.7187563600e1, 7.8757757664e1, 1.7895169469e1, 1.0),
    )
    tail = ratio(
        np.sqrt(-_short_log(p)) - one(1.6),
        (1.7023821103e-1, 1.3067284816, 2.7568153900, 1.4234372777),
        (1.2021132975e-1, 7.3700164250e-1, 1.0),
    )
    size = np.where(from_centre <= one(0.425), centre, tail)
    return np.where(bits >> 31 == 1, -size, size)


def _short_log(x: Any) -> Any:
    one = np.float32
    half_root = 0x3F3504F3  # sqrt(1/2)
    shifted = x.view(np.int32) - np.int32(half_root)
    e = (shifted >> 23).astype(one)
    m = ((shifted & np.int32(0x7FFFFF)) + np.int32(half_root)).view(one)
    s = (m - one(1)) / (m + one(1))
    s2 = s * s
    series = np.full_like(s2, one(2 / 9))
    for k in (7, 5, 3):
        series = series * s2 + one(2 / k)
    tail = s * (s2 * series) + e * one(-2.12194440e-4)
    return (one(2) * s + tail) + e * one(0.693359375)
