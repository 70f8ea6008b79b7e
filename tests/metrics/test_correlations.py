"""Correlations against numpy and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from hepgen.errors import InputError, UsageError
from hepgen.metrics import correlation_table, pair_observables, pearson

NAMES = ["photon[0].pt", "photon[0].eta", "photon[0].phi", "photon[1].pt", "photon[1].eta", "photon[1].phi"]


def correlated(n, rho, seed=1):
    return np.random.default_rng(seed).multivariate_normal([3.0, -100.0], [[1.0, rho * 20], [rho * 20, 400.0]], n)


def test_unweighted_is_numpys():
    x = np.random.default_rng(0).gamma(2.0, size=(500, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
    np.testing.assert_allclose(pearson(x), np.corrcoef(x, rowvar=False), rtol=0, atol=1e-13)


def test_whole_weights_are_repeated_events():
    rng = np.random.default_rng(2)
    x, w = correlated(300, 0.4), rng.integers(1, 5, 300)
    np.testing.assert_allclose(pearson(x, w), np.corrcoef(np.repeat(x, w, axis=0), rowvar=False), rtol=0, atol=1e-13)


def test_negative_weights_take_events_away():
    x = correlated(400, -0.6)
    extra = np.random.default_rng(3).normal(size=(50, 2)) * [5, 80]
    both = np.concatenate([x, extra, extra])
    w = np.concatenate([np.ones(400), np.ones(50), -np.ones(50)])
    np.testing.assert_allclose(pearson(both, w), np.corrcoef(x, rowvar=False), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
def test_error_of_normal_columns_is_fishers(rho):
    _, error = pearson(correlated(40_000, rho), uncertainty=True)
    assert error[0, 1] == pytest.approx((1 - rho**2) / np.sqrt(40_000), rel=0.03)
    assert error[0, 0] == 0


@pytest.mark.parametrize("signed", [False, True])
def test_error_is_the_scatter_of_repeated_samples(signed):
    rng = np.random.default_rng(4)
    found, errors = [], []
    for _ in range(400):
        x = rng.exponential(size=(4000, 2))
        x[:, 1] += x[:, 0]
        w = rng.choice([1.0, -1.0], 4000, p=[0.85, 0.15]) if signed else rng.exponential(size=4000)
        r, error = pearson(x, w, uncertainty=True)
        found.append(r[0, 1])
        errors.append(error[0, 1])
    # the scatter of 400 values is known to 3.5 %; to first order in 1 / events the error is a few per cent low for such tails
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.13)


def test_table_has_the_columns_of_the_paper():
    x = np.abs(np.random.default_rng(5).normal(size=(200, 6))) + 1
    table = correlation_table(x, NAMES, pair_observables(NAMES, x))
    assert table.columns == (
        ("photon[0].pt", "photon[1].pt"),
        ("photon[0].eta", "photon[1].eta"),
        ("photon[0].phi", "photon[1].phi"),
        ("m_yy", "photon[0].pt"),
        ("m_yy", "photon[1].pt"),
    )
    mass = np.sqrt(2 * x[:, 0] * x[:, 3] * (np.cosh(x[:, 1] - x[:, 4]) - np.cos(x[:, 2] - x[:, 5])))
    reference = np.corrcoef(np.column_stack([x, mass]), rowvar=False)
    assert table.value("m_yy", "photon[1].pt")[0] == pytest.approx(reference[6, 3], abs=1e-12)
    shown = {(0, 3), (1, 4), (2, 5), (0, 6), (3, 6)}
    rest = [abs(reference[i, j]) for i in range(7) for j in range(i + 1, 7) if (i, j) not in shown]
    assert len(rest) == 16
    assert table.others == pytest.approx(np.mean(rest), abs=1e-12)
    assert len(table.pairs()) == 21


def test_others_noise_is_what_independent_columns_give():
    rng = np.random.default_rng(6)
    tables = [correlation_table(rng.normal(size=(400, 6)), NAMES) for _ in range(60)]
    assert np.mean([table.others for table in tables]) == pytest.approx(np.mean([table.others_noise for table in tables]), rel=0.05)


def test_other_columns_are_listed_in_pairs():
    table = correlation_table(np.random.default_rng(7).normal(size=(50, 3)), ["a", "b", "c"])
    assert table.columns == (("a", "b"), ("a", "c"), ("b", "c"))
    assert np.isnan(table.others)
    assert table.to_dict()["others"]["value"] is None


@pytest.mark.parametrize(
    "names", [["pt1", "eta1", "phi1", "pt2", "eta2", "phi2"], [f"photon_{q}[{i}]" for i in (0, 1) for q in ("pt", "eta", "phi")]]
)
def test_pair_is_found_under_other_spellings(names):
    x = np.array([[50.0, 0.3, 1.0, 40.0, -1.0, -2.0]])
    (mass,) = pair_observables(names, x).values()
    assert mass[0] == pytest.approx(np.sqrt(2 * 50 * 40 * (np.cosh(1.3) - np.cos(3.0))), rel=1e-12)


def test_masses_enter_the_pair_and_three_objects_make_none():
    names = [f"muon[{i}].{q}" for i in (0, 1) for q in ("pt", "eta", "phi", "mass")]
    mass = pair_observables(names, np.array([[30.0, 0, 0, 10.0, 30.0, 0, np.pi, 10.0]]))
    assert mass["m_mumu"][0] == pytest.approx(2 * np.sqrt(1000), rel=1e-12)
    assert pair_observables([f"jet[{i}].{q}" for i in range(3) for q in ("pt", "eta", "phi")], np.ones((2, 9))) == {}


@pytest.mark.parametrize(
    ("matrix", "weights", "message"),
    [
        (np.ones((0, 2)), None, "no events"),
        (np.ones(3), None, r"shape \(3,\)"),
        ([[1.0, 2.0], [1.0, 3.0]], None, "column first is constant"),
        ([[1.0, np.nan], [2.0, 3.0]], None, r"column second of the matrix has 1 NaN or infinite entries \(first at \[0\]\)"),
        ([[1.0, 2.0], [2.0, 3.0]], [1.0], r"shape \(1,\), expected \(2,\)"),
        ([[1.0, 2.0], [2.0, 3.0]], [1.0, -1.0], "sum to zero"),
        ([[1.0, 2.0], [2.0, 3.0]], [1.0, np.inf], "the weights of the matrix has 1 NaN"),
        ([["a", "b"]], None, "not a rectangular array of numbers"),
    ],
)
def test_unusable_input_is_named(matrix, weights, message):
    with pytest.raises(InputError, match=message):
        pearson(matrix, weights, names=["first", "second"])


def test_constant_large_column_is_seen_through_rounding():
    x = np.column_stack([np.full(1000, 91.1876e3), np.arange(1000.0)])
    with pytest.raises(InputError, match="column 0 is constant"):
        pearson(x, np.random.default_rng(8).uniform(size=1000))


def test_unknown_pair_and_wrong_lengths():
    x = np.random.default_rng(9).normal(size=(20, 2))
    with pytest.raises(UsageError, match="no column 'z' among x, y"):
        correlation_table(x, ["x", "y"], columns=[("x", "z")])
    with pytest.raises(InputError, match="column m has 3 entries, the matrix has 20"):
        correlation_table(x, ["x", "y"], {"m": [1.0, 2.0, 3.0]})
    with pytest.raises(InputError, match="has 2 columns, but 1 names"):
        correlation_table(x, ["x"])
