"""Perceptrons of one shape as one module, to be trained together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from hepgen.kernels.perceptron import Dropout, MlpShape, mlp_ensemble
from hepgen.networks.mlp import MLP


class EnsembleMLP(nn.Module):
    """The networks of an ensemble, each with events of its own; compiled as a whole, as `MLP` is.

    Parameters
    ----------
    networks : sequence of MLP
        Of one shape, whose weights are copied.

    Attributes
    ----------
    parameter : (members, P) tensor
        Per member weight and bias of every layer, the first one first.
    """

    def __init__(self, networks: Sequence[MLP]) -> None:
        super().__init__()
        first = networks[0]
        widths = [first.linears[0].in_features, *(layer.out_features for layer in first.linears)]
        self.shape = MlpShape(widths, first.activation, first.output, first.shortcuts)
        rows = [
            torch.cat([part.detach().reshape(-1) for layer in network.linears for part in (layer.weight, layer.bias)])
            for network in networks
        ]
        self.parameter = nn.Parameter(torch.stack(rows))

    def __len__(self) -> int:
        return len(self.parameter)

    def forward(self, x: Tensor, members: Sequence[int] | None = None, dropout: Dropout | None = None) -> Tensor:
        """(members, n, inputs) -> (members, n, outputs); of some members alone where they are named."""
        chosen = self.parameter if members is None or len(members) == len(self) else self.parameter[list(members)]
        return mlp_ensemble(x, chosen, self.shape, dropout)

    def state_of(self, member: int) -> dict[str, Tensor]:
        """The weights of one member as `MLP.state_dict` names them."""
        row, state, at = self.parameter.detach()[member], {}, 0
        for number, (seen, units) in enumerate(pairwise(self.shape.widths)):
            state[f"layers.{number}.weight"] = row[at : at + seen * units].reshape(units, seen)
            state[f"layers.{number}.bias"] = row[at + seen * units : at + (seen + 1) * units]
            at += (seen + 1) * units
        return state
