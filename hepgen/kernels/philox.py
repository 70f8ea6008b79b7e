"""Random numbers from a counter: the same for any chunking, thread count or machine. numpy in and out, no torch.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, SC'11, doi:10.1145/2063384.2063405. The counter is (identity, column,
stream), the key is the seed. Normals are the quantiles of the uniforms by Wichura's AS 241 (Applied Statistics 37
(1988) 477), written in single IEEE operations so that every backend gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hepgen.errors import InputError, UsageError
from hepgen.kernels import dispatch

_U64 = np.uint64
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_SERIAL_NUMBERS = 2**17  # fewer are drawn faster than a thread starts

# AS 241, highest power first
_CENTRE = (
    (2.50908092873012267270e3, 3.34305755835881281050e4, 6.72657709270087008530e4, 4.59219539315498714570e4,
     1.37316937655094611250e4, 1.97159095030655144270e3, 1.33141667891784377450e2, 3.38713287279636660800e0),
    (5.22649527885285456100e3, 2.87290857357219426740e4, 3.93078958000927106100e4, 2.12137943015865958670e4,
     5.39419602142475110770e3, 6.87187007492057908300e2, 4.23133307016009112520e1, 1.0),
)  # fmt: skip
_NEAR_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)  # fmt: skip
_LOG_SERIES = tuple(2.0 / k for k in range(19, 1, -2))


def normal(identity: npt.ArrayLike, columns: int, *, seed: int, stream: int = 0) -> npt.NDArray[np.float64]:
    """Draw standard normal numbers that belong to identities.

    Parameters
    ----------
    identity : (n, k) or (n,) array of uint64
        What names each row: run, luminosity block, event, object index. Signed integers are taken by their bits.
    columns : int
        How many numbers each identity gets.
    seed : int
        0 <= seed < 2^64.
    stream : int
        0 <= stream < 2^32; different streams of one seed are independent.

    Returns
    -------
    (n, columns) array of float64
        Entry (i, c) depends on (seed, stream, identity[i], c) and on nothing else. Between -8.3 and 8.3.

    Raises
    ------
    UsageError
        If seed, stream or columns is out of range.
    InputError
        If identity does not hold integers or has no word.
    """
    return _draw(identity, columns, seed, stream, normal=True)


def uniform(identity: npt.ArrayLike, columns: int, *, seed: int, stream: int = 0) -> npt.NDArray[np.float64]:
    """Draw uniform numbers in the open interval (0, 1) that belong to identities.

    The midpoints of 2^52 equal steps, so neither end is ever reached. Parameters, errors and shapes as in :func:`normal`.
    """
    return _draw(identity, columns, seed, stream, normal=False)


def _draw(identity: npt.ArrayLike, columns: int, seed: int, stream: int, *, normal: bool) -> npt.NDArray[np.float64]:
    words = _as_words(identity)
    if columns < 0 or columns >= 2**33:
        raise UsageError(f"columns must lie in [0, 2^33), got {columns}")
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed must lie in [0, 2^64), got {seed}")
    if not 0 <= stream < 2**32:
        raise UsageError(f"stream must lie in [0, 2^32), got {stream}")
    if dispatch.choose("philox") == "cpp":
        module: Any = dispatch.core()
        threads = dispatch.thread_count() if words.shape[0] * columns > _SERIAL_NUMBERS else 1
        out: npt.NDArray[np.float64] = module.philox_fill(words, int(columns), int(seed), int(stream), normal, threads)
        return out
    return reference(words, columns, seed, stream, normal=normal)


def _as_words(identity: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    array = np.asarray(identity)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"identity must have shape (n, k) with k >= 1, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise InputError(f"identity must hold integers, got {array.dtype}: convert run and event numbers before")
    return np.ascontiguousarray(array.astype(np.int64, copy=False).view(_U64) if array.dtype.kind == "i" else array, dtype=_U64)


def reference(identity: npt.NDArray[np.uint64], columns: int, seed: int, stream: int, *, normal: bool) -> npt.NDArray[np.float64]:
    """Draw as the compiled backend does, bit for bit, in numpy."""
    blocks = (columns + 1) // 2
    hashed = hash_identity(identity)[:, np.newaxis]
    block = np.arange(blocks, dtype=_U64)[np.newaxis, :]
    counter = np.broadcast_arrays(hashed & _LOW, hashed >> _32, block, _U64(stream))
    r0, r1, r2, r3 = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    bits = np.stack([r1 << _32 | r0, r3 << _32 | r2], axis=-1).reshape(len(identity), 2 * blocks)[:, :columns]
    unit = ((bits >> _U64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return normal_quantile(unit) if normal else unit


def philox4x32(counter: Any, key: tuple[int, int]) -> tuple[npt.NDArray[np.uint64], ...]:
    """Apply Philox4x32-10 to four words of 32 bits, each an array of uint64; key: two words."""
    c0, c1, c2, c3 = (np.asarray(c, dtype=_U64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _U64(0xD2511F53) * c0, _U64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ _U64(k0), p1 & _LOW, (p0 >> _32) ^ c3 ^ _U64(k1), p0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def hash_identity(identity: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Fold the words of each row into 64 bits by a chain of splitmix64 finalisers. (n, k) -> (n,)."""
    hashed = _mix64(np.full(len(identity), identity.shape[1], dtype=_U64))
    for word in identity.T:
        hashed = _mix64(hashed ^ word)
    return hashed


def _mix64(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = z + _U64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
    return z ^ (z >> _U64(31))


def _horner(coefficients: tuple[float, ...], x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = total * x + c
    return total


def _log(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Natural logarithm of normal positive numbers: x = 2^e m, ln m = 2 artanh((m - 1) / (m + 1))."""
    half_root = _U64(0x3FE6A09E667F3BCD)  # sqrt(1/2)
    shifted = x.view(_U64) + (_U64(0x3FF0000000000000) - half_root)
    e = (shifted >> _U64(52)).astype(np.int64).astype(np.float64) - 1023.0
    m = ((shifted & _U64(0x000FFFFFFFFFFFFF)) + half_root).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    s2 = s * s
    tail = s * (s2 * _horner(_LOG_SERIES, s2)) + e * 1.9082149292705877e-10
    return (2.0 * s + tail) + e * 0.693147180369123816490


def normal_quantile(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the standard normal quantile of 0 < p < 1, relative error about 1e-15 (AS 241)."""
    q = p - 0.5
    out = np.empty_like(p)
    centre = np.abs(q) <= 0.425
    r = 0.180625 - q[centre] * q[centre]
    out[centre] = q[centre] * (_horner(_CENTRE[0], r) / _horner(_CENTRE[1], r))
    tail_p, tail_q = p[~centre], q[~centre]
    r = np.sqrt(-_log(np.where(tail_q < 0, tail_p, 1.0 - tail_p)))
    near = _horner(_NEAR_TAIL[0], r - 1.6) / _horner(_NEAR_TAIL[1], r - 1.6)
    far = _horner(_FAR_TAIL[0], r - 5.0) / _horner(_FAR_TAIL[1], r - 5.0)
    x = np.where(r <= 5.0, near, far)
    out[~centre] = np.where(tail_q < 0, -x, x)
    return out
