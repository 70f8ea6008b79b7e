# ruff: noqa: ARG001 - a fake has the arguments of its op
"""A whole conditional masked autoregressive flow (Papamakarios et al. 2017) with affine maps, in both directions.

Block b orders its columns, and z_j = (x_j - m_j) exp(-a_j) with (m_j, r_j) from a masked network of the columns before j
and the context, a = r / (1 + |r| / bound). Hidden units are sorted by degree, so the masks are block-triangular: the
compiled backends multiply only what they leave, and the inverse computes every hidden unit once, when the columns it
sees are known. Their backward has the columns between the blocks; on a CPU it has the hidden units of a small batch too, all others
are computed again tile by tile, which is faster than memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hepgen.errors import BackendError, UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.autocast import in_full_precision
from hepgen.kernels.compiled import call, first_derivatives_only, flatten, implementation

ACTIVATIONS = ("relu", "tanh", "elu")
GRAD_EVENTS, GRAD_CONTEXT, GRAD_WEIGHTS = 1, 2, 4
# the record of a call: events are padded to multiples of a tile, hidden units kept where they fit (csrc/cpu/maf.cpp has the same)
_TILE, _KEPT_BYTES = 64, 16 << 20

_NEEDS_A_LAYER = "{}: a block needs a hidden layer: weight, bias, context weight where there is a context, weight, bias"


class MafWeights(NamedTuple):
    """The parameters of a flow.

    ``blocks[b]`` holds, in this order: first weight (h1, d), bias (h1,), context weight (h1, c) where there is a context,
    then weight and bias of every further layer; the last is (2d, h), rows 2j and 2j + 1 giving shift and raw log-scale of
    column j. Weights are as stored: masks are applied here. Every block has the same widths.
    """

    blocks: Sequence[Sequence[Tensor]]
    orders: Tensor  # (blocks, d) int64: column j of block b is column orders[b, j] of its input; not checked where it lies on a GPU
    activation: str
    bound: float


@in_full_precision
def maf_forward(x: Tensor, context: Tensor | None, weights: MafWeights) -> tuple[Tensor, Tensor]:
    """Take data to the base.

    Parameters
    ----------
    x : (n, d) tensor of float32 or float64
        Differentiable to first order, as are the context and the weights.
    context : (n, c) tensor, optional
        None where the flow has no context.
    weights : MafWeights

    Returns
    -------
    z : (n, d) tensor
    log_det : (n,) tensor
        log |det dz/dx|. A row's results do not depend on the other rows, nor on their number; NaN stays in its row.

    Raises
    ------
    UsageError
        If shapes, dtypes or devices do not fit.
    BackendError
        If the backend asked for cannot run this op here.
    """
    return _run("maf_forward", x, context, weights)


@in_full_precision
def maf_inverse(z: Tensor, context: Tensor | None, weights: MafWeights) -> tuple[Tensor, Tensor]:
    """Take base to data: x (n, d) and log |det dx/dz| (n,). Parameters and errors as in :func:`maf_forward`."""
    return _run("maf_inverse", z, context, weights)


def _run(op: str, events: Tensor, context: Tensor | None, weights: MafWeights) -> tuple[Tensor, Tensor]:
    context = check_flow(op, events, context, weights)
    inverse = op == "maf_inverse"
    backend = maf_backend(op, events.device.type)
    if backend == "reference":
        return (maf_inverse_reference if inverse else maf_forward_reference)(events, context, weights)
    flat = flatten_flow(weights)
    record = torch.is_grad_enabled() and (events.requires_grad or context.requires_grad or flat.requires_grad)
    orders = weights.orders.to(events.device)
    out, log_det, _ = torch.ops.hepgen.maf(
        inverse, events, context, flat, hidden_widths(weights), orders, weights.activation, weights.bound, record, backend
    )
    return out, log_det


def flatten_flow(weights: MafWeights) -> Tensor:
    """All parameters of a flow in one vector, block after block."""
    return flatten(tensor for block in weights.blocks for tensor in block)


def hidden_widths(weights: MafWeights) -> list[int]:
    """Widths of the hidden layers."""
    block = weights.blocks[0]
    biases = [block[1], *block[2 + len(block) % 2 + 1 :: 2]]
    return [len(bias) for bias in biases[:-1]]


def maf_backend(op: str, device: str) -> str:
    """Return the backend that one of the flow ops takes on a type of device."""
    return dispatch.choose(op, device=device)


# torch.compile asks once, while it traces: what torch.compiler.assume_constant_result sets, without loading its compiler
maf_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_flow(op: str, events: Tensor, context: Tensor | None, weights: MafWeights) -> Tensor:
    """Return the context as a matrix, of no columns where there is none."""
    if weights.orders.ndim != 2 or weights.orders.shape[0] != len(weights.blocks) or not weights.blocks:
        raise UsageError(f"{op}: orders must have shape (blocks, d), got {tuple(weights.orders.shape)} for {len(weights.blocks)} blocks")
    if weights.orders.dtype != torch.int64:
        raise UsageError(f"{op}: orders must be int64, got {weights.orders.dtype}")
    features = weights.orders.shape[1]
    if events.ndim != 2 or events.shape[1] != features:
        raise UsageError(f"{op}: events must have shape (n, {features}), got {tuple(events.shape)}")
    if weights.activation not in ACTIVATIONS:
        raise UsageError(f"{op}: activation {weights.activation!r} is not known: choose one of {', '.join(ACTIVATIONS)}")
    first = weights.blocks[0]
    if len(first) < 4 or first[2].ndim != 2 or any(tensor.ndim == 0 for tensor in first):
        raise UsageError(_NEEDS_A_LAYER.format(op))
    wanted = first[2].shape[1] if len(first) % 2 else 0
    if context is None:
        context = events.new_empty((events.shape[0], 0))
    if context.shape != (events.shape[0], wanted):
        raise UsageError(f"{op}: context must have shape ({events.shape[0]}, {wanted}), got {tuple(context.shape)}")
    tensors = [tensor for block in weights.blocks for tensor in block]
    dtypes = {events.dtype, context.dtype, *(tensor.dtype for tensor in tensors)}
    if len(dtypes) > 1 or events.dtype not in {torch.float32, torch.float64}:
        names = ", ".join(sorted(str(d) for d in dtypes))
        raise UsageError(f"{op}: events, context and weights must all be float32 or all float64, got {names}")
    devices = {events.device, context.device, *(tensor.device for tensor in tensors)}
    if len(devices) > 1:
        raise UsageError(f"{op}: events, context and weights must be on one device, got {', '.join(sorted(map(str, devices)))}")
    _check_shapes(op, weights, features, wanted)
    return context


def _check_shapes(op: str, weights: MafWeights, features: int, context: int) -> None:
    """Every block has the shapes that its columns, its context and the hidden widths of the first block ask for."""
    if len(weights.blocks[0]) < (5 if context else 4):
        raise UsageError(_NEEDS_A_LAYER.format(op))
    expected: list[tuple[int, ...]] = []
    seen = features
    for units in [*hidden_widths(weights), 2 * features]:
        expected += [(units, seen), (units,)]
        if context and len(expected) == 2:
            expected.append((units, context))
        seen = units
    for b, block in enumerate(weights.blocks):
        shapes = [tuple(tensor.shape) for tensor in block]
        if shapes != expected:
            raise UsageError(f"{op}: block {b} must have weights of shapes {expected}, got {shapes}")


# --- reference: plain torch, the masks written out; the inverse solves column after column with a whole pass each


def unit_degrees(width: int, features: int, context: int, device: torch.device | None = None) -> Tensor:
    """Degrees of `width` hidden units, ascending: a unit of degree g sees the first g columns and all of the context."""
    lowest = 0 if context or features == 1 else 1
    return lowest + torch.arange(width, device=device) * (features - lowest) // width


def _parameters(x: Tensor, context: Tensor, block: Sequence[Tensor], activation: str) -> tuple[Tensor, Tensor]:
    """Shift and raw log-scale of every column, (n, d) each, from columns in the block's order."""
    features, c = x.shape[1], context.shape[1]
    activations: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh, "elu": F.elu}
    first, bias, *rest = block
    from_context = F.linear(context, rest.pop(0)) if c else 0
    seen, hidden = torch.arange(1, features + 1, device=x.device), x
    layers = [(first, bias), *zip(rest[::2], rest[1::2], strict=True)]
    for i, (weight, b) in enumerate(layers):
        last = i == len(layers) - 1
        degrees = torch.arange(2 * features, device=x.device) // 2 if last else unit_degrees(len(weight), features, c, x.device)
        mask = (seen <= degrees[:, None]).to(weight)
        hidden = F.linear(hidden, weight * mask, b)
        if i == 0:
            hidden = hidden + from_context
        if not last:
            hidden, seen = activations[activation](hidden), degrees
    return hidden[:, ::2], hidden[:, 1::2]


def _log_scale(raw: Tensor, bound: float) -> Tensor:
    return raw / (1 + raw.abs() / bound)


def maf_forward_reference(x: Tensor, context: Tensor, weights: MafWeights) -> tuple[Tensor, Tensor]:
    """:func:`maf_forward` in plain torch; context (n, c)."""
    log_det = x.new_zeros(len(x))
    for block, order in zip(weights.blocks, weights.orders, strict=True):
        ordered = x[:, order]
        shift, raw = _parameters(ordered, context, block, weights.activation)
        a = _log_scale(raw, weights.bound)
        x = ((ordered - shift) * torch.exp(-a))[:, torch.argsort(order)]
        log_det = log_det - a.sum(1)
    return x, log_det


def maf_inverse_reference(z: Tensor, context: Tensor, weights: MafWeights) -> tuple[Tensor, Tensor]:
    """:func:`maf_inverse` in plain torch; context (n, c)."""
    log_det = z.new_zeros(len(z))
    for block, order in zip(reversed(weights.blocks), reversed(weights.orders), strict=True):
        ordered = z[:, order]
        columns: list[Tensor] = []
        for j in range(ordered.shape[1]):
            known = torch.stack([*columns, *ordered[:, j:].detach().unbind(1)], dim=1)  # what follows is masked away
            shift, raw = _parameters(known, context, block, weights.activation)
            a = _log_scale(raw[:, j], weights.bound)
            columns.append(ordered[:, j] * torch.exp(a) + shift[:, j])
            log_det = log_det + a
        z = torch.stack(columns, dim=1)[:, torch.argsort(order)]
    return z, log_det


# --- the compiled backends as custom ops


@torch.library.custom_op("hepgen::maf", mutates_args=())
def _maf(
    inverse: bool,
    events: Tensor,
    context: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    record: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if backend != "cpp":
        results: tuple[Tensor, Tensor, Tensor] = implementation(backend, "maf").maf(
            inverse, events, context, weights, hidden, orders, activation, bound, record
        )
        return results
    kind = ACTIVATIONS.index(activation)
    out, log_det, states = call("maf_apply", inverse, events, context, weights, list(hidden), orders, kind, bound, record)
    return out, log_det, states


def _record_size(events: Tensor, context: Tensor, hidden: Sequence[int], orders: Tensor, backend: str) -> int:
    blocks, features = orders.shape
    if backend != "cpp":
        return (blocks + 1) * features * events.shape[0]
    padded = (events.shape[0] + _TILE - 1) // _TILE * _TILE
    units = context.shape[1] + 3 * features + sum(hidden)
    states, values = (blocks + 1) * features * padded, blocks * units * padded
    return states + _TILE + values if values * events.element_size() <= _KEPT_BYTES else states


@_maf.register_fake
def _(
    inverse: bool,
    events: Tensor,
    context: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    record: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    states = events.new_empty(_record_size(events, context, hidden, orders, backend) if record else 0)
    return events.new_empty(events.shape), events.new_empty(events.shape[:1]), states


@torch.library.custom_op("hepgen::maf_backward", mutates_args=())
def _maf_backward(
    inverse: bool,
    out_gradient: Tensor,
    log_det_gradient: Tensor,
    record: Tensor,
    context: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if backend != "cpp":
        gradients: tuple[Tensor, Tensor, Tensor] = implementation(backend, "maf").maf_backward(
            inverse, out_gradient, log_det_gradient, record, context, weights, hidden, orders, activation, bound, wanted
        )
        return gradients
    flow = weights, list(hidden), orders, ACTIVATIONS.index(activation), bound
    events, of_context, flat = call("maf_backward", inverse, out_gradient, log_det_gradient, record, context, *flow, wanted)
    return events, of_context, flat


def empty_gradients(n: int, context: Tensor, weights: Tensor, orders: Tensor, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients as a fake has them: of n events, of their context, of the weights, without rows where not wanted."""
    return (
        context.new_empty((n if wanted & GRAD_EVENTS else 0, orders.shape[1])),
        context.new_empty((n if wanted & GRAD_CONTEXT else 0, context.shape[1])),
        weights.new_empty(weights.shape[0] if wanted & GRAD_WEIGHTS else 0),
    )


@_maf_backward.register_fake
def _(
    inverse: bool,
    out_gradient: Tensor,
    log_det_gradient: Tensor,
    record: Tensor,
    context: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_gradients(out_gradient.shape[0], context, weights, orders, wanted)


_maf_backward.register_autograd(first_derivatives_only)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.inverse, _, context, weights, ctx.hidden, orders, ctx.activation, ctx.bound, ctx.record, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], context, orders, weights)


def _backward(ctx: Any, out_gradient: Tensor | None, log_det_gradient: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if not ctx.record:
        raise BackendError("this flow was applied without the record its gradient needs: call it with gradients enabled")
    record, context, orders, weights = ctx.saved_tensors
    nothing = context.new_zeros(())
    if out_gradient is None:
        out_gradient = nothing.expand(context.shape[0], orders.shape[1])
    if log_det_gradient is None:
        log_det_gradient = nothing.expand(context.shape[0])
    _, *needs = ctx.needs_input_grad[:4]
    wanted = GRAD_EVENTS * needs[0] + GRAD_CONTEXT * needs[1] + GRAD_WEIGHTS * needs[2]
    flow = context, weights, ctx.hidden, orders, ctx.activation, ctx.bound
    gradients = torch.ops.hepgen.maf_backward(ctx.inverse, out_gradient, log_det_gradient, record, *flow, wanted, ctx.backend)
    return None, *(g if need else None for g, need in zip(gradients, needs, strict=True)), *[None] * 6


_maf.register_autograd(_backward, setup_context=_setup)
