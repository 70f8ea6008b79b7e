"""The flow on CUDA devices: :mod:`hepgen.kernels.maf` and :mod:`hepgen.kernels.maf_likelihood` have its ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hepgen.errors import UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.cuda import address, call
from hepgen.kernels.maf import ACTIVATIONS, GRAD_CONTEXT, GRAD_EVENTS, GRAD_WEIGHTS, empty_gradients


class _Flow:
    """A flow and its context, as the kernels take them."""

    def __init__(
        self, inverse: bool, context: Tensor, weights: Tensor, hidden: Sequence[int], orders: Tensor, activation: str, bound: float
    ) -> None:
        module: Any = dispatch.cuda()
        self.context, self.twice = context, context.dtype == torch.float64
        self.blocks, self.features = orders.shape
        self.held = weights.contiguous(), orders.contiguous(), context
        n, columns = context.shape
        shape = self.features, columns, self.blocks, list(hidden), ACTIVATIONS.index(activation), bound, n, inverse
        self.flow = module.MafFlow(*map(address, self.held), context.stride(), *shape)

    def record(self, wanted: bool) -> Tensor:
        return self.context.new_empty((self.blocks + 1) * self.features * len(self.context) if wanted else 0)

    def gradients(self, weights: Tensor, orders: Tensor, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
        made = empty_gradients(len(self.context), self.context, weights, orders, wanted)
        if len(self.context) == 0:  # no kernel runs
            made[2].zero_()
        return made

    def call(self, name: str, *arguments: Any, weights_wanted: bool = False) -> None:
        """Call a function with a workspace of the size that it asks for."""
        device = self.context.device
        try:
            size = call("maf_workspace", device, self.twice, self.flow, name != "maf_apply", weights_wanted)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
        call(name, device, self.twice, self.flow, *arguments, self.context.new_empty(size))


def maf(
    inverse: bool,
    events: Tensor,
    context: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    record: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Results, and the columns between the blocks, (blocks + 1, d, n), where they are wanted."""
    flow = _Flow(inverse, context, weights, hidden, orders, activation, bound)
    out, log_det, states = events.new_empty(events.shape), events.new_empty(len(events)), flow.record(record)
    flow.call("maf_apply", events, events.stride(), out, log_det, states, 0)
    return out, log_det, states


def maf_backward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the events, their context and the weights."""
    flow = _Flow(inverse, context, weights, hidden, orders, activation, bound)
    gradients = flow.gradients(weights, orders, wanted)
    results = out_gradient, out_gradient.stride(), log_det_gradient, log_det_gradient.stride()
    flow.call("maf_backward", record, *results, *_addresses(gradients, wanted), weights_wanted=bool(wanted & GRAD_WEIGHTS))
    return gradients


def maf_nll(
    events: Tensor,
    context: Tensor,
    event_weights: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-sum w log p, log p of every event, and the gradients of the sum."""
    flow = _Flow(False, context, weights, hidden, orders, activation, bound)
    log_prob, states = events.new_empty(len(events)), flow.record(wanted != 0)
    flow.call("maf_apply", events, events.stride(), 0, 0, states, log_prob)
    total = (event_weights * log_prob).sum().neg()
    gradients = flow.gradients(weights, orders, wanted)
    if wanted:
        to = _addresses(gradients, wanted)
        flow.call("maf_likelihood", states, event_weights, event_weights.stride(), *to, weights_wanted=bool(wanted & GRAD_WEIGHTS))
    return total, log_prob, *gradients


def _addresses(gradients: tuple[Tensor, Tensor, Tensor], wanted: int) -> list[int]:
    bits = GRAD_EVENTS, GRAD_CONTEXT, GRAD_WEIGHTS
    return [address(g) if wanted & bit else 0 for g, bit in zip(gradients, bits, strict=True)]
