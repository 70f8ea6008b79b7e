"""The sample "gamma_jet": layout, reproducibility, the two regions, and the toy that identifies photons."""

from __future__ import annotations

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

from hepgen.samples import gamma_jet, photon_id
from hepgen.samples.photon_id import DETECTOR, IDENTIFICATION, Particles, Surroundings

BRANCHES = {
    "run": "uint32_t",
    "luminosityBlock": "uint32_t",
    "event": "uint64_t",
    "genWeight": "float",
    "PV_npvs": "int32_t",
    "nPhoton": "int32_t",
    "Photon_pt": "float[]",
    "Photon_eta": "float[]",
    "Photon_phi": "float[]",
    "Photon_mass": "float[]",
    "Photon_mvaID": "float[]",
    "Photon_isPrompt": "bool[]",
    "nJet": "int32_t",
    "Jet_pt": "float[]",
    "Jet_eta": "float[]",
    "Jet_phi": "float[]",
    "Jet_mass": "float[]",
}
EVENTS = 100


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gamma_jet")
    paths = samples.make("gamma_jet", EVENTS, 11, out, processes=1)
    assert [path.name for path in paths] == ["sr.root", "cr.root", "gamma_jet.json"]
    return out


def read(made: Path, sample: str) -> ak.Array:
    found = events.read(made / f"{sample}.root")
    assert found.attrs["schema"] == "nanoaod"
    return found


def pair(found: ak.Array) -> tuple[ak.Array, ak.Array]:
    """The prompt photon and the jet taken for one, of the two hardest candidates."""
    two = found.Photon[:, :2]
    prompt = two.isPrompt == 1
    assert ak.all(ak.sum(prompt, axis=1) == 1)
    return ak.flatten(two[prompt]), ak.flatten(two[~prompt])


def distances(eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    return np.hypot(eta, (phi + np.pi) % (2 * np.pi) - np.pi)


def test_layout_is_that_of_nanoaod(made: Path) -> None:
    for sample in gamma_jet.SAMPLES:
        with uproot.open(made / f"{sample}.root") as file:
            tree = file["Events"]
            assert tree.typenames() == BRANCHES
            counters = {
                branch.name: branch.member("fLeaves")[0].member("fLeafCount").member("fName")
                for branch in tree.branches
                if "[]" in branch.typename
            }
        assert counters == {name: f"n{name.split('_')[0]}" for name, kind in BRANCHES.items() if "[]" in kind}
        found = read(made, sample)
        assert found.event.tolist() == list(range(1, EVENTS + 1))
        assert ak.all(found.run == gamma_jet.RUNS[sample])
        assert ak.all(found.luminosityBlock == 1)
        assert ak.all(found.genWeight == 1)
        assert set(found.Photon.fields) == {"pt", "eta", "phi", "mass", "mvaID", "isPrompt"}
        assert found.nPhoton.tolist() == ak.num(found.Photon.pt).tolist()
        assert found.nJet.tolist() == ak.num(found.Jet.pt).tolist()


def test_the_selection_holds_in_what_is_read(made: Path) -> None:
    for sample in gamma_jet.SAMPLES:
        found = read(made, sample)
        photon = found.Photon
        assert ak.all(photon.pt > 20)
        assert ak.all(photon.pt[:, :-1] >= photon.pt[:, 1:])
        assert ak.all(abs(photon.eta) < 2.5)
        assert not ak.any((abs(photon.eta) > 1.4443) & (abs(photon.eta) < 1.5659))
        assert ak.all((photon.mvaID > np.float32(IDENTIFICATION.floor)) & (photon.mvaID <= 1))
        assert ak.all(photon.mass == 0)
        pt, eta, phi = (ak.to_numpy(photon[name][:, :2]).astype(np.float64) for name in ("pt", "eta", "phi"))
        mass = np.sqrt(2 * pt[:, 0] * pt[:, 1] * (np.cosh(eta[:, 0] - eta[:, 1]) - np.cos(phi[:, 0] - phi[:, 1])))
        assert np.all((mass > 100) & (mass < 180))
        assert np.all(pt[:, 0] > mass / 3)
        assert np.all(pt[:, 1] > mass / 4)


def test_regions_differ_by_whether_the_jet_passes(made: Path) -> None:
    for sample in gamma_jet.SAMPLES:
        prompt, fake = pair(read(made, sample))
        assert ak.all(prompt.mvaID > IDENTIFICATION.cut)
        assert ak.all((fake.mvaID > IDENTIFICATION.cut) == (sample == "sr"))
        # most prompt photons are near 1, jets fall towards it
        assert np.median(prompt.mvaID) > 0.9
        assert np.median(fake.mvaID) < 0.5


def test_jets_are_away_from_photons(made: Path) -> None:
    for sample in gamma_jet.SAMPLES:
        found = read(made, sample)
        jets, photons = ak.unzip(ak.cartesian([found.Jet, found.Photon]))
        assert ak.all(distances(jets.eta - photons.eta, jets.phi - photons.phi) > 0.4)
        assert ak.all(found.Jet.pt > 15)
        assert ak.all(abs(found.Jet.eta) < 4.7)
        assert ak.all(found.Jet.pt[:, :-1] >= found.Jet.pt[:, 1:])
        assert ak.all(found.Jet.mass >= 0)
        assert 0.3 < ak.mean(found.nJet) < 1.0


def test_what_fails_is_the_core_of_a_jet_that_recoils_against_the_photon(made: Path) -> None:
    regions = {sample: read(made, sample) for sample in gamma_jet.SAMPLES}
    fakes = {}
    for sample, found in regions.items():
        prompt, fakes[sample] = pair(found)
        turn = abs((ak.to_numpy(prompt.phi - fakes[sample].phi) + np.pi) % (2 * np.pi) - np.pi)
        assert np.mean(turn > np.pi / 2) > 0.85
        # a cluster has but a part of its jet
        assert ak.mean(fakes[sample].pt) < 0.8 * ak.mean(prompt.pt)
        assert 20 < ak.mean(found.PV.npvs) < 30
    # at 10 000 events: mean pT 49 and 41 GeV, past the gap 43 % and 22 %, 23 and 26 vertices
    assert ak.mean(fakes["sr"].pt) > ak.mean(fakes["cr"].pt)
    assert ak.mean(abs(fakes["sr"].eta) > 1.5) > ak.mean(abs(fakes["cr"].eta) > 1.5) + 0.08
    assert ak.mean(regions["sr"].PV.npvs) < ak.mean(regions["cr"].PV.npvs)


def test_provenance(made: Path) -> None:
    record = json.loads((made / "gamma_jet.json").read_text())
    assert record["command"] == f"hepgen samples make gamma_jet --events {EVENTS} --seed 11 --out DIR"
    assert record["settings"] == json.loads(json.dumps(gamma_jet.describe()))
    assert {"pythia": record["pythia"], "fastjet": record["fastjet"]} == gamma_jet.versions()
    for counts in record["counts"].values():
        assert EVENTS == counts["written"] <= counts["in_region"] < counts["selected"] < counts["generated"]
        # of the 9.3 nb above pT-hat and m-hat, 60 % are hard processes near the acceptance
        assert counts["cross_section_pb"] == pytest.approx(5600, rel=0.1)


@pytest.mark.parametrize("sample", gamma_jet.SAMPLES)
def test_a_block_depends_on_its_arguments_alone(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gamma_jet, "BATCH", 100)
    long, _ = gamma_jet.generate_block(sample, 5, 3, 12)
    other, _ = gamma_jet.generate_block(sample, 6, 3, 3)
    short, _ = gamma_jet.generate_block(sample, 5, 3, 3)
    assert all(ak.array_equal(short[name], long[name][:3], dtype_exact=True) for name in BRANCHES)
    assert not ak.array_equal(short.Photon_pt, other.Photon_pt)
    assert short.event.tolist() == [15_001, 15_002, 15_003]
    assert short.luminosityBlock.tolist() == [4, 4, 4]


def test_nothing_of_the_programs_is_printed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gamma_jet, "BATCH", 100)
    gamma_jet.generate_block("cr", 5, 0, 1)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def particles(*rows: tuple[int, float, float, float], counts: list[int] | None = None) -> Particles:
    """Massless particles of PDG number, pT [GeV], eta and phi; the photon of the hard process is the first particle of each event."""
    number, pt, eta, phi = np.array(rows).T
    momenta = np.column_stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    size = np.array([len(rows)] if counts is None else counts)
    charged = np.isin(number, (11, 13, 211))
    four = np.column_stack([momenta, pt * np.cosh(eta)])
    return Particles(size, four, number.astype(np.int64), charged, momenta[np.cumsum(size) - size])


def test_surroundings_are_sums_over_cones() -> None:
    found = particles(
        (22, 50.0, 0.3, 3.1),
        (22, 30.0, 1.0, 0.0),
        (22, 10.0, 1.04, 0.0),  # in the cluster
        (130, 8.0, 1.0, 0.12),  # behind it
        (211, 4.0, 1.2, 0.0),  # around it, and its deposit
        (13, 2.0, 1.0, -0.2),
        (22, 5.0, 1.0, 0.5),  # outside
    )
    left = np.array([1.0, 1.0, 1.0, 0.25, 0.5, 0.0, 1.0])
    around = photon_id._surroundings(found, left, np.array([0, 0]), np.array([1.01, 0.3]), np.array([0.0, 3.1]))
    np.testing.assert_allclose(around.hadronic, [6.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(around.charged, [4.0 + 2.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(around.neutral, [2.0 + 2.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(around.width, [np.sqrt((30 * 0.01**2 + 10 * 0.03**2) / 40), 0.0], rtol=1e-9, atol=1e-12)


def test_distances_go_round_in_azimuth() -> None:
    np.testing.assert_allclose(photon_id.distance(np.array([0.3, 0.0]), np.array([0.4, 2 * np.pi - 0.1])), [0.5, 0.1])


def test_pairs_are_those_of_one_event() -> None:
    one, other = photon_id.all_pairs(np.array([0, 2, 2]), np.array([2, 5, 1]))
    assert one.tolist() == [0, 0, 1, 2]
    assert other.tolist() == [0, 1, 7, 7]


def test_the_score_without_chance_is_its_formula() -> None:
    plain = replace(IDENTIFICATION, noise=0.0, resolution=0.0, conversions=0.0, conversions_slope=0.0)
    quiet = replace(DETECTOR, isolation_pileup=0.0, hadron_pileup=0.0)
    around = Surroundings(
        hadronic=np.array([0.0, 4.0]), charged=np.array([0.0, 12.0]), neutral=np.array([0.0, 4.0]), width=np.array([0.0, 0.0095])
    )
    found = plain.score(np.array([40.0, 80.0]), np.array([2.0, 0.5]), around, np.array([20, 20]), quiet, np.random.default_rng(1))
    wanted = 2.4 + np.log(2.0) - 0.15 * np.log(2.0) - 0.20 * np.log(4.0) - 0.80 * np.log(2.0) - 0.35 * np.log1p((np.sqrt(2.0) - 1.0) / 0.1)
    np.testing.assert_allclose(found, np.tanh([2.4, wanted]), rtol=1e-12)


def test_pile_up_takes_the_score_down() -> None:
    n = 20_000
    around = Surroundings(*(np.zeros(n) for _ in range(4)))
    rng = np.random.default_rng(2)
    pt, eta = np.full(n, 40.0), np.full(n, 0.5)
    means = [IDENTIFICATION.score(pt, eta, around, np.full(n, vertices), DETECTOR, rng).mean() for vertices in (5, 25, 45)]
    assert means[0] > means[1] + 0.01
    assert means[1] > means[2] + 0.01


def test_the_detector_does_what_its_settings_say() -> None:
    rng = np.random.default_rng(3)
    n = 100_000
    one = particles(*[(211, 10.0, 0.0, 0.0)] * n)
    left = DETECTOR.left(one, rng)
    assert np.mean(left > 0) == pytest.approx(0.67, abs=0.006)
    assert left[left > 0].mean() == pytest.approx(1.5 / 3.5, abs=0.004)
    assert DETECTOR.left(particles((22, 9.0, 0.0, 0.0), (11, 9.0, 0.0, 0.0), (13, 9.0, 0.0, 0.0)), rng).tolist() == [1, 1, 0]
    for eta, stochastic, constant in ((0.5, 0.03, 0.010), (2.0, 0.05, 0.020)):
        ratio = DETECTOR.measured_pt(np.full(n, 50.0), np.full(n, eta), rng) / 50.0
        assert ratio.mean() == pytest.approx(1.0, abs=3e-4)
        assert ratio.std() == pytest.approx(np.sqrt(stochastic**2 / (50 * np.cosh(eta)) + constant**2), rel=0.02)
    vertices = DETECTOR.vertex_numbers(n, rng)
    assert vertices.min() >= 1
    assert vertices.mean() == pytest.approx(25, abs=0.15)
    assert vertices.var() == pytest.approx(24 + 24**2 / 8, rel=0.03)


def test_candidates_need_two_clusters_in_the_acceptance() -> None:
    # a merged pion beside a photon; one photon alone; a photon with one in the gap
    found = particles(
        *((22, 60.0, 0.3, 3.1), (22, 25.0, 1.0, 0.0), (22, 15.0, 1.02, 0.01)),
        (22, 60.0, 0.3, 3.1),
        *((22, 60.0, 0.3, 3.1), (22, 40.0, 1.5, 0.0)),
        counts=[3, 1, 2],
    )
    exact = replace(DETECTOR, stochastic=0.0, constant=0.0)
    got = photon_id.candidates(found, np.array([20, 20, 20]), exact, IDENTIFICATION, 20.0, np.random.default_rng(4))
    assert got["event"].tolist() == [0, 0]
    assert got["isPrompt"].tolist() == [True, False]
    np.testing.assert_allclose(got["pt"], [60.0, 40.0], rtol=1e-3)
    np.testing.assert_allclose(got["eta"], [0.3, 1.0075], rtol=1e-3)
    assert {name: column.dtype.name for name, column in got.items()} == {
        "event": "int64",
        "pt": "float32",
        "eta": "float32",
        "phi": "float32",
        "mvaID": "float32",
        "isPrompt": "bool",
    }
