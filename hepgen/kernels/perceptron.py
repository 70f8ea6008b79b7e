# ruff: noqa: ARG001 - a fake has the arguments of its op
"""Plain multilayer perceptrons in one call: a tile of events goes through all layers while its hidden units are in cache.

Value and hand-written gradient; the hidden units are kept for the gradient where they fit into 64 MB and computed again
tile by tile otherwise. The members of an ensemble, each with weights and events of its own, go side by side, a thread each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hepgen.errors import BackendError, UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.compiled import call, first_derivatives_only, flatten
from hepgen.kernels.dropout import dropout_factors

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


class MlpShape(NamedTuple):
    """What the networks of an ensemble have in common."""

    widths: Sequence[int]  # inputs, hidden ..., outputs
    activation: str = "relu"
    output: str = "linear"

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum((seen + 1) * units for seen, units in pairwise(self.widths))


class Dropout(NamedTuple):
    """Hidden units left out; which ones depends on seed, layer, unit and event alone (`hepgen.kernels.dropout`)."""

    probability: float  # below 1; rounded to a multiple of 2^-16
    seeds: Tensor  # (members,) int64


def mlp(x: Tensor, weights: MlpWeights, dropout: Dropout | None = None) -> Tensor:
    """Apply a multilayer perceptron.

    Parameters
    ----------
    x : (n, inputs) tensor of float32 or float64
        Differentiable to first order, as are the weights.
    weights : MlpWeights
    dropout : Dropout, optional
        With one seed.

    Returns
    -------
    (n, outputs) tensor
        Without dropout a row does not depend on the other rows, nor on their number; NaN stays in its row.

    Raises
    ------
    UsageError
        If shapes, dtypes or devices do not fit.
    BackendError
        If the backend asked for cannot run this op here.
    """
    shape = MlpShape(_check(x, weights), weights.activation, weights.output)
    if dropout is None and mlp_backend(x.device.type) == "reference":
        return mlp_reference(x, weights)
    flat = flatten(tensor for layer in weights.layers for tensor in layer)
    return mlp_ensemble(x[None], flat[None], shape, dropout)[0]


def mlp_ensemble(x: Tensor, parameters: Tensor, shape: MlpShape, dropout: Dropout | None = None) -> Tensor:
    """Apply the networks of an ensemble, each to events of its own.

    Parameters
    ----------
    x : (members, n, inputs) tensor of float32 or float64
        Differentiable to first order, as are the parameters.
    parameters : (members, P) tensor
        Per member weight (units, seen), row by row, and bias (units,) of every layer, the first one first.
    shape : MlpShape
    dropout : Dropout, optional

    Returns
    -------
    (members, n, outputs) tensor
        A member's values do not depend on the other members, nor on their number.

    Raises
    ------
    UsageError, BackendError
        As :func:`mlp`.
    """
    _check_names(shape.activation, shape.output)
    members = parameters.shape[0] if parameters.ndim == 2 else -1
    if x.ndim != 3 or x.shape[0] != members or x.shape[2] != shape.widths[0] or parameters.shape[1] != shape.size:
        raise UsageError(
            f"mlp_ensemble: events (members, n, {shape.widths[0]}) and parameters (members, {shape.size}) are needed, "
            f"got {tuple(x.shape)} and {tuple(parameters.shape)}"
        )
    _check_kinds(x, [x, parameters])
    if dropout is not None and (
        not 0 <= dropout.probability < 1 or dropout.seeds.shape != (members,) or dropout.seeds.dtype != torch.int64
    ):
        raise UsageError(f"mlp_ensemble: dropout needs a probability below 1 and {members} seeds of int64, got {dropout}")
    if mlp_backend(x.device.type) == "reference":
        return mlp_ensemble_reference(x, parameters, shape, dropout)
    record = torch.is_grad_enabled() and (x.requires_grad or parameters.requires_grad)
    probability, seeds = (0.0, torch.zeros(members, dtype=torch.int64)) if dropout is None else dropout
    out, _ = torch.ops.hepgen.mlp(
        x, parameters.contiguous(), seeds, list(shape.widths), shape.activation, shape.output, float(probability), record
    )
    return out  # type: ignore[no-any-return]


def mlp_reference(x: Tensor, weights: MlpWeights) -> Tensor:
    """:func:`mlp` in plain torch, without dropout."""
    *hidden, (last, bias) = weights.layers
    for weight, b in hidden:
        x = ACTIVATIONS[weights.activation](F.linear(x, weight, b))
    x = F.linear(x, last, bias)
    return torch.sigmoid(x) if weights.output == "sigmoid" else x


def mlp_ensemble_reference(x: Tensor, parameters: Tensor, shape: MlpShape, dropout: Dropout | None = None) -> Tensor:
    """:func:`mlp_ensemble` in plain torch, all members in one batched product."""
    last, at = len(shape.widths) - 1, 0
    for layer, (seen, units) in enumerate(pairwise(shape.widths), start=1):
        weight = parameters[:, at : at + seen * units].unflatten(1, (units, seen))
        bias = parameters[:, None, at + seen * units : at + (seen + 1) * units]
        at += (seen + 1) * units
        x = torch.baddbmm(bias, x, weight.mT)
        if layer < last:
            x = ACTIVATIONS[shape.activation](x)
            if dropout is not None:
                factors = [dropout_factors(dropout.probability, int(seed), layer, units, x.shape[1]) for seed in dropout.seeds]
                x = x * torch.stack(factors).to(x)
    return torch.sigmoid(x) if shape.output == "sigmoid" else x


def mlp_backend(device: str) -> str:
    """Return the backend that "mlp" takes on a type of device."""
    return dispatch.choose("mlp", device=device)


# torch.compile asks once, while it traces: what torch.compiler.assume_constant_result sets, without loading its compiler
mlp_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check(x: Tensor, weights: MlpWeights) -> list[int]:
    """Return the widths, those of input and output included."""
    _check_names(weights.activation, weights.output)
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
    _check_kinds(x, [x, *(tensor for layer in weights.layers for tensor in layer)])
    return widths


def _check_names(activation: str, output: str) -> None:
    if activation not in ACTIVATIONS:
        raise UsageError(f"mlp: activation {activation!r} is not known: choose one of {', '.join(ACTIVATIONS)}")
    if output not in OUTPUTS:
        raise UsageError(f"mlp: output {output!r} is not known: choose one of {', '.join(OUTPUTS)}")


def _check_kinds(x: Tensor, tensors: Sequence[Tensor]) -> None:
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
    if len(kinds) > 1 or x.dtype not in {torch.float32, torch.float64}:
        names = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise UsageError(f"mlp: events and weights must all be float32 or all float64, on one device, got {names}")


@torch.library.custom_op("hepgen::mlp", mutates_args=(), device_types="cpu")
def _mlp(
    events: Tensor,
    weights: Tensor,
    seeds: Tensor,
    widths: Sequence[int],
    activation: str,
    output: str,
    dropout: float,
    record: bool,
) -> tuple[Tensor, Tensor]:
    out, values = call("mlp_apply", events, weights, seeds, list(widths), _kind(activation), OUTPUTS.index(output), dropout, record)
    return out, values


def _kind(activation: str) -> int:
    return list(ACTIVATIONS).index(activation)


@_mlp.register_fake
def _(
    events: Tensor,
    weights: Tensor,
    seeds: Tensor,
    widths: Sequence[int],
    activation: str,
    output: str,
    dropout: float,
    record: bool,
) -> tuple[Tensor, Tensor]:
    members, n, _ = events.shape
    kept = members * (_TILE + (n + _TILE - 1) // _TILE * _TILE * sum(widths))
    size = kept if record and kept * events.element_size() <= _KEPT_BYTES else 0
    return events.new_empty((members, n, widths[-1])), events.new_empty(size)


@torch.library.custom_op("hepgen::mlp_backward", mutates_args=(), device_types="cpu")
def _mlp_backward(
    gradient: Tensor,
    events: Tensor,
    record: Tensor,
    weights: Tensor,
    seeds: Tensor,
    widths: Sequence[int],
    activation: str,
    output: str,
    dropout: float,
    wanted: int,
) -> tuple[Tensor, Tensor]:
    network = weights, seeds, list(widths), _kind(activation), OUTPUTS.index(output), dropout
    of_events, of_weights = call("mlp_backward", gradient, events, record, *network, wanted)
    return of_events, of_weights


@_mlp_backward.register_fake
def _(
    gradient: Tensor,
    events: Tensor,
    record: Tensor,
    weights: Tensor,
    seeds: Tensor,
    widths: Sequence[int],
    activation: str,
    output: str,
    dropout: float,
    wanted: int,
) -> tuple[Tensor, Tensor]:
    members, n, inputs = events.shape
    of_events = events.new_empty((members if wanted & _GRAD_EVENTS else 0, n, inputs))
    return of_events, weights.new_empty((members if wanted & _GRAD_WEIGHTS else 0, weights.shape[1]))


_mlp_backward.register_autograd(first_derivatives_only)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    events, weights, seeds, *ctx.network, ctx.record = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(events, weights, seeds, output[1])


def _backward(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if not ctx.record:
        raise BackendError("this network was applied without the record its gradient needs: call it with gradients enabled")
    if gradient is None:
        return (None,) * 8
    events, weights, seeds, record = ctx.saved_tensors
    needs = ctx.needs_input_grad[:2]
    wanted = _GRAD_EVENTS * needs[0] + _GRAD_WEIGHTS * needs[1]
    gradients = torch.ops.hepgen.mlp_backward(gradient, events, record, weights, seeds, *ctx.network, wanted)
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), *(None,) * 6


_mlp.register_autograd(_backward, setup_context=_setup)
