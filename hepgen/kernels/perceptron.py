# ruff: noqa: ARG001 - a fake has the arguments of its op
"""A plain multilayer perceptron in one call: a tile of events goes through all layers while its hidden units are in cache.

Value and hand-written gradient; the hidden units are kept for the gradient where they fit into 64 MB and computed again
tile by tile otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hepgen.errors import BackendError, UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.compiled import call, first_derivatives_only, flatten

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh, "elu": F.elu}
OUTPUTS = ("linear", "sigmoid")
_GRAD_EVENTS, _GRAD_WEIGHTS = 1, 2
# a call keeps every tile's values where they fit (csrc/cpu/mlp.cpp has the same)
_TILE, _KEPT_BYTES = 64, 64 << 20


class MlpWeights(NamedTuple):
    """The parameters of a perceptron: (weight (units, seen), bias (units,)) of every layer, the first one first."""

    layers: Sequence[tuple[Tensor, Tensor]]
    activation: str = "relu"  # after every layer but the last: "relu", "tanh" or "elu"
    output: str = "linear"  # after the last: "linear" or "sigmoid"


def mlp(x: Tensor, weights: MlpWeights) -> Tensor:
    """Apply a multilayer perceptron.

    Parameters
    ----------
    x : (n, inputs) tensor of float32 or float64
        Differentiable to first order, as are the weights.
    weights : MlpWeights

    Returns
    -------
    (n, outputs) tensor
        A row does not depend on the other rows, nor on their number; NaN stays in its row.

    Raises
    ------
    UsageError
        If shapes, dtypes or devices do not fit.
    BackendError
        If the backend asked for cannot run this op here.
    """
    widths = _check(x, weights)
    if mlp_backend(x.device.type) == "reference":
        return mlp_reference(x, weights)
    flat = flatten(tensor for layer in weights.layers for tensor in layer)
    record = torch.is_grad_enabled() and (x.requires_grad or flat.requires_grad)
    out, _ = torch.ops.hepgen.mlp(x, flat, widths, weights.activation, weights.output, record)
    return out  # type: ignore[no-any-return]


def mlp_reference(x: Tensor, weights: MlpWeights) -> Tensor:
    """:func:`mlp` in plain torch."""
    *hidden, (last, bias) = weights.layers
    for weight, b in hidden:
        x = ACTIVATIONS[weights.activation](F.linear(x, weight, b))
    x = F.linear(x, last, bias)
    return torch.sigmoid(x) if weights.output == "sigmoid" else x


def mlp_backend(device: str) -> str:
    """Return the backend that "mlp" takes on a type of device."""
    return dispatch.choose("mlp", device=device)


# torch.compile asks once, while it traces: what torch.compiler.assume_constant_result sets, without loading its compiler
mlp_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check(x: Tensor, weights: MlpWeights) -> list[int]:
    """Return the widths, those of input and output included."""
    if weights.activation not in ACTIVATIONS:
        raise UsageError(f"mlp: activation {weights.activation!r} is not known: choose one of {', '.join(ACTIVATIONS)}")
    if weights.output not in OUTPUTS:
        raise UsageError(f"mlp: output {weights.output!r} is not known: choose one of {', '.join(OUTPUTS)}")
    if not weights.layers or weights.layers[0][0].ndim != 2:
        raise UsageError("mlp: weights must hold a matrix (units, seen) and a bias (units,) for every layer")
    widths = [weights.layers[0][0].shape[1]]
    if x.ndim != 2 or x.shape[1] != widths[0]:
        raise UsageError(f"mlp: events must have shape (n, {widths[0]}), got {tuple(x.shape)}")
    for i, (weight, bias) in enumerate(weights.layers):
        if weight.ndim != 2 or weight.shape[1] != widths[-1] or bias.shape != weight.shape[:1] or 0 in weight.shape:
            raise UsageError(
                f"mlp: layer {i} must have a weight (units, {widths[-1]}) and a bias (units,), "
                f"got {tuple(weight.shape)} and {tuple(bias.shape)}"
            )
        widths.append(weight.shape[0])
    tensors = [x, *(tensor for layer in weights.layers for tensor in layer)]
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
    if len(kinds) > 1 or x.dtype not in {torch.float32, torch.float64}:
        names = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise UsageError(f"mlp: events and weights must all be float32 or all float64, on one device, got {names}")
    return widths


@torch.library.custom_op("hepgen::mlp", mutates_args=(), device_types="cpu")
def _mlp(events: Tensor, weights: Tensor, widths: Sequence[int], activation: str, output: str, record: bool) -> tuple[Tensor, Tensor]:
    out, values = call("mlp_apply", events, weights, list(widths), _kind(activation), OUTPUTS.index(output), record)
    return out, values


def _kind(activation: str) -> int:
    return list(ACTIVATIONS).index(activation)


@_mlp.register_fake
def _(events: Tensor, weights: Tensor, widths: Sequence[int], activation: str, output: str, record: bool) -> tuple[Tensor, Tensor]:
    n = events.shape[0]
    kept = _TILE + (n + _TILE - 1) // _TILE * _TILE * sum(widths)
    size = kept if record and kept * events.element_size() <= _KEPT_BYTES else 0
    return events.new_empty((n, widths[-1])), events.new_empty(size)


@torch.library.custom_op("hepgen::mlp_backward", mutates_args=(), device_types="cpu")
def _mlp_backward(
    gradient: Tensor,
    events: Tensor,
    record: Tensor,
    weights: Tensor,
    widths: Sequence[int],
    activation: str,
    output: str,
    wanted: int,
) -> tuple[Tensor, Tensor]:
    network = weights, list(widths), _kind(activation), OUTPUTS.index(output)
    of_events, flat = call("mlp_backward", gradient, events, record, *network, wanted)
    return of_events, flat


@_mlp_backward.register_fake
def _(
    gradient: Tensor,
    events: Tensor,
    record: Tensor,
    weights: Tensor,
    widths: Sequence[int],
    activation: str,
    output: str,
    wanted: int,
) -> tuple[Tensor, Tensor]:
    rows = events.shape[0] if wanted & _GRAD_EVENTS else 0
    return events.new_empty((rows, widths[0])), weights.new_empty(weights.shape[0] if wanted & _GRAD_WEIGHTS else 0)


_mlp_backward.register_autograd(first_derivatives_only)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    events, weights, ctx.widths, ctx.activation, ctx.output, ctx.record = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(events, weights, output[1])


def _backward(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if not ctx.record:
        raise BackendError("this network was applied without the record its gradient needs: call it with gradients enabled")
    if gradient is None:
        return (None,) * 6
    events, weights, record = ctx.saved_tensors
    needs = ctx.needs_input_grad[:2]
    wanted = _GRAD_EVENTS * needs[0] + _GRAD_WEIGHTS * needs[1]
    gradients = torch.ops.hepgen.mlp_backward(gradient, events, record, weights, ctx.widths, ctx.activation, ctx.output, wanted)
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), None, None, None, None


_mlp.register_autograd(_backward, setup_context=_setup)
