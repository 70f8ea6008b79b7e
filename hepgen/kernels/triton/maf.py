"""Whole masked autoregressive flows in Triton: a program takes a tile of events through all blocks.

See :mod:`hepgen.kernels.maf` for the flow and :mod:`hepgen.kernels.triton.maf_steps` for how a block is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from hepgen.kernels.maf import empty_gradients
from hepgen.kernels.triton.maf_backward import backward_cases, flow_gradients
from hepgen.kernels.triton.maf_plan import (
    LAUNCH,
    block_size,
    case_flows,
    features,
    group,
    last,
    make_flow,
    padded,
    resident_programs,
    spills,
    step_size,
    steps,
    tile_rows,
    value_at,
)
from hepgen.kernels.triton.maf_steps import advance, clip_factor, pack, packed_weights, start


@triton.jit
def _apply(
    states,  # (blocks + 1, n, d), or one (n, d) with between = 0; the first is what goes in
    between,
    context,
    context_row,
    context_column,
    w,
    packed,
    orders,
    log_det,
    n,
    values,  # (programs * ROWS, hidden units), for the steps to come
    BLOCKS: tl.constexpr,
    INVERSE: tl.constexpr,
    FLOW: tl.constexpr,
    ROWS: tl.constexpr,
):
    D: tl.constexpr = features(FLOW)
    column = tl.arange(0, padded(D))
    row = tl.arange(0, ROWS)
    values += tl.program_id(0).to(tl.int64) * ROWS * value_at(FLOW, last(FLOW))
    first = tl.program_id(0).to(tl.int64) * ROWS
    while first < n:
        left = (n - first).to(tl.int32)
        inside = (row < left)[:, None] & (column < D)[None, :]
        seen = context + first * context_row
        logs = tl.zeros((ROWS, padded(D)), w.dtype.element_ty)
        state = states + first * D
        for i in tl.range(BLOCKS, num_stages=1):  # not pipelined: a block loads what the one before stored
            block = BLOCKS - 1 - i if INVERSE else i
            order = tl.load(orders + block * D + column, mask=column < D, other=0).to(tl.int32)
            place = row[:, None] * D + order[None, :]
            given = tl.load(state + place, mask=inside, other=0.0)
            weights = w + block * block_size(FLOW)
            tiles = packed + block * (steps(FLOW) * step_size(FLOW))
            shift, raw = start(weights, FLOW, ROWS)
            x = tl.zeros_like(given) if INVERSE else given
            for step in range(steps(FLOW)):
                shift, raw = advance(step, x, seen, context_row, context_column, weights, tiles, row, left, shift, raw, values, FLOW, False)
                if INVERSE:
                    solved = (column // group(FLOW) == step)[None, :]
                    a = raw * clip_factor(raw, FLOW)
                    x = tl.where(solved, given * tl.exp(a) + shift, x)
                    logs += tl.where(solved, a, 0.0)
            if not INVERSE:
                a = -raw * clip_factor(raw, FLOW)
                x = (given - shift) * tl.exp(a)
                logs += a
            state += between
            tl.store(state + place, x, mask=inside)
            tl.debug_barrier()
        tl.store(log_det + first + row, tl.sum(logs, 1), mask=row < left)
        first += tl.num_programs(0).to(tl.int64) * ROWS


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
    """See :func:`hepgen.kernels.maf.maf_forward`; the states (blocks + 1, n, d) follow as one vector where a gradient is wanted."""
    (n, d), blocks = events.shape, orders.shape[0]
    states = events.new_empty((blocks + 1 if record else 1, n, d))
    states[0] = events
    log_det = events.new_empty(n)
    if n:
        flow = make_flow(hidden, orders, context, activation, bound, by_column=inverse)
        rows = tile_rows(flow, events.dtype)
        programs = min(triton.cdiv(n, rows), resident_programs(events.device))
        _apply[(programs,)](
            states,
            n * d if record else 0,
            context,
            *context.stride(),
            weights,
            packed_weights(weights, blocks, flow),
            orders.contiguous(),
            log_det,
            n,
            events.new_empty((programs * rows, value_at(flow, last(flow)))),
            BLOCKS=blocks,
            INVERSE=inverse,
            FLOW=flow,
            ROWS=rows,
            **LAUNCH,
        )
    if not record:
        return states[0], log_det, events.new_empty(0)
    return states[-1].clone(), log_det, states.view(-1)


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
    """Gradients of events, context and weights, those wanted."""
    states = record.view(orders.shape[0] + 1, *out_gradient.shape)
    flow = hidden, orders, activation, bound
    return flow_gradients(inverse, out_gradient, log_det_gradient, states, context, weights, *flow, wanted)


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
    """See :func:`hepgen.kernels.maf_likelihood.maf_nll`: the sum, log-densities, and the gradients of the sum."""
    flow = weights, hidden, orders, activation, bound
    z, log_det, record = maf(False, events, context, *flow, wanted > 0)
    log_prob = log_det - 0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
    total = -(event_weights * log_prob).sum()
    if not wanted:
        return total, log_prob, *empty_gradients(len(z), context, weights, orders, wanted)
    gradients = maf_backward(False, z * event_weights[:, None], -event_weights, record, context, *flow, wanted)
    return total, log_prob, *gradients


def compile_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Kernels as the compiler meets them: (kernel, argument types, constants, options)."""
    cases: list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]] = []
    for dtype, name, forward, by_column in case_flows():
        pointer = f"*{name}"
        types = {"states": pointer, "between": "i32", "context": pointer, "context_row": "i32", "context_column": "i32"}
        types |= {"w": pointer, "packed": pointer, "orders": "*i64", "log_det": pointer, "n": "i32", "values": pointer}
        for inverse, flow in enumerate((forward, by_column)):
            constants = {"BLOCKS": 2, "INVERSE": inverse > 0, "FLOW": flow, "ROWS": tile_rows(flow, dtype)}
            cases.append((_apply, types, constants, LAUNCH | spills(name)))
        cases.append((pack, {"w": pointer, "packed": pointer}, {"FLOW": by_column, "BACK": True}, {"num_warps": 8}))
    return cases + backward_cases()
