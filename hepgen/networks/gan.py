"""Generators and discriminators of the adversarial fits: the convolutional pair of paper C, and a dense one of the same size.

All convolutions but one have a stride equal to their kernel, so that their patches do not overlap. With the pixels numbered patch by
patch instead of line by line, such a layer is one matrix product on rows that lie as they are: no copies, no im2col. The hidden units that
are read as an image have no order of their own, so that the numbering is no restriction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepgen.errors import UsageError
from hepgen.networks.mlp import MLP

SLOPE = 0.2  # of the leaky ReLUs below zero, as in DCGAN (Radford et al. 2015)


class Generator(nn.Module):
    """(condition (n, inputs), latent (n, latent)) -> objects (n, outputs) in (-1, 1); a row does not depend on the other rows.

    Parameters
    ----------
    inputs
        Columns of the condition; 0 for none.
    outputs
        Columns to generate.
    latent
        Normal variables.
    """

    def __init__(self, inputs: int, outputs: int, latent: int = 32) -> None:
        super().__init__()
        if inputs < 0 or outputs < 1 or latent < 1:
            raise UsageError(f"a generator needs an output and a latent at least, not inputs={inputs}, outputs={outputs}, latent={latent}")
        self.inputs, self.outputs, self.latent = inputs, outputs, latent

    def forward(self, condition: Tensor, latent: Tensor) -> Tensor:
        """Objects for every condition, differentiable in both arguments and the weights."""
        return torch.tanh(self.before_tanh(torch.cat([condition, latent], dim=1)))

    def before_tanh(self, x: Tensor) -> Tensor:
        """(n, inputs + latent) -> (n, outputs)."""
        raise NotImplementedError


class Discriminator(nn.Module):
    """(objects, condition), together (n, inputs) -> logits (n,): the larger, the more like the real ones.

    Parameters
    ----------
    inputs
        Columns of object and condition together.
    units
        Of the layer before the last.
    dropout
        Probability that one of these units is left out of a training step.
    """

    def __init__(self, inputs: int, units: int, dropout: float) -> None:
        super().__init__()
        if inputs < 1 or not 0 <= dropout < 1:
            raise UsageError(f"a discriminator needs inputs and a dropout below 1, not inputs={inputs}, dropout={dropout}")
        self.inputs, self.dropout = inputs, dropout
        self.last = nn.Linear(units, 1)
        _start([self.last], gain=1.0)

    def forward(self, objects: Tensor, condition: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The logits; dropout is at work where it is given a generator to draw from."""
        hidden = self.hidden(torch.cat([objects, condition], dim=1))
        if generator is not None and self.dropout > 0:
            kept = torch.empty_like(hidden).bernoulli_(1 - self.dropout, generator=generator)
            hidden = hidden * kept.div_(1 - self.dropout)
        logits: Tensor = self.last(hidden)[:, 0]
        return logits

    def hidden(self, x: Tensor) -> Tensor:
        """(n, inputs) -> the units before the last layer, (n, units)."""
        raise NotImplementedError


class ConvolutionalGenerator(Generator):
    """Generator of paper C: dense, three transposed convolutions, a convolution, dense, tanh.

    What the paper does not print is chosen so that the discriminator is its mirror image: one pixel grows to 4 x 4, 8 x 8 and 16 x 16, as
    the strides are the kernels. ReLU after every layer but the last; no normalisation, which would make an object depend on the others
    of its batch.

    ==========================  ============  =================  =========
    layer                       kernel        pixels x channels  MFlop
    ==========================  ============  =================  =========
    dense                       42 -> 1024    1 x 1 x 1024       0.09
    transposed convolution      4 x 4         4 x 4 x 32         1.05
    transposed convolution      2 x 2         8 x 8 x 16         0.07
    transposed convolution      2 x 2         16 x 16 x 8        0.07
    convolution, zeros outside  3 x 3         16 x 16 x 4        0.15
    dense                       1024 -> 4     4                  0.01
    ==========================  ============  =================  =========

    575 328 parameters and 1.42 MFlop an event for the paper's 10 conditions, 32 latents and 4 outputs.
    """

    def __init__(self, inputs: int, outputs: int, latent: int = 32) -> None:
        super().__init__(inputs, outputs, latent)
        self.first = nn.Linear(inputs + latent, 1024)
        self.up = nn.ModuleList([_Spread(1024, 32, 4), _Spread(32, 16, 2), _Spread(16, 8, 2)])
        self.convolution = nn.Conv2d(8, 4, 3, padding=1)
        self.last = nn.Linear(4 * 16 * 16, outputs)
        _start([self.first, self.convolution], gain=2.0)
        _start([self.last], gain=1.0)

    def before_tanh(self, x: Tensor) -> Tensor:
        """See `Generator.before_tanh`."""
        hidden = F.relu(self.first(x))
        for layer in self.up:
            hidden = F.relu(layer(hidden))
        image = by_lines(hidden, len(x)).permute(0, 3, 1, 2)  # a view: channels last in memory
        image = F.relu(self.convolution(image))
        out: Tensor = self.last(image.permute(0, 2, 3, 1).reshape(len(x), -1))
        return out


class ConvolutionalDiscriminator(Discriminator):
    """Discriminator of paper C: dense, three convolutions, dropout, dense; the sigmoid is part of the loss.

    What the paper does not print: the 256 units are read as one channel of 16 x 16 pixels, and the strides are the kernels, which leaves
    exactly one pixel after the third convolution. Leaky ReLU (0.2) after every layer but the last; no normalisation.

    ===========  ============  =================  =====
    layer        kernel        pixels x channels  MFlop
    ===========  ============  =================  =====
    dense        14 -> 256     16 x 16 x 1        0.01
    convolution  2 x 2         8 x 8 x 32         0.02
    convolution  2 x 2         4 x 4 x 64         0.26
    convolution  4 x 4         1 x 1 x 64         0.13
    dense        64 -> 1       1                  0.00
    ===========  ============  =================  =====

    77 921 parameters and 0.42 MFlop an event for the paper's 4 outputs and 10 conditions.
    """

    def __init__(self, inputs: int, dropout: float = 0.2) -> None:
        super().__init__(inputs, 64, dropout)
        self.first = nn.Linear(inputs, 256)
        self.down = nn.ModuleList([_Gather(1, 32, 2), _Gather(32, 64, 2), _Gather(64, 64, 4)])
        _start([self.first], gain=2.0)

    def hidden(self, x: Tensor) -> Tensor:
        """See `Discriminator.hidden`."""
        hidden = F.leaky_relu(self.first(x), SLOPE)
        for layer in self.down:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
        return hidden


class DenseGenerator(Generator):
    """Dense generator, on the compiled kernel: 549 380 parameters and 1.10 MFlop an event where `ConvolutionalGenerator` has 575 328."""

    def __init__(self, inputs: int, outputs: int, latent: int = 32, hidden: Sequence[int] = (512, 512, 512)) -> None:
        super().__init__(inputs, outputs, latent)
        self.network = MLP(inputs + latent, outputs, hidden, "relu")
        _start(self.network.linears[:-1], gain=2.0)
        _start(self.network.linears[-1:], gain=1.0)

    def before_tanh(self, x: Tensor) -> Tensor:
        """See `Generator.before_tanh`."""
        out: Tensor = self.network(x)
        return out


class DenseDiscriminator(Discriminator):
    """Dense discriminator, on the compiled kernel: 76 929 parameters and 0.15 MFlop an event where `ConvolutionalDiscriminator` has 77 921.

    Its ELUs, as the leaky ReLUs there, let a gradient through everywhere.
    """

    def __init__(self, inputs: int, dropout: float = 0.2, hidden: Sequence[int] = (240, 240, 64)) -> None:
        *inner, units = hidden
        super().__init__(inputs, units, dropout)
        self.network = MLP(inputs, units, inner, "elu")
        _start(self.network.linears, gain=2.0)

    def hidden(self, x: Tensor) -> Tensor:
        """See `Discriminator.hidden`."""
        return F.elu(self.network(x))


KINDS: dict[str, tuple[Callable[[int, int, int], Generator], Callable[[int, float], Discriminator]]] = {
    "convolutional": (ConvolutionalGenerator, ConvolutionalDiscriminator),
    "dense": (DenseGenerator, DenseDiscriminator),
}


def gan_networks(
    kind: str, inputs: int, outputs: int, latent: int = 32, *, dropout: float = 0.2, seed: int = 1
) -> tuple[Generator, Discriminator]:
    """Generator and discriminator with the weights that `seed` names.

    Parameters
    ----------
    kind
        "convolutional" or "dense".
    inputs, outputs, latent
        Columns of the condition, of the object, and of the latents.
    dropout
        Of the discriminator.
    """
    if kind not in KINDS:
        raise UsageError(f"networks {kind!r} are not known: choose one of {', '.join(KINDS)}")
    generator, discriminator = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return generator(inputs, outputs, latent), discriminator(outputs + inputs, dropout)


class _Spread(nn.Module):
    """Transposed convolution whose stride is its kernel: (n, seen) -> (n side^2, units), the pixels of a patch one after the other."""

    def __init__(self, seen: int, units: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(seen, side, side, units))
        self.bias = nn.Parameter(torch.zeros(units))
        _uniform(self.weight, seen, gain=2.0)

    def forward(self, x: Tensor) -> Tensor:
        seen, side, _, units = self.weight.shape
        return torch.addmm(self.bias.repeat(side * side), x, self.weight.view(seen, -1)).view(-1, units)


class _Gather(nn.Module):
    """Convolution whose stride is its kernel: (n side^2, seen) -> (n, units), the inverse of `_Spread` in its numbering of pixels."""

    def __init__(self, seen: int, units: int, side: int) -> None:
        super().__init__()
        # the inputs first: the gradient of the other order is four times slower for the four inputs of the first layer
        self.weight = nn.Parameter(torch.empty(side, side, seen, units))
        self.bias = nn.Parameter(torch.zeros(units))
        _uniform(self.weight, side * side * seen, gain=2.0)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(-1, len(self.bias))
        return torch.addmm(self.bias, x.reshape(-1, len(weight)), weight)


def by_lines(x: Tensor, n: int) -> Tensor:
    """Pixels (n 4^2 2^2 2^2, c), patch by patch, as images (n, 16, 16, c)."""
    return x.view(n, 4, 4, 2, 2, 2, 2, -1).permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, 16, 16, -1)


def _start(layers: Sequence[nn.Linear | nn.Conv2d], gain: float) -> None:
    for layer in layers:
        _uniform(layer.weight, layer.weight[0].numel(), gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _uniform(weight: Tensor, seen: int, gain: float) -> None:
    """Weights of variance gain / seen (He et al. 2015), which keep the size of the signal through the layers."""
    bound = math.sqrt(3 * gain / seen)
    nn.init.uniform_(weight, -bound, bound)
