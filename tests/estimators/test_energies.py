from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import vector

import hepgen
from hepgen.estimators.energies import energy_columns, follow_energies


def jets(n: int = 200) -> ak.Array:
    rng = np.random.default_rng(1)
    count = rng.integers(0, 4, n)
    pt, eta, phi, mass = (
        rng.uniform(20, 90, count.sum()),
        rng.normal(0, 1.5, count.sum()),
        rng.uniform(-3, 3, count.sum()),
        rng.uniform(0, 15, count.sum()),
    )
    energy = np.sqrt(mass**2 + (pt * np.cosh(eta)) ** 2)
    return ak.Array({"jet": ak.unflatten(ak.zip({"pt": pt, "eta": eta, "phi": phi, "E": energy}), count)})


def masses(events: ak.Array) -> ak.Array:
    jet = events.jet
    return vector.zip({"pt": jet.pt, "eta": jet.eta, "phi": jet.phi, "E": jet.E}).mass


@pytest.mark.parametrize("paths", [["jet[0].pt"], ["jet[0].eta", "jet[1].pt", "jet[1].phi"]])
def test_the_mass_stays_and_so_does_what_did_not_move(paths: list[str]) -> None:
    events, features = jets(), hepgen.Features(paths)
    matrix, mask = features.to_matrix(events)
    moved = features.from_matrix(events, matrix * 1.3 + 0.1, mask)
    followed = follow_energies(features, events, moved)
    assert np.allclose(ak.flatten(masses(followed)), ak.flatten(masses(events)), atol=1e-5)
    still = ak.flatten((moved.jet.pt == events.jet.pt) & (moved.jet.eta == events.jet.eta))
    energies = ak.flatten(followed.jet.E), ak.flatten(events.jet.E)
    assert ak.all(energies[0][still] == energies[1][still])
    assert not ak.any(energies[0][~still] == energies[1][~still])


def test_an_energy_that_is_transformed_itself_is_left_alone() -> None:
    events, features = jets(), hepgen.Features(["jet[0].pt", "jet[0].E"])
    matrix, mask = features.to_matrix(events)
    moved = features.from_matrix(events, matrix + 1, mask)
    assert ak.array_equal(follow_energies(features, events, moved), moved)


@pytest.mark.parametrize(
    ("paths", "available", "expected"),
    [
        (["photon[0].pt"], ["photon_pt", "photon_eta", "photon_E", "met"], {"photon_pt", "photon_eta", "photon_E"}),
        (["photon_pt[1]"], ["photon_pt", "photon_eta", "photon_E"], {"photon_pt", "photon_eta", "photon_E"}),
        (["jet[0].phi"], ["jet_pt", "jet_eta", "jet_phi", "jet_E"], set()),
        (["jet[0].pt"], ["jet_pt", "jet_eta", "jet_mass"], set()),
        (["met"], ["met", "E"], set()),
    ],
)
def test_columns_to_read(paths: list[str], available: list[str], expected: set[str]) -> None:
    assert energy_columns(hepgen.Features(paths), available) == expected
