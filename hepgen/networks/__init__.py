"""Networks: masked ones, the flows built of them, plain multilayer perceptrons; torch modules to fit, frozen twins on numpy to apply.

Names are loaded when first asked for, so that a frozen network needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepgen.networks.bijections import Affine as Affine
    from hepgen.networks.bijections import Bijection as Bijection
    from hepgen.networks.ensemble import EnsembleMLP as EnsembleMLP
    from hepgen.networks.frozen import FrozenMAF as FrozenMAF
    from hepgen.networks.frozen import FrozenMLP as FrozenMLP
    from hepgen.networks.gan import Discriminator as Discriminator
    from hepgen.networks.gan import Generator as Generator
    from hepgen.networks.gan import gan_networks as gan_networks
    from hepgen.networks.made import MADE as MADE
    from hepgen.networks.maf import MAF as MAF
    from hepgen.networks.mlp import MLP as MLP
    from hepgen.networks.vae import VAE as VAE
    from hepgen.networks.vae import Reconstruction as Reconstruction
    from hepgen.networks.vae import latent_vae as latent_vae

_LAZY = {
    "MADE": "made",
    "MAF": "maf",
    "MLP": "mlp",
    "VAE": "vae",
    "Affine": "bijections",
    "Bijection": "bijections",
    "EnsembleMLP": "ensemble",
    "FrozenMAF": "frozen",
    "FrozenMLP": "frozen",
    "Discriminator": "gan",
    "Generator": "gan",
    "Reconstruction": "vae",
    "gan_networks": "gan",
    "latent_vae": "vae",
}

__all__ = [
    "MADE",
    "MAF",
    "MLP",
    "VAE",
    "Affine",
    "Bijection",
    "Discriminator",
    "EnsembleMLP",
    "FrozenMAF",
    "FrozenMLP",
    "Generator",
    "Reconstruction",
    "gan_networks",
    "latent_vae",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"hepgen.networks.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'hepgen.networks' has no attribute {name!r}")
