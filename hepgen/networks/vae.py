"""Variational autoencoders: that of paper D (B-VAE), and the second stage that learns its latent space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hepgen.errors import UsageError
from hepgen.networks.mlp import MLP

#: Variance of a unit's summed inputs that ELU keeps, times the number of inputs (Clevert et al. 2015).
ELU_GAIN = 1.55


class Reconstruction(NamedTuple):
    """What a `VAE` makes of events (n, columns)."""

    values: Tensor  # (n, columns), decoded from one draw of the latents
    mu: Tensor  # (n, latent)
    log_var: Tensor  # (n, latent), the logarithm of sigma^2


class VAE(nn.Module):
    """Encoder and decoder of paper D: events -> normal distributions of latents -> events, everything in one compiled op each way.

    The hidden layers start from a normal distribution of variance 1.55 / width, the last layers from Glorot's uniform one, all biases at
    zero. The paper does not say between which layers its shortcuts are: the first, third, fifth hidden layer are joined here (see `MLP`).

    Parameters
    ----------
    columns
        Of the events, scaled into [-1, 1] where the output is "tanh": divided by their largest absolute values in the paper.
    latent
        Latents: 20 for top pairs, 9 for the two-body decay and 10 for the Z boson in the paper.
    hidden
        Widths of the hidden layers of the encoder; the decoder has them the other way round. Six of 128 for top pairs, four otherwise.
    activation
        Of the hidden layers: "relu", "tanh" or "elu".
    output
        Of the decoder: "linear", "sigmoid" or "tanh".
    shortcuts
        Between every other hidden layer.
    """

    def __init__(
        self,
        columns: int,
        latent: int,
        hidden: Sequence[int] = (128,) * 6,
        *,
        activation: str = "elu",
        output: str = "tanh",
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        if columns < 1 or latent < 1:
            raise UsageError(f"a VAE needs a column and a latent at least, not columns={columns}, latent={latent}")
        self.columns, self.latent = columns, latent
        self.encoder = MLP(columns, 2 * latent, hidden, activation, shortcuts=shortcuts)
        self.decoder = MLP(latent, columns, tuple(reversed(hidden)), activation, output, shortcuts=shortcuts)
        for network in (self.encoder, self.decoder):
            _start(network)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Events (n, columns) -> mu and log sigma^2 of their latents, (n, latent) each."""
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        return mu, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Latents (n, latent) -> events (n, columns)."""
        out: Tensor = self.decoder(z)
        return out

    @staticmethod
    def draw(mu: Tensor, log_var: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents z = mu + sigma e, with normal e from `generator`; differentiable in mu and log_var."""
        noise = torch.randn(mu.shape, dtype=mu.dtype, device=mu.device, generator=generator)
        return torch.addcmul(mu, noise, torch.exp(0.5 * log_var))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Encode events (n, columns), draw latents with `generator` and decode them."""
        mu, log_var = self.encode(x)
        return Reconstruction(self.decode(self.draw(mu, log_var, generator)), mu, log_var)


def latent_vae(latent: int, hidden: Sequence[int] = (64,) * 3) -> VAE:
    """Return the second stage of a two-stage VAE (Dai and Wipf 2019): a smaller VAE, without shortcuts, of another one's latents.

    Paper D trains it on latents scaled as its columns are, by the largest absolute values, and as many latents stay.
    """
    return VAE(latent, latent, hidden, shortcuts=False)


@torch.no_grad()
def _start(network: MLP) -> None:
    *hidden, last = network.linears
    for layer in hidden:
        layer.weight.normal_(std=math.sqrt(ELU_GAIN / layer.out_features))
        layer.bias.zero_()
    nn.init.xavier_uniform_(last.weight)
    last.bias.zero_()
