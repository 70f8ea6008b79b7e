"""The ceilings of a GPU, measured on it: what its memory copies, and what it multiplies and adds in float32."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable

import torch

_COPIED = 1 << 30  # bytes, several times any cache
_ORDER = 8192  # of the matrices
_ROUNDS = 9


@functools.cache
def memory_bandwidth() -> float:
    """Bytes read and written per second by a copy from the card to itself."""
    source = torch.rand(_COPIED // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPIED / _seconds(lambda: target.copy_(source))


@functools.cache
def peak_flops() -> float:
    """Multiplications and additions per second of a product of float32 matrices, without the matrix units."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        a, b = (torch.rand(_ORDER, _ORDER, device="cuda") for _ in range(2))
        out = torch.empty_like(a)
        return 2.0 * _ORDER**3 / _seconds(lambda: torch.mm(a, b, out=out))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _seconds(work: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)) / 1e3)
    return statistics.median(times[2:])
