# ruff: noqa: ARG001 - a fake has the arguments of its op
"""The negative log-likelihood of a masked autoregressive flow, value and gradient in one sweep.

A likelihood knows the gradient of every log-density beforehand: minus the event's weight. So rows go through all blocks and
back at once, while their hidden units are in cache, and nothing is kept or computed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hepgen.errors import BackendError, UsageError
from hepgen.kernels.autocast import in_full_precision
from hepgen.kernels.compiled import call, first_derivatives_only, implementation
from hepgen.kernels.maf import (
    ACTIVATIONS,
    GRAD_CONTEXT,
    GRAD_EVENTS,
    GRAD_WEIGHTS,
    MafWeights,
    check_flow,
    empty_gradients,
    flatten_flow,
    hidden_widths,
    maf_backend,
    maf_forward_reference,
)


@in_full_precision
def maf_nll(x: Tensor, context: Tensor | None, weights: MafWeights, event_weights: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of events under the flow on a standard normal base: -sum_i w_i log p(x_i | context_i), a scalar.

    Parameters
    ----------
    x : (n, d) tensor of float32 or float64
        Differentiable to first order, as are the context, the weights and the events' weights.
    context : (n, c) tensor, optional
    weights : MafWeights
    event_weights : (n,) tensor, optional
        Signed weights w; one each by default. Divide by their sum for a mean.

    Raises
    ------
    UsageError, BackendError
        As :func:`maf_forward`.
    """
    context = check_flow("maf_nll", x, context, weights)
    if event_weights is None:
        event_weights = x.new_ones(()).expand(len(x))
    if event_weights.shape != x.shape[:1] or event_weights.dtype != x.dtype or event_weights.device != x.device:
        raise UsageError(
            f"maf_nll: event_weights must have shape ({len(x)},) and be {x.dtype} on {x.device}, "
            f"got {tuple(event_weights.shape)}, {event_weights.dtype} on {event_weights.device}"
        )
    backend = maf_backend("maf_nll", x.device.type)
    if backend == "reference":
        z, log_det = maf_forward_reference(x, context, weights)
        return -(event_weights * (log_det - 0.5 * (z.square().sum(1) + x.shape[1] * math.log(2 * math.pi)))).sum()
    flat = flatten_flow(weights)
    wanted = 0
    if torch.is_grad_enabled():
        wanted = GRAD_EVENTS * x.requires_grad + GRAD_CONTEXT * context.requires_grad + GRAD_WEIGHTS * flat.requires_grad
    flow = flat, hidden_widths(weights), weights.orders.to(x.device), weights.activation, weights.bound
    total, *_ = torch.ops.hepgen.maf_nll(x, context, event_weights, *flow, wanted, backend)
    return total  # type: ignore[no-any-return]


@torch.library.custom_op("hepgen::maf_nll", mutates_args=())
def _maf_nll(
    events: Tensor,
    context: Tensor,
    event_weights: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if backend != "cpp":
        results: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = implementation(backend, "maf").maf_nll(
            events, context, event_weights, weights, hidden, orders, activation, bound, wanted
        )
        return results
    flow = weights, list(hidden), orders, ACTIVATIONS.index(activation), bound
    total, log_prob, of_events, of_context, flat = call("maf_likelihood", events, context, event_weights, *flow, wanted)
    return total.view(()), log_prob, of_events, of_context, flat


@_maf_nll.register_fake
def _(
    events: Tensor,
    context: Tensor,
    event_weights: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n = events.shape[0]
    return events.new_empty(()), events.new_empty(n), *empty_gradients(n, context, weights, orders, wanted)


@torch.library.custom_op("hepgen::maf_nll_backward", mutates_args=())
def _maf_nll_backward(gradient: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """The gradients that the forward pass left, times the upstream one; an op, so that a second derivative finds out that there is none."""
    return [gradient * g for g in gradients]


@_maf_nll_backward.register_fake
def _(gradient: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty_like(g) for g in gradients]


_maf_nll_backward.register_autograd(first_derivatives_only)


def _setup_nll(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.wanted = inputs[-2]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:4], *output[1:])


def _backward_nll(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Any, ...]:
    *inputs, log_prob, of_events, of_context, flat = ctx.saved_tensors
    needs = ctx.needs_input_grad[:4]
    if (GRAD_EVENTS * needs[0] + GRAD_CONTEXT * needs[1] + GRAD_WEIGHTS * needs[3]) & ~ctx.wanted:
        raise BackendError("this likelihood was computed without the gradient asked for: call it with gradients enabled")
    gradients = torch.ops.hepgen.maf_nll_backward(gradient, inputs, [of_events, of_context, -log_prob, flat])
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), *[None] * 6


_maf_nll.register_autograd(_backward_nll, setup_context=_setup_nll)
