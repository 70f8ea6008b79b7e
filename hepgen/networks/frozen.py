"""Networks whose weights no longer change, on numpy arrays: what applying a saved model needs, without torch.

The compiled core does the work; with the reference backend, or where the core was not built, plain numpy does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.kernels import dispatch

Array = NDArray[Any]

#: Bound of the log-scale of an affine map; see `hepgen.networks.Affine`.
AFFINE_BOUND = math.log(1e3)

# in the order of the core's enumerations
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}
_OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def _core(op: str) -> Any:
    """The compiled core where it is to run `op`, else None."""
    return dispatch.core() if dispatch.choose(op) == "cpp" else None


def _activation(name: str) -> int:
    if name not in _ACTIVATIONS:
        raise UsageError(f"activation {name!r} is not known: choose one of {', '.join(_ACTIVATIONS)}")
    return list(_ACTIVATIONS).index(name)


def _layers(state: Mapping[str, Array], prefix: str = "") -> list[tuple[Array, Array]]:
    """Weight (units, seen) and bias (units,) of every dense layer under a prefix, in order."""
    count = sum(name.startswith(f"{prefix}layers.") and name.endswith(".weight") for name in state)
    if not count:
        raise UsageError(f"the network has no layer {prefix}layers.0.weight")
    layers = [(state[f"{prefix}layers.{i}.weight"], state[f"{prefix}layers.{i}.bias"]) for i in range(count)]
    seen = layers[0][0].shape[-1]
    for weight, bias in layers:
        if weight.ndim != 2 or weight.shape[1] != seen or bias.shape != weight.shape[:1]:
            raise UsageError(f"a layer of the network has a weight of shape {weight.shape} and a bias of shape {bias.shape}")
        seen = len(weight)
    return layers


def _one_dtype(state: Mapping[str, Array]) -> np.dtype[Any]:
    dtypes = {array.dtype for array in state.values()}
    if len(dtypes) != 1 or next(iter(dtypes)) not in (np.float32, np.float64):
        raise UsageError(f"the weights of a network must be all float32 or all float64, not {', '.join(sorted(map(str, dtypes)))}")
    return next(iter(dtypes))


class FrozenMAF:
    """A conditional masked autoregressive flow with affine maps, applied; the twin of `hepgen.networks.MAF`.

    Parameters
    ----------
    state : mapping of str to array
        The weights as `MAF.state_dict` names them, all float32 or all float64, and ``orders`` (blocks, d) int64.
    activation : {"relu", "tanh", "elu"}
    shear : bool
        See `hepgen.networks.MAF`.
    bound : float
        Bound of the log-scale.

    Raises
    ------
    UsageError
        The weights are not those of one flow.
    """

    def __init__(self, state: Mapping[str, Array], *, activation: str = "relu", shear: bool = False, bound: float = AFFINE_BOUND) -> None:
        self.state = {name: np.ascontiguousarray(array) for name, array in state.items()}
        self.orders = self.state["orders"].astype(np.int64)
        weights = {name: array for name, array in self.state.items() if name != "orders"}
        self.dtype = _one_dtype(weights)
        self.activation, self.shear, self.bound, self._kind = activation, shear, float(bound), _activation(activation)
        if self.orders.ndim != 2 or not self.orders.size:
            raise UsageError(f"the orders of a flow have shape (blocks, columns), not {self.orders.shape}")
        self.blocks: list[tuple[list[tuple[Array, Array]], Array | None]] = []
        for b in range(len(self.orders)):
            prefix = f"blocks.{b}."
            self.blocks.append((_layers(weights, prefix), weights.get(f"{prefix}context_layer.weight")))
        self._check()
        self._flat = np.concatenate([part.ravel() for layers, context in self.blocks for part in _in_order(layers, context)])

    @property
    def features(self) -> int:
        """Number of columns d."""
        return int(self.orders.shape[1])

    @property
    def context(self) -> int:
        """Number of context columns c."""
        weight = self.blocks[0][1]
        return 0 if weight is None else int(weight.shape[1])

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(len(bias) for _, bias in self.blocks[0][0][:-1])

    def _check(self) -> None:
        widths = [self.features, *self.hidden, 2 * self.features]
        for b, (layers, context) in enumerate(self.blocks):
            shapes = [weight.shape for weight, _ in layers]
            wanted = [(units, seen) for seen, units in pairwise(widths)]
            fits = (None if context is None else context.shape) == ((widths[1], self.context) if self.context else None)
            if not self.hidden or shapes != wanted or not fits or sorted(self.orders[b]) != list(range(self.features)):
                raise UsageError(f"block {b} of the flow has weights of shapes {shapes}, and {wanted} were expected")
        if self.shear and self.context < self.features:
            raise UsageError(f"a shear adds {self.features} columns of the context, and there are {self.context}")

    def forward(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        """Data to base: (n, d) and (n, c) -> z (n, d) and log |det dz/dx| (n,), in the dtype of the weights."""
        x, context = self._rows(x), self._context(context, len(x))
        if self.shear:
            x = x + context[:, : self.features]
        return self._apply("maf_forward", x, context)

    def inverse(self, z: Array, context: Array | None = None) -> tuple[Array, Array]:
        """Base to data: (n, d) and (n, c) -> x (n, d) and log |det dx/dz| (n,). A row does not depend on the others."""
        context = self._context(context, len(z))
        x, log_det = self._apply("maf_inverse", self._rows(z), context)
        return (x - context[:, : self.features] if self.shear else x), log_det

    def log_prob(self, x: Array, context: Array | None = None) -> Array:
        """Log-density log p(x | context) of (n, d) rows, (n,)."""
        z, log_det = self.forward(x, context)
        return np.asarray(log_det - 0.5 * (np.square(z).sum(1) + self.features * math.log(2 * math.pi)))

    def _rows(self, x: Array, columns: int | None = None) -> Array:
        x = np.asarray(x).astype(self.dtype, copy=False)
        columns = self.features if columns is None else columns
        if x.ndim != 2 or x.shape[1] != columns:
            raise UsageError(f"the flow takes rows of {columns} columns, not an array of shape {x.shape}")
        return x

    def _context(self, context: Array | None, n: int) -> Array:
        if context is None:
            context = np.empty((n, 0), dtype=self.dtype)
        return self._rows(context, self.context)

    def _apply(self, op: str, rows: Array, context: Array) -> tuple[Array, Array]:
        inverse, core = op == "maf_inverse", _core(op)
        if core is None:
            return (self._inverse if inverse else self._forward)(rows, context)
        flow = self._flat, list(self.hidden), self.orders, self._kind, self.bound
        out, log_det, _ = core.maf_apply(inverse, rows, context, *flow, False, dispatch.thread_count())
        return out, log_det

    # -- reference: plain numpy, the masks written out --------------------------------------------------------------

    def _forward(self, x: Array, context: Array) -> tuple[Array, Array]:
        log_det = np.zeros(len(x), dtype=self.dtype)
        for block, order in zip(self.blocks, self.orders, strict=True):
            ordered = x[:, order]
            shift, a = self._parameters(ordered, context, *block)
            x = ((ordered - shift) * np.exp(-a))[:, np.argsort(order)]
            log_det -= a.sum(1)
        return x, log_det

    def _inverse(self, z: Array, context: Array) -> tuple[Array, Array]:
        log_det = np.zeros(len(z), dtype=self.dtype)
        for block, order in zip(reversed(self.blocks), reversed(self.orders), strict=True):
            ordered = z[:, order]
            x = ordered.copy()
            for j in range(self.features):  # what column j sees is known by then, and what follows it is masked away
                shift, a = self._parameters(x, context, *block)
                x[:, j] = ordered[:, j] * np.exp(a[:, j]) + shift[:, j]
                log_det += a[:, j]
            z = x[:, np.argsort(order)]
        return z, log_det

    def _parameters(
        self, x: Array, context: Array, layers: Sequence[tuple[Array, Array]], from_context: Array | None
    ) -> tuple[Array, Array]:
        """Shift and log-scale of every column (n, d), from columns in the block's order."""
        masks = autoregressive_masks(self.features, self.context, self.hidden)
        hidden = x
        for i, ((weight, bias), mask) in enumerate(zip(layers, masks, strict=True)):
            hidden = hidden @ (weight * mask).T + bias
            if i == 0 and from_context is not None:
                hidden = hidden + context @ from_context.T
            if i < len(layers) - 1:
                hidden = _ACTIVATIONS[self.activation](hidden)
        raw = hidden[:, 1::2]
        return hidden[:, ::2], raw / (1 + np.abs(raw) / self.dtype.type(self.bound))


def _in_order(layers: Sequence[tuple[Array, Array]], context: Array | None) -> list[Array]:
    """The parameters of a block in the order that the core takes them."""
    first, *rest = layers
    return [*first, *([] if context is None else [context]), *(part for layer in rest for part in layer)]


def autoregressive_masks(features: int, context: int, hidden: Sequence[int]) -> list[Array]:
    """The mask (units, seen) of every layer of a masked network with hidden units sorted by degree; see `hepgen.networks.MADE`."""
    lowest = 0 if context or features == 1 else 1
    degrees = [np.arange(1, features + 1), *(lowest + np.arange(width) * (features - lowest) // width for width in hidden)]
    last = np.arange(features).repeat(2)
    return [(seen <= units[:, None]).astype(np.float32) for seen, units in zip(degrees, [*degrees[1:], last], strict=True)]


class FrozenMLP:
    """A multilayer perceptron, applied; the twin of `hepgen.networks.MLP`.

    Parameters
    ----------
    state : mapping of str to array
        The weights as `MLP.state_dict` names them, all float32 or all float64.
    activation : {"relu", "tanh", "elu"}
    output : {"linear", "sigmoid", "tanh"}
    shortcuts : bool
        See `hepgen.networks.MLP`.

    Raises
    ------
    UsageError
        The weights are not those of one network.
    """

    def __init__(self, state: Mapping[str, Array], *, activation: str = "relu", output: str = "linear", shortcuts: bool = False) -> None:
        if output not in _OUTPUTS:
            raise UsageError(f"output {output!r} is not known: choose one of {', '.join(_OUTPUTS)}")
        self.state = {name: np.ascontiguousarray(array) for name, array in state.items()}
        self.dtype = _one_dtype(self.state)
        self.activation, self.output, self.shortcuts, self._kind = activation, output, bool(shortcuts), _activation(activation)
        self.layers = _layers(self.state)
        for layer in range(1, len(self.layers)):
            if self.has_shortcut(layer) and self.widths[layer] != self.widths[layer - 2]:
                raise UsageError(f"shortcuts join hidden layers of equal widths, and those of the network are {self.widths[1:-1]}")
        self._flat = np.concatenate([part.ravel() for layer in self.layers for part in layer])

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns that go in, units of every layer, the last of which come out."""
        return (int(self.layers[0][0].shape[1]), *(len(bias) for _, bias in self.layers))

    def has_shortcut(self, layer: int) -> bool:
        """Whether the units of hidden layer - 2 are added before the activation of this layer; layers count from 1."""
        return self.shortcuts and layer > 2 and layer % 2 == 1 and layer < len(self.layers)

    def __call__(self, x: Array) -> Array:
        """(n, inputs) -> (n, outputs) in the dtype of the weights. A row does not depend on the others."""
        x = np.asarray(x).astype(self.dtype, copy=False)
        if x.ndim != 2 or x.shape[1] != self.widths[0]:
            raise UsageError(f"the network takes rows of {self.widths[0]} columns, not an array of shape {x.shape}")
        core = _core("mlp")
        if core is not None:
            output = list(_OUTPUTS).index(self.output)
            network = self._flat[None], np.zeros(1, np.int64), list(self.widths), self._kind, output, self.shortcuts, 0.0
            out, _ = core.mlp_apply(x[None], *network, False, dispatch.thread_count())
            return np.asarray(out[0])
        *hidden, (weight, bias) = self.layers
        before = x
        for layer, (inner, offset) in enumerate(hidden, start=1):
            total = x @ inner.T + offset
            before, x = x, _ACTIVATIONS[self.activation](total + before if self.has_shortcut(layer) else total)
        return _OUTPUTS[self.output](x @ weight.T + bias)
