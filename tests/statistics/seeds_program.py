"""Everything that takes a seed, short, run by test_seeds.py: seeds_program.py THREADS. Prints name -> numbers in hexadecimal, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import awkward as ak
import numpy as np
import torch

import hepgen
from hepgen import metrics
from hepgen.estimators.integration import importance_weights
from hepgen.events import Features
from hepgen.kernels import threads

NAMES = ["a", "b", "c"]
GENERATORS: dict[str, dict[str, Any]] = {
    "maf": {"blocks": 2, "hidden": (16,)}, "gmm": {"components": 3}, "kde": {"bandwidth": 0.3}, "flow-matching": {"hidden": (16, 16)},
    "bvae": {"hidden": (16, 16), "latent": 3}, "lsgan": {"hidden": (16, 16), "latent": 3},
}  # fmt: skip


def events(n: int, seed: int, shift: float = 0.0) -> ak.Array:
    x = np.random.default_rng(seed).normal(shift, 1, (n, 3))
    return ak.zip(dict(zip(NAMES, x.T, strict=True)))


def matrix(sample: ak.Array) -> Any:
    return np.stack([ak.to_numpy(sample[name]) for name in NAMES], axis=1)


def fits() -> Iterator[tuple[str, Any]]:
    sim, data = events(3000, 1), events(3000, 2, 0.3)
    w = np.random.default_rng(3).normal(1, 0.5, 3000)
    how: dict[str, Any] = {"batch_size": 500, "seed": 5, "progress": False}
    for optimizer in ("ecd", "adam"):
        ratio = hepgen.Reweighter(Features([], computed=NAMES), ensemble=3, hidden=(16, 16), optimizer=optimizer, dropout=0.05)
        ratio.fit(sim, data, sim_weights=w, epochs=3, **how)
        yield f"Reweighter, {optimizer}, fit", np.concatenate([array.ravel() for array in ratio.tensors().values()])
        yield f"Reweighter, {optimizer}, weights", np.stack(ratio.weights(sim, uncertainty=True))
    for loss in ("nll", "mdmm"):
        model = hepgen.SimToData(Features(NAMES), loss=loss, blocks=2, hidden=(16,))
        model.fit(sim, data, sim_weights=w, epochs=2, **how)
        yield f"SimToData, {loss}, fit", np.concatenate([array.ravel() for array in model.tensors().values()])
        yield f"SimToData, {loss}, transform", matrix(model.transform(sim, identity="entry"))
    for name, options in GENERATORS.items():
        made = hepgen.EventGenerator(Features(NAMES), name, **options).fit(data, epochs=None if name in {"gmm", "kde"} else 2, **how)
        yield f"EventGenerator, {name}, fit", np.concatenate([np.ravel(array) for array in made.tensors().values()])
        yield f"EventGenerator, {name}, sample", matrix(made.sample(20_000, seed=7))
        if name == "gmm":
            found = importance_weights(made, lambda x: np.exp(-np.square(x).sum(axis=1)), 5000, seed=8)
            yield "importance_weights", found.weights


def figures() -> Iterator[tuple[str, Any]]:
    x, y = matrix(events(4000, 1)), matrix(events(4000, 2, 0.1))
    found = metrics.classifier_auc(x, y, epochs=3, seed=9)
    yield "classifier_auc", [found.auc, found.error, found.floor.auc if found.floor else 0.0]
    yield "copies_of", list(metrics.copies_of(x[:1000], y, x[1000:2000], most=2000, seed=9))
    yield "delta_by_size", np.stack(metrics.delta_by_size(x, [500, 1000], seed=9))
    yield "delta", metrics.delta(x, y)[:3]
    yield "delta_of", metrics.delta_of(x[:, :2], y[:, :2], largest=100)[:3]
    table = metrics.correlation_table(np.tile(x, (10, 1)), NAMES, columns=[("a", "b")])
    yield "correlation_table", [*table.matrix.ravel(), *table.errors.ravel(), table.others, table.others_error]
    distance = metrics.distance_correlation_error(x[:, 0], x[:, 1] + x[:, 0])
    yield "distance_correlation", [distance.value, distance.error, distance.floor]


def main() -> None:
    count = int(sys.argv[1])
    torch.set_num_threads(count)
    with threads(count):
        found = {name: np.asarray(values, dtype=np.float64).ravel() for part in (fits(), figures()) for name, values in part}
    print(json.dumps({name: values.tobytes().hex() for name, values in found.items()}))


if __name__ == "__main__":
    main()
