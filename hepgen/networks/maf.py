"""Conditional masked autoregressive flow (Papamakarios et al. 2017; the CNF of the sim-to-data paper, sec. 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hepgen.errors import UsageError
from hepgen.kernels.maf import MafWeights, maf_backend, maf_forward, maf_inverse
from hepgen.kernels.maf_likelihood import maf_nll
from hepgen.networks.bijections import Affine, Bijection
from hepgen.networks.made import MADE

PERMUTATIONS = ("reverse", "random", "none")


class MAF(nn.Module):
    """A stack of masked autoregressive blocks on a standard normal base, with permutations of the columns between them.

    Parameters
    ----------
    features, context
        Columns d of the variable and c of the condition.
    blocks
        Number of autoregressive blocks; the paper has 10.
    hidden
        Widths of the dense layers of a block; the paper has two of 128.
    permutation
        Order of the columns between blocks: "reverse" (every second block runs backwards), "random" (fixed by `seed`) or "none".
    activation
        "relu", "tanh" or "elu".
    bijection
        Element-wise map, affine by default.
    seed
        Fixes the random permutations.
    shear
        Put a fixed layer before the blocks that adds the first d columns of the context to the variable (unit Jacobian). A variable that is
        a difference from its condition then reaches the blocks as what it is a difference of.
    """

    orders: Tensor  # (blocks, d): column j of block b is column orders[b, j] of its input

    def __init__(
        self,
        features: int,
        context: int = 0,
        blocks: int = 10,
        hidden: Sequence[int] = (128, 128),
        permutation: str = "reverse",
        activation: str = "relu",
        bijection: Bijection | None = None,
        seed: int = 0,
        shear: bool = False,
    ) -> None:
        super().__init__()
        if permutation not in PERMUTATIONS:
            raise UsageError(f"permutation {permutation!r} is not known: choose one of {', '.join(PERMUTATIONS)}")
        if blocks < 1:
            raise UsageError(f"a flow needs at least one block, not blocks={blocks}")
        if shear and context < features:
            raise UsageError(f"a shear adds {features} columns of the context, and there are {context}")
        self.features, self.context, self.permutation, self.shear = features, context, permutation, shear
        self.bijection: Bijection = bijection if bijection is not None else Affine()
        self.blocks = nn.ModuleList(MADE(features, context, hidden, self.bijection.outputs, activation) for _ in range(blocks))
        self.register_buffer("orders", self._orders(blocks, seed))

    def _orders(self, blocks: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        orders = torch.arange(self.features).repeat(blocks, 1)
        if self.permutation == "reverse":
            orders[1::2] = orders[1::2].flip(1)
        elif self.permutation == "random":
            orders = torch.stack([torch.randperm(self.features, generator=generator) for _ in range(blocks)])
        return orders

    @property
    def mades(self) -> list[MADE]:
        """The blocks, the one next to the data first."""
        return [block for block in self.blocks if isinstance(block, MADE)]

    def weights(self) -> MafWeights:
        """The parameters of an affine flow as the kernels take them."""
        if not isinstance(self.bijection, Affine):
            raise UsageError(f"the flow kernels know affine maps only, not {type(self.bijection).__name__}")
        blocks, mades = [], self.mades
        for made in mades:
            first, *rest = made.linears
            context = [] if made.context_layer is None else [made.context_layer.weight]
            blocks.append([first.weight, first.bias, *context, *(t for layer in rest for t in (layer.weight, layer.bias))])
        return MafWeights(blocks, self.orders, mades[0].activation, self.bijection.bound)

    def _compiled(self, op: str, x: Tensor) -> bool:
        """Whether a compiled kernel takes the whole flow; what follows in each direction is plain torch and any bijection."""
        affine = type(self.bijection) is Affine and x.dtype in {torch.float32, torch.float64}
        return affine and maf_backend(op, x.device.type) != "reference"

    def _sheared(self, x: Tensor, context: Tensor | None) -> Tensor:
        return x + context[:, : self.features] if self.shear and context is not None else x

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to base: (n, d) and (n, c) -> z (n, d) and log |det dz/dx| (n,), one pass per block."""
        x = self._sheared(x, context)
        if self._compiled("maf_forward", x):
            return maf_forward(x, context if self.context else None, self.weights())
        log_det = x.new_zeros(len(x))
        for block, order in zip(self.mades, self.orders, strict=True):
            x = x[:, order]
            z, change = self.bijection.forward(x, block(x, context))
            x = z[:, torch.argsort(order)]
            log_det = log_det + change.sum(1)
        return x, log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Base to data: (n, d) and (n, c) -> x (n, d) and log |det dx/dz| (n,); differentiable, one forward pass of work."""
        x, log_det = self._blocks_inverse(z, context)
        return (x - context[:, : self.features] if self.shear and context is not None else x), log_det

    def _blocks_inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._compiled("maf_inverse", z):
            return maf_inverse(z, context if self.context else None, self.weights())
        log_det = z.new_zeros(len(z))
        for block, order in zip(reversed(self.mades), reversed(self.orders), strict=True):
            ordered = z[:, order]
            changes: list[Tensor] = []

            def solve(column: int, parameters: Tensor, ordered: Tensor = ordered, changes: list[Tensor] = changes) -> Tensor:
                value, change = self.bijection.inverse(ordered[:, column], parameters)
                changes.append(change)
                return value

            x = block.columns(context, solve, ordered)
            z = x[:, torch.argsort(order)]
            log_det = log_det + torch.stack(changes).sum(0)
        return z, log_det

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density log p(x | context) of (n, d) rows, (n,)."""
        z, log_det = self.forward(x, context)
        return log_det - 0.5 * (z.square().sum(1) + self.features * math.log(2 * math.pi))

    def negative_log_likelihood(self, x: Tensor, context: Tensor | None = None, event_weights: Tensor | None = None) -> Tensor:
        """Mean of -log p(x | context) over (n, d) rows under signed weights (n,), a scalar.

        The same as the mean of :meth:`log_prob`, with value and gradient in one sweep where the flow is compiled.
        """
        if not self._compiled("maf_nll", x):
            log_prob = self.log_prob(x, context)
            return -log_prob.mean() if event_weights is None else -(event_weights * log_prob).sum() / event_weights.sum()
        total = maf_nll(self._sheared(x, context), context if self.context else None, self.weights(), event_weights)
        return total / (len(x) if event_weights is None else event_weights.sum())
