"""A model on its way to workers: small pickles, one load per process, and no torch where it is applied."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import array_kinds as kinds
import numpy as np
import pytest

import hepgen
from hepgen.estimators import cache


def events(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=n), "y": rng.exponential(size=n), "runNumber": np.ones(n, int), "eventNumber": np.arange(n)}


@pytest.fixture
def model() -> hepgen.SimToData:
    fitted = hepgen.SimToData(hepgen.Features(["x", "y"]), loss="nll", blocks=3, hidden=(64, 64))
    return fitted.fit(events(400, 1), events(400, 2), epochs=1, batch_size=200, progress=False)


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    cache.forget()
    yield
    cache.forget()


def moved(model: hepgen.SimToData) -> np.ndarray:
    return np.stack([model.transform(events(50, 3))[name] for name in ("x", "y")])


def test_a_saved_model_goes_by_its_path(model: hepgen.SimToData, tmp_path: Path) -> None:
    model.save(tmp_path / "m.hepgen")
    content = pickle.dumps(model)
    assert len(content) < 1000
    first, second = pickle.loads(content), pickle.loads(content)
    assert first is second
    assert first is not model
    assert cache.loads() == 1
    assert np.array_equal(moved(first), moved(model))
    loaded = hepgen.load(tmp_path / "m.hepgen")
    assert pickle.loads(pickle.dumps(loaded)) is first


def test_a_model_without_a_file_goes_by_its_bytes(model: hepgen.SimToData, tmp_path: Path) -> None:
    content = pickle.dumps(model)
    assert 50_000 < len(content) < 500_000
    again = pickle.loads(content)
    assert pickle.loads(content) is again
    assert np.array_equal(moved(again), moved(model))
    model.save(tmp_path / "m.hepgen")
    model.ship = "bytes"
    assert len(pickle.dumps(model)) > 50_000
    model.ship = "path"
    assert len(pickle.dumps(model)) < 1000
    os.unlink(tmp_path / "m.hepgen")
    assert len(pickle.dumps(model)) > 50_000


def test_a_model_changed_since_goes_by_its_bytes(model: hepgen.SimToData, tmp_path: Path) -> None:
    model.save(tmp_path / "m.hepgen")
    model.seed = 77
    again = pickle.loads(pickle.dumps(model))
    assert again.seed == 77
    assert np.array_equal(moved(again), moved(model))


def test_a_model_fitted_again_is_not_the_one_of_its_file(model: hepgen.SimToData, tmp_path: Path) -> None:
    path = model.save(tmp_path / "m.hepgen")
    shared = cache.cached(path)
    before = moved(shared)
    shared.fit(events(400, 5), events(400, 6), epochs=1, batch_size=200, progress=False)
    assert not np.array_equal(moved(shared), before)
    assert np.array_equal(moved(cache.cached(path)), before)
    assert not np.array_equal(moved(pickle.loads(pickle.dumps(shared))), before)
    assert np.array_equal(moved(copy.deepcopy(shared)), moved(shared))


FREE = """
import sys, numpy as np, awkward as ak, hepgen
from hepgen.estimators import cache
model = cache.cached(sys.argv[1])
n = 50
rng = np.random.default_rng(3)
events = {"x": rng.normal(size=n), "y": rng.exponential(size=n), "runNumber": np.ones(n, int), "eventNumber": np.arange(n)}
out = model.transform(ak.Array(events))
np.save(sys.argv[2], np.stack([ak.to_numpy(out[name]) for name in ("x", "y")]))
print([name for name in ("torch", "scipy", "sklearn", "coffea", "matplotlib", "dask", "numba") if name in sys.modules])
"""


def test_applying_needs_no_torch(model: hepgen.SimToData, tmp_path: Path) -> None:
    path = model.save(tmp_path / "m.hepgen")
    printed = subprocess.run([sys.executable, "-c", FREE, path, tmp_path / "out.npy"], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
    assert np.array_equal(np.load(tmp_path / "out.npy"), moved(model))


def test_a_dask_graph_holds_a_reference_and_not_the_weights(model: hepgen.SimToData, tmp_path: Path) -> None:
    import awkward as ak

    model.save(tmp_path / "m.hepgen")
    lazy = model.transform(kinds.dask(ak.Array(events(50, 3)), partitions=5))
    layer = lazy.dask.layers[lazy.name]
    assert len(pickle.dumps(layer)) < 20_000
    out = lazy.compute(scheduler="sync")
    assert np.array_equal(ak.to_numpy(out.x), moved(model)[0])
