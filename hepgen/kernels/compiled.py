"""What the ops share on their way into the compiled core and back."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hepgen.errors import BackendError, UsageError
from hepgen.kernels import dispatch


def implementation(backend: str, op: str) -> Any:
    """Return the module with an op's functions on a GPU: ``hepgen.kernels.cuda.OP`` or ``hepgen.kernels.triton.OP``."""
    return importlib.import_module(f"hepgen.kernels.{backend}.{op}")


def array(tensor: Tensor | None) -> Any:
    """Return a tensor as a contiguous numpy array, None as None."""
    return None if tensor is None else tensor.detach().contiguous().numpy()


def call(name: str, *arguments: Any) -> list[Tensor]:
    """Call a function of the core with torch's number of threads, tensors as arrays on both sides."""
    arrays = [a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments]
    try:
        results = getattr(dispatch.core(), name)(*arrays, dispatch.thread_count())
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    return [torch.from_numpy(result) for result in results]


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """All parameters in one vector: an op with seventy arguments spends a millisecond on them before it starts."""
    return torch.cat([tensor if tensor.ndim == 1 else tensor.reshape(-1) for tensor in tensors])


def first_derivatives_only(_: Any, *__: Tensor | None) -> None:
    """The derivative of an op's backward."""
    raise BackendError("the compiled kernels have first derivatives only: use hepgen.kernels.backend('reference')")


def must_dispatch(gradient: Tensor) -> bool:
    """Whether a backward pass must go through torch's dispatcher, which costs some 80 us: where it is traced, or may be differentiated."""
    return torch.is_grad_enabled() or type(gradient) is not Tensor


# what a backward pass makes of a gradient that was computed with the value


@torch.library.custom_op("hepgen::first_derivative", mutates_args=())
def _first_derivative(factor: Tensor, gradient: Tensor, inputs: Sequence[Tensor]) -> Tensor:  # noqa: ARG001 - see times_gradient
    return factor * gradient


@_first_derivative.register_fake
def _(factor: Tensor, gradient: Tensor, inputs: Sequence[Tensor]) -> Tensor:  # noqa: ARG001
    return factor * gradient


_first_derivative.register_autograd(first_derivatives_only)


def times_gradient(factor: Tensor, gradient: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Return factor * gradient. Where a second derivative can be asked for it depends on the inputs too, and asking for one raises."""
    if must_dispatch(factor):
        product: Tensor = torch.ops.hepgen.first_derivative(factor, gradient, inputs)
        return product
    return factor * gradient
