"""Torch modules, tensors only: masked networks, the flows built of them, and plain multilayer perceptrons."""

from __future__ import annotations

from hepgen.networks.bijections import Affine, Bijection
from hepgen.networks.made import MADE
from hepgen.networks.maf import MAF
from hepgen.networks.mlp import MLP

__all__ = ["MADE", "MAF", "MLP", "Affine", "Bijection"]
