"""The noise of :mod:`hepgen.kernels.noise` in Triton: the same bits, where nothing is contracted (``enable_fp_fusion=False``)."""

from __future__ import annotations

import triton
import triton.language as tl

from hepgen.kernels import philox

_SHORT_CENTRE_TOP = tl.constexpr((5.9109374720e1, 1.5929113202e2, 5.0434271938e1, 3.3871327179))
_SHORT_CENTRE_BOTTOM = tl.constexpr((6.7187563600e1, 7.8757757664e1, 1.7895169469e1, 1.0))
_SHORT_TAIL_TOP = tl.constexpr((1.7023821103e-1, 1.3067284816, 2.7568153900, 1.4234372777))
_SHORT_TAIL_BOTTOM = tl.constexpr((1.2021132975e-1, 7.3700164250e-1, 1.0))
_SHORT_LOG_SERIES = tl.constexpr((2 / 9, 2 / 7, 2 / 5, 2 / 3))
_CENTRE_TOP, _CENTRE_BOTTOM = (tl.constexpr(tuple(c)) for c in philox._CENTRE)
_NEAR_TOP, _NEAR_BOTTOM = (tl.constexpr(tuple(c)) for c in philox._NEAR_TAIL)
_FAR_TOP, _FAR_BOTTOM = (tl.constexpr(tuple(c)) for c in philox._FAR_TAIL)
_LOG_SERIES = tl.constexpr(tuple(philox._LOG_SERIES))


@triton.jit
def horner(x, c: tl.constexpr, N: tl.constexpr):
    total = x * 0 + c[0]
    for i in tl.static_range(1, N):
        total = total * x + c[i]
    return total


@triton.jit
def short_log(x):
    half_root = 0x3F3504F3
    shifted = x.to(tl.int32, bitcast=True) - half_root
    e = (shifted >> 23).to(tl.float32)
    m = ((shifted & 0x7FFFFF) + half_root).to(tl.float32, bitcast=True)
    s = tl.div_rn(m - 1.0, m + 1.0)
    s2 = s * s
    tail = s * (s2 * horner(s2, _SHORT_LOG_SERIES, 4)) + e * -2.12194440e-4
    return (2.0 * s + tail) + e * 0.693359375


@triton.jit
def short_normal(bits):
    p = (bits & 0x7FFFFFFF).to(tl.int32).to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33
    q = 0.5 - p
    c = 0.180625 - q * q
    r = tl.sqrt_rn(-short_log(p)) - 1.6
    central = q <= 0.425
    top = tl.where(central, horner(c, _SHORT_CENTRE_TOP, 4), horner(r, _SHORT_TAIL_TOP, 4))
    bottom = tl.where(central, horner(c, _SHORT_CENTRE_BOTTOM, 4), horner(r, _SHORT_TAIL_BOTTOM, 3))
    ratio = tl.div_rn(top, bottom)
    x = tl.where(central, q * ratio, ratio)
    return tl.where((bits >> 31) == 1, -x, x)


@triton.jit
def long_log(x):
    half_root = 0x3FE6A09E667F3BCD
    shifted = x.to(tl.int64, bitcast=True) + (0x3FF0000000000000 - half_root)
    e = ((shifted >> 52) - 1023).to(tl.float64)
    m = ((shifted & 0x000FFFFFFFFFFFFF) + half_root).to(tl.float64, bitcast=True)
    s = (m - 1.0) / (m + 1.0)
    s2 = s * s
    tail = s * (s2 * horner(s2, _LOG_SERIES, 9)) + e * 1.9082149292705877e-10
    return (2.0 * s + tail) + e * 0.693147180369123816490


@triton.jit
def long_normal(bits):
    p = ((bits >> 12).to(tl.int64).to(tl.float64) + 0.5) * 2.220446049250313e-16  # 2^-52
    q = p - 0.5
    c = 0.180625 - q * q
    r = tl.sqrt(-long_log(tl.where(q < 0, p, 1.0 - p)))
    near = horner(r - 1.6, _NEAR_TOP, 8) / horner(r - 1.6, _NEAR_BOTTOM, 8)
    far = horner(r - 5.0, _FAR_TOP, 8) / horner(r - 5.0, _FAR_BOTTOM, 8)
    tail = tl.where(r <= 5.0, near, far)
    centre = q * (horner(c, _CENTRE_TOP, 8) / horner(c, _CENTRE_BOTTOM, 8))
    return tl.where(tl.abs(q) <= 0.425, centre, tl.where(q < 0, -tail, tail))


@triton.jit
def philox_words(c0, c1, c2, c3, k0, k1):
    for _ in tl.static_range(10):
        a = tl.full(c0.shape, 0xD2511F53, tl.uint32)
        b = tl.full(c0.shape, 0xCD9E8D57, tl.uint32)
        high0 = tl.umulhi(a, c0)
        high1 = tl.umulhi(b, c2)
        low0 = a * c0
        low1 = b * c2
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + tl.full(k0.shape, 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full(k1.shape, 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def normals(first, tensor, seed_low, seed_high, step, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Numbers first ... first + BLOCK of a tensor, from a group's start; the others name them."""
    GROUP: tl.constexpr = 32 if WIDE else 64
    GROUPS: tl.constexpr = BLOCK // GROUP
    number = tl.arange(0, GROUPS)[:, None] * 16 + tl.arange(0, 16)[None, :]
    block = number.to(tl.int64) + first // GROUP * 16 + (tensor.to(tl.int64) << 40)
    c0 = block.to(tl.uint32)
    c1 = (block >> 32).to(tl.uint32)
    none = tl.zeros([GROUPS, 16], tl.uint32)
    c2 = none + step.to(tl.uint32)
    c3 = none + tl.full([GROUPS, 16], 0x45434400, tl.uint32)
    w0, w1, w2, w3 = philox_words(c0, c1, c2, c3, none + seed_low.to(tl.uint32), none + seed_high.to(tl.uint32))
    if WIDE:
        low = (w1.to(tl.uint64) << 32) | w0.to(tl.uint64)
        high = (w3.to(tl.uint64) << 32) | w2.to(tl.uint64)
        bits = tl.permute(tl.join(low, high), (0, 2, 1)).reshape(BLOCK)
        z = long_normal(bits)
    else:
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape(GROUPS, 16, 4)
        bits = tl.permute(words, (0, 2, 1)).reshape(BLOCK)
        z = short_normal(bits)
    return z
