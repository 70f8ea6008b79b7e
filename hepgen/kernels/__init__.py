"""Kernels: torch tensors in and out, a compiled backend where there is one, plain torch beside it.

Usable alone. Names are loaded when first asked for, so that :mod:`hepgen.kernels.philox` works without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from hepgen.kernels.dispatch import backend, instruction_set, registry, threads

_LAZY = {
    "ecd_step": "hepgen.kernels.ecd",
    "gaussian_sums": "hepgen.kernels.mmd",
    "kde": "hepgen.kernels.density",
    "kde_bandwidth": "hepgen.kernels.bandwidth",
    "kde_divergence": "hepgen.kernels.divergence",
    "kernel_mean": "hepgen.kernels.mmd",
    "MafWeights": "hepgen.kernels.maf",
    "Dropout": "hepgen.kernels.perceptron",
    "MlpShape": "hepgen.kernels.perceptron",
    "MlpWeights": "hepgen.kernels.perceptron",
    "maf_forward": "hepgen.kernels.maf",
    "maf_inverse": "hepgen.kernels.maf",
    "maf_nll": "hepgen.kernels.maf_likelihood",
    "mlp": "hepgen.kernels.perceptron",
    "mlp_ensemble": "hepgen.kernels.perceptron",
    "mmd2": "hepgen.kernels.mmd",
    "philox": "hepgen.kernels.philox",
}

__all__ = [
    "Dropout",
    "MafWeights",
    "MlpShape",
    "MlpWeights",
    "backend",
    "ecd_step",
    "gaussian_sums",
    "instruction_set",
    "kde",
    "kde_bandwidth",
    "kde_divergence",
    "kernel_mean",
    "maf_forward",
    "maf_inverse",
    "maf_nll",
    "mlp",
    "mlp_ensemble",
    "mmd2",
    "philox",
    "registry",
    "threads",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hepgen.kernels' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if name == "philox" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
