# ruff: noqa: ARG001 - a fake has the arguments of its op
"""A whole conditional masked autoregressive flow (Papamakarios et al. 2017) with affine maps, in both directions.

Block b orders its columns, and z_j = (x_j - m_j) exp(-a_j) with (m_j, r_j) from a masked network of the columns before j
and the context, a = r / (1 + |r| / bound). Hidden units are sorted by degree, so the masks are block-triangular: the
compiled backend multiplies only what they leave, and the inverse computes every hidden unit once, when the columns it
sees are known. Its backward has the columns between the blocks, and the hidden units of a small batch; those of a large one
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

ACTIVATIONS = ("relu", "tanh", "elu")
_GRAD_EVENTS, _GRAD_CONTEXT, _GRAD_WEIGHTS = 1, 2, 4
# the record of a call: events are padded to multiples of a tile, hidden units kept where they fit (csrc/cpu/maf.cpp has the same)
_TILE, _KEPT_BYTES = 64, 16 << 20


class MafWeights(NamedTuple):
    """The parameters of a flow.

    ``blocks[b]`` holds, in this order: first weight (h1, d), bias (h1,), context weight (h1, c) where there is a context,
    then weight and bias of every further layer; the last is (2d, h), rows 2j and 2j + 1 giving shift and raw log-scale of
    column j. Weights are as stored: masks are applied here. Every block has the same widths.
    """

    blocks: Sequence[Sequence[Tensor]]
    orders: Tensor  # (blocks, d) int64: column j of block b is column orders[b, j] of its input
    activation: str
    bound: float


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


def maf_inverse(z: Tensor, context: Tensor | None, weights: MafWeights) -> tuple[Tensor, Tensor]:
    """Take base to data: x (n, d) and log |det dx/dz| (n,). Parameters and errors as in :func:`maf_forward`."""
    return _run("maf_inverse", z, context, weights)


def _run(op: str, events: Tensor, context: Tensor | None, weights: MafWeights) -> tuple[Tensor, Tensor]:
    context = _check(op, events, context, weights)
    inverse = op == "maf_inverse"
    if maf_backend(op, events.device.type) == "reference":
        return (maf_inverse_reference if inverse else maf_forward_reference)(events, context, weights)
    flat = [tensor for block in weights.blocks for tensor in block]
    record = torch.is_grad_enabled() and (events.requires_grad or context.requires_grad or any(t.requires_grad for t in flat))
    out, log_det, _ = torch.ops.hepgen.maf(inverse, events, context, flat, weights.orders, weights.activation, weights.bound, record)
    return out, log_det


def maf_backend(op: str, device: str) -> str:
    """Return the backend that "maf_forward" or "maf_inverse" takes on a type of device."""
    return dispatch.choose(op, device=device)


# torch.compile asks once, while it traces: what torch.compiler.assume_constant_result sets, without loading its compiler
maf_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check(op: str, events: Tensor, context: Tensor | None, weights: MafWeights) -> Tensor:
    """Return the context as a matrix, of no columns where there is none."""
    if weights.orders.ndim != 2 or weights.orders.shape[0] != len(weights.blocks) or not weights.blocks:
        raise UsageError(f"{op}: orders must have shape (blocks, d), got {tuple(weights.orders.shape)} for {len(weights.blocks)} blocks")
    features = weights.orders.shape[1]
    if events.ndim != 2 or events.shape[1] != features:
        raise UsageError(f"{op}: events must have shape (n, {features}), got {tuple(events.shape)}")
    if weights.activation not in ACTIVATIONS:
        raise UsageError(f"{op}: activation {weights.activation!r} is not known: choose one of {', '.join(ACTIVATIONS)}")
    wanted = weights.blocks[0][2].shape[1] if len(weights.blocks[0]) % 2 else 0
    if context is None:
        context = events.new_empty((events.shape[0], 0))
    if context.shape != (events.shape[0], wanted):
        raise UsageError(f"{op}: context must have shape ({events.shape[0]}, {wanted}), got {tuple(context.shape)}")
    dtypes = {events.dtype, context.dtype, *(tensor.dtype for tensor in weights.blocks[0])}
    if len(dtypes) > 1 or events.dtype not in {torch.float32, torch.float64}:
        names = ", ".join(sorted(str(d) for d in dtypes))
        raise UsageError(f"{op}: events, context and weights must all be float32 or all float64, got {names}")
    if context.device != events.device or weights.blocks[0][0].device != events.device:
        raise UsageError(f"{op}: events, context and weights must be on one device, got {events.device} and {weights.blocks[0][0].device}")
    return context


# --- reference: plain torch, the masks written out; the inverse solves column after column with a whole pass each


def unit_degrees(width: int, features: int, context: int) -> Tensor:
    """Degrees of `width` hidden units, ascending: a unit of degree g sees the first g columns and all of the context."""
    lowest = 0 if context or features == 1 else 1
    return lowest + torch.arange(width) * (features - lowest) // width


def _parameters(x: Tensor, context: Tensor, block: Sequence[Tensor], activation: str) -> tuple[Tensor, Tensor]:
    """Shift and raw log-scale of every column, (n, d) each, from columns in the block's order."""
    features, c = x.shape[1], context.shape[1]
    activations: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh, "elu": F.elu}
    first, bias, *rest = block
    from_context = F.linear(context, rest.pop(0)) if c else 0
    seen, hidden = torch.arange(1, features + 1), x
    layers = [(first, bias), *zip(rest[::2], rest[1::2], strict=True)]
    for i, (weight, b) in enumerate(layers):
        last = i == len(layers) - 1
        degrees = torch.arange(features).repeat_interleave(2) if last else unit_degrees(len(weight), features, c)
        mask = (seen <= degrees[:, None]).to(weight)
        hidden = F.linear(hidden, weight * mask, b)
        if i == 0:
            hidden = hidden + from_context
        if not last:
            hidden, seen = activations[activation](hidden), degrees
    shift, raw = hidden.unflatten(1, (features, 2)).unbind(-1)
    return shift, raw


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


# --- the compiled backend as custom ops


def _call(name: str, *arguments: Any) -> list[Tensor]:
    """Call the core, tensors as arrays; a list among the arguments holds the weights, which must be contiguous."""
    arrays = [
        a.detach().numpy() if isinstance(a, Tensor) else [w.detach().contiguous().numpy() for w in a] if isinstance(a, list) else a
        for a in arguments
    ]
    try:
        results = getattr(dispatch.core(), name)(*arrays, dispatch.thread_count())
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    return [torch.from_numpy(result) for result in results]


@torch.library.custom_op("hepgen::maf", mutates_args=(), device_types="cpu")
def _maf(
    inverse: bool,
    events: Tensor,
    context: Tensor,
    weights: Sequence[Tensor],
    orders: Tensor,
    activation: str,
    bound: float,
    record: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    out, log_det, states = _call("maf_apply", inverse, events, context, list(weights), orders, ACTIVATIONS.index(activation), bound, record)
    return out, log_det, states


def _record_size(events: Tensor, context: Tensor, weights: Sequence[Tensor], orders: Tensor) -> int:
    blocks, features = orders.shape
    padded = (events.shape[0] + _TILE - 1) // _TILE * _TILE
    units = context.shape[1] + features + sum(w.shape[0] for w in weights[: len(weights) // blocks] if w.ndim == 1)
    states, values = (blocks + 1) * features * padded, blocks * units * padded
    return states + _TILE + values if values * events.element_size() <= _KEPT_BYTES else states


@_maf.register_fake
def _(
    inverse: bool,
    events: Tensor,
    context: Tensor,
    weights: Sequence[Tensor],
    orders: Tensor,
    activation: str,
    bound: float,
    record: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    states = events.new_empty(_record_size(events, context, weights, orders) if record else 0)
    return events.new_empty(events.shape), events.new_empty(events.shape[:1]), states


@torch.library.custom_op("hepgen::maf_backward", mutates_args=(), device_types="cpu")
def _maf_backward(
    inverse: bool,
    out_gradient: Tensor,
    log_det_gradient: Tensor,
    record: Tensor,
    context: Tensor,
    weights: Sequence[Tensor],
    orders: Tensor,
    activation: str,
    bound: float,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    kind = ACTIVATIONS.index(activation)
    events, of_context, flat = _call(
        "maf_backward", inverse, out_gradient, log_det_gradient, record, context, list(weights), orders, kind, bound, wanted
    )
    return events, of_context, flat


@_maf_backward.register_fake
def _(
    inverse: bool,
    out_gradient: Tensor,
    log_det_gradient: Tensor,
    record: Tensor,
    context: Tensor,
    weights: Sequence[Tensor],
    orders: Tensor,
    activation: str,
    bound: float,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    n = out_gradient.shape[0]
    return (
        out_gradient.new_empty((n if wanted & _GRAD_EVENTS else 0, orders.shape[1])),
        out_gradient.new_empty((n if wanted & _GRAD_CONTEXT else 0, context.shape[1])),
        out_gradient.new_empty(sum(w.numel() for w in weights) if wanted & _GRAD_WEIGHTS else 0),
    )


def _first_derivatives_only(ctx: Any, *gradients: Tensor | None) -> None:
    raise BackendError("the compiled kernels have first derivatives only: use hepgen.kernels.backend('reference')")


_maf_backward.register_autograd(_first_derivatives_only)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.inverse, _, context, weights, orders, ctx.activation, ctx.bound, ctx.record = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], context, orders, *weights)


def _backward(ctx: Any, out_gradient: Tensor | None, log_det_gradient: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if not ctx.record:
        raise BackendError("this flow was applied without the record its gradient needs: call it with gradients enabled")
    record, context, orders, *weights = ctx.saved_tensors
    nothing = context.new_zeros(())
    if out_gradient is None:
        out_gradient = nothing.expand(context.shape[0], orders.shape[1])
    if log_det_gradient is None:
        log_det_gradient = nothing.expand(context.shape[0])
    _, need_events, need_context, need_weights, *_ = ctx.needs_input_grad
    of_weights = need_weights if isinstance(need_weights, bool) else any(need_weights)
    wanted = _GRAD_EVENTS * need_events + _GRAD_CONTEXT * need_context + _GRAD_WEIGHTS * of_weights
    events, of_context, flat = torch.ops.hepgen.maf_backward(
        ctx.inverse, out_gradient, log_det_gradient, record, context, weights, orders, ctx.activation, ctx.bound, wanted
    )
    split: list[Tensor | None] = [None] * len(weights)
    if of_weights:
        split = [part.view(w.shape) for part, w in zip(flat.split([w.numel() for w in weights]), weights, strict=True)]
    return None, events if need_events else None, of_context if need_context else None, split, None, None, None, None


_maf.register_autograd(_backward, setup_context=_setup)
