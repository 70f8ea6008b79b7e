"""The detector of the sample "ttbar": resolutions as its settings say, and isolation against sums over all pairs."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from hepgen.samples.smearing import DETECTOR, Seen

ELECTRON, MUON = 11, 13


def along(pt: float, eta: float, n: int) -> np.ndarray:
    """The same massless four-momentum n times, px, py, pz, E [GeV]."""
    return np.tile([pt * np.cos(0.3), pt * np.sin(0.3), pt * np.sinh(eta), pt * np.cosh(eta)], (n, 1))


@pytest.mark.parametrize("pt", [25.0, 100.0, 400.0])
def test_resolutions_are_those_of_the_settings_and_directions_stay(pt: float) -> None:
    n, eta, rng = 40_000, 1.2, np.random.default_rng(4)
    true = along(pt, eta, n)
    energy = pt * np.cosh(eta)
    measured = {
        0.8 / np.sqrt(pt): DETECTOR.jets(true, rng),
        0.1 / np.sqrt(energy): DETECTOR.leptons(true, np.full(n, ELECTRON), rng),
        2e-4 * pt: DETECTOR.leptons(true, np.full(n, MUON), rng),
    }
    for (slope, found), constant in zip(measured.items(), (0.05, 0.01, 0.015), strict=True):
        ratio = found[:, 3] / energy
        assert ratio.std() == pytest.approx(np.hypot(slope, constant), rel=0.02)
        assert ratio.mean() == pytest.approx(1.0, abs=4 * ratio.std() / np.sqrt(n))
        np.testing.assert_allclose(found, true * ratio[:, None], rtol=1e-12)


def test_no_jet_has_negative_energy() -> None:
    found = DETECTOR.jets(along(1.0, 0.0, 2000), np.random.default_rng(5))
    assert found[:, 3].min() == 0


def test_isolation_is_the_sum_over_all_others_of_the_event() -> None:
    rng = np.random.default_rng(6)
    counts = rng.integers(0, 40, 60)
    k = counts.sum()
    # crowded, so that all answers occur
    pt, eta, phi = rng.exponential(6.0, k) + 0.1, rng.uniform(-3, 3, k), rng.uniform(-np.pi, np.pi, k)
    four = np.column_stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)])
    particles = Seen(counts, four, rng.choice([ELECTRON, MUON, 211, 22], k))
    wanted = []
    for i in range(k):
        if particles.number[i] in (211, 22) or pt[i] <= 5.0 or abs(eta[i]) >= 2.5:
            continue
        around = 0.0
        for j in range(k):
            turn = abs(phi[i] - phi[j])
            if j != i and particles.event[i] == particles.event[j] and np.hypot(eta[i] - eta[j], min(turn, 2 * np.pi - turn)) < 0.3:
                around += pt[j]
        if around < 0.12 * pt[i]:
            wanted.append(i)
    assert DETECTOR.isolated(particles, 5.0, 2.5).tolist() == wanted
    assert 20 < len(wanted) < 0.9 * np.sum(np.isin(particles.number, (ELECTRON, MUON)) & (pt > 5.0) & (np.abs(eta) < 2.5))


def test_seen_leaves_out_neutrinos_and_what_is_past_the_acceptance() -> None:
    p = ak.zip(
        {"px": [[3.0, 3.0], [], [0.0, 3.0, 3.0]], "py": [[0.0, 0.0], [], [4.0, 0.0, 0.0]], "pz": [[1.0, 1.0], [], [2.0, -900.0, 1.0]]}
    )
    p["e"] = np.sqrt(p.px**2 + p.py**2 + p.pz**2)
    batch = ak.zip({"id": [[-12, -211], [], [22, 22, 6]], "status": [[1, 83], [], [91, 91, -22]], "p": p}, depth_limit=2)
    seen = Seen.of(batch, 4.9)
    assert seen.counts.tolist() == [1, 0, 1]
    assert seen.number.tolist() == [211, 22]
    assert seen.event.tolist() == [0, 2]
    np.testing.assert_allclose(seen.four, [[3, 0, 1, np.sqrt(10)], [0, 4, 2, np.sqrt(20)]])
    assert seen.of_events(np.array([False, True, True])).counts.tolist() == [0, 1]
    assert seen.where(np.array([False, True])).counts.tolist() == [0, 0, 1]
