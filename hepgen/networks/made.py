"""Masked autoregressive network (Germain et al. 2015) with hidden units sorted by degree.

A hidden unit of degree g sees the first g columns (and all of the context); the parameters of column i see the hidden
units of degree <= i. Sorted by degree, every mask is block-triangular: that is what `MADE.columns` lives on, which walks
the columns one after the other and computes each hidden unit exactly once, when the columns it needs are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepgen.errors import UsageError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh, "elu": F.elu}


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """The activation called `name`; a UsageError names those there are."""
    if name not in ACTIVATIONS:
        raise UsageError(f"activation {name!r} is not known: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def hidden_degrees(width: int, features: int, context: int) -> Tensor:
    """Degrees of `width` hidden units, ascending and spread evenly: 0..d-1, or 1..d-1 where no context feeds degree 0."""
    lowest = 0 if context or features == 1 else 1
    steps = torch.arange(width, dtype=torch.int64)
    return lowest + steps * (features - lowest) // width


class MADE(nn.Module):
    """Parameters of column i from the columns before it and a context.

    Parameters
    ----------
    features
        Number of columns d.
    context
        Number of context columns c; 0 for none.
    hidden
        Widths of the hidden layers.
    outputs
        Parameters per column k.
    activation
        "relu", "tanh" or "elu".
    """

    def __init__(
        self, features: int, context: int = 0, hidden: Sequence[int] = (128, 128), outputs: int = 2, activation: str = "relu"
    ) -> None:
        super().__init__()
        if features < 1 or context < 0 or not hidden or min(hidden) < 1:
            raise UsageError(
                f"a masked network needs at least one column and one hidden unit, not features={features}, hidden={tuple(hidden)}"
            )
        self.features, self.context, self.hidden, self.outputs = features, context, tuple(hidden), outputs
        self.activation = activation
        self._activate = activation_function(activation)
        degrees = [torch.arange(1, features + 1), *(hidden_degrees(width, features, context) for width in hidden)]
        column_degrees = torch.arange(features).repeat_interleave(outputs)
        linears: list[nn.Linear] = []
        for layer, (seen, units) in enumerate(zip(degrees, [*degrees[1:], column_degrees], strict=True)):
            linears.append(nn.Linear(len(seen), len(units)))
            self.register_buffer(f"mask{layer}", (seen <= units[:, None]).to(torch.get_default_dtype()), persistent=False)
        self.layers = nn.ModuleList(linears)
        self.context_layer = nn.Linear(context, hidden[0], bias=False) if context else None
        # unit_stops[layer][i]: how many hidden units of that layer have degree <= i
        self.unit_stops = [torch.searchsorted(d, torch.arange(features), right=True).tolist() for d in degrees[1:]]
        with torch.no_grad():  # a fresh flow starts near the identity
            linears[-1].weight.mul_(0.1)
            linears[-1].bias.zero_()

    @property
    def linears(self) -> list[nn.Linear]:
        """The layers, the one of the parameters last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def weights(self) -> list[Tensor]:
        """The masked weight matrix of every layer, (units, seen)."""
        return [layer.weight * getattr(self, f"mask{i}") for i, layer in enumerate(self.linears)]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(n, d) and (n, c) -> parameters (n, d, k), in one pass."""
        *inner, last = self.weights()
        biases = [layer.bias for layer in self.linears]
        hidden = x
        for i, weight in enumerate(inner):
            before = F.linear(hidden, weight, biases[i])
            if i == 0 and self.context_layer is not None:
                before = before + self.context_layer(context)
            hidden = self._activate(before)
        return F.linear(hidden, last, biases[-1]).view(len(x), self.features, self.outputs)

    def columns(self, context: Tensor | None, solve: Callable[[int, Tensor], Tensor], like: Tensor) -> Tensor:
        """Walk the columns in order: ``solve(i, parameters (n, k))`` returns column i (n,), which later parameters may see.

        Every hidden unit is computed once, so that the whole walk costs one forward pass. Returns the columns as (n, d).
        """
        weights, biases = self.weights(), [layer.bias for layer in self.linears]
        from_context = None if self.context_layer is None else self.context_layer(context)
        known = like.new_empty((len(like), 0))
        hidden = [known] * len(self.hidden)
        columns: list[Tensor] = []
        for i in range(self.features):
            seen = known
            for layer, stops in enumerate(self.unit_stops):
                start, stop = (stops[i - 1] if i else 0), stops[i]
                if stop > start:
                    before = F.linear(seen, weights[layer][start:stop, : seen.shape[1]], biases[layer][start:stop])
                    if layer == 0 and from_context is not None:
                        before = before + from_context[:, start:stop]
                    hidden[layer] = torch.cat([hidden[layer], self._activate(before)], dim=1)
                seen = hidden[layer]
            rows = slice(i * self.outputs, (i + 1) * self.outputs)
            columns.append(solve(i, F.linear(seen, weights[-1][rows, : seen.shape[1]], biases[-1][rows])))
            known = torch.cat([known, columns[-1][:, None]], dim=1)
        return known
