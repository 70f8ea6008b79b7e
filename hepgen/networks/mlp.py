"""Plain multilayer perceptron: the ratio networks, and the encoders and decoders of the generative models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from hepgen.errors import UsageError
from hepgen.kernels.perceptron import Dropout, MlpShape, MlpWeights, mlp, mlp_reference


class MLP(nn.Module):
    """Dense layers with one activation between them.

    Compiled as a whole, value and gradient and dropout, in float32 and float64 on the CPU; plain torch elsewhere.

    Parameters
    ----------
    inputs, outputs
        Columns that go in and come out.
    hidden
        Widths of the hidden layers; none for a linear map.
    activation
        "relu", "tanh" or "elu".
    output
        "linear", "sigmoid" or "tanh".
    dropout
        Probability that a hidden unit is left out of a training step.
    shortcuts
        Add the units of the hidden layer two before to the sums of hidden layers 3, 5, ... before their activation (He et al. 2015); the
        layers so joined are of equal widths. Fewer than three hidden layers have none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (64, 128, 64),
        activation: str = "relu",
        output: str = "linear",
        dropout: float = 0.0,
        shortcuts: bool = False,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        if min(widths) < 1:
            raise UsageError(f"a network needs at least one unit in every layer, not {'-'.join(map(str, widths))}")
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout is a probability below 1, not {dropout}")
        MlpShape(widths, activation, output, shortcuts).check()
        self.activation, self.output, self.dropout, self.shortcuts = activation, output, dropout, shortcuts
        self.layers = nn.ModuleList(nn.Linear(seen, units) for seen, units in pairwise(widths))

    @property
    def linears(self) -> list[nn.Linear]:
        """The layers, the one of the outputs last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def weights(self) -> MlpWeights:
        """The parameters as the kernel takes them."""
        return MlpWeights([(layer.weight, layer.bias) for layer in self.linears], self.activation, self.output, self.shortcuts)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        if self.training and self.dropout > 0:
            seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64)  # of torch's generator, as any dropout
            out = mlp(rows, self.weights(), Dropout(self.dropout, seed))
        elif x.dtype in {torch.float32, torch.float64}:
            out = mlp(rows, self.weights())
        else:
            out = mlp_reference(rows, self.weights())
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], out.shape[-1])

    def extra_repr(self) -> str:
        """What the layers do not say."""
        shortcuts = ", shortcuts=True" if self.shortcuts else ""
        return f"activation={self.activation!r}, output={self.output!r}, dropout={self.dropout}{shortcuts}"
