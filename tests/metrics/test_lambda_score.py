"""-2 ln Lambda against numpy's histograms and against what is known of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hepgen.errors import InputError, UsageError
from hepgen.metrics import LambdaReference, lambda_score


def events(n, seed, spread=1.0):
    z = np.random.default_rng(seed).normal(size=(n, 4))
    return np.column_stack(
        [35 + 20 * np.exp(z[:, 0]), 1.2 * z[:, 1] * spread, 1 / (1 + np.exp(z[:, 2])), np.exp(0.5 * z[:, 3] + 0.3 * z[:, 0])]
    )


def straightforward(x, y, v, w, bins, c):
    """The sum over every cell of a dense histogram; the outer bins are open."""
    edges = [np.concatenate([[-np.inf], np.quantile(column, np.arange(1, bins) / bins, method="hazen"), [np.inf]]) for column in x.T]
    m, n = np.histogramdd(x, edges, weights=v)[0].ravel(), np.histogramdd(y, edges, weights=w)[0].ravel()
    rows = w.sum() ** 2 / (w**2).sum()
    p = (rows * n / n.sum() + c) / (rows + c * len(n))
    used = m > 0
    return -2 * (m[used] * np.log(p[used])).sum(), -2 * (m[used] * np.log(m[used] / m.sum())).sum()


@pytest.mark.parametrize(("bins", "c"), [(10, 0.5), (3, 2.0)])
def test_is_the_sum_over_dense_histograms(bins, c):
    x, y, w = events(1009, 1), events(3000, 2, 1.3), np.random.default_rng(3).exponential(size=3000)
    found = lambda_score(x, y, None, w, bins=bins, pseudo_count=c)
    score, floor = straightforward(x, y, np.ones(1009), w, bins, c)
    assert found.score == pytest.approx(score, rel=1e-12)
    assert found.floor == pytest.approx(floor, rel=1e-12)
    assert found.events == 1009
    assert found.per_event == found.score / 1009
    assert found.excess == pytest.approx((score - floor) / 1009)
    assert json.loads(json.dumps(found.to_dict()))["value"] == found.score


def test_worked_out_by_hand():
    # cells below and above 2: m = 3, 1 and n = 1, 1
    x, y = [[0.0], [1.0], [1.5], [3.0]], [[1.0], [5.0]]
    assert lambda_score(x, y, bins=[[0, 2, 4]], pseudo_count=0).score == pytest.approx(-2 * 4 * np.log(0.5))
    assert lambda_score(x, y, [1, 1, 1, 2.0], [3.0, 1.0], bins=[[0, 2, 4]], pseudo_count=0).score == pytest.approx(
        -2 * (3 * np.log(0.75) + 2 * np.log(0.25))
    )
    found = lambda_score(x, [[0.0], [1.0]], bins=[[0, 2, 4]], pseudo_count=0.5)
    assert found.score == pytest.approx(-2 * (3 * np.log(2.5 / 3) + np.log(0.5 / 3)))
    assert found.floor == pytest.approx(-2 * (3 * np.log(0.75) + np.log(0.25)))
    assert found.empty == 0.25


def test_which_sample_is_scored_matters():
    narrow, wide = events(2000, 4), events(2000, 5, 3.0)
    assert lambda_score(narrow, wide).events == 2000
    assert lambda_score(narrow, wide[:500]).events == 2000
    assert lambda_score(narrow, wide, bins=[[-1e3, 0, 1e3]] * 4).excess != lambda_score(wide, narrow, bins=[[-1e3, 0, 1e3]] * 4).excess


def test_reference_against_itself_is_the_floor_and_nothing_is_below():
    x = events(2000, 6)
    own = lambda_score(x, x, pseudo_count=0)
    assert own.score == pytest.approx(own.floor, rel=1e-12)
    assert own.empty == 0
    assert lambda_score(x, events(20_000, 7)).excess > 0
    assert lambda_score(x, x).score > own.floor


def test_columns_are_uniform_in_the_bins():
    x = events(5000, 8)
    w = np.random.default_rng(9).exponential(size=5000)
    for column, edges in zip(x.T, LambdaReference(x).edges, strict=True):
        np.testing.assert_array_equal(np.histogram(column, edges)[0], 500)
    for column, edges in zip(x.T, LambdaReference(x, w).edges, strict=True):
        np.testing.assert_allclose(np.histogram(column, edges, weights=w)[0] / w.sum(), 0.1, atol=1e-3)
    few = np.column_stack([x[:, 0], np.random.default_rng(10).integers(0, 4, 5000)])
    values = LambdaReference(few).edges[1]
    assert np.all(np.histogram(few[:, 1], values)[0] > 1000)
    assert len(values) == 5


def test_better_generators_score_lower():
    x = events(5000, 11)
    scores = [lambda_score(x, y).score for y in (events(20_000, 12), events(20_000, 12, 1.2), events(20_000, 12, 1.5))]
    assert scores == sorted(scores)
    shuffled = events(20_000, 12)
    shuffled[:, 0] = np.random.default_rng(13).permutation(shuffled[:, 0])
    assert lambda_score(x, shuffled).score > scores[0]


def test_copies_count_as_rows_with_a_share_of_the_weight():
    x, w = events(500, 14), np.random.default_rng(15).uniform(1, 2, 300)
    copies = np.stack([events(300, seed) for seed in range(20, 30)])
    rows = lambda_score(x, copies.reshape(3000, 4), None, np.tile(w / 10, 10))
    assert lambda_score(x, copies, None, w).score == pytest.approx(rows.score, rel=1e-12)
    assert lambda_score(x, iter(copies), None, 1e6 * w).score == pytest.approx(rows.score, rel=1e-12)


def test_scatter_falls_with_the_copies():
    reference = LambdaReference(events(2000, 16), bins=4)
    scores = {k: [reference.score(events(2000 * k, seed)).score for seed in range(100, 125)] for k in (1, 10)}
    # by sqrt(10) where statistics of the generated events are all there is; 25 scores know a scatter to 14 %
    assert np.std(scores[1]) / np.std(scores[10]) == pytest.approx(np.sqrt(10), rel=0.5)


def test_excess_of_a_perfect_generator():
    """The reference's own fluctuation, about one in each cell; the generated rows fluctuate a tenth as much."""
    found = [LambdaReference(events(5000, seed), bins=4).score(events(50_000, 50 + seed)).excess for seed in range(8)]
    assert np.mean(found) == pytest.approx(1.1 * 255 / 5000, rel=0.1)


def test_negative_weights_take_events_away():
    x, y, extra = events(1000, 19), events(4000, 20), events(100, 21)
    edges = LambdaReference(x).edges
    plain = lambda_score(x, y, bins=edges)
    both, signs = np.concatenate([x, extra, extra]), np.concatenate([np.ones(1100), -np.ones(100)])
    taken = lambda_score(both, y, signs, bins=edges)
    assert taken.to_dict() == pytest.approx(plain.to_dict(), rel=1e-12)
    generated = lambda_score(x, np.concatenate([y, extra]), None, np.concatenate([np.ones(4000), -np.ones(100)]), bins=edges)
    assert np.isfinite(generated.score)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([[1.0], [2.0]], [[np.nan]]), {}, InputError, "column 0 of the generated sample has 1 NaN"),
        (
            ([[1.0], [2.0]], [[1.0, 2.0]]),
            {"names": ["pt"]},
            InputError,
            r"the generated sample has 2 columns, but 1 names were given \(pt\)",
        ),
        (([[1.0], [1.0]], [[1.0]]), {"names": ["pt"]}, InputError, "column pt of the reference is constant"),
        (([[1.0], [2.0]], [[1.0]], [1.0, -1.0]), {}, InputError, "the weights of the reference sum to zero"),
        (([[1.0], [2.0]], [[1.0]], [1.0, -2.0]), {}, InputError, "sum to less than zero"),
        (([[1.0], [2.0]], [[1.0]], None, [1.0, 2.0]), {}, InputError, r"expected \(1,\)"),
        (([[1.0], [2.0]], iter(())), {}, InputError, "no copies"),
        (([[1.0], [2.0]], [[1.0]]), {"pseudo_count": -1.0}, UsageError, "pseudo_count is -1.0"),
        (([[1.0], [2.0]], [[1.0]]), {"bins": 0}, UsageError, "bins is 0"),
        (([[1.0], [2.0]], [[1.0]]), {"bins": [[2.0, 1.0]]}, UsageError, "column 0 must be at least two rising numbers"),
        (([[1.0], [2.0]], [[1.0]]), {"bins": [[1, 2], [1, 2]]}, UsageError, "the edges of 2 columns, but there are 1: 0"),
        ((np.random.default_rng(22).normal(size=(100, 8)),) * 2, {}, UsageError, "more than 1e\\+07 cells"),
    ],
)
def test_unusable_input_is_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        lambda_score(*arguments, **options)
