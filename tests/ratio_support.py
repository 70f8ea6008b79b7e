"""Reweighters with networks made by hand, and what they must give, computed in float64 by plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

import hepgen
from hepgen.events import Scaler, Scaling

MEAN, STD = 0.5, 2.0


def made(features: hepgen.Features, *, ensemble: int = 3, hidden: int = 8, seed: int = 0, **options: Any) -> hepgen.Reweighter:
    """Networks of random weights behind columns that are standardised by `MEAN` and `STD`."""
    model = hepgen.Reweighter(features, ensemble=ensemble, hidden=(hidden,), **options)
    rng, d = np.random.default_rng(seed), len(features)
    model.scaler = Scaler([Scaling.from_dict({"kind": "Standard", "mean": MEAN, "std": STD}) for _ in range(d)], features.names)
    shapes = {"layers.0.weight": (hidden, d), "layers.0.bias": (hidden,), "layers.1.weight": (1, hidden), "layers.1.bias": (1,)}
    model.networks = [
        model._frozen({name: (0.5 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}) for _ in range(ensemble)
    ]
    model.log_scale = 0.3
    return model


def outputs(model: hepgen.Reweighter, matrix: Any) -> np.ndarray:
    """z of every member, (n, E)."""
    x = (np.asarray(matrix, dtype=np.float64) - MEAN) / STD
    members = []
    for network in model.networks:
        w = {name: array.astype(np.float64) for name, array in network.state.items()}
        inner = np.maximum(x @ w["layers.0.weight"].T + w["layers.0.bias"], 0)
        members.append((inner @ w["layers.1.weight"].T + w["layers.1.bias"])[:, 0])
    return np.stack(members, axis=1)


def replicas(model: hepgen.Reweighter, matrix: Any) -> np.ndarray:
    """Weights of every member of a model of BCE with a sigmoid, (n, E), without calibration and clip."""
    return np.exp(outputs(model, matrix) + model.log_scale)
