"""Numbers from the host as tensors of float64 on a device, made once: later calls find them there, launch nothing and wait for no copy.

What is returned is shared, and not to be written to.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hepgen.kernels.compiled import untraced


def filled(number: float, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a contiguous tensor full of one number."""
    on_gpu = device.type == "cuda"
    # a CUDA graph keeps what it needs itself
    if not untraced() or (on_gpu and torch.cuda.is_current_stream_capturing()):
        return torch.full(shape, number, dtype=torch.float64, device=device)
    return _filled(number, shape, device, torch._C._cuda_getCurrentRawStream(device.index) if on_gpu else 0)


# one for each stream, where later kernels come after the one that fills it
@functools.lru_cache(maxsize=256)
def _filled(number: float, shape: tuple[int, ...], device: torch.device, stream: int) -> Tensor:  # noqa: ARG001
    with torch.inference_mode(False):
        return torch.full(shape, number, dtype=torch.float64, device=device)


def constant(value: Tensor | float, device: torch.device) -> Tensor:
    """Return numbers on a device. Several go from the host to a GPU once."""
    if device.type == "cpu" or not untraced() or (isinstance(value, Tensor) and value.device.type != "cpu"):
        return torch.as_tensor(value, dtype=torch.float64, device=device)
    host = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    if host.numel() == 1:
        return filled(host.item(), tuple(host.shape), device)
    return _uploaded(tuple(host.reshape(-1).tolist()), device).reshape(host.shape)


@functools.lru_cache(maxsize=256)
def _uploaded(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float64, device=device)
