"""Networks as ONNX operators, from frozen arrays: perceptrons, and flows in both directions.

Masks are folded into the weights: what a mask leaves of a layer with units sorted by degree is a staircase of blocks. Forward, a block of a
flow is one pass of dense layers. Inverse, the columns are solved one after the other, and every hidden unit is computed once, when the
columns that it sees are known; its weights beyond them are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepgen.exporting.onnx_graph import Graph, Operand
from hepgen.networks.frozen import FrozenMAF, FrozenMLP, autoregressive_masks

Array = NDArray[Any]


def dense(g: Graph, x: str, weight: Array, bias: Operand) -> str:
    """x (n, seen), weight (units, seen), bias (units,) or (n, units) -> (n, units)."""
    return g.op("Gemm", x, weight, bias, transB=1)


def activate(g: Graph, kind: str, x: str, dtype: np.dtype[Any]) -> str:
    """The activation of hidden units."""
    if kind == "elu" and dtype == np.float64:  # onnxruntime has Elu in float32 only
        nothing, one = np.zeros((), dtype), np.ones((), dtype)
        below = g.op("Sub", g.op("Exp", g.op("Min", x, nothing)), one)
        return g.where(g.op("Greater", x, nothing), x, below)
    return g.op({"relu": "Relu", "tanh": "Tanh", "elu": "Elu"}[kind], x)


def perceptron(g: Graph, network: FrozenMLP, x: str) -> str:
    """(n, inputs) -> (n, outputs), in the dtype of the weights."""
    *hidden, (weight, bias) = network.layers
    before = x  # two layers
    for layer, (inner, offset) in enumerate(hidden, start=1):
        total = dense(g, x, inner, offset)
        if network.has_shortcut(layer):
            total = g.op("Add", total, before)
        before, x = x, activate(g, network.activation, total, network.dtype)
    x = dense(g, x, weight, bias)
    return x if network.output == "linear" else g.op({"sigmoid": "Sigmoid", "tanh": "Tanh"}[network.output], x)


# --- flows -----------------------------------------------------------------------------------------------------------------------


def flow_forward(g: Graph, flow: FrozenMAF, x: str, context: str | None) -> tuple[str, str]:
    """Data to base: names of z (n, d) and log_det (n,), all in the dtype of the weights."""
    if flow.shear and context is not None:
        x = g.op("Add", x, g.first(context, flow.features))
    changes = []
    for block, order in zip(flow.blocks, flow.orders, strict=True):
        shift, a = _parameters(g, flow, x, context, block, order)
        x = g.op("Mul", g.op("Sub", x, shift), g.op("Exp", g.op("Neg", a)))
        changes.append(a)
    return x, g.op("Neg", g.total(_sum(g, changes)))


def _parameters(g: Graph, flow: FrozenMAF, x: str, context: str | None, block: Any, order: Array) -> tuple[str, str]:
    """Shift and log-scale (n, d) of every column of x, which stays in its own order: the block's is folded into the weights."""
    layers, from_context = block
    masks = autoregressive_masks(flow.features, flow.context, flow.hidden)
    weights = [weight * mask.astype(flow.dtype) for (weight, _), mask in zip(layers, masks, strict=True)]
    place = np.argsort(order)  # where column i of x is in the order of the block
    rows = np.concatenate([2 * place, 2 * place + 1])  # all shifts, then all raw log-scales
    offset: Operand = layers[0][1]
    if from_context is not None and context is not None:
        offset = dense(g, context, from_context, offset)
    hidden = activate(g, flow.activation, dense(g, x, weights[0][:, place], offset), flow.dtype)
    for weight, (_, bias) in zip(weights[1:-1], layers[1:-1], strict=True):
        hidden = activate(g, flow.activation, dense(g, hidden, weight, bias), flow.dtype)
    shift, raw = g.split(dense(g, hidden, weights[-1][rows], layers[-1][1][rows]), [flow.features] * 2)
    return shift, _log_scale(g, flow, raw)


def _log_scale(g: Graph, flow: FrozenMAF, raw: str) -> str:
    """a = r / (1 + |r| / bound)."""
    bound, one = (np.asarray(value, dtype=flow.dtype) for value in (flow.bound, 1))
    return g.op("Div", raw, g.op("Add", g.op("Div", g.op("Abs", raw), bound), one))


def _sum(g: Graph, parts: Sequence[str]) -> str:
    total = parts[0]
    for part in parts[1:]:
        total = g.op("Add", total, part)
    return total


def flow_inverse(g: Graph, flow: FrozenMAF, z: str, context: str | None, *, log_det: bool = True) -> tuple[str, str | None]:
    """Base to data: names of x (n, d) and, where wanted, log_det (n,)."""
    columns, changes = g.split(z, [1] * flow.features), []
    for block, order in zip(reversed(flow.blocks), reversed(flow.orders), strict=True):
        made = _Columns(g, flow, block, context, z)
        for j, column in enumerate(order):
            columns[column], a = made.solve(j, columns[column])
            changes.append(a)
    x = g.join(columns)
    if flow.shear and context is not None:
        x = g.op("Sub", x, g.first(context, flow.features))
    return x, g.total(g.join(changes)) if log_det else None


class _Part(NamedTuple):
    """Columns that are known: a name, and how many."""

    name: str
    width: int


class _Columns:
    """The columns of one block as they become known, and the hidden units that they unlock."""

    def __init__(self, g: Graph, flow: FrozenMAF, block: Any, context: str | None, like: str) -> None:
        self.g, self.flow, self.like = g, flow, like
        self.layers, from_context = block
        # stops[layer][j]: how many units of the layer see no more than the first j columns
        self.stops = [_stops(flow, width) for width in flow.hidden]
        self.known: _Part | None = None
        self.hidden: list[_Part | None] = [None for _ in flow.hidden]
        self.offsets = self._offsets(from_context, context)

    def _offsets(self, from_context: Array | None, context: str | None) -> dict[int, Operand]:
        """What the first layer has from its bias and the context, by the number of the first of the units that a column unlocks."""
        bias = self.layers[0][1]
        spans = [(start, stop) for start, stop in pairwise([0, *self.stops[0]]) if stop > start]
        if from_context is None or context is None:
            return {start: bias[start:stop] for start, stop in spans}
        whole = dense(self.g, context, from_context, bias)
        return dict(zip((start for start, _ in spans), self.g.split(whole, [stop - start for start, stop in spans]), strict=True))

    def solve(self, j: int, z: str) -> tuple[str, str]:
        """Column j (n, 1) in the order of the block, and its log-scale (n, 1)."""
        seen = self.known
        for layer, stops in enumerate(self.stops):
            start, stop = (stops[j - 1] if j else 0), stops[j]
            if stop > start:
                weight, bias = self.layers[layer]
                offset = self.offsets[start] if layer == 0 else bias[start:stop]
                units = activate(self.g, self.flow.activation, self._dense(seen, weight[start:stop], offset), self.flow.dtype)
                self.hidden[layer] = self._grown(self.hidden[layer], units, stop - start)
            seen = self.hidden[layer]
        weight, bias = self.layers[-1]
        rows = slice(2 * j, 2 * j + 2)
        shift, raw = self.g.split(self._dense(seen, weight[rows], bias[rows]), [1, 1])
        a = _log_scale(self.g, self.flow, raw)
        x = self.g.op("Add", self.g.op("Mul", z, self.g.op("Exp", a)), shift)
        self.known = self._grown(self.known, x, 1)
        return x, a

    def _grown(self, part: _Part | None, name: str, width: int) -> _Part:
        return _Part(name, width) if part is None else _Part(self.g.join([part.name, name]), part.width + width)

    def _dense(self, seen: _Part | None, weight: Array, offset: Operand) -> str:
        """Units from what is known; from their offset alone where nothing is."""
        if seen is not None:
            return dense(self.g, seen.name, weight[:, : seen.width], offset)
        return offset if isinstance(offset, str) else self._repeated(offset)

    def _repeated(self, offset: Array) -> str:
        """Numbers (units,) for every event, (n, units)."""
        events = self.g.op("Shape", self.like, start=0, end=1)
        shape = self.g.op("Concat", events, np.array([len(offset)], dtype=np.int64), axis=0)
        return self.g.op("Expand", offset, shape)


def _stops(flow: FrozenMAF, width: int) -> list[int]:
    degrees = autoregressive_masks(flow.features, flow.context, (width,))[0].sum(axis=1)
    return [int((degrees <= j).sum()) for j in range(flow.features)]
