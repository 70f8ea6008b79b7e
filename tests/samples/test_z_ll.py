"""The sample "z_ll": layout, kinematics of massless pairs at rest, and the angles of the Z's couplings."""

from __future__ import annotations

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepgen import events, samples

pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")

from hepgen.samples import z_ll

BRANCHES = {
    "run": "uint32_t",
    "luminosityBlock": "uint32_t",
    "event": "uint64_t",
    "genWeight": "float",
}
for _flavour in ("Electron", "Muon"):
    BRANCHES |= {f"n{_flavour}": "int32_t", **{f"{_flavour}_{_name}": "double[]" for _name in ("E", "px", "py", "pz")}}
    BRANCHES[f"{_flavour}_charge"] = "int32_t[]"
EVENTS = 6000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("z_ll")
    paths = samples.make("z_ll", EVENTS, 11, out, processes=1)
    assert [path.name for path in paths] == ["events.root", "z_ll.json"]
    return out


def pairs(made: Path) -> np.ndarray:
    """E, px, py, pz of the lepton and the antilepton of every event, (EVENTS, 2, 4)."""
    found = events.read(made / "events.root")
    both = {name: ak.concatenate([found.Electron[name], found.Muon[name]], axis=1) for name in ("E", "px", "py", "pz")}
    return np.stack([ak.to_numpy(column) for column in both.values()], axis=2)


def test_layout(made: Path) -> None:
    with uproot.open(made / "events.root") as file:
        assert file["Events"].typenames() == BRANCHES
    found = events.read(made / "events.root")
    assert found.attrs["schema"] == "nanoaod"
    assert found.event.tolist() == list(range(1, EVENTS + 1))
    for flavour in ("Electron", "Muon"):
        counts = found[f"n{flavour}"]
        assert set(counts.tolist()) == {0, 2}
        assert counts.tolist() == ak.num(found[flavour].E).tolist()
        assert set(map(tuple, found[flavour].charge.tolist())) == {(), (-1, 1)}
    assert ak.all(found.nElectron + found.nMuon == 2)
    # as many of each
    assert ak.mean(found.nElectron == 2) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(EVENTS))


def test_pairs_are_massless_at_rest_and_of_91_gev(made: Path) -> None:
    four = pairs(made)
    np.testing.assert_allclose(four[:, :, 0], 45.5, rtol=1e-14)
    np.testing.assert_allclose(four[:, :, 1:].sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(four[:, :, 0] ** 2, (four[:, :, 1:] ** 2).sum(axis=2), rtol=1e-13)


def test_angles_are_those_of_a_z(made: Path) -> None:
    four = pairs(made)[:, 0]
    cosine = four[:, 3] / four[:, 0]
    # dN / dcos = 3/8 (1 + cos^2) + A cos, A small at the pole: <cos^2> = 2/5, <cos^4> = 9/35
    error = np.sqrt((9 / 35 - 4 / 25) / EVENTS)
    assert np.mean(cosine**2) == pytest.approx(0.4, abs=4 * error)
    assert abs(np.mean(cosine)) < 4 * np.sqrt(0.4 / EVENTS) + 0.02
    phi = np.arctan2(four[:, 2], four[:, 1])
    for order in (1, 2):
        assert abs(np.mean(np.exp(1j * order * phi))) < 4 / np.sqrt(EVENTS)


def test_provenance(made: Path) -> None:
    record = json.loads((made / "z_ll.json").read_text())
    assert record["command"] == f"hepgen samples make z_ll --events {EVENTS} --seed 11 --out DIR"
    assert record["settings"] == json.loads(json.dumps(z_ll.describe()))
    assert record["pythia"] == z_ll.versions()["pythia"]
    counts = record["counts"]["events"]
    assert counts["generated"] == counts["written"] == EVENTS
    # 12 pi Gamma_ee Gamma_ll / (mZ Gamma_Z)^2 = 2.0 nb for each flavour at the peak, less 0.19 GeV off it
    assert counts["cross_section_pb"] == pytest.approx(3900, rel=0.05)


def test_a_block_depends_on_its_arguments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(z_ll, "BATCH", 40)
    long, _ = z_ll.generate_block("events", 5, 3, 100)
    other, _ = z_ll.generate_block("events", 6, 3, 10)
    short, _ = z_ll.generate_block("events", 5, 3, 10)
    assert all(ak.array_equal(short[name], long[name][:10], dtype_exact=True) for name in BRANCHES)
    assert not ak.array_equal(short.Electron_px, other.Electron_px)
    assert short.event.tolist() == list(range(15_001, 15_011))


def test_nothing_of_the_programs_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    z_ll.generate_block("events", 5, 0, 1)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
