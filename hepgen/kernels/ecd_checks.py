"""What the tensors and numbers of a step of Energy Conserving Descent must be; all raise UsageError."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hepgen.errors import UsageError

if TYPE_CHECKING:
    from hepgen.kernels.ecd import Rule


def check_pair(p: Tensor, v: Tensor, first: Tensor) -> None:
    """Whether a parameter, with its velocity, goes with the first."""
    if p.dtype not in {torch.float32, torch.float64} or p.dtype != first.dtype or p.device != first.device:
        raise UsageError(f"ecd_step: params must all be float32 or all float64 and on one device, got {p.dtype} on {p.device}")
    if p.layout != torch.strided or v.layout != torch.strided:
        raise UsageError(f"ecd_step: a param and its velocity must be dense, got {p.layout} and {v.layout}")
    if v.shape != p.shape or v.dtype != p.dtype or v.device != p.device:
        raise UsageError(f"ecd_step: a velocity must have its parameter's shape, dtype and device, got {tuple(v.shape)} {v.dtype}")
    if not (_dense(p) and _dense(v)):
        raise UsageError("ecd_step: a param or velocity holds the same memory twice (an expanded tensor?): clone it")
    if p.is_neg() or v.is_neg():
        raise UsageError("ecd_step: a param or velocity stands for its memory with the other sign: call resolve_neg on it")
    if p.data_ptr() % p.element_size() or v.data_ptr() % p.element_size():
        raise UsageError("ecd_step: a param or velocity begins between two numbers in memory (a view of bytes?): clone it")


def _dense(t: Tensor) -> bool:
    """Whether no two elements of t can share memory."""
    reach = 1
    for stride, size in sorted(zip(t.stride(), t.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return False
            reach += stride * (size - 1)
    return True


def ranges(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Return first and one past the last byte of each tensor that has elements, in order."""
    spans = []
    for t in tensors:
        if t.numel():
            reach = 1 + sum(stride * (size - 1) for stride, size in zip(t.stride(), t.shape, strict=True))
            spans.append((t.data_ptr(), t.data_ptr() + reach * t.element_size()))
    return sorted(spans)


def check_apart(spans: list[tuple[int, int]]) -> None:
    """Whether ranges of memory, in order, do not overlap."""
    for (_, end), (start, _) in itertools.pairwise(spans):
        if start < end:
            raise UsageError("ecd_step: params and velocities must not share memory: give each tensor once, and clone views of others")


def check_rule(rule: Rule, size: int) -> None:
    """Whether the numbers of a step are in their ranges."""
    lr, eta, f0, nu, q, _, seed, step = rule
    if not (lr >= 0 and eta > 0 and nu >= 0 and math.isfinite(lr + eta + nu + f0)):
        raise UsageError(f"ecd_step: lr and nu must be at least 0, eta positive and all finite, got lr {lr}, nu {nu}, eta {eta}, F0 {f0}")
    if size and not 0 <= q < size:
        raise UsageError(f"ecd_step: q must lie in [0, {size}), below the number of parameters, got {q}")
    if not (0 <= seed < 2**63 and 0 <= step < 2**32):
        raise UsageError(f"ecd_step: seed must lie in [0, 2^63) and step in [0, 2^32), got {seed} and {step}")
