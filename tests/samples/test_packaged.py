"""The files that ship with hepgen: what they hold, the physics in them, and that their provenance is theirs."""

from __future__ import annotations

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepgen import samples
from hepgen.errors import InputError, UsageError
from hepgen.samples import diphoton, package
from hepgen.samples.production import file_sha256

PATHS = samples.packaged("diphoton")
EVENTS = {"sim": 30_000, "data": 30_000, "sim_independent": 20_000}


@pytest.fixture(scope="module")
def events() -> dict[str, ak.Array]:
    arrays = {}
    for role, path in PATHS.items():
        with uproot.open(path) as file:
            arrays[role] = file["mini"].arrays()
    return arrays


def selected(events: ak.Array) -> np.ndarray:
    """pT1, eta1, phi1, pT2, eta2, phi2, m [GeV, rad] after the selection of the paper, written out in numpy."""
    two = events[events.photon_n == 2]
    pt, eta, phi = (ak.to_numpy(two[f"photon_{name}"]).astype(float) for name in ("pt", "eta", "phi"))
    pt /= 1e3
    mass = np.sqrt(2 * pt[:, 0] * pt[:, 1] * (np.cosh(eta[:, 0] - eta[:, 1]) - np.cos(phi[:, 0] - phi[:, 1])))
    central = (np.abs(eta) <= 1.37) | ((np.abs(eta) >= 1.52) & (np.abs(eta) <= 2.37))
    keep = central.all(axis=1) & (pt[:, 0] >= 35) & (pt[:, 1] >= 25) & (pt <= 250).all(axis=1) & (mass >= 60) & (mass <= 300)
    return np.column_stack([pt[:, 0], eta[:, 0], phi[:, 0], pt[:, 1], eta[:, 1], phi[:, 1], mass])[keep]


def test_names_and_paths() -> None:
    assert samples.names() == ("diphoton", "gamma_jet", "jets", "thrust", "ttbar", "two_body", "z_ll")
    assert list(PATHS) == ["sim", "data", "sim_independent"]
    with pytest.raises(UsageError, match="there is no sample 'dijet'; choose one of: diphoton"):
        samples.packaged("dijet")


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(samples._PACKAGED, "diphoton", {"sim": "gone.root"})
    with pytest.raises(InputError, match=r"gone\.root is missing; install hepgen again"):
        samples.packaged("diphoton")


def test_they_are_small_and_as_the_provenance_says() -> None:
    folder = PATHS["sim"].parent
    record = json.loads((folder / package.PROVENANCE).read_text())
    assert {path.name for path in PATHS.values()} == set(record["files"]) == set(package.FILES)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4e6
    for path in PATHS.values():
        entry = record["files"][path.name]
        assert (entry["bytes"], entry["sha256"]) == (path.stat().st_size, file_sha256(path))
        assert path.stat().st_size < 1.5e6
        production = record["productions"][str(entry["seed"])]
        assert production["command"] in (folder / "README.md").read_text()
        assert production["settings"] == json.loads(json.dumps(diphoton.describe())), "the settings changed: make the packaged files again"


def test_all_branches_and_events_are_there(events: dict[str, ak.Array]) -> None:
    for role, array in events.items():
        assert len(array) == EVENTS[role]
        assert array.fields[:8] == [
            "runNumber", "eventNumber", "channelNumber", "mcWeight", "scaleFactor_PILEUP", "scaleFactor_PHOTON", "trigP", "photon_n",
        ]  # fmt: skip
        assert array.fields[8:] == [f"photon_{name}" for name in ("pt", "eta", "phi", "E", "isTightID", "ptcone30")]
        assert len(np.unique(array.eventNumber)) == len(array)
        assert 0.01 < ak.mean(array.photon_n != 2) < 0.03
    shared = np.intersect1d(ak.to_numpy(events["sim"].photon_pt[:, 0]), ak.to_numpy(events["sim_independent"].photon_pt[:, 0]))
    assert len(shared) < 0.05 * EVENTS["sim_independent"], "float32 values agree by chance only"


def test_simulation_is_a_peak_and_data_are_none(events: dict[str, ak.Array]) -> None:
    mass = {role: selected(array)[:, 6] for role, array in events.items()}
    for role in ("sim", "sim_independent"):
        assert np.median(mass[role]) == pytest.approx(125.3, abs=0.5)
        assert np.mean(np.abs(mass[role] - 125) < 5) > 0.98
    assert np.mean(np.abs(mass["data"] - 125) < 5) < 0.08
    assert 0.85 < len(mass["sim"]) / EVENTS["sim"] < 0.95
    assert 0.70 < len(mass["data"]) / EVENTS["data"] < 0.82


def test_correlations_are_in_the_spirit_of_the_paper(events: dict[str, ak.Array]) -> None:
    # pT1,pT2; eta1,eta2; phi1,phi2; m,pT1; the rest, which vanish
    pairs = [(0, 3), (1, 4), (2, 5), (0, 6)]
    expected = {"sim": (0.24, 0.56, -0.35, 0.14), "data": (0.60, 0.54, -0.38, 0.52)}
    for role, values in expected.items():
        found = np.corrcoef(selected(events[role]), rowvar=False)
        np.testing.assert_allclose([found[pair] for pair in pairs], values, atol=0.03)
        rest = [abs(found[i, j]) for i in range(6) for j in range(i) if (j, i) not in pairs]
        assert max(rest) < 0.03


def test_the_crack_is_depleted_and_data_have_gaps(events: dict[str, ak.Array]) -> None:
    def density(role: str, low: float, high: float) -> float:
        eta = np.abs(ak.to_numpy(ak.flatten(events[role].photon_eta)))
        return float(np.mean((eta > low) & (eta < high)) / (high - low))

    crack = {role: density(role, 1.37, 1.52) / (density(role, 1.27, 1.37) + density(role, 1.52, 1.62)) * 2 for role in ("sim", "data")}
    assert crack["sim"] == pytest.approx(0.60, abs=0.06)
    assert crack["data"] == pytest.approx(0.15, abs=0.04)
    gap = {role: density(role, 0.76, 0.84) / (density(role, 0.56, 0.64) + density(role, 0.96, 1.04)) * 2 for role in ("sim", "data")}
    assert gap["sim"] == pytest.approx(1.0, abs=0.08)
    assert gap["data"] < 0.75


def test_a_few_per_cent_of_the_simulation_weigh_negative(events: dict[str, ak.Array]) -> None:
    for role in ("sim", "sim_independent"):
        assert set(np.unique(events[role].mcWeight)) == {-1.0, 1.0}
        assert 0.03 < ak.mean(events[role].mcWeight < 0) < 0.06
    assert ak.all(events["data"].mcWeight == 0)
    assert set(np.unique(events["data"].runNumber)) == set(diphoton.DATA_RUNS)


def test_they_are_the_events_that_the_generator_makes(events: dict[str, ak.Array]) -> None:
    pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
    for role, sample, seed in (("sim", "sim", 20), ("data", "data", 20), ("sim_independent", "sim", 21)):
        block, _ = diphoton.generate_block(sample, seed, 0, 40)
        for name in block.fields:
            assert ak.almost_equal(block[name], events[role][:40][name], rtol=1e-5), f"{Path(PATHS[role]).name}: {name}"
