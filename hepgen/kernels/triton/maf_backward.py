"""Gradients of masked autoregressive flows in Triton.

Block after block, a program computes the hidden units of a tile of events again and goes back through them; units and their
adjoints then stand in memory, where a second kernel makes the weights' gradients of them: partial sums of fixed groups of events,
added in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hepgen.kernels.maf import GRAD_CONTEXT, GRAD_EVENTS, GRAD_WEIGHTS, empty_gradients
from hepgen.kernels.triton.maf_plan import (
    LAUNCH,
    OWN_BACK,
    STORED_BACK,
    adjoint_at,
    bias_at,
    block_size,
    case_flows,
    chunks,
    context_at,
    context_chunk,
    context_size,
    features,
    last,
    make_flow,
    padded,
    single,
    slice_size,
    slices,
    spills,
    step_size,
    steps,
    tile_count,
    tile_rows,
    tile_side,
    value_at,
    weight_at,
    width,
)
from hepgen.kernels.triton.maf_steps import (
    add_product,
    advance,
    chunk_units,
    clip_factor,
    context_tile,
    degrees,
    load_rows,
    load_units,
    multiply_add,
    packed_weights,
    slice_of,
    slope,
    start,
    step_begin,
    store_units,
)

_SLICE_EVENTS = 1 << 16  # whose units and adjoints are in memory at once
_SUM_EVENTS = 32  # of one product


@triton.jit
def _block_backward(
    x,  # (n, d), what the block's network saw
    z,  # (n, d), towards the base
    gradient,  # (n, d), of the block's output, becomes that of its input
    log_gradient,
    log_row,
    context,
    context_row,
    context_column,
    context_gradient,  # (n, c), added to
    w,
    packed,
    packed_back,
    order,
    values,
    adjoints,
    first,
    n,
    INVERSE: tl.constexpr,
    WITH_CONTEXT: tl.constexpr,
    FORWARD: tl.constexpr,
    FLOW: tl.constexpr,
    ROWS: tl.constexpr,
):
    D: tl.constexpr = features(FLOW)
    LAST: tl.constexpr = last(FLOW)
    rows = tl.arange(0, ROWS)
    slot = tl.program_id(0).to(tl.int64) * ROWS
    values += slot * value_at(FLOW, LAST)
    adjoints += slot * adjoint_at(FLOW, LAST + 1)
    begin = first + slot
    left = (n - begin).to(tl.int32)
    live = rows < left
    column = tl.arange(0, padded(D))
    inside = live[:, None] & (column < D)[None, :]
    place = rows[:, None] * D + tl.load(order + column, mask=column < D, other=0).to(tl.int32)[None, :]
    gradient += begin * D
    context += begin * context_row
    seen = tl.load(x + begin * D + place, mask=inside, other=0.0)
    store_units(values, rows, column, column < D, seen, 0, value_at(FLOW, LAST))
    shift, raw = start(w, FORWARD, ROWS)
    for step in range(steps(FORWARD)):
        shift, raw = advance(step, seen, context, context_row, context_column, w, packed, rows, left, shift, raw, values, FORWARD, True)
    tl.debug_barrier()

    clip = clip_factor(raw, FLOW)
    g_log = tl.load(log_gradient + (begin + rows) * log_row, mask=live, other=0.0)[:, None]
    g = tl.load(gradient + place, mask=inside, other=0.0)
    base = tl.load(z + begin * D + place, mask=inside, other=0.0)
    scale = tl.exp(raw * clip if INVERSE else -raw * clip)
    passed = tl.zeros_like(g)  # through the network: of the columns that the steps so far see
    for step in range(steps(FLOW) - 1, -1, -1):
        g_shift, g_raw = _map_adjoints(g, passed, g_log, base, scale, clip, INVERSE)
        passed = _retreat(step, g_shift, g_raw, packed_back, passed, values, adjoints, rows, FLOW)
    g_shift, g_raw = _map_adjoints(g, passed, g_log, base, scale, clip, INVERSE)
    store_units(adjoints, rows, 2 * column, column < D, g_shift, adjoint_at(FLOW, LAST), adjoint_at(FLOW, LAST + 1))
    store_units(adjoints, rows, 2 * column + 1, column < D, g_raw, adjoint_at(FLOW, LAST), adjoint_at(FLOW, LAST + 1))
    tl.store(gradient + place, g_shift * scale if INVERSE else passed - g_shift, mask=inside)
    if WITH_CONTEXT:
        tl.debug_barrier()
        _add_context_gradient(context_gradient + begin * context_size(FLOW), adjoints, w, rows, left, FLOW)


@triton.jit
def _map_adjoints(g, passed, g_log, base, scale, clip, INVERSE: tl.constexpr):
    """Adjoints of shifts and raw log-scales; of the inverse, where columns that a step does not yet know meet weights of zero."""
    if INVERSE:
        g_shift = g + passed
        g_raw = (g_shift * scale * base + g_log) * clip * clip
    else:
        g_shift = -g * scale
        g_raw = -(g * base + g_log) * clip * clip
    return g_shift, g_raw


@triton.jit
def _retreat(step, g_shift, g_raw, packed, passed, values, adjoints, rows, FLOW: tl.constexpr):
    """From the adjoints of the parameters, of a step and those behind, to those of the step's units and of the columns that these see."""
    LAST: tl.constexpr = last(FLOW)
    ADJOINTS: tl.constexpr = adjoint_at(FLOW, LAST + 1)
    packed += step * step_size(FLOW)
    adjoint = g_raw
    for layer in tl.static_range(LAST - 1, 0, -1):
        for i in tl.static_range(slices(FLOW, layer)):
            sums = tl.zeros((g_raw.shape[0], slice_size(FLOW, layer)), g_raw.dtype)
            if layer == LAST - 1:
                sums = multiply_add(g_shift, packed, sums, FLOW, OWN_BACK, LAST, i)
                sums = multiply_add(g_raw, packed, sums, FLOW, OWN_BACK, LAST + 1, i)
            else:
                if steps(FLOW) > 1 or not single(FLOW):
                    known = step_begin(step + single(FLOW), FLOW, layer + 1)
                    for chunk in range(chunks(FLOW, layer + 1)):
                        above = load_units(adjoints, rows, chunk, adjoint_at(FLOW, layer + 1), ADJOINTS, FLOW, layer + 1)
                        units = chunk_units(chunk, FLOW, layer + 1)
                        above = tl.where(((units >= known) & (units < width(FLOW, layer + 1)))[None, :], above, 0.0)
                        sums = multiply_add(above, packed, sums, FLOW, STORED_BACK, layer + 1, i * chunks(FLOW, layer + 1) + chunk)
                if single(FLOW):
                    sums = multiply_add(adjoint, packed, sums, FLOW, OWN_BACK, layer + 1)
            mine, own = slice_of(step, i, FLOW, layer)
            h = tl.load(values + rows[:, None] * value_at(FLOW, LAST) + value_at(FLOW, layer) + mine[None, :], mask=own[None, :], other=0.0)
            adjoint = tl.where(own[None, :], sums * slope(h, FLOW), 0.0)
            store_units(adjoints, rows, mine, own, adjoint, adjoint_at(FLOW, layer), ADJOINTS)
            if layer == 1:
                passed = multiply_add(adjoint, packed, passed, FLOW, OWN_BACK, 1, i)
        if not single(FLOW):
            tl.debug_barrier()
    if single(FLOW):
        tl.debug_barrier()
    return passed


@triton.jit
def _add_context_gradient(context_gradient, adjoints, w, rows, n, FLOW: tl.constexpr):
    C: tl.constexpr = context_size(FLOW)
    SIDE: tl.constexpr = tile_side(FLOW, 1)
    for begin in tl.range(0, C, context_chunk(FLOW), num_stages=1):
        ins = begin + tl.arange(0, context_chunk(FLOW))
        sums = load_rows(context_gradient, rows, n, ins, C, C, 1)
        for unit in range(0, width(FLOW, 1), SIDE):
            units = unit + tl.arange(0, SIDE)
            inside = (rows < n)[:, None] & (units < width(FLOW, 1))[None, :]
            delta = tl.load(adjoints + rows[:, None] * adjoint_at(FLOW, last(FLOW) + 1) + units[None, :], mask=inside, other=0.0)
            sums = add_product(delta, context_tile(w, units[:, None], ins[None, :], FLOW), sums, FLOW)
        tl.store(context_gradient + rows[:, None] * C + ins[None, :], sums, mask=(rows < n)[:, None] & (ins < C)[None, :])


@triton.jit
def _weight_sums(
    values,
    adjoints,
    context,  # of the first event of values and adjoints
    context_row,
    context_column,
    slabs,  # (splits, parameters), at this block's
    slab,
    n,
    ADD: tl.constexpr,
    FLOW: tl.constexpr,
    EVENTS: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """One program: a tile of one layer's weights, or of the context's, over a group of EVENTS * PRODUCTS events."""
    tile = tl.program_id(0)
    to = slabs + tl.program_id(1).to(tl.int64) * slab
    VALUES: tl.constexpr = value_at(FLOW, last(FLOW))
    begin = 0
    for layer in tl.static_range(1, last(FLOW) + 1):
        if (tile >= begin) & (tile < begin + tile_count(FLOW, layer)):
            _layer_sums(tile - begin, values + value_at(FLOW, layer - 1), VALUES, 1, adjoints, to, n, ADD, FLOW, layer, EVENTS, PRODUCTS)
        begin += tile_count(FLOW, layer)
    if context_size(FLOW) > 0:  # noqa: SIM102 - one is decided when it is compiled
        if tile >= begin:
            _layer_sums(tile - begin, context, context_row, context_column, adjoints, to, n, ADD, FLOW, 0, EVENTS, PRODUCTS)


@triton.jit
def _layer_sums(
    tile,
    inputs,
    input_row,
    input_column,
    adjoints,
    to,
    n,
    ADD: tl.constexpr,
    FLOW: tl.constexpr,
    LAYER: tl.constexpr,  # 0: the context's weights
    EVENTS: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    TO: tl.constexpr = LAYER if LAYER > 0 else 1
    UNITS: tl.constexpr = width(FLOW, TO)
    INPUTS: tl.constexpr = width(FLOW, LAYER - 1) if LAYER > 0 else context_size(FLOW)
    AT: tl.constexpr = weight_at(FLOW, LAYER) if LAYER > 0 else context_at(FLOW)
    across = tl.cdiv(INPUTS, tile_side(FLOW, LAYER - 1))
    units = tile // across * tile_side(FLOW, TO) + tl.arange(0, tile_side(FLOW, TO))
    ins = tile % across * tile_side(FLOW, LAYER - 1) + tl.arange(0, tile_side(FLOW, LAYER - 1))
    seen = (units < UNITS)[:, None] & (ins < INPUTS)[None, :]
    if LAYER > 0:
        seen = seen & (degrees(ins, FLOW, LAYER - 1)[None, :] <= degrees(units, FLOW, LAYER)[:, None])
    sums = tl.zeros((tile_side(FLOW, TO), tile_side(FLOW, LAYER - 1)), adjoints.dtype.element_ty)
    bias = tl.zeros((tile_side(FLOW, TO),), adjoints.dtype.element_ty)
    start = tl.program_id(1) * (EVENTS * PRODUCTS)
    for i in range(PRODUCTS):
        rows = (start + i * EVENTS).to(tl.int64) + tl.arange(0, EVENTS)
        delta = load_rows(adjoints + adjoint_at(FLOW, TO), rows, n, units, UNITS, adjoint_at(FLOW, last(FLOW) + 1), 1)
        value = load_rows(inputs, rows, n, ins, INPUTS, input_row, input_column)
        sums = add_product(tl.trans(delta), value, sums, FLOW)
        bias += tl.sum(delta, 0)
    target = to + AT + units[:, None] * INPUTS + ins[None, :]
    if ADD:
        sums += tl.load(target, mask=seen, other=0.0)
    tl.store(target, tl.where(seen, sums, 0.0), mask=(units < UNITS)[:, None] & (ins < INPUTS)[None, :])
    if LAYER > 0:
        target = to + bias_at(FLOW, TO) + units
        mine = (units < UNITS) & (tl.zeros_like(units) + tile % across == 0)
        if ADD:
            bias += tl.load(target, mask=mine, other=0.0)
        tl.store(target, bias, mask=mine)


def flow_gradients(
    inverse: bool,
    out_gradient: Tensor,
    log_det_gradient: Tensor,
    states: Tensor,
    context: Tensor,
    weights: Tensor,
    hidden: Sequence[int],
    orders: Tensor,
    activation: str,
    bound: float,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of events, context and weights, from the states (blocks + 1, n, d) in the order in which they arose."""
    (n, _), blocks = out_gradient.shape, orders.shape[0]
    of_events, of_context, of_weights = empty_gradients(n, context, weights, orders, wanted)
    if not n:
        return of_events, of_context, of_weights.zero_()
    shape = hidden, orders, context, activation, bound
    forward, flow = make_flow(*shape), make_flow(*shape, by_column=inverse)
    packed = packed_weights(weights, blocks, forward, back=forward == flow)
    packed_back = packed if forward == flow else packed_weights(weights, blocks, flow, back=True)
    rows = tile_rows(flow, weights.dtype)
    gradient, orders = out_gradient.clone(memory_format=torch.contiguous_format), orders.contiguous()
    products, kept = 4 if n <= _SLICE_EVENTS // 8 else 32, min(n, _SLICE_EVENTS)
    slabs = weights.new_empty((triton.cdiv(kept, _SUM_EVENTS * products), weights.shape[0] if wanted & GRAD_WEIGHTS else 0))
    values, adjoints = (
        weights.new_empty((triton.cdiv(kept, rows) * rows, size(flow, last(flow) + i))) for i, size in enumerate((value_at, adjoint_at))
    )
    with_context = bool(wanted & GRAD_CONTEXT) and context.shape[1] > 0
    of_context.zero_()
    for first in range(0, n, kept):
        end = min(first + kept, n)
        for i in reversed(range(blocks)):
            block = blocks - 1 - i if inverse else i
            at = block * block_size(flow)
            x, z = (states[i + 1], states[i]) if inverse else (states[i], states[i + 1])
            _block_backward[(triton.cdiv(end - first, rows),)](
                x,
                z,
                gradient,
                log_det_gradient,
                log_det_gradient.stride(0),
                context,
                *context.stride(),
                of_context,
                weights[at:],
                packed[block],
                packed_back[block],
                orders[block],
                values,
                adjoints,
                first,
                end,
                INVERSE=inverse,
                WITH_CONTEXT=with_context,
                FORWARD=forward,
                FLOW=flow,
                ROWS=rows,
                **LAUNCH,
            )
            if wanted & GRAD_WEIGHTS:
                tiles = sum(tile_count(flow, layer) for layer in range(0 if context.shape[1] else 1, last(flow) + 1))
                _weight_sums[(tiles, len(slabs))](
                    values,
                    adjoints,
                    context[first:],
                    *context.stride(),
                    slabs[:, at:],
                    slabs.stride(0),
                    end - first,
                    ADD=first > 0,
                    FLOW=flow,
                    EVENTS=_SUM_EVENTS,
                    PRODUCTS=products,
                    num_warps=4,
                    num_stages=3,
                )
    return gradient if wanted & GRAD_EVENTS else of_events, of_context, slabs.sum(0) if wanted & GRAD_WEIGHTS else of_weights


def backward_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """As maf.compile_cases, of these kernels."""
    cases: list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]] = []
    for dtype, name, forward, by_column in case_flows():
        pointer = f"*{name}"
        contexts = {"context": pointer, "context_row": "i32", "context_column": "i32"}
        types = {"x": pointer, "z": pointer, "gradient": pointer, "log_gradient": pointer, "log_row": "i32", **contexts}
        types |= {"context_gradient": pointer, "w": pointer, "packed": pointer, "packed_back": pointer, "order": "*i64"}
        types |= {"values": pointer, "adjoints": pointer, "first": "i32", "n": "i32"}
        for inverse, flow in enumerate((forward, by_column)):
            constants: dict[str, Any] = {"INVERSE": inverse > 0, "WITH_CONTEXT": flow.context > 0, "FORWARD": forward, "FLOW": flow}
            cases.append((_block_backward, types, constants | {"ROWS": tile_rows(flow, dtype)}, LAUNCH | spills(name)))
        types = {"values": pointer, "adjoints": pointer, **contexts, "slabs": pointer, "slab": "i32", "n": "i32"}
        constants = {"ADD": True, "FLOW": forward, "EVENTS": _SUM_EVENTS, "PRODUCTS": 32}
        cases.append((_weight_sums, types, constants, {"num_warps": 4, "num_stages": 3}))
    return cases
