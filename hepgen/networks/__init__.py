"""Torch modules, tensors only: masked networks, the flows built of them, and plain multilayer perceptrons."""

from __future__ import annotations

from hepgen.networks.bijections import Affine, Bijection
from hepgen.networks.made import MADE
from hepgen.networks.maf import MAF

__all__ = ["MADE", "MAF", "Affine", "Bijection"]
