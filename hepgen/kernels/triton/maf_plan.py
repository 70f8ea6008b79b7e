"""The shape of a flow as a compile-time constant of its Triton kernels, and what follows from it.

A step takes a group of columns and the hidden units of their degrees. One group of all columns is a plain pass; groups of one column
solve the inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = (
    True  # products in float32: three of tensor cores, of numbers in two parts of 11 bits each, nearly as exact as one in full precision
)


INTERPRETED = triton.knobs.runtime.interpret  # where larger tiles are faster
MOST = 128 if INTERPRETED else 32  # units in a slice
LAUNCH = {"num_warps": 4, "num_stages": 1}


Function = TypeVar("Function", bound=Callable[..., object])


def constant(function: Function) -> Function:
    """A function that kernels call while they are compiled, and the host like any other."""
    return triton.constexpr_function(function)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Flow:
    """Shape of a flow. Layer 0 is the columns, layers 1 ... are hidden, the last has shift and raw log-scale of every column."""

    features: int
    context: int
    widths: tuple[int, ...]  # of the hidden layers
    activation: str
    group: int  # columns in a step
    parts: int  # of a packed weight
    most: int  # units in a slice
    bound: float


@constant
def padded(count: int) -> int:
    return max(16, 1 << (count - 1).bit_length())


@constant
def features(flow: Flow) -> int:
    return flow.features


@constant
def context_size(flow: Flow) -> int:
    return flow.context


@constant
def context_chunk(flow: Flow) -> int:
    return min(32, padded(flow.context))


@constant
def activation(flow: Flow) -> str:
    return flow.activation


@constant
def inverse_bound(flow: Flow) -> float:
    return 1 / flow.bound


@constant
def group(flow: Flow) -> int:
    return flow.group


@constant
def steps(flow: Flow) -> int:
    return -(-flow.features // flow.group)


@constant
def last(flow: Flow) -> int:
    return len(flow.widths) + 1


@constant
def width(flow: Flow, layer: int) -> int:
    return (flow.features, *flow.widths, 2 * flow.features)[layer]


@constant
def lowest(flow: Flow) -> int:
    return 0 if flow.context or flow.features == 1 else 1


@constant
def most_units(flow: Flow, layer: int) -> int:
    """Of a hidden layer in one step."""
    low, units = lowest(flow), width(flow, layer)
    begins: list[int] = []
    for column in [*range(0, flow.features, flow.group), flow.features]:
        begins.append(-(-max(column - low, 0) * units // (flow.features - low)))
    return max(b - a for a, b in pairwise(begins))


@constant
def slice_size(flow: Flow, layer: int) -> int:
    return min(padded(most_units(flow, layer)), flow.most)


@constant
def slices(flow: Flow, layer: int) -> int:
    """Of a hidden layer in one step."""
    return -(-most_units(flow, layer) // slice_size(flow, layer))


@constant
def most_padded(flow: Flow, layer: int) -> int:
    """Above the number of every unit of a hidden layer, those of padding too: slices, chunks and tiles have 128 at most."""
    return 2 * width(flow, layer) + 256


@constant
def quotient_shift(divisor: int, most: int) -> int:
    return (divisor * most).bit_length()


@constant
def quotient_factor(divisor: int, most: int) -> int:
    """Rounded up: it is too large by less than 1 / (divisor * most) of 1 / divisor."""
    return -(-(1 << quotient_shift(divisor, most)) // divisor)


@constant
def single(flow: Flow) -> bool:
    """Whether every layer has one slice a step: the next layer takes it from registers."""
    return all(slices(flow, layer) == 1 for layer in range(1, last(flow)))


# where the parameters of a block are in its flat vector


@constant
def weight_at(flow: Flow, layer: int) -> int:
    at = 0
    for i in range(1, layer):
        at += width(flow, i) * (width(flow, i - 1) + 1 + (flow.context if i == 1 else 0))
    return at


@constant
def bias_at(flow: Flow, layer: int) -> int:
    return weight_at(flow, layer) + width(flow, layer) * width(flow, layer - 1)


@constant
def context_at(flow: Flow) -> int:
    return bias_at(flow, 1) + width(flow, 1)


@constant
def block_size(flow: Flow) -> int:
    return weight_at(flow, last(flow) + 1)


# the packed weights of a step: masked tiles (inputs, units) of powers of two, the first index running fastest, as its products take them.
# Kinds of tiles: a step's own units; on the way back, where units are those of the layer below; then both with what stands in memory.
# Layers: 0 for the context, then 1 ..., shifts, raw log-scales

OWN, OWN_BACK, STORED, STORED_BACK = (tl.constexpr(i) for i in range(4))


@constant
def parts(flow: Flow) -> int:
    return flow.parts


@constant
def chunk_size(flow: Flow, layer: int) -> int:
    """Units of a hidden layer that a product takes from memory, or columns of the context."""
    return min(padded(width(flow, layer)), flow.most) if layer else context_chunk(flow)


@constant
def chunks(flow: Flow, layer: int) -> int:
    return -(-(width(flow, layer) if layer else flow.context) // chunk_size(flow, layer))


@constant
def tile_inputs(flow: Flow, kind: int, layer: int) -> int:
    if kind >= 2:
        return chunk_size(flow, layer if kind == 3 else layer - 1)
    if layer == 0:
        return context_chunk(flow)
    if layer >= last(flow) if kind else layer == 1:
        return padded(flow.features)
    return slice_size(flow, layer if kind else min(layer, last(flow)) - 1)


@constant
def tile_units(flow: Flow, kind: int, layer: int) -> int:
    if kind % 2:
        return padded(flow.features) if layer == 1 else slice_size(flow, min(layer, last(flow)) - 1)
    return slice_size(flow, max(layer, 1)) if layer < last(flow) else padded(flow.features)


@constant
def tile_number(flow: Flow, kind: int, layer: int) -> int:
    """Tiles of a step."""
    if layer == 0:
        return slices(flow, 1) * chunks(flow, 0) if kind == 0 else 0
    if 1 < layer < last(flow):
        stored = (0, 0, slices(flow, layer) * chunks(flow, layer - 1), slices(flow, layer - 1) * chunks(flow, layer))
        return stored[kind] if kind >= 2 else int(single(flow))
    return slices(flow, 1 if layer == 1 else last(flow) - 1) if kind < 2 else 0


@constant
def tile_at(flow: Flow, kind: int, layer: int) -> int:
    at = 0
    for k, i in product(range(4), range(last(flow) + 2)):
        if (k, i) == (kind, layer):
            break
        number = tile_number(flow, k, i)
        at += number * tile_inputs(flow, k, i) * tile_units(flow, k, i) * flow.parts if number else 0
    return at


@constant
def step_size(flow: Flow) -> int:
    """Elements of all tiles of a step."""
    return tile_at(flow, 4, 0)


# what stands in memory of an event, layer behind layer: columns and hidden units, and adjoints from the first layer on


@constant
def stored_width(flow: Flow, layer: int) -> int:
    return chunks(flow, layer) * chunk_size(flow, layer) if 0 < layer < last(flow) else padded(width(flow, layer))


@constant
def value_at(flow: Flow, layer: int) -> int:
    return sum(stored_width(flow, i) for i in range(layer))


@constant
def adjoint_at(flow: Flow, layer: int) -> int:
    return sum(stored_width(flow, i) for i in range(1, layer))


# --- choices of the host


def make_flow(hidden: Sequence[int], orders: Tensor, context: Tensor, activation: str, bound: float, *, by_column: bool = False) -> Flow:
    """The shape, with the largest groups of columns whose units fit into a slice."""
    d, single = orders.shape[1], context.dtype == torch.float32
    flow = Flow(d, context.shape[1], tuple(hidden), activation, 1, 2 if SPLIT and single else 1, MOST, float(bound))
    groups = [] if by_column else [replace(flow, group=columns) for columns in range(d, 1, -1)]
    fitting = (g for g in groups if max(most_units(g, layer) for layer in range(1, last(g))) <= flow.most)
    return next(fitting, flow)


def tile_rows(flow: Flow, dtype: torch.dtype) -> int:
    """Events of a program."""
    return 128 if INTERPRETED else 64 if dtype == torch.float32 and flow.features <= 32 else 32


def resident_programs(device: torch.device) -> int:
    """Programs that share the work; results do not depend on it."""
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@constant
def tile_side(flow: Flow, layer: int) -> int:
    """Side of a tile of the weights' gradients along a layer's units; along the context where the layer is -1."""
    return min(64, padded(flow.context if layer < 0 else width(flow, layer)))


@constant
def tile_count(flow: Flow, layer: int) -> int:
    """Tiles of the gradient of a layer's weights; layer 0: of the context's."""
    units, inputs = width(flow, max(layer, 1)), flow.context if layer == 0 else width(flow, layer - 1)
    return -(-units // tile_side(flow, max(layer, 1))) * -(-inputs // tile_side(flow, layer - 1))


def case_flows() -> list[tuple[torch.dtype, str, Flow, Flow]]:
    """Shapes to compile where there is no card: (dtype, its name, flow of plain passes, flow of the inverse)."""
    cases = []
    for dtype, name in ((torch.float32, "fp32"), (torch.float64, "fp64")):
        for d, c, hidden, kind in ((6, 6, (128, 128), "relu"), (7, 0, (40, 20, 50), "elu")):
            shape = torch.empty(1, d), torch.empty(0, c, dtype=dtype)
            forward, by_column = (make_flow(hidden, *shape, kind, 7.0, by_column=inverse) for inverse in (False, True))
            cases.append((dtype, name, forward, by_column))
    return cases


def spills(name: str) -> dict[str, bool]:
    """What the compile check accepts: double precision, which is there to be exact."""
    return {"spills": True} if name == "fp64" else {}
