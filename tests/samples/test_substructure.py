"""Jets and their observables: closed forms, and clustering written out in float64 with nothing of fastjet."""

from __future__ import annotations

import sys

import awkward as ak
import numpy as np
import pytest

from hepgen.errors import MissingDependency

pytest.importorskip("fastjet", reason="fastjet is not installed")

from hepgen.samples import substructure

R = 0.4
RNG = np.random.default_rng(23)
Vector = np.ndarray  # px, py, pz, E


def four(pt: float, y: float, phi: float, mass: float = 0.0) -> Vector:
    transverse = np.hypot(pt, mass)
    return np.array([pt * np.cos(phi), pt * np.sin(phi), transverse * np.sinh(y), transverse * np.cosh(y)])


def jagged(jets: list[list[Vector]]) -> ak.Array:
    return ak.Array([[dict(zip(("px", "py", "pz", "E"), map(float, p), strict=True)) for p in jet] for jet in jets])


def observed(*jets: list[Vector]) -> dict[str, np.ndarray]:
    return substructure.observables(jagged(list(jets)))


# -- written out: pairs are searched one by one, four-momenta added ------------------------------------------------------


def pt_of(p: Vector) -> float:
    return float(np.hypot(p[0], p[1]))


def rapidity(p: Vector) -> float:
    return float(np.arctanh(p[2] / p[3]))


def distance(a: Vector, b: Vector) -> float:
    turn = abs(np.arctan2(a[1], a[0]) - np.arctan2(b[1], b[0]))
    return float(np.hypot(rapidity(a) - rapidity(b), min(turn, 2 * np.pi - turn)))


def mass_of(p: Vector) -> float:
    return float(np.sqrt(max(p[3] ** 2 - p[:3] @ p[:3], 0)))


def closest(pieces: list[Vector], power: int) -> tuple[float, int, int]:
    """The least min(pT_i^power, pT_j^power) dR^2 and its pair: power 2 is kT, 0 Cambridge/Aachen, -2 anti-kT."""
    pairs = [(i, j) for i in range(len(pieces)) for j in range(i)]
    values = [min(pt_of(pieces[i]) ** power, pt_of(pieces[j]) ** power) * distance(pieces[i], pieces[j]) ** 2 for i, j in pairs]
    best = int(np.argmin(values))
    return values[best], *pairs[best]


def anti_kt(particles: list[Vector]) -> tuple[Vector, set[int]]:
    """The leading jet and the numbers of its constituents."""
    pieces, members = list(particles), [{k} for k in range(len(particles))]
    jets: list[tuple[Vector, set[int]]] = []
    while pieces:
        beam = int(np.argmin([pt_of(p) ** -2.0 for p in pieces]))
        d, i, j = closest(pieces, -2) if len(pieces) > 1 else (np.inf, 0, 0)
        if d / R**2 < pt_of(pieces[beam]) ** -2.0:
            pieces[j], members[j] = pieces[j] + pieces[i], members[j] | members[i]
            del pieces[i], members[i]
        else:
            jets.append((pieces.pop(beam), members.pop(beam)))
    return max(jets, key=lambda jet: pt_of(jet[0]))


def kt_axes(particles: list[Vector], n: int) -> list[Vector]:
    pieces = list(particles)
    while len(pieces) > n:
        _, i, j = closest(pieces, 2)
        pieces[j] = pieces[j] + pieces[i]
        del pieces[i]
    return pieces


def tau(particles: list[Vector], n: int) -> float:
    axes = kt_axes(particles, n)
    total = sum(map(pt_of, particles))
    return sum(pt_of(p) * min(distance(p, axis) for axis in axes) for p in particles) / total / R


def groomed(particles: list[Vector]) -> Vector:
    """Soft drop with beta = 0, z_cut = 0.1 on the Cambridge/Aachen tree."""
    pieces: list[tuple[Vector, object]] = [(p, None) for p in particles]
    while len(pieces) > 1:
        _, i, j = closest([p for p, _ in pieces], 0)
        pieces[j] = (pieces[j][0] + pieces[i][0], (pieces[j], pieces[i]))
        del pieces[i]
    node = pieces[0]
    while node[1] is not None:
        a, b = node[1]
        if min(pt_of(a[0]), pt_of(b[0])) / (pt_of(a[0]) + pt_of(b[0])) > 0.1:
            break
        node = a if pt_of(a[0]) > pt_of(b[0]) else b
    return node[0]


def random_jet(n: int) -> list[Vector]:
    """Constituents around a random axis, spread as a shower spreads them, some massive."""
    y, phi = RNG.uniform(-2, 2), RNG.uniform(-np.pi, np.pi)
    spread = 0.15 * RNG.exponential(size=n)
    turn = RNG.uniform(0, 2 * np.pi, size=n)
    return [
        four(pt, y + r * np.cos(a), phi + r * np.sin(a), m)
        for pt, r, a, m in zip(50 * RNG.exponential(size=n) ** 2 + 0.1, spread, turn, RNG.choice([0.0, 0.14, 0.94], size=n), strict=True)
    ]


# -- closed forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.3, np.pi], ids=["plain", "across pi"])
def test_two_equal_constituents(phi: float) -> None:
    out = observed([four(50, 0, phi + 0.1), four(50, 0, phi - 0.1)])
    assert out["mult"] == [2]
    assert out["pt"][0] == pytest.approx(100 * np.cos(0.1), rel=1e-12)
    # m^2 = 2 pT1 pT2 (cosh dy - cos dphi)
    assert out["m"][0] == pytest.approx(np.sqrt(2 * 50 * 50 * (1 - np.cos(0.2))), rel=1e-9)
    assert out["width"][0] == pytest.approx(0.1 / R, rel=1e-9)
    assert out["ln_rho"][0] == pytest.approx(np.log(0.5 * (1 - np.cos(0.2)) / np.cos(0.1) ** 2), rel=1e-9)
    assert out["tau21"][0] == 0
    assert out["y"][0] == pytest.approx(0, abs=1e-12)
    assert np.cos(out["phi"][0] - phi) == pytest.approx(1, abs=1e-12)


def test_two_pairs_have_the_ratio_of_their_angles_as_tau21() -> None:
    eps, delta = 0.02, 0.15
    out = observed([four(25, 0, s * delta + t * eps) for s in (-1, 1) for t in (-1, 1)])
    assert out["width"][0] == pytest.approx(delta / R, rel=1e-9)
    assert out["tau21"][0] == pytest.approx(eps / delta, rel=1e-9)


@pytest.mark.parametrize(("z", "kept"), [(0.09, False), (0.0999, False), (0.1001, True), (0.3, True)])
def test_soft_drop_takes_away_what_is_softer_than_a_tenth(z: float, kept: bool) -> None:
    hard, soft = four(100 * (1 - z), 0.2, 0.1), four(100 * z, 0.2, 0.4)
    out = observed([hard, soft])
    whole = hard + soft
    if kept:
        assert out["ln_rho"][0] == pytest.approx(2 * np.log(mass_of(whole) / pt_of(whole)), rel=1e-9)
    else:
        assert out["ln_rho"][0] < -20, "one massless constituent is left"
    assert out["m"][0] == pytest.approx(mass_of(whole), rel=1e-9)


def test_the_groomed_mass_is_that_of_the_hard_pair_over_the_pt_of_the_whole_jet() -> None:
    a, b, soft = four(60, 0, -0.05), four(40, 0, 0.05), four(5, 0.35, 0)
    out = observed([a, b, soft])
    assert out["ln_rho"][0] == pytest.approx(2 * np.log(mass_of(a + b) / pt_of(a + b + soft)), rel=1e-9)


def test_single_constituents() -> None:
    out = observed([four(80, 1, 2, mass=0.14)], [four(80, 1, 2)])
    np.testing.assert_allclose(out["pt"], 80, rtol=1e-12)
    np.testing.assert_allclose(out["ln_rho"][0], 2 * np.log(0.14 / 80), rtol=1e-6)
    assert out["ln_rho"][1] < -20
    np.testing.assert_allclose(out["width"], 0, atol=1e-12)
    assert (out["tau21"] == 0).all()
    assert out["mult"].tolist() == [1, 1]


# -- against the clustering written out ----------------------------------------------------------------------------------


def test_observables_as_written_out() -> None:
    jets = [random_jet(n) for n in (2, 3, 4, 5, 8, 12, 20, 30) for _ in range(4)]
    out = substructure.observables(jagged(jets))
    for k, jet in enumerate(jets):
        whole = sum(jet)
        assert out["mult"][k] == len(jet)
        assert out["pt"][k] == pytest.approx(pt_of(whole), rel=1e-12)
        assert out["m"][k] == pytest.approx(mass_of(whole), rel=1e-7)
        assert out["y"][k] == pytest.approx(rapidity(whole), abs=1e-10)
        # the axis of the width is the jet, which is the one exclusive-kT subjet
        assert out["width"][k] == pytest.approx(tau(jet, 1), rel=1e-9)
        assert out["tau21"][k] == pytest.approx(tau(jet, 2) / tau(jet, 1), rel=1e-7, abs=1e-7)
        mass = mass_of(groomed(jet))
        if mass > 1e-3:
            assert out["ln_rho"][k] == pytest.approx(2 * np.log(mass / pt_of(whole)), abs=1e-5)
        else:
            assert out["ln_rho"][k] < -15


def test_leading_jets_as_written_out() -> None:
    pool = [random_jet(6) + random_jet(5) + random_jet(3) for _ in range(12)]
    found, constituents = substructure.leading_jets(jagged(pool))
    assert found.all()
    for event, jet in zip(pool, constituents, strict=True):
        _, members = anti_kt(event)
        inside = sorted(float(p[0]) for k, p in enumerate(event) if k in members)
        np.testing.assert_allclose(sorted(jet.px.tolist()), inside, rtol=1e-12)


def test_events_without_a_jet_are_told_apart() -> None:
    found, constituents = substructure.leading_jets(jagged([[four(9, 0, 0)], [four(30, 1, 0), four(20, 1, 0.1), four(45, -1, 2)], []]))
    assert found.tolist() == [False, True, False]
    assert sorted(np.hypot(constituents.px[0], constituents.py[0]).tolist()) == pytest.approx([20, 30])


def test_without_fastjet_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastjet", None)
    substructure._fastjet.cache_clear()
    with pytest.raises(MissingDependency, match=r"making jets needs fastjet: pip install 'hepgen\[pythia\]'"):
        substructure.fastjet_version()
