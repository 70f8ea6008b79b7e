"""The sample "ttbar": layout, selection, the peaks of W and top, and missing momentum that is that of the neutrinos."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepgen import events, samples

pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
pytest.importorskip("fastjet", reason="fastjet is not installed")

from hepgen.samples import pythia, ttbar
from hepgen.samples.smearing import DETECTOR, Seen

BRANCHES = {
    "run": "uint32_t",
    "luminosityBlock": "uint32_t",
    "event": "uint64_t",
    "genWeight": "float",
    "MET_pt": "float",
    "MET_phi": "float",
    "nJet": "int32_t",
    **{f"Jet_{name}": "float[]" for name in ("E", "pt", "eta", "phi")},
    "nLepton": "int32_t",
    **{f"Lepton_{name}": "float[]" for name in ("E", "pt", "eta", "phi")},
}
EVENTS = 1000
EXACT = replace(
    DETECTOR,
    jet_stochastic=0.0,
    jet_constant=0.0,
    electron_stochastic=0.0,
    electron_constant=0.0,
    muon_constant=0.0,
    muon_rise=0.0,
    soft=0.0,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ttbar")
    paths = samples.make("ttbar", EVENTS, 11, out, processes=1)
    assert [path.name for path in paths] == ["events.root", "ttbar.json"]
    return out


@pytest.fixture(scope="module")
def found(made: Path) -> ak.Array:
    return events.read(made / "events.root")


def momenta(objects: ak.Array) -> np.ndarray:
    """E, px, py, pz [GeV] on a last axis."""
    energy, pt, eta, phi = (ak.to_numpy(objects[name]).astype(np.float64) for name in ("E", "pt", "eta", "phi"))
    return np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)


def mass(four: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(four[..., 0] ** 2 - (four[..., 1:] ** 2).sum(axis=-1), 0.0))


def test_layout_is_that_of_nanoaod(made: Path, found: ak.Array) -> None:
    with uproot.open(made / "events.root") as file:
        tree = file["Events"]
        assert tree.typenames() == BRANCHES
        assert tree["Jet_pt"].member("fLeaves")[0].member("fLeafCount").member("fName") == "nJet"
        assert tree["Lepton_pt"].member("fLeaves")[0].member("fLeafCount").member("fName") == "nLepton"
    assert found.attrs["schema"] == "nanoaod"
    assert found.event.tolist() == list(range(1, EVENTS + 1))
    assert ak.all(found.run == 1)
    assert ak.all(found.genWeight == 1)
    assert found.nLepton.tolist() == ak.num(found.Lepton.pt).tolist()


def test_the_selection_holds_in_what_is_read(found: ak.Array) -> None:
    assert ak.all(found.nJet == 4)
    assert ak.all(ak.num(found.Jet.pt) == 4)
    assert set(found.nLepton.tolist()) == {1, 2}
    for objects, min_pt in ((found.Jet, 20), (found.Lepton, 10)):
        assert ak.all(objects.pt > min_pt)
        assert ak.all(abs(objects.eta) < 2.5)
        assert ak.all(abs(objects.phi) <= np.float32(np.pi))
        assert ak.all(objects.pt[:, :-1] >= objects.pt[:, 1:])
    assert ak.all(found.MET.pt >= 0)
    assert ak.all(abs(found.MET.phi) <= np.float32(np.pi))


def test_jets_have_mass_and_leptons_none(found: ak.Array) -> None:
    jets = momenta(found.Jet)
    assert np.all(jets[..., 0] > 0.9999 * np.sqrt((jets[..., 1:] ** 2).sum(axis=-1)))
    assert 5 < mass(jets).mean() < 15
    leptons = momenta(ak.flatten(found.Lepton))
    np.testing.assert_allclose(leptons[:, 0], np.sqrt((leptons[:, 1:] ** 2).sum(axis=1)), rtol=1e-4)


def test_w_and_top_are_seen(found: ak.Array) -> None:
    jets, lepton = momenta(found.Jet), momenta(found.Lepton[:, 0])
    pairs = np.array(list(itertools.combinations(range(4), 2)))
    dijets = mass(jets[:, pairs[:, 0]] + jets[:, pairs[:, 1]])
    peak, below, above = (np.sum((dijets > low) & (dijets < low + 20)) for low in (70, 40, 120))
    # 9100, 4800 and 5800 of 10 000 events
    assert peak > 1.3 * below
    assert peak > 1.2 * above
    # the pair nearest to a W and each of the others: the peak is at 160 GeV, what jets lose is not corrected
    best = np.abs(dijets - 78).argmin(axis=1)
    others = np.array([sorted({0, 1, 2, 3} - set(pair)) for pair in pairs.tolist()])[best]
    near = np.abs(np.take_along_axis(dijets, best[:, None], axis=1)[:, 0] - 78) < 12
    w = np.take_along_axis(jets, pairs[best][:, :, None], axis=1).sum(axis=1)
    tops = mass(w[:, None] + np.take_along_axis(jets, others[:, :, None], axis=1))[near]
    assert np.sum((tops > 140) & (tops < 180)) > 1.8 * np.sum((tops > 190) & (tops < 230))
    # m(lb) < sqrt(mt^2 - mW^2) = 153 GeV for one of the jets, were there no radiation
    assert np.mean(mass(lepton[:, None] + jets).min(axis=1) < 153) > 0.95


def test_missing_momentum_and_lepton_come_from_a_w(found: ak.Array) -> None:
    one = found[found.nLepton == 1]
    lepton = one.Lepton[:, 0]
    transverse = np.sqrt(2 * lepton.pt * one.MET.pt * (1 - np.cos(lepton.phi - one.MET.phi)))
    # the Jacobian peak ends at the W mass; 85 % of 10 000 events are below 90 GeV
    assert ak.mean(transverse < 90) > 0.8
    assert ak.sum((transverse > 60) & (transverse < 80)) > 2 * ak.sum((transverse > 90) & (transverse < 110))
    assert 60 < ak.mean(found.MET.pt) < 76
    assert ak.mean(found.nLepton == 2) == pytest.approx(0.05, abs=0.03)


def test_missing_momentum_is_that_of_the_neutrinos_where_all_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttbar, "DETECTOR", EXACT)
    generator, _hook = ttbar._leptonic(3)
    batch = pythia.batch(generator, 60)
    chosen, with_leptons = ttbar._chosen(Seen.of(batch, 20.0), np.random.default_rng(1))
    assert 10 < len(chosen) <= with_leptons < 60
    hidden = batch[(batch.status > 0) & ((abs(batch.id) == 12) | (abs(batch.id) == 14) | (abs(batch.id) == 16))].p
    neutrinos = np.column_stack([ak.to_numpy(ak.sum(hidden[name], axis=1)) for name in ("px", "py")])
    size, angle = ak.to_numpy(chosen.MET_pt), ak.to_numpy(chosen.MET_phi)
    met = np.column_stack([size * np.cos(angle), size * np.sin(angle)])
    # the order of the events is kept: each is found, after the one before it
    distance = np.hypot(*(met[:, None] - neutrinos).transpose(2, 0, 1))
    # Pythia balances momenta to its rounding, the columns are of single precision
    assert np.all(distance.min(axis=1) < 1e-3)
    assert np.all(np.diff(distance.argmin(axis=1)) > 0)


def by_hand(*objects: tuple[int, float, float, float], counts: list[int]) -> Seen:
    """Massless particles of PDG number, pT [GeV], eta and phi."""
    number, pt, eta, phi = np.array(objects).T
    four = np.column_stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)])
    return Seen(np.array(counts), four, number.astype(np.int64))


def test_events_set_by_hand_are_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttbar, "DETECTOR", EXACT)
    jets = [(211, 60.0, -1.0, -2.0), (211, 25.0, 2.0, -1.0), (211, 80.0, 1.0, 2.0), (211, 40.0, 0.0, 3.0)]
    muon, electron = (13, 30.0, 0.0, 0.0), (11, 50.0, 0.5, 1.0)
    soft, outside = (211, 15.0, -2.0, 0.5), (211, 90.0, 3.0, -3.0)
    rows = [
        [*jets, muon, soft, outside],
        [*jets, muon, electron],
        [*jets[:3], muon, soft, outside],  # too few jets
        jets,  # no lepton
        [*jets, muon, electron, (13, 20.0, -2.0, 0.0)],  # three leptons
        [*jets, (11, 24.0, -2.0, 0.5), muon, (211, 12.0, 0.1, 0.0)],  # neither is a lepton: one is a jet, one has no isolation
        [*jets, muon, (211, 22.0, -2.0, 0.5)],  # a fifth jet is left out: the softest
    ]
    rows[5][4] = (11, 8.0, -2.0, 0.5)
    particles = by_hand(*itertools.chain(*rows), counts=[len(row) for row in rows])
    chosen, with_leptons = ttbar._chosen(particles, np.random.default_rng(1))
    assert with_leptons == 4
    assert chosen.nLepton.tolist() == [1, 2, 1]
    for pt, eta in zip(chosen.Jet_pt, chosen.Jet_eta, strict=True):
        np.testing.assert_allclose(pt, [80, 60, 40, 25], rtol=1e-6)
        np.testing.assert_allclose(eta, [1, -1, 0, 2], atol=1e-6)
    np.testing.assert_allclose(chosen.Lepton_pt[1], [50, 30], rtol=1e-6)
    np.testing.assert_allclose(chosen.Lepton_E[1], [50 * np.cosh(0.5), 30], rtol=1e-6)
    total = [sum(pt * np.exp(1j * phi) for _, pt, _, phi in rows[k]) for k in (0, 1, 6)]
    np.testing.assert_allclose(chosen.MET_pt, np.abs(total), rtol=1e-5)
    np.testing.assert_allclose(chosen.MET_phi, np.angle(-np.array(total)), rtol=1e-5)


def test_provenance(made: Path) -> None:
    record = json.loads((made / "ttbar.json").read_text())
    assert record["command"] == f"hepgen samples make ttbar --events {EVENTS} --seed 11 --out DIR"
    assert record["settings"] == json.loads(json.dumps(ttbar.describe()))
    assert {"pythia": record["pythia"], "fastjet": record["fastjet"]} == ttbar.versions()
    counts = record["counts"]["events"]
    assert EVENTS == counts["written"] <= counts["selected"] < counts["with_leptons"] < counts["generated"]
    assert counts["selected"] / counts["generated"] == pytest.approx(0.475, abs=0.05)
    # 1 - (1 - 0.217)^2 = 39 % of the pairs have an electron or a muon from a W
    assert counts["cross_section_pb"] == pytest.approx(195, rel=0.1)


def test_a_block_depends_on_its_arguments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttbar, "BATCH", 40)
    long, _ = ttbar.generate_block("events", 5, 3, 30)
    other, _ = ttbar.generate_block("events", 6, 3, 8)
    short, _ = ttbar.generate_block("events", 5, 3, 8)
    assert all(ak.array_equal(short[name], long[name][:8], dtype_exact=True) for name in BRANCHES)
    assert not ak.array_equal(short.Jet_pt, other.Jet_pt)
    assert short.event.tolist() == list(range(15_001, 15_009))
    assert short.luminosityBlock.tolist() == [4] * 8


def test_nothing_of_the_programs_is_printed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttbar, "BATCH", 40)
    ttbar.generate_block("events", 5, 0, 1)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
