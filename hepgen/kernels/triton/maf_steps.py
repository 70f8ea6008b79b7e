"""What the Triton kernels of a flow share: the masked network of a block, step by step.

A step computes the units of its degrees, layer after layer, from its own units of the layer below and those of the steps before, which
stand in memory; nothing is computed twice, and what the masks take away is not computed.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hepgen.kernels.triton.maf_plan import (
    OWN,
    OWN_BACK,
    STORED,
    STORED_BACK,
    Flow,
    activation,
    bias_at,
    block_size,
    chunk_size,
    chunks,
    context_at,
    context_chunk,
    context_size,
    features,
    group,
    inverse_bound,
    last,
    lowest,
    most_padded,
    padded,
    parts,
    quotient_factor,
    quotient_shift,
    single,
    slice_size,
    slices,
    step_size,
    steps,
    tile_at,
    tile_inputs,
    tile_units,
    value_at,
    weight_at,
    width,
)


@triton.jit
def quotient(number, DIVISOR: tl.constexpr, MOST: tl.constexpr):
    """number // DIVISOR, 0 <= number <= MOST, by a product.

    LLVM narrows divisions of numbers that it knows to be small to 16 bits, and pairs the sums before them; ptxas 12.8 loses the constant
    of some of these add.s16x2.
    """
    SHIFT: tl.constexpr = quotient_shift(DIVISOR, MOST)
    FACTOR: tl.constexpr = quotient_factor(DIVISOR, MOST)
    return ((number.to(tl.int64) * FACTOR) >> SHIFT).to(tl.int32)


@triton.jit
def degrees(units, FLOW: tl.constexpr, LAYER: tl.constexpr):
    """An input of degree g is seen by units of degree g or more; see kernels.maf.unit_degrees."""
    if LAYER == 0:
        return units + 1
    if last(FLOW) == LAYER:
        return units >> 1
    SPAN: tl.constexpr = features(FLOW) - lowest(FLOW)
    return lowest(FLOW) + quotient(units * SPAN, width(FLOW, LAYER), SPAN * most_padded(FLOW, LAYER))


@triton.jit
def units_below(degree, FLOW: tl.constexpr, LAYER: tl.constexpr):
    """How many units of a hidden layer are of lower degree."""
    SPAN: tl.constexpr = features(FLOW) - lowest(FLOW)
    return quotient(tl.maximum(degree - lowest(FLOW), 0) * width(FLOW, LAYER) + SPAN - 1, SPAN, SPAN * (width(FLOW, LAYER) + 1))


@triton.jit
def step_begin(step, FLOW: tl.constexpr, LAYER: tl.constexpr):
    """The first unit of a step in a hidden layer, where the units of the step before end."""
    return units_below(tl.minimum(step * group(FLOW), features(FLOW)), FLOW, LAYER)


@triton.jit
def slice_of(step, index, FLOW: tl.constexpr, LAYER: tl.constexpr):
    """Units of a step's slice of a hidden layer, padded, and which of them are its own."""
    units = step_begin(step, FLOW, LAYER) + index * slice_size(FLOW, LAYER) + tl.arange(0, slice_size(FLOW, LAYER))
    return units, units < step_begin(step + 1, FLOW, LAYER)


@triton.jit
def chunk_units(chunk, FLOW: tl.constexpr, LAYER: tl.constexpr):
    return chunk * chunk_size(FLOW, LAYER) + tl.arange(0, chunk_size(FLOW, LAYER))


@triton.jit
def own_units(step, index, FLOW: tl.constexpr, LAYER: tl.constexpr):
    """Units of a slice, those beyond its own past the end of the layer, where weights are zero."""
    units, own = slice_of(step, index, FLOW, LAYER)
    return tl.where(own, units, width(FLOW, LAYER))


@triton.jit
def weight_tile(w, outs, ins, FLOW: tl.constexpr, LAYER: tl.constexpr):
    """Masked weights of a layer between units, which stand along one axis each."""
    seen = degrees(ins, FLOW, LAYER - 1) <= degrees(outs, FLOW, LAYER)
    seen = seen & (outs < width(FLOW, LAYER)) & (ins < width(FLOW, LAYER - 1))
    return tl.load(w + weight_at(FLOW, LAYER) + outs * width(FLOW, LAYER - 1) + ins, mask=seen, other=0.0)


@triton.jit
def context_tile(w, units, ins, FLOW: tl.constexpr):
    seen = (units < width(FLOW, 1)) & (ins < context_size(FLOW))
    return tl.load(w + context_at(FLOW) + units * context_size(FLOW) + ins, mask=seen, other=0.0)


@triton.jit
def biases(w, units, FLOW: tl.constexpr, LAYER: tl.constexpr, ROWS: tl.constexpr):
    bias = tl.load(w + bias_at(FLOW, LAYER) + units, mask=units < width(FLOW, LAYER), other=0.0)
    return tl.broadcast_to(bias[None, :], (ROWS, units.shape[0]))


@triton.jit
def leading(x):
    """The first 11 bits of a float32, rounded: what a tensor core keeps."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def tile_places(CHUNK, FLOW: tl.constexpr, KIND: tl.constexpr, LAYER: tl.constexpr):
    INPUTS: tl.constexpr = tile_inputs(FLOW, KIND, LAYER)
    UNITS: tl.constexpr = tile_units(FLOW, KIND, LAYER)
    at = tile_at(FLOW, KIND, LAYER) + CHUNK * (INPUTS * UNITS * parts(FLOW))
    return at + tl.arange(0, INPUTS)[:, None] + tl.arange(0, UNITS)[None, :] * INPUTS


@triton.jit
def multiply_add(a, packed, sums, FLOW: tl.constexpr, KIND: tl.constexpr, LAYER: tl.constexpr, CHUNK=0):
    """Sums plus a product with the packed weights of a step."""
    tile = packed + tile_places(CHUNK, FLOW, KIND, LAYER)
    b = tl.load(tile)
    if parts(FLOW) == 1:
        sums = tl.dot(a, b, sums, input_precision="ieee", out_dtype=a.dtype)
    else:
        rest = tl.load(tile + tile_inputs(FLOW, KIND, LAYER) * tile_units(FLOW, KIND, LAYER))
        first = leading(a)
        sums = tl.dot(a - first, b, sums, input_precision="tf32")
        sums = tl.dot(first, rest, sums, input_precision="tf32")
        sums = tl.dot(first, b, sums, input_precision="tf32")
    return sums


@triton.jit
def add_product(a, b, sums, FLOW: tl.constexpr):
    """Sums plus a product of what is not packed."""
    return tl.dot(a, b, sums, input_precision="ieee" if parts(FLOW) == 1 else "tf32x3", out_dtype=a.dtype)


@triton.jit
def pack_tile(packed, weights, FLOW: tl.constexpr, KIND: tl.constexpr, LAYER: tl.constexpr, CHUNK=0):
    tile = packed + tile_places(CHUNK, FLOW, KIND, LAYER)
    if parts(FLOW) == 1:
        tl.store(tile, weights)
    else:
        first = leading(weights)
        tl.store(tile, first)
        tl.store(tile + tile_inputs(FLOW, KIND, LAYER) * tile_units(FLOW, KIND, LAYER), leading(weights - first))


@triton.jit
def pack(w, packed, FLOW: tl.constexpr, BACK: tl.constexpr):
    """Pack the weights of one step of one block, those of the way back where asked for."""
    LAST: tl.constexpr = last(FLOW)
    step = tl.program_id(0)
    w += tl.program_id(1) * block_size(FLOW)
    packed += (tl.program_id(1) * steps(FLOW) + step).to(tl.int64) * step_size(FLOW)
    column = tl.arange(0, padded(features(FLOW)))
    for i in tl.static_range(slices(FLOW, 1)):
        mine = own_units(step, i, FLOW, 1)
        for chunk in range(chunks(FLOW, 0)):
            seen = chunk_units(chunk, FLOW, 0)[:, None]
            pack_tile(packed, context_tile(w, mine[None, :], seen, FLOW), FLOW, OWN, 0, i * chunks(FLOW, 0) + chunk)
        pack_tile(packed, weight_tile(w, mine[None, :], column[:, None], FLOW, 1), FLOW, OWN, 1, i)
        if BACK:
            pack_tile(packed, weight_tile(w, mine[:, None], column[None, :], FLOW, 1), FLOW, OWN_BACK, 1, i)
    for layer in tl.static_range(2, LAST):
        if single(FLOW):
            mine, below = own_units(step, 0, FLOW, layer), own_units(step, 0, FLOW, layer - 1)
            pack_tile(packed, weight_tile(w, mine[None, :], below[:, None], FLOW, layer), FLOW, OWN, layer)
            if BACK:
                pack_tile(packed, weight_tile(w, mine[:, None], below[None, :], FLOW, layer), FLOW, OWN_BACK, layer)
        if steps(FLOW) > 1 or not single(FLOW):
            for i in tl.static_range(slices(FLOW, layer)):
                mine = own_units(step, i, FLOW, layer)
                for chunk in range(chunks(FLOW, layer - 1)):
                    tile = weight_tile(w, mine[None, :], chunk_units(chunk, FLOW, layer - 1)[:, None], FLOW, layer)
                    pack_tile(packed, tile, FLOW, STORED, layer, i * chunks(FLOW, layer - 1) + chunk)
            if BACK:
                for i in tl.static_range(slices(FLOW, layer - 1)):
                    mine = own_units(step, i, FLOW, layer - 1)
                    for chunk in range(chunks(FLOW, layer)):
                        tile = weight_tile(w, chunk_units(chunk, FLOW, layer)[:, None], mine[None, :], FLOW, layer)
                        pack_tile(packed, tile, FLOW, STORED_BACK, layer, i * chunks(FLOW, layer) + chunk)
    for i in tl.static_range(slices(FLOW, LAST - 1)):
        mine = own_units(step, i, FLOW, LAST - 1)
        for k in tl.static_range(2):
            pack_tile(packed, weight_tile(w, 2 * column[None, :] + k, mine[:, None], FLOW, LAST), FLOW, OWN, LAST + k, i)
            if BACK:
                pack_tile(packed, weight_tile(w, 2 * column[:, None] + k, mine[None, :], FLOW, LAST), FLOW, OWN_BACK, LAST + k, i)


def packed_weights(w: Tensor, blocks: int, flow: Flow, *, back: bool = False) -> Tensor:
    """Weights (blocks, ...) as the steps take them, made anew by every call of an op."""
    packed = w.new_empty((blocks, steps(flow) * step_size(flow)))
    pack[(steps(flow), blocks)](w, packed, FLOW=flow, BACK=back, num_warps=8)
    return packed


@triton.jit
def expm1(x):
    """Of x <= 0: the series near zero, where exp(x) - 1 cancels."""
    TERMS: tl.constexpr = 9 if x.dtype == tl.float32 else 16
    near = tl.maximum(x, -0.5)
    series = tl.full(x.shape, 1.0, x.dtype)
    for k in tl.static_range(TERMS):
        series = 1.0 + series * near * (1.0 / (TERMS + 1 - k))
    return tl.where(x > -0.5, x * series, tl.exp(x) - 1.0)


@triton.jit
def activate(x, FLOW: tl.constexpr):
    if activation(FLOW) == "relu":
        return tl.where(x < 0, 0.0, x)
    if activation(FLOW) == "elu":
        return tl.where(x > 0, x, expm1(tl.where(x > 0, 0.0, x)))
    t = expm1(-2.0 * tl.abs(x))  # tanh |x| = -t / (t + 2)
    t = t / (t + 2.0)
    return tl.where(x < 0, t, -t)


@triton.jit
def slope(h, FLOW: tl.constexpr):
    """Derivative of the activation, from its value."""
    if activation(FLOW) == "relu":
        return tl.where(h > 0, 1.0, 0.0).to(h.dtype)
    if activation(FLOW) == "elu":
        return tl.where(h > 0, 1.0, h + 1.0)
    return 1.0 - h * h


@triton.jit
def load_rows(base, rows, n, columns, COUNT: tl.constexpr, row_stride, column_stride):
    """Columns of a tile of rows, zero beyond its borders."""
    inside = (rows < n)[:, None] & (columns < COUNT)[None, :]
    return tl.load(base + rows[:, None] * row_stride + columns[None, :] * column_stride, mask=inside, other=0.0)


@triton.jit
def first_layer(units, index, x, context, context_row, context_column, w, packed, rows, n, FLOW: tl.constexpr):
    """Sums of a slice of the first layer, of columns that are zero where not known."""
    sums = multiply_add(x, packed, biases(w, units, FLOW, 1, x.shape[0]), FLOW, OWN, 1, index)
    for chunk in range(chunks(FLOW, 0)):
        seen = chunk * context_chunk(FLOW) + tl.arange(0, context_chunk(FLOW))
        c = load_rows(context, rows, n, seen, context_size(FLOW), context_row, context_column)
        sums = multiply_add(c, packed, sums, FLOW, OWN, 0, index * chunks(FLOW, 0) + chunk)
    return sums


@triton.jit
def start(w, FLOW: tl.constexpr, ROWS: tl.constexpr):
    """Shifts and raw log-scales where no unit is known yet."""
    column = tl.arange(0, padded(features(FLOW)))
    return biases(w, 2 * column, FLOW, last(FLOW), ROWS), biases(w, 2 * column + 1, FLOW, last(FLOW), ROWS)


@triton.jit
def advance(
    step,
    x,
    context,
    context_row,
    context_column,
    w,
    packed,
    rows,
    n,
    shift,
    raw,
    values,
    FLOW: tl.constexpr,
    KEEP: tl.constexpr,
):
    """One step's units, from all units before, and what the parameters get of them; KEEP stores also those that no later step needs."""
    LAST: tl.constexpr = last(FLOW)
    packed += step * step_size(FLOW)
    h = x
    for layer in tl.static_range(1, LAST):
        for i in tl.static_range(slices(FLOW, layer)):
            units, own = slice_of(step, i, FLOW, layer)
            if layer == 1:
                sums = first_layer(units, i, x, context, context_row, context_column, w, packed, rows, n, FLOW)
            else:
                sums = biases(w, units, FLOW, layer, x.shape[0])
                if steps(FLOW) > 1 or not single(FLOW):
                    known = step_begin(step + 1 - single(FLOW), FLOW, layer - 1)
                    for chunk in range(chunks(FLOW, layer - 1)):
                        below = load_units(values, rows, chunk, value_at(FLOW, layer - 1), value_at(FLOW, LAST), FLOW, layer - 1)
                        seen = chunk_units(chunk, FLOW, layer - 1) < known
                        below = tl.where(seen[None, :], below, 0.0)
                        sums = multiply_add(below, packed, sums, FLOW, STORED, layer, i * chunks(FLOW, layer - 1) + chunk)
                if single(FLOW):
                    sums = multiply_add(h, packed, sums, FLOW, OWN, layer)
            h = tl.where(own[None, :], activate(sums, FLOW), 0.0)
            if KEEP or ((layer < LAST - 1) and (steps(FLOW) > 1 or not single(FLOW))):
                store_units(values, rows, units, own, h, value_at(FLOW, layer), value_at(FLOW, LAST))
            if layer == LAST - 1:
                shift = multiply_add(h, packed, shift, FLOW, OWN, LAST, i)
                raw = multiply_add(h, packed, raw, FLOW, OWN, LAST + 1, i)
        if not single(FLOW):
            tl.debug_barrier()
    if single(FLOW):
        tl.debug_barrier()
    return shift, raw


@triton.jit
def load_units(base, rows, chunk, AT: tl.constexpr, STRIDE: tl.constexpr, FLOW: tl.constexpr, LAYER: tl.constexpr):
    """A chunk of a layer as it stands in memory, with whatever stands there of units not known yet."""
    return tl.load(base + rows[:, None] * STRIDE + AT + chunk_units(chunk, FLOW, LAYER)[None, :])


@triton.jit
def store_units(base, rows, units, own, values, AT: tl.constexpr, STRIDE: tl.constexpr):
    tl.store(base + rows[:, None] * STRIDE + AT + units[None, :], values, mask=own[None, :])


@triton.jit
def clip_factor(raw, FLOW: tl.constexpr):
    """a / r of the soft-clipped log-scale a = r / (1 + |r| / bound); its square is da / dr."""
    return 1.0 / (1.0 + tl.abs(raw) * inverse_bound(FLOW))
