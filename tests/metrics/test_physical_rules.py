"""Broken rules against events broken by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hepgen.errors import InputError, UsageError
from hepgen.events import Cut, Selection
from hepgen.metrics import physicality

NAMES = ("Jet[0].E", "Jet[0].pt", "Jet[0].eta", "Jet[0].phi", "Jet[1].pt", "Lepton[0].pt", "MET.pt", "MET.phi")


def events(n, seed):
    rng = np.random.default_rng(seed)
    pt, eta, phi = rng.uniform(50, 100, n), rng.normal(size=n), rng.uniform(-np.pi, np.pi, n)
    energy = np.sqrt((pt * np.cosh(eta)) ** 2 + rng.uniform(0, 20, n) ** 2)
    return np.column_stack([energy, pt, eta, phi, pt * rng.uniform(0.4, 1, n), rng.uniform(20, 50, n), rng.exponential(40, n), phi])


def rules(found):
    return {label: events for label, _, _, events in found.rules}


def test_physical_events_break_nothing():
    found = physicality(events(1000, 1), NAMES)
    assert (found.fraction, found.error, found.events) == (0, 1e-3, 0)
    assert set(rules(found).values()) == {0}
    assert list(rules(found)) == [
        "Jet[0].pt >= 0", "Jet[0].phi in [-pi, pi]", "Jet[0].E >= p", "Jet[1].pt >= 0", "Lepton[0].pt >= 0", "MET.pt >= 0",
        "MET.phi in [-pi, pi]", "Jet[0].pt >= Jet[1].pt",
    ]  # fmt: skip


def test_each_rule_finds_its_events():
    x = events(1000, 2)
    x[:7, 0] = 0.99 * x[:7, 1] * np.cosh(x[:7, 2])
    x[5:16, 4] = x[5:16, 1] + 1
    x[100:103, 7] = 3.2
    x[200:205, 6] = -1
    found = physicality(x, NAMES)
    assert {label: n for label, n in rules(found).items() if n} == {
        "Jet[0].E >= p": 7, "Jet[0].pt >= Jet[1].pt": 11, "MET.phi in [-pi, pi]": 3, "MET.pt >= 0": 5,
    }  # fmt: skip
    assert found.events == 16 + 3 + 5
    assert found.fraction == pytest.approx(0.024)
    assert found.error == pytest.approx(np.sqrt(0.024 * 0.976 / 1000))
    assert rules(physicality(x, NAMES, tolerance=0.02))["Jet[0].E >= p"] == 0
    assert json.loads(json.dumps(found.to_dict()))["rules"]["MET.pt >= 0"]["events"] == 5


def test_weights():
    x, w = events(400, 3), np.random.default_rng(4).choice([1.0, -0.5], 400)
    x[:50, 6] = -1
    found = physicality(x, NAMES, w)
    assert found.fraction == pytest.approx(w[:50].sum() / w.sum())


def test_on_shell_and_cartesian():
    rng = np.random.default_rng(5)
    p, m = rng.normal(size=(300, 3)), rng.uniform(1, 2, 300)
    names = ("particle_E", "particle_px", "particle_py", "particle_pz", "particle_mass")
    energy = np.sqrt((p**2).sum(axis=1) + m**2)
    assert physicality(np.column_stack([energy, p, m]), names).fraction == 0
    energy[:9] *= 1.01
    found = physicality(np.column_stack([energy, p, m]), names)
    assert rules(found) == {"particle.mass >= 0": 0, "particle on shell": 9}
    assert physicality(np.column_stack([energy, p, m]), names, tolerance=0.03).fraction == 0
    without = physicality(np.column_stack([0.5 * np.sqrt((p**2).sum(axis=1)), p]), names[:4])
    assert rules(without) == {"particle.E >= p": 300}


def test_cuts_and_absent_objects():
    x = events(500, 6)
    x[:, 5] = np.where(np.arange(500) < 100, 0.0, x[:, 5])
    cuts = Selection([Cut("Lepton[0].pt", minimum=20), Cut("abs(Jet[0].eta)", maximum=1.0), Cut("count(Jet)", minimum=2)])
    found = physicality(x, NAMES, selection=cuts)
    labels = rules(found)
    assert found.skipped == (cuts.cuts[2].label,)
    assert labels[cuts.cuts[0].label] == 0
    assert labels[cuts.cuts[1].label] == np.sum(np.abs(x[:, 2]) > 1)
    x[:10, 5] = 0.2
    assert rules(physicality(x, NAMES, selection=cuts))[cuts.cuts[0].label] == 10


@pytest.mark.parametrize(
    ("x", "names", "options", "error", "message"),
    [
        (np.ones((2, 2)), ("x", "y"), {}, UsageError, "no rule speaks of the columns x, y"),
        (np.ones((2, 2)), ("x",), {}, InputError, "1 names were given"),
        (np.full((2, 1), np.nan), ("MET.pt",), {}, InputError, "column MET.pt of the matrix has 2 NaN"),
        (np.ones((2, 1)), ("MET.pt",), {"tolerance": -1.0}, UsageError, "tolerance is -1.0"),
    ],
)
def test_unusable_input_is_named(x, names, options, error, message):
    with pytest.raises(error, match=message):
        physicality(x, names, **options)
