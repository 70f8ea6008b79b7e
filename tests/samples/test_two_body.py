"""The sample "two_body": exact kinematics, uniform masses and angles, and no need of Pythia."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from scipy import stats

from hepgen import events, samples
from hepgen.samples import two_body

BRANCHES = {
    "run": "uint32_t",
    "luminosityBlock": "uint32_t",
    "event": "uint64_t",
    "genWeight": "float",
    "nParticle": "int32_t",
    **{f"Particle_{name}": "double[]" for name in ("E", "px", "py", "pz", "mass")},
}
EVENTS = 12_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two_body")
    with pytest.MonkeyPatch.context() as patch:
        # the import of a module that is None fails
        patch.setitem(sys.modules, "pythia8mc", None)
        patch.setitem(sys.modules, "fastjet", None)
        paths = samples.make("two_body", EVENTS, 11, out, processes=1)
    assert [path.name for path in paths] == ["events.root", "two_body.json"]
    return out


@pytest.fixture(scope="module")
def particles(made: Path) -> dict[str, np.ndarray]:
    """E, px, py, pz and mass, (EVENTS, 2) each."""
    found = events.read(made / "events.root")
    return {name: ak.to_numpy(found.Particle[name]) for name in found.Particle.fields}


def test_layout(made: Path) -> None:
    with uproot.open(made / "events.root") as file:
        assert file["Events"].typenames() == BRANCHES
    found = events.read(made / "events.root")
    assert found.attrs["schema"] == "nanoaod"
    assert found.event.tolist() == list(range(1, EVENTS + 1))
    assert sorted(set(found.luminosityBlock.tolist())) == [1, 2, 3]
    assert ak.all(found.nParticle == 2)
    assert ak.all(ak.num(found.Particle.E) == 2)


def test_energy_and_momentum_are_conserved_and_the_masses_are_those_of_the_momenta(particles: dict[str, np.ndarray]) -> None:
    energy, mass = particles["E"], particles["mass"]
    np.testing.assert_allclose(energy.sum(axis=1), 100.0, rtol=1e-14)
    for name in ("px", "py", "pz"):
        assert np.all(particles[name].sum(axis=1) == 0)
    p2 = sum(particles[name] ** 2 for name in ("px", "py", "pz"))
    # of squares of at most 100 GeV^2 x 100
    np.testing.assert_allclose(energy**2 - p2 - mass**2, 0.0, atol=1e4 * 1e-15)


def test_masses_and_angles_are_uniform(particles: dict[str, np.ndarray]) -> None:
    px, py, pz = (particles[name][:, 0] for name in ("px", "py", "pz"))
    theta, phi = np.arctan2(np.hypot(px, py), pz), np.arctan2(py, px)
    columns = [particles["mass"][:, 0] / 50, particles["mass"][:, 1] / 50, theta / np.pi, (phi / np.pi + 1) / 2]
    for column in columns:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlations = np.corrcoef(columns)
    assert np.all(np.abs(correlations[np.triu_indices(4, 1)]) < 4 / np.sqrt(EVENTS))


def test_decays_at_hand() -> None:
    # 3-4-5: massless, m1 = m2 = 30 GeV (p = 40 GeV), and one at rest beside the other
    found = two_body.decay(
        np.array([0.0, 30.0, 50.0]), np.array([0.0, 30.0, 50.0]), np.array([0.0, np.pi / 2, 1.0]), np.array([0.0, np.pi / 2, 1.0])
    )
    np.testing.assert_allclose(found["E"], [[50, 50], [50, 50], [50, 50]], rtol=1e-15)
    np.testing.assert_allclose(found["pz"], [[50, -50], [0, 0], [0, 0]], atol=1e-14)
    np.testing.assert_allclose(found["py"], [[0, 0], [40, -40], [0, 0]], atol=1e-14)
    unequal = two_body.decay(np.array([40.0]), np.array([20.0]), np.array([0.3]), np.array([0.2]))
    # E1 = (M^2 + m1^2 - m2^2) / 2M
    np.testing.assert_allclose(unequal["E"], [[56.0, 44.0]], rtol=1e-15)


def test_provenance(made: Path) -> None:
    record = json.loads((made / "two_body.json").read_text())
    assert record["command"] == f"hepgen samples make two_body --events {EVENTS} --seed 11 --out DIR"
    assert record["settings"] == json.loads(json.dumps(two_body.describe()))
    assert record["numpy"] == np.__version__
    assert "pythia" not in record
    assert record["counts"] == {"events": {"generated": EVENTS, "written": EVENTS}}


def test_a_block_depends_on_its_arguments_alone() -> None:
    long, _ = two_body.generate_block("events", 5, 3, 40)
    other, _ = two_body.generate_block("events", 6, 3, 10)
    next_block, _ = two_body.generate_block("events", 5, 4, 10)
    short, _ = two_body.generate_block("events", 5, 3, 10)
    assert all(ak.array_equal(short[name], long[name][:10], dtype_exact=True) for name in BRANCHES)
    assert not ak.array_equal(short.Particle_E, other.Particle_E)
    assert not ak.array_equal(short.Particle_E, next_block.Particle_E)
    assert short.event.tolist() == list(range(15_001, 15_011))
