"""Generators whose weights no longer change, on numpy arrays; the twins of `hepgen.networks.gan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.networks.frozen import FrozenMLP

Array = NDArray[Any]

ROWS = 256  # events that a convolutional generator takes at a time: what it makes of them stays in the caches


class FrozenGenerator:
    """A generator, applied: (condition, latent) -> objects in (-1, 1).

    Parameters
    ----------
    state : mapping of str to array
        The weights as `ConvolutionalGenerator.state_dict` or `DenseGenerator.state_dict` names them.

    Raises
    ------
    UsageError
        The weights are not those of a generator.
    """

    def __init__(self, state: Mapping[str, Array]) -> None:
        self.state = {name: np.ascontiguousarray(array) for name, array in state.items()}
        dense = {name.removeprefix("network."): array for name, array in self.state.items() if name.startswith("network.")}
        self._dense = FrozenMLP(dense) if dense else None
        self._layers = self._convolutional_layers() if self._dense is None else {}

    @property
    def inputs(self) -> int:
        """Columns of condition and latent together."""
        return self._dense.widths[0] if self._dense is not None else int(self.state["first.weight"].shape[1])

    @property
    def outputs(self) -> int:
        """Columns that are generated."""
        return self._dense.widths[-1] if self._dense is not None else len(self.state["last.weight"])

    def __call__(self, condition: Array, latent: Array) -> Array:
        """(n, inputs) and (n, latent) -> (n, outputs) float64. A row does not depend on the others."""
        rows = np.concatenate([condition, latent], axis=1).astype(np.float32)
        if rows.shape[1] != self.inputs:
            raise UsageError(f"the generator takes {self.inputs} columns of condition and latent, not {rows.shape[1]}")
        parts = [self._before_tanh(rows[first : first + ROWS]) for first in range(0, len(rows), ROWS)]
        return np.tanh(np.concatenate(parts).astype(np.float64)) if parts else np.empty((0, self.outputs))

    def _before_tanh(self, x: Array) -> Array:
        if self._dense is not None:
            return self._dense(x)
        n, layers = len(x), self._layers
        hidden = np.maximum(layers["first"](x), 0)
        for layer in range(3):
            hidden = np.maximum(layers[f"up.{layer}"](hidden), 0)
            hidden = hidden.reshape(-1, len(self.state[f"up.{layer}.bias"]))
        # pixels patch by patch -> lines, with a rim of zeros
        image = hidden.reshape(n, 4, 4, 2, 2, 2, 2, -1).transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, 16, 16, -1)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2))
        hidden = np.maximum(layers["convolution"](windows.reshape(n * 256, -1)), 0)
        return layers["last"](hidden.reshape(n, -1))

    def _convolutional_layers(self) -> dict[str, FrozenMLP]:
        """Every layer as a dense one on rows that the layer before leaves: the compiled core runs it, and no row depends on another."""
        names = [f"{layer}.{part}" for layer in ("first", "up.0", "up.1", "up.2", "convolution", "last") for part in ("weight", "bias")]
        wrong = sorted(set(names) ^ set(self.state))
        if wrong:
            raise UsageError(f"the weights are not those of a generator: {', '.join(wrong)}")
        shapes: dict[str, tuple[int | None, ...]] = {
            "first": (1024, None), "up.0": (1024, 4, 4, 32), "up.1": (32, 2, 2, 16), "up.2": (16, 2, 2, 8), "convolution": (4, 8, 3, 3),
            "last": (None, 1024),
        }  # fmt: skip
        layers = {}
        for name, expected in shapes.items():
            weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
            if weight.ndim != len(expected) or any(size not in (None, found) for size, found in zip(expected, weight.shape, strict=True)):
                raise UsageError(f"the generator's {name}.weight has the shape {weight.shape}")
            if name.startswith("up"):
                weight, bias = weight.reshape(len(weight), -1).T, np.tile(bias, weight[0, :, :, 0].size)
            layers[name] = FrozenMLP({"layers.0.weight": weight.reshape(len(weight), -1), "layers.0.bias": bias})
        return layers
