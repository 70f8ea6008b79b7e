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
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {"linear": lambda x: x, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
_GRAD_EVENTS, _GRAD_WEIGHTS = 1, 2
# a call keeps every tile's values where they fit (csrc/cpu/mlp.cpp has the same)
_TILE, _KEPT_BYTES = 64, 64 << 20


class MlpWeights(NamedTuple):
    """The parameters of a perceptron: (weight (units, seen), bias (units,)) of every layer, the first one first."""

    layers: Sequence[tuple[Tensor, Tensor]]
    activation: str = "relu"  # after every layer but the last: "relu", "tanh" or "elu"
    output: str = "linear"  # after the last: "linear", "sigmoid" or "tanh"
    shortcuts: bool = False  # as of MlpShape


class MlpShape(NamedTuple):
    """What the networks of an ensemble have in common.

    With shortcuts hidden layers 3, 5, ... have the units of the layer two before added to their sums before the activation (He et al.
    2015, arXiv:1512.03385, eq. 1); layers so joined are of equal widths. With dropout, what is added is what dropout left.
    """

    widths: Sequence[int]  # inputs, hidden ..., outputs
    activation: str = "relu"
    output: str = "linear"
    shortcuts: bool = False

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum((seen + 1) * units for seen, units in pairwise(self.widths))

    def has_shortcut(self, layer: int) -> bool:
        """Whether the units of hidden layer - 2 are added in this layer; layers count from 1."""
        return self.shortcuts and layer > 2 and layer % 2 == 1 and layer < len(self.widths) - 1

    def check(self) -> None:
        """UsageError where a name is not known or a shortcut would join layers of different widths."""
        if self.activation not in ACTIVATIONS:
            raise UsageError(f"mlp: activation {self.activation!r} is not known: choose one of {', '.join(ACTIVATIONS)}")
        if self.output not in OUTPUTS:
            raise UsageError(f"mlp: output {self.output!r} is not known: choose one of {', '.join(OUTPUTS)}")
        for layer, units in enumerate(self.widths):
            if self.has_shortcut(layer) and units != self.widths[layer - 2]:
                raise UsageError(
                    f"mlp: a shortcut joins hidden layers {layer - 2} and {layer}, which have {self.widths[layer - 2]} and {units} units: "
                    "give them as many"
                )


class Dropout(NamedTuple):
    """Hidden units left out; which ones depends on seed, layer, unit and event alone (`hepgen.kernels.dropout`)."""

    probability: float  # rounded to a multiple of 2^-16 that is below 1
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
    shape = MlpShape(_check(x, weights), *weights[1:])
    shape.check()
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
    shape.check()
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
    if dropout is not None and round(dropout.probability * 2**16) == 2**16:
        raise UsageError(f"mlp_ensemble: a dropout of {dropout.probability} rounds to 1 in units of 2^-16: choose a smaller one")
    if mlp_backend(x.device.type) == "reference":
        return mlp_ensemble_reference(x, parameters, shape, dropout)
    record = torch.is_grad_enabled() and (x.requires_grad or parameters.requires_grad)
    probability, seeds = (0.0, torch.zeros(members, dtype=torch.int64)) if dropout is None else dropout
    out, _ = torch.ops.hepgen.mlp(
        x, parameters.contiguous(), seeds.contiguous(), list(shape.widths), *shape[1:], float(probability), record
    )
    return out  # type: ignore[no-any-return]


def mlp_reference(x: Tensor, weights: MlpWeights) -> Tensor:
    """:func:`mlp` in plain torch, without dropout."""
    shape = MlpShape([x.shape[-1], *(len(bias) for _, bias in weights.layers)], *weights[1:])
    *hidden, (last, bias) = weights.layers
    before = x  # two layers
    for layer, (weight, b) in enumerate(hidden, start=1):
        total = F.linear(x, weight, b)
        before, x = x, ACTIVATIONS[shape.activation](total + before if shape.has_shortcut(layer) else total)
    return OUTPUTS[shape.output](F.linear(x, last, bias))


def mlp_ensemble_reference(x: Tensor, parameters: Tensor, shape: MlpShape, dropout: Dropout | None = None) -> Tensor:
    """:func:`mlp_ensemble` in plain torch, all members in one batched product."""
    last, at, before = len(shape.widths) - 1, 0, x
    for layer, (seen, units) in enumerate(pairwise(shape.widths), start=1):
        weight = parameters[:, at : at + seen * units].unflatten(1, (units, seen))
        bias = parameters[:, None, at + seen * units : at + (seen + 1) * units]
        at += (seen + 1) * units
        total = torch.baddbmm(bias, x, weight.mT)
        before, x = x, total + before if shape.has_shortcut(layer) else total
        if layer < last:
            x = ACTIVATIONS[shape.activation](x)
            if dropout is not None and len(dropout.seeds):
                factors = [dropout_factors(dropout.probability, int(seed), layer, units, x.shape[1]) for seed in dropout.seeds]
                x = x * torch.stack(factors).to(x)
    return OUTPUTS[shape.output](x)


def mlp_backend(device: str) -> str:
    """Return the backend that "mlp" takes on a type of device."""
    return dispatch.choose("mlp", device=device)


# torch.compile asks once, while it traces: what torch.compiler.assume_constant_result sets, without loading its compiler
mlp_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check(x: Tensor, weights: MlpWeights) -> list[int]:
    """Return the widths, those of input and output included."""
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
    shortcuts: bool,
    dropout: float,
    record: bool,
) -> tuple[Tensor, Tensor]:
    out, values = call("mlp_apply", events, weights, seeds, list(widths), *_kinds(activation, output), shortcuts, dropout, record)
    return out, values


def _kinds(activation: str, output: str) -> tuple[int, int]:
    """Their numbers in the core."""
    return list(ACTIVATIONS).index(activation), list(OUTPUTS).index(output)


@_mlp.register_fake
def _(
    events: Tensor,
    weights: Tensor,
    seeds: Tensor,
    widths: Sequence[int],
    activation: str,
    output: str,
    shortcuts: bool,
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
    shortcuts: bool,
    dropout: float,
    wanted: int,
) -> tuple[Tensor, Tensor]:
    network = weights, seeds, list(widths), *_kinds(activation, output), shortcuts, dropout
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
    shortcuts: bool,
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
        return (None,) * 9
    events, weights, seeds, record = ctx.saved_tensors
    needs = ctx.needs_input_grad[:2]
    wanted = _GRAD_EVENTS * needs[0] + _GRAD_WEIGHTS * needs[1]
    gradients = torch.ops.hepgen.mlp_backward(gradient, events, record, weights, seeds, *ctx.network, wanted)
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), *(None,) * 7


_mlp.register_autograd(_backward, setup_context=_setup)
