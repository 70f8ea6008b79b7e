"""chi2 of shapes against scipy, and over toys with weights of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency, kstest

from hepgen.errors import InputError, UsageError
from hepgen.metrics import chi2_ndf, marginal_chi2

EDGES = np.linspace(-4, 4, 41)


def test_unweighted_is_pearsons_test_of_homogeneity():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=3000), rng.normal(0.1, size=1000)
    edges = [-1.5, -1, 0, 0.5, 1, 1.5]
    found = chi2_ndf(a, b, edges)
    outer = [-np.inf, *edges[1:-1], np.inf]
    reference = chi2_contingency([np.histogram(a, outer)[0], np.histogram(b, outer)[0]], correction=False)
    assert found.ndf == reference.dof == 4
    assert found.chi2 == pytest.approx(reference.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert found.per_ndf == found.chi2 / found.ndf


def test_scale_of_the_weights_does_not_matter():
    rng = np.random.default_rng(1)
    a, b, w = rng.normal(size=500), rng.normal(size=700), rng.normal(1, 0.4, size=500)
    assert chi2_ndf(a, b, EDGES, w).chi2 == pytest.approx(chi2_ndf(a, b, EDGES, 1e6 * w, np.full(700, 3e-5)).chi2, rel=1e-9)


def toy(kind, rng):
    a, b = rng.normal(size=1500), rng.normal(size=1500)
    if kind == "plain":
        return a, b, None, None
    if kind == "uneven":
        return a[:300], rng.normal(size=9000), None, None
    if kind == "signed":
        return a, b, rng.choice([1.0, -0.5], 1500, p=[0.85, 0.15]) * rng.gamma(4, size=1500), rng.choice([1.0, -1.0], 1500, p=[0.95, 0.05])
    # events of a wider normal, weighted to the same shape: errors relative to content differ from bin to bin
    return 1.5 * a, b, np.exp(-(a**2) * (1.5**2 - 1) / 2), None


@pytest.mark.parametrize("kind", ["plain", "uneven", "signed", "reshaped"])
def test_equal_shapes_give_one_per_degree_of_freedom(kind):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(400):
        a, b, v, w = toy(kind, rng)
        found.append(chi2_ndf(a, b, EDGES, v, w))
    assert min(one.ndf for one in found) > 8
    mean, expected = np.mean([one.per_ndf for one in found]), np.mean([np.sqrt(2 / one.ndf) for one in found])
    # 400 toys know the mean to expected / 20; the rest is what few entries a bin cost
    assert mean == pytest.approx(1, abs=3.5 * expected / 20 + 0.01)
    assert kstest([one.p_value for one in found], "uniform").pvalue > 1e-3


def test_different_shapes_are_seen():
    rng = np.random.default_rng(3)
    found = chi2_ndf(rng.normal(size=5000), rng.normal(0.3, size=5000), EDGES)
    assert found.per_ndf > 5
    assert found.p_value < 1e-10
    # the pulls rise with x, as the second sample lies higher
    assert np.corrcoef(np.arange(len(found.pulls)), found.pulls)[0, 1] < -0.8


def test_merging_follows_the_rule_and_leaves_nothing_out():
    a = np.repeat([0.5, 1.5, 2.5, 3.5, 4.5], [4, 6, 10, 30, 3])
    found = chi2_ndf(a, a, np.arange(6.0), min_effective=10)
    # 4 + 6 make ten, ten are enough, thirty are enough, the last three join them
    np.testing.assert_array_equal(found.edges, [0, 2, 3, 5])
    assert found.chi2 == 0
    assert found.p_value == 1


def test_bins_that_negative_weights_empty_are_merged():
    rng = np.random.default_rng(4)
    a = np.concatenate([rng.uniform(0, 10, 2000), rng.uniform(4, 5, 200)])
    w = np.concatenate([np.ones(2000), -np.ones(200)])
    found = chi2_ndf(a, rng.uniform(0, 10, 2000), np.arange(11.0), w)
    assert np.isfinite(found.chi2)
    assert found.ndf < 9


def test_number_of_bins_gives_equal_shares():
    rng = np.random.default_rng(5)
    a, b = rng.exponential(size=2000), rng.exponential(size=3000)
    found = chi2_ndf(a, b, 20)
    shares = np.histogram(np.concatenate([a, b]), found.edges)[0]
    assert found.ndf == 19
    assert shares.min() >= 245


def test_overflow_counts():
    b = np.linspace(0, 1, 1000, endpoint=False)
    inside, outside = chi2_ndf(b, b, [0, 0.5, 1]), chi2_ndf(np.concatenate([b, np.full(300, 99.0)]), b, [0, 0.5, 1])
    assert inside.chi2 == 0
    assert outside.chi2 > 20
    assert outside.p_value == pytest.approx(chi2.sf(outside.chi2, 1))


def test_marginals_are_the_columns():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(800, 2)), rng.normal(size=(900, 2))
    w = rng.uniform(size=800)
    found = marginal_chi2(a, b, ["x", "y"], {"x": EDGES, "y": [-1, 0, 1]}, a_weights=w)
    assert found["x"].chi2 == chi2_ndf(a[:, 0], b[:, 0], EDGES, w).chi2
    assert found["y"].ndf == 1
    assert marginal_chi2(a, b, ["x", "y"], 10)["y"].ndf == 9
    with pytest.raises(UsageError, match="no edges for column y: it has x"):
        marginal_chi2(a, b, ["x", "y"], {"x": EDGES})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], [1.0], 5), InputError, "the column of the first sample has no entries"),
        (([1.0], [np.nan], 5), InputError, "the column of the second sample has 1 NaN"),
        (([1.0, 2.0], [1.0], 5, [1.0]), InputError, r"expected \(2,\)"),
        (([1.0, 2.0], [1.0], 5, [1.0, -1.0]), InputError, "sum to zero"),
        (([1.0, 2.0], [1.0, 2.0], 5), InputError, "fewer than two bins with 10 effective entries"),
        ((np.ones(100), np.ones(100), 5), UsageError, "three increasing numbers"),
        (([1.0], [1.0], 1), UsageError, "at least 2"),
        (([1.0], [1.0], 0), UsageError, "bins is 0"),
        (([1.0], [1.0], [0, 2, 1]), UsageError, "three increasing numbers"),
    ],
)
def test_unusable_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        chi2_ndf(*arguments)
