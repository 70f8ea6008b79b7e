"""The ops under torch.autocast: they run in float32, whatever precision the layers before them left."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_HALVES = (torch.float16, torch.bfloat16)


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Where autocast is on, take tensors of half precision as float32, and switch it off inside; else change nothing.

    Kernel sums and densities of half precision are noise: float16 and bfloat16 tell apart 11 and 8 bits.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*_raised(args), **{name: _raised(value) for name, value in kwargs.items()})

    return run


def _raised(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALVES else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_raised, value))
    return type(value)(map(_raised, value)) if isinstance(value, list | tuple) else value
