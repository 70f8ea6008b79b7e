from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

import hepgen
from hepgen.errors import InputError, UsageError
from hepgen.estimators import SimToData

PHOTONS = hepgen.Features([f"photon[{i}].{x}" for i in (0, 1) for x in ("pt", "eta", "phi")])
SMALL: dict[str, Any] = {"blocks": 3, "hidden": (24, 24)}


def photons(n: int, seed: int, *, softer: float = 1.0, third: bool = False) -> ak.Array:
    """Events of two back-to-back photons, with run and event numbers, and some events of one or three photons."""
    rng = np.random.default_rng(seed)
    pt1 = 35 + rng.exponential(30 * softer, n)
    pt = np.stack([pt1, np.maximum(pt1 * rng.uniform(0.5, 1, n), 25), np.full(n, 20.0)], axis=1)
    eta = rng.normal(0, softer, (n, 3))
    phi1 = rng.uniform(-np.pi, np.pi, n)
    phi = np.stack([phi1, (phi1 + rng.normal(0, 0.3 * softer, n)) % (2 * np.pi) - np.pi, np.zeros(n)], axis=1)
    count = np.where(rng.uniform(size=n) < 0.1, rng.choice([1, 3], n), 2) if third else np.full(n, 2)
    keep = np.arange(3) < count[:, None]
    column = {name: ak.unflatten(values[keep].astype(np.float32), count) for name, values in (("pt", pt), ("eta", eta), ("phi", phi))}
    column["tight"] = column["pt"] > 30
    return ak.Array(
        {
            "runNumber": np.full(n, seed),
            "eventNumber": np.arange(n),
            "met": rng.normal(0, 1, n),
            "photon": ak.zip(column, with_name="Photon"),
        }
    )


@pytest.fixture(scope="module")
def fitted() -> SimToData:
    model = SimToData(PHOTONS, loss="nll", **SMALL)
    return model.fit(photons(6000, 1), photons(6000, 2, softer=0.6), epochs=25, batch_size=256, seed=4)


def test_the_distribution_becomes_the_datas(fitted: SimToData) -> None:
    sim, data = photons(6000, 3), photons(6000, 5, softer=0.6)
    moved = fitted.transform(sim)
    for column in range(6):
        before, target, after = (PHOTONS.to_matrix(events)[0][:, column] for events in (sim, data, moved))
        quantiles = np.linspace(0.05, 0.95, 19)
        far, near = (np.abs(np.quantile(x, quantiles) - np.quantile(target, quantiles)).mean() / target.std() for x in (before, after))
        assert near < 0.08
        assert column in (2, 5) or near < 0.4 * far
    matrices = {name: PHOTONS.to_matrix(events)[0] for name, events in (("data", data), ("moved", moved))}
    recoil = {name: np.abs((m[:, 5] - m[:, 2]) % (2 * np.pi) - np.pi) for name, m in matrices.items()}
    assert recoil["moved"].mean() == pytest.approx(recoil["data"].mean(), rel=0.15)


def test_what_it_does_not_know_stays(fitted: SimToData) -> None:
    events = photons(500, 7, third=True)
    moved = fitted.transform(events)
    two = np.asarray(ak.num(events.photon.pt) >= 2)
    assert str(moved.type) == str(events.type)
    assert ak.all(moved.photon.tight == events.photon.tight)
    assert ak.all(moved.met == events.met)
    assert ak.all(ak.num(moved.photon) == ak.num(events.photon))
    assert ak.all(moved.photon.pt[~two] == events.photon.pt[~two])
    assert ak.all(moved.photon.pt[:, 2:] == events.photon.pt[:, 2:])
    assert not ak.any(moved.photon.eta[two][:, :2] == events.photon.eta[two][:, :2])


def test_an_event_does_not_see_its_neighbours(fitted: SimToData) -> None:
    events = photons(400, 8, third=True)
    whole = fitted.transform(events)
    order = np.random.default_rng(0).permutation(400)
    for chunk in (1, 7, 100):
        parts = ak.concatenate([fitted.transform(events[i : i + chunk]) for i in range(0, 400, chunk)][:200])
        assert ak.array_equal(parts, whole[: len(parts)])
    assert ak.array_equal(fitted.transform(events[order]).photon, whole.photon[order])
    other = fitted.transform(events, seed=99)
    assert not np.allclose(ak.flatten(other.photon.pt), ak.flatten(whole.photon.pt))


def test_branches_of_the_schema_are_taken_in_their_own_units(fitted: SimToData, tmp_path: Path) -> None:
    model = hepgen.load(fitted.save(tmp_path / "m.hepgen"))
    model.schema = "atlas-open-data"
    events = photons(300, 12, third=True)
    raw = ak.Array({"runNumber": events.runNumber, "eventNumber": events.eventNumber, "photon_n": ak.num(events.photon)})
    for name, unit in (("pt", 1000), ("eta", 1), ("phi", 1)):
        raw[f"photon_{name}"] = events.photon[name] * np.float32(unit)
    moved, expected = model.transform(raw), fitted.transform(events)
    assert moved.fields == raw.fields
    assert np.allclose(ak.flatten(moved.photon_pt), 1000 * ak.flatten(expected.photon.pt), rtol=1e-5)
    assert np.allclose(ak.flatten(moved.photon_eta), ak.flatten(expected.photon.eta), rtol=1e-4, atol=1e-5)


def test_save_and_load_give_the_same_events(fitted: SimToData, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "m.hepgen")
    again = hepgen.load(path)
    events = photons(100, 9, third=True)
    assert ak.array_equal(again.transform(events), fitted.transform(events))
    assert again.features == fitted.features
    assert again.record == fitted.record
    assert again.record["stages"][0]["best_epoch"] > 0
    assert "nll" in repr(again)


def test_fit_is_reproducible_and_follows_its_seed() -> None:
    sim, data = photons(400, 1), photons(400, 2)

    def moved(seed: int) -> ak.Array:
        return (
            SimToData(PHOTONS, loss="nll", blocks=1, hidden=(8,)).fit(sim, data, epochs=2, batch_size=128, seed=seed).transform(sim, seed=0)
        )

    one = moved(1)
    assert ak.array_equal(moved(1), one)
    assert not ak.array_equal(moved(2), one)


@pytest.mark.parametrize("loss", ["kl", "mmd", "mdmm"])
def test_every_loss_improves_a_sample_it_starts_far_from(loss: str) -> None:
    features = hepgen.Features(["x", "y"])
    rng = np.random.default_rng(3)
    covariance = [[1, 0.8], [0.8, 1]]
    data = dict(zip("xy", rng.multivariate_normal([2, 0], covariance, 4000).T, strict=True))
    sim = dict(zip("xy", rng.normal(0, 1, (2, 4000)), strict=True))
    sim, data = ak.Array(sim), ak.Array(data)
    weights = rng.choice([1.0, 1.0, 1.0, -0.2], 4000)
    model = SimToData(features, loss=loss, warm_start=2, **SMALL)
    model.fit(sim, data, sim_weights=weights, epochs=12, batch_size=500, learning_rate=(3e-3, 1e-4))
    moved = model.transform(sim, identity="entry")
    assert float(np.average(moved.x, weights=weights)) == pytest.approx(2, abs=0.15)
    if loss != "kl":  # KL of marginals does not see correlations
        assert np.corrcoef(moved.x, moved.y)[0, 1] == pytest.approx(0.8, abs=0.15)
    last = model.record["stages"][-1]
    assert [stage["loss"] for stage in model.record["stages"]] == ["nll", loss]
    if loss == "mdmm":
        assert set(last["steps"]) == {"l1", "l2", "lambda"}
        assert min(last["steps"]["lambda"]) >= 0
        assert len(last["steps"]["l1"]) == 12 * 7
        assert all(floor > 0 for floor in last["floors"])


def test_negative_weights_cancel_events() -> None:
    # events of weight +1 and -1 at the same place are as good as none
    features = hepgen.Features(["x"])
    rng = np.random.default_rng(3)
    there, ghost = rng.normal(0, 1, 3000), rng.normal(6, 0.3, 1000)
    data = ak.Array({"x": np.concatenate([there, ghost, ghost + 1e-9])})
    weights = np.concatenate([np.ones(4000), -np.ones(1000)])
    sim = ak.Array({"x": rng.normal(0, 1, 3000)})
    model = SimToData(features, loss="mmd", **SMALL).fit(
        sim, data, data_weights=weights, epochs=10, batch_size=500, learning_rate=(1e-3, 1e-4)
    )
    moved = model.transform(sim, identity="entry")
    assert float(ak.mean(moved.x > 4)) < 0.05


@pytest.mark.parametrize("outside", ["keep", "clip", "reject"])
def test_events_outside_the_selection(fitted: SimToData, outside: str, tmp_path: Path) -> None:
    cuts = hepgen.Selection.from_dict({"cuts": [{"expression": "photon[0].pt", "minimum": 45.0}]})
    model = hepgen.load(fitted.save(tmp_path / "m.hepgen"))
    model.selection, model.outside = cuts, outside
    moved = model.transform(photons(2000, 11))
    passed = cuts.matrix_mask(PHOTONS, PHOTONS.to_matrix(moved)[0])
    if outside == "reject":
        assert passed.all()
    else:
        assert 0.1 < passed.mean() < 0.9
    if outside == "clip":
        matrix = PHOTONS.to_matrix(moved)[0]
        assert (matrix >= model.limits[:, 0] - 1e-4).all()
        assert (matrix <= model.limits[:, 1] + 1e-4).all()


def test_bad_input_is_one_sentence(fitted: SimToData) -> None:
    sim = photons(50, 1)
    with pytest.raises(UsageError, match="loss 'gan' is not known: choose one of nll, kl, mmd, mdmm"):
        SimToData(PHOTONS, loss="gan")
    with pytest.raises(UsageError, match="no setting 'block'"):
        SimToData(PHOTONS, block=3)
    with pytest.raises(UsageError, match="outside='drop' is not known"):
        SimToData(PHOTONS, outside="drop")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not fitted"):
        SimToData(PHOTONS).transform(sim)
    with pytest.raises(InputError, match="carry no run and event numbers"):
        fitted.transform(sim[["photon", "met"]])
    with pytest.raises(InputError, match=r"identity has shape \(3, 1\), and there are 50 events"):
        fitted.transform(sim, identity=np.arange(3))
    with pytest.raises(InputError, match="must be made of integers"):
        fitted.transform(sim, identity="met")
    model = SimToData(PHOTONS, loss="nll")
    with pytest.raises(InputError, match=r"sim_weights has shape \(3,\), and there are 50 events"):
        model.fit(sim, sim, sim_weights=np.ones(3))
    with pytest.raises(InputError, match="data_weights sum to 0"):
        model.fit(sim, sim, data_weights=np.tile([1.0, -1.0], 25))
    with pytest.raises(InputError, match=r"sim_weights holds 1 values that are not finite, the first at event 4"):
        model.fit(sim, sim, sim_weights=np.where(np.arange(50) == 4, np.nan, 1))
    with pytest.raises(InputError, match=r"no event of data has the objects"):
        model.fit(sim, sim[ak.num(sim.photon) > 5])
    constant = ak.with_field(sim, ak.with_field(sim.photon, ak.full_like(sim.photon.eta, 0.5), "eta"), "photon")
    with pytest.raises(InputError, match=r"column 'photon\[0\].eta' of sim is constant \(0.5\)"):
        model.fit(constant, sim)
    broken = ak.with_field(sim, ak.with_field(sim.photon, ak.where(sim.eventNumber == 7, np.inf, sim.photon.pt), "pt"), "photon")
    with pytest.raises(InputError, match=r"photon\[0\].pt.* holds 1 value that is NaN or inf, at entry 7"):
        fitted.transform(broken)
    assert ak.all(fitted.transform(broken, invalid="identity").photon.pt[7] == broken.photon.pt[7])


FIT = """
import sys
sys.path.insert(0, {folder!r})
from test_sim_to_data import PHOTONS, SMALL, photons
from hepgen.estimators import SimToData
import hepgen.training.loop as loop
import functools
loop.train.__kwdefaults__["checkpoint_seconds"] = 0.0
model = SimToData(PHOTONS, loss="mdmm", warm_start=2, **SMALL)
model.fit(photons(800, 1), photons(800, 2), epochs=4, batch_size=100, checkpoint=sys.argv[1])
model.save(sys.argv[2])
"""


def test_a_killed_fit_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    script = FIT.format(folder=str(Path(__file__).parent))

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script, str(tmp_path / name), str(tmp_path / f"{name}.hepgen")])

    assert start("whole").wait(120) == 0
    deadline = time.monotonic() + 60
    running = start("killed")
    while not (tmp_path / "killed" / "mdmm.checkpoint").exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.hepgen").exists()
    assert start("killed").wait(120) == 0
    whole, resumed = (hepgen.load(tmp_path / f"{name}.hepgen") for name in ("whole", "killed"))
    for name, array in whole.flow.state.items():
        assert np.array_equal(array, resumed.flow.state[name]), name
    assert whole.record["stages"][1]["steps"] == resumed.record["stages"][1]["steps"]
