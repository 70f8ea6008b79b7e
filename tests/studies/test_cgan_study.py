"""The study of paper C in benchmarks/studies: what it measures, that it runs as a whole and is not done twice."""

from __future__ import annotations

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot

STUDIES = Path(__file__).resolve().parents[2] / "benchmarks" / "studies"
TINY = {
    "threads": 1, "events": 900, "test": 300, "flow-epochs": 1, "blocks": 2, "networks": 2, "gan-epochs": 1, "dense-epochs": 1,
    "every": 1, "copies": 2, "repeats": 2, "gan-batch": 256,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _study_modules(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(STUDIES)


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def region(path: Path, n: int, seed: int, *, signal: bool) -> None:
    """Two photons in the branches of gamma_jet, the second of which recoils and is the misidentified one."""
    rng = np.random.default_rng(seed)
    pt = 40 + rng.exponential(30, n)
    soft = pt * rng.uniform(0.4, 0.9, n)
    eta, phi = rng.normal(0, 1, (2, n)), rng.uniform(-3, 3, (2, n))
    identified = np.stack([rng.uniform(0.5, 1, n), rng.uniform(0.5, 1, n) if signal else rng.uniform(-1, 0.4, n)])
    columns = {"pt": np.stack([pt, soft]), "eta": eta, "phi": phi, "mvaID": identified, "isPrompt": np.stack([np.ones(n), np.zeros(n)])}
    photons = ak.zip({name: ak.from_regular(ak.Array(values.T.astype(np.float32))) for name, values in columns.items()})
    jets = ak.zip({"pt": ak.Array([[30.0 + j for j in range(k)] for k in rng.poisson(2, n)])})
    numbers = {"run": np.ones(n, np.uint32), "luminosityBlock": np.ones(n, np.uint32), "event": np.arange(n, dtype=np.uint64)}
    with uproot.recreate(path) as file:
        file.mktree("Events", {**{k: v.dtype for k, v in numbers.items()}, "PV_npvs": "int32", "Photon": photons.type, "Jet": jets.type})
        file["Events"].extend({**numbers, "PV_npvs": rng.poisson(25, n).astype(np.int32), "Photon": photons, "Jet": jets})


@pytest.fixture
def sample(tmp_path):
    region(tmp_path / "sr.root", 900, 1, signal=True)
    region(tmp_path / "cr.root", 900, 2, signal=False)
    return tmp_path


def test_regions_and_pair_by_hand(sample):
    import cgan_events

    regions = cgan_events.load(sample, None, 300)
    assert [len(part.events) for part in regions] == [600, 600, 300, 300, 300]
    assert set(ak.to_numpy(regions.test.events.event)) == set(range(600, 900))
    matrix, photons = regions.control.matrix(), regions.control.events.Photon
    first, second = photons[:, 1], photons[:, 0]  # the second fails
    np.testing.assert_allclose(matrix[:, 0], ak.to_numpy(first.pt), rtol=1e-6)
    dphi, deta = ak.to_numpy(first.phi - second.phi), ak.to_numpy(first.eta - second.eta)
    mass = np.sqrt(2 * ak.to_numpy(first.pt * second.pt) * (np.cosh(deta) - np.cos(dphi)))
    pt = np.hypot(
        first.pt * np.cos(first.phi) + second.pt * np.cos(second.phi), first.pt * np.sin(first.phi) + second.pt * np.sin(second.phi)
    )
    np.testing.assert_allclose(matrix[:, -1], pt / mass, rtol=2e-4)
    with pytest.raises(ValueError, match="500 events to test with leave 400 to fit"):
        cgan_events.load(sample, None, 500)


def test_rows_of_the_figure_of_merit_are_the_events(sample):
    """Scaled rows with the other photon behind them give the columns that the events themselves give."""
    import cgan_events
    import cgan_fits

    part = cgan_events.load(sample, None, 300).fit
    for strategy in ("vanilla", "full"):
        model = cgan_fits.new_model("gan", strategy)
        matrix = model.features.bind(part.picked).to_matrix(part.events)[0]
        model.coordinates.fit(matrix)
        rows = np.concatenate([2 * model.coordinates.forward(matrix) - 1, cgan_fits._other(part)], axis=1)
        found = cgan_fits._observables(model, matrix.shape[1])(rows)
        np.testing.assert_allclose(found, cgan_events.figure_columns(part.matrix()), rtol=1e-3, atol=1e-3)


def test_scatter_of_the_figure_of_merit_falls_with_the_objects_of_an_event(sample):
    import cgan_events
    import cgan_fits
    import cgan_measure

    regions = cgan_events.load(sample, None, 300)
    model = cgan_fits.new_model("maf", "full", blocks=1, hidden=(8,)).fit(regions.fit.events, epochs=1, batch_size=100, progress=False)
    part = regions.test
    found = cgan_measure.scatter(model, part, (1, 20), 12, bins=3)
    assert found[20][1] < found[1][1]
    matrix = model.features.bind(part.picked).to_matrix(part.events)[0]
    np.testing.assert_allclose(cgan_measure._pairs(matrix), cgan_events.figure_columns(part.matrix()), rtol=1e-4)


def test_the_study_runs_in_parts_and_is_not_done_twice(sample, tmp_path, monkeypatch, capsys):
    import cgan

    runs = (cgan.Run("flow", "maf", "full"), cgan.Run("gan", "gan", "full"), cgan.Run("latents", "gan-dense", "full", 4))
    monkeypatch.setattr(cgan, "RUNS", runs)
    options = [f"--{name}={value}" for name, value in TINY.items()]
    arguments = ["--sample", str(sample), "--out", str(tmp_path / "out"), "--table", str(tmp_path / "cgan.md"), *options]
    cgan.main([*arguments, "--only", "gan"])
    assert not (tmp_path / "cgan.md").exists()
    results = tmp_path / "out" / "results"
    (first,) = results.glob("*.json")
    stamp = first.stat().st_mtime_ns
    cgan.main(arguments)
    assert first.stat().st_mtime_ns == stamp
    assert len(list(results.glob("*.json"))) == 3
    found = json.loads(first.read_text())["result"]
    assert {name: len(scores) for name, scores in found["scores"].items()} == {"1": 1, "10": 1, "100": 1}
    text = (tmp_path / "cgan.md").read_text()
    for row in ("control region as it is", "signal region, other events", "maf, full, by condition", "gan-dense, full, 4 latents"):
        assert f"| {row} |" in text
    assert {path.name for path in tmp_path.glob("cgan_figure*.png")} == {f"cgan_figure{number}.png" for number in (2, 4, 5, 6, 7)}
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cgan.parse([*arguments, "--only", "nothing"])
    assert "--only knows flow, gan, strategies, latents, not nothing" in capsys.readouterr().err
