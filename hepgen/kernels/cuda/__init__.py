"""The ops on CUDA devices, by the compiled module ``hepgen._cuda``: what torch allocates, and the calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hepgen.errors import BackendError
from hepgen.kernels import dispatch


def address(tensor: Tensor | None) -> int:
    """Address of a tensor's first element, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def call(name: str, device: torch.device, *arguments: Any) -> Any:
    """Call a function of ``hepgen._cuda`` on torch's current stream of a device; tensors go as addresses."""
    numbers = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    return _on(device, lambda stream: _run(name, *numbers, stream))


def call_with_workspace(name: str, like: Tensor, *arguments: Any) -> None:
    """Call a function, for numbers like a tensor's, whose last argument is a workspace; without one it says how many bytes it needs."""
    wide = like.dtype == torch.float64

    def run(stream: int) -> None:
        workspace = torch.empty(_run(name, wide, *arguments, 0, stream), dtype=torch.uint8, device=like.device)
        _run(name, wide, *arguments, workspace.data_ptr(), stream)

    _on(like.device, run)


def _on(device: torch.device, function: Callable[[int], Any]) -> Any:
    """Call a function with the current stream of a device, which is the current device meanwhile."""
    if device.type == "cpu":  # emulated
        return function(0)
    stream = torch._C._cuda_getCurrentRawStream(device.index)
    if torch.cuda.current_device() == device.index:
        return function(stream)
    with torch.cuda.device(device):
        return function(stream)


def _run(name: str, *numbers: Any) -> Any:
    try:
        return getattr(dispatch.cuda(), name)(*numbers)
    except RuntimeError as error:
        raise BackendError(f"{name}: {error}") from None
