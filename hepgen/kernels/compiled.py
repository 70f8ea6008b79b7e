"""What the ops share on their way into the compiled core and back."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext

from hepgen.errors import BackendError, InputError, UsageError
from hepgen.kernels import dispatch


@functools.cache
def implementation(backend: str, op: str) -> Any:
    """Return the module with an op's functions on a GPU: ``hepgen.kernels.cuda.OP`` or ``hepgen.kernels.triton.OP``."""
    return importlib.import_module(f"hepgen.kernels.{backend}.{op}")


def array(tensor: Tensor | None) -> Any:
    """Return a tensor as a contiguous numpy array, None as None."""
    if tensor is None:
        return None
    try:
        return tensor.detach().contiguous().resolve_neg().numpy()
    except RuntimeError as error:
        if "allocate" not in str(error):
            raise
        raise InputError(f"a tensor of shape {tuple(tensor.shape)} does not fit into memory: split it") from None


def call(name: str, *arguments: Any) -> list[Tensor]:
    """Call a function of the core with torch's number of threads, tensors as arrays on both sides."""
    arrays = [a.detach().resolve_neg().numpy() if isinstance(a, Tensor) else a for a in arguments]
    try:
        results = getattr(dispatch.core(), name)(*arrays, dispatch.thread_count())
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    except MemoryError:
        raise InputError(f"{name}: the results do not fit into memory: split the events") from None
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


_PLAIN = (Tensor, torch.nn.Parameter)


def untraced() -> bool:
    """Whether torch runs what is called, and nothing records, transforms or replaces it."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or _functions_are_replaced()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
    )


def _functions_are_replaced() -> bool:
    """Whether a TorchFunctionMode is on that does more than torch.set_default_device."""
    modes = range(torch._C._len_torch_function_stack())
    return any(type(torch._C._get_function_stack_at(i)) is not DeviceContext for i in modes)


def run_op(op: Callable[..., Any], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a custom op, or what it runs where nothing would notice: torch's dispatcher costs some 60 us of a call."""
    return function(*arguments) if untraced() and not _noticed(arguments) else op(*arguments)


def _noticed(arguments: Sequence[Any]) -> bool:
    differentiated = torch.is_grad_enabled()
    for argument in arguments:
        if isinstance(argument, Tensor) and (type(argument) not in _PLAIN or (differentiated and argument.requires_grad)):
            return True
    return False


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
