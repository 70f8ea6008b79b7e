"""What the ops of whole networks share on their way into the compiled core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hepgen.errors import BackendError, UsageError
from hepgen.kernels import dispatch


def call(name: str, *arguments: Any) -> list[Tensor]:
    """Call a function of the core with torch's number of threads, tensors as arrays on both sides."""
    arrays = [a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments]
    try:
        results = getattr(dispatch.core(), name)(*arrays, torch.get_num_threads())
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    return [torch.from_numpy(result) for result in results]


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """All parameters in one vector: an op with seventy arguments spends a millisecond on them before it starts."""
    return torch.cat([tensor if tensor.ndim == 1 else tensor.reshape(-1) for tensor in tensors])


def first_derivatives_only(_: Any, *__: Tensor | None) -> None:
    """The derivative of an op's backward."""
    raise BackendError("the compiled kernels have first derivatives only: use hepgen.kernels.backend('reference')")
