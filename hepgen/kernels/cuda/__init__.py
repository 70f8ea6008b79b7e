"""The ops on CUDA devices, by the compiled module ``hepgen._cuda``: what torch allocates, and the calls."""

from __future__ import annotations

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
    function = getattr(dispatch.cuda(), name)
    try:
        if device.type == "cpu":  # emulated
            return function(*numbers, 0)
        with torch.cuda.device(device):
            return function(*numbers, torch.cuda.current_stream(device).cuda_stream)
    except RuntimeError as error:
        raise BackendError(f"{name}: {error}") from None
