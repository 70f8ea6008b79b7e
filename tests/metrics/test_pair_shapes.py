"""delta against numpy's histograms, closed forms and the scatter of repeated samples."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from hepgen.errors import InputError, UsageError
from hepgen.metrics import delta, delta_by_size, fit_delta_extrapolation
from hepgen.metrics.pair_cells import PairCells


def events(n, seed, k=4, spread=1.0):
    z = np.random.default_rng(seed).normal(size=(n, k))
    z[:, 1] += 0.8 * z[:, 0]
    z[:, 2] = np.exp(0.5 * z[:, 2])
    z[:, 0] *= spread
    return z


def straightforward(x, y, bins, v, w, ranges=None):
    """numpy.histogram2d pair by pair, and what it leaves out as one more cell."""
    ranges = np.column_stack([x.min(axis=0), x.max(axis=0)]) if ranges is None else np.asarray(ranges)
    found = {}
    for i, j in combinations(range(x.shape[1]), 2):
        shares = []
        for sample, weights in ((x, v), (y, w)):
            h = np.histogram2d(sample[:, i], sample[:, j], bins, ranges[[i, j]], weights=weights)[0].ravel() / weights.sum()
            h = np.append(h, max(1 - h.sum(), 0)).clip(0)
            shares.append(h / h.sum())
        p, q = shares
        used = p + q > 0
        found[i, j] = ((p - q)[used] ** 2 / (p + q)[used]).sum()
    return found


@pytest.mark.parametrize("bins", [2, 25, 300])
def test_is_the_mean_over_numpy_histograms(bins):
    x, y = events(1001, 1), events(700, 2, spread=1.5)
    found, expected = delta(x, y, bins), straightforward(x, y, bins, np.ones(1001), np.ones(700))
    assert found.value == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
    for (i, j), chi2 in expected.items():
        assert found.chi2[i, j] == found.chi2[j, i] == pytest.approx(chi2, rel=1e-12)
    assert np.all(np.diag(found.chi2) == 0)
    i, j = max(expected, key=expected.get)
    assert found.worst == (str(i), str(j), pytest.approx(expected[i, j]))


def test_weights_of_both_signs_and_given_ranges():
    rng = np.random.default_rng(3)
    x, y, v, w = events(1500, 4), events(1500, 5), rng.uniform(0.1, 3, 1500), rng.choice([1.0, -0.3], 1500)
    ranges = [(-1.5, 2), (-3, 3), (0.5, 2), (-1, 1)]
    expected = straightforward(x, y, 8, v, w, ranges)
    found = delta(x, y, 8, names=["a", "b", "c", "d"], ranges=ranges, reference_weights=v, generated_weights=w)
    assert found.value == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
    assert found.outside[2] == pytest.approx(w[(y[:, 2] < 0.5) | (y[:, 2] > 2)].sum() / w.sum())
    scaled = delta(x, y, 8, ranges=ranges, reference_weights=7 * v, generated_weights=0.1 * w)
    assert (scaled.value, scaled.error, scaled.floor) == pytest.approx((found.value, found.error, found.floor), rel=1e-12)
    twice = delta(np.repeat(x, 2, axis=0), y, 8, ranges=ranges, uncertainty=False)
    assert twice.value == pytest.approx(delta(x, y, 8, ranges=ranges, reference_weights=np.full(1500, 2.0)).value, rel=1e-12)


def test_values_on_edges_fall_where_numpy_has_them():
    x = np.random.default_rng(6).integers(0, 31, (2000, 3)) / 10
    y = np.random.default_rng(7).integers(0, 31, (2000, 3)) / 10
    for bins in (3, 10, 30, 31):
        expected = straightforward(x, y, bins, np.ones(2000), np.ones(2000))
        assert delta(x, y, bins, uncertainty=False).value == pytest.approx(np.mean(list(expected.values())), rel=1e-12)


def test_closed_forms():
    x = events(500, 8)
    same = delta(x, x[::-1])
    assert (same.value, same.error) == (0, 0)
    assert delta(x, x + 100).value == pytest.approx(2)
    np.testing.assert_array_equal(delta(x, x + 100).outside, 1)
    # p = (1/2, 1/2, 0), q = (1/4, 1/4, 1/2 outside)
    found = delta([[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0], [5.0, 0.0], [0.0, 5.0]], 2)
    assert found.value == pytest.approx(2 * 0.25**2 / 0.75 + 0.5)
    y = events(400, 9, spread=2)
    order = [2, 0, 3, 1]
    assert delta(x[:, order], y[:, order]).value == pytest.approx(delta(x, y).value, rel=1e-12)
    assert delta(x * 3 - 1, y * 3 - 1, 10, uncertainty=False).value == pytest.approx(delta(x, y, 10).value, rel=1e-9)


def test_floor_is_the_mean_over_exchanged_events():
    x = events(60, 10)
    ranges = np.column_stack([x.min(axis=0), x.max(axis=0)])
    rng = np.random.default_rng(11)
    values = []
    for _ in range(400):
        order = rng.permutation(60)
        one = delta(x[order[:30]], x[order[30:]], 5, ranges=ranges, uncertainty=False)
        values.append(one.value)
    assert np.mean(values) == pytest.approx(one.floor, abs=4 * np.std(values) / 20)
    assert np.std(values) / 20 < 0.02 * one.floor


@pytest.mark.parametrize(("spread", "n"), [(1.0, 2000), (1.4, 2000), (1.1, 4000)])
def test_error_is_the_scatter_of_repeated_samples(spread, n):
    ranges = [(-4, 4), (-4, 4), (0, 6), (-4, 4)]
    found = [delta(events(2000, seed), events(n, 10_000 + seed, spread=spread), 10, ranges=ranges) for seed in range(150)]
    scatter = np.std([one.value for one in found])
    # 150 samples know a scatter to 6 %
    assert np.sqrt(np.mean([one.error**2 for one in found])) == pytest.approx(scatter, rel=0.25)
    excess = [one.excess for one in found]
    assert (abs(np.mean(excess)) < 4 * scatter / 12) == (spread == 1.0)


def test_influences_are_the_derivatives():
    """Moving weight to one event changes delta as the sum over its cells says."""
    x, y, k = events(300, 12), events(200, 13), 17
    ranges = np.column_stack([x.min(axis=0), x.max(axis=0)])
    step = 1e-4
    more = np.ones(200)
    more[k] += step
    base, moved = (delta(x, y, 6, ranges=ranges, generated_weights=w).value for w in (np.ones(200), more))
    edges = np.linspace(ranges[:, 0], ranges[:, 1], 7, axis=1)
    cells = PairCells(x, edges), PairCells(y, edges)
    p, q = cells[0].shares(np.ones(300)), cells[1].shares(np.ones(200))
    both = np.where(p + q > 0, p + q, 1)
    influence = cells[1].sums(-(p - q) * (3 * p + q) / both**2) / 6
    assert (moved - base) / step == pytest.approx((influence[k] - influence.mean()) / 200, rel=1e-3)


def test_does_not_depend_on_threads(monkeypatch):
    import numba

    x, y = events(40_000, 14), events(40_000, 15)
    w = np.random.default_rng(16).uniform(size=40_000)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        found.append(delta(x, y, reference_weights=w))
    assert found[0][:3] == found[1][:3]


def test_json():
    found = delta(events(100, 17), events(100, 18), names=["a", "b", "c", "d"])
    text = json.loads(json.dumps(found.to_dict()))
    assert (text["value"], text["pairs"]) == (found.value, 6)
    assert set(text["worst"]["columns"]) <= {"a", "b", "c", "d"}


def test_delta_by_size_is_the_floor():
    found = delta_by_size(events(4000, 19), [500, 1000, 2000], 10)
    np.testing.assert_array_equal(found.events, [500, 1000, 2000])
    np.testing.assert_allclose(found.value, found.floor, atol=4 * found.error.max())
    assert np.all(np.diff(found.value) < 0)
    assert np.isnan(delta_by_size(events(100, 20), [50], uncertainty=False).error[0])


@pytest.mark.parametrize("truth", [(4e-3, 3e-4, 1.5, 1e-4), (1e-2, 1e-2, 1.0, -5e-4)])
def test_extrapolation_finds_what_made_the_values(truth):
    a, b, c, d = truth
    n = np.arange(50_000, 600_001, 50_000)
    values = a / np.log(b * n + c) + d
    found = fit_delta_extrapolation(n, values)
    assert found.at(1.2e6)[0] == pytest.approx(a / np.log(b * 1.2e6 + c) + d, rel=1e-5)
    assert found.at(3e5)[0] == pytest.approx(values[5], rel=1e-6)
    assert found.parameters[0] == pytest.approx(a, rel=0.02)


def test_extrapolation_of_a_pure_floor_and_its_error():
    n = np.arange(50_000, 600_001, 50_000)
    assert fit_delta_extrapolation(n, 400 / n).at(1.2e6)[0] == pytest.approx(400 / 1.2e6, rel=1e-3)
    rng = np.random.default_rng(21)
    floors = [fit_delta_extrapolation(n, 400 / n * rng.normal(1, 0.02, 12), 8 / n) for _ in range(20)]
    values = [fit.at(3e5)[0] for fit in floors]
    assert np.mean(values) == pytest.approx(400 / 3e5, rel=0.01)
    assert np.median([fit.at(3e5)[1] for fit in floors]) == pytest.approx(np.std(values), rel=0.6)
    assert min(fit.at(1.2e6)[1] for fit in floors) > 0
    sigma = np.full(12, 1e-6)
    # far from the limits of the parameters, where errors are on the safe side
    truth = 4e-3 / np.log(3e-4 * n + 20)
    fits = [fit_delta_extrapolation(n, truth + rng.normal(size=12) * sigma, sigma) for _ in range(50)]
    for events in (3e5, 1.2e6):
        values = [fit.at(events)[0] for fit in fits]
        assert np.mean([fit.at(events)[1] for fit in fits]) == pytest.approx(np.std(values), rel=0.35)
    # chi2 of 8 degrees of freedom scatters by 4
    assert np.mean([fit.chi2 for fit in fits]) == pytest.approx(fits[0].ndf, abs=4 * 4 / np.sqrt(50))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([[1.0, 2.0], [2.0, 3.0]], [[np.nan, 1.0]]), {}, InputError, "column 0 of the generated sample has 1 NaN"),
        (([[1.0, 2.0], [2.0, 3.0]], [[1.0, 1.0, 1.0]]), {}, InputError, "has 2 columns and the generated sample 3"),
        (([[1.0], [2.0]], [[1.0]]), {}, InputError, "compares pairs: give at least two"),
        (([[1.0, 2.0], [1.0, 3.0]], [[1.0, 1.0]]), {"names": ["pt", "eta"]}, InputError, "column pt of the reference is constant"),
        (([[1.0, 2.0], [2.0, 3.0]], [[1.0, 1.0]]), {"generated_weights": [0.0]}, InputError, "sum to zero"),
        (([[1.0, 2.0], [2.0, 3.0]], [[1.0, 1.0]]), {"bins": 0}, UsageError, "bins is 0"),
        (([[1.0, 2.0], [2.0, 3.0]], [[1.0, 1.0]]), {"bins": 1001}, UsageError, "at most 1000"),
        (([[1.0, 2.0], [2.0, 3.0]], [[1.0, 1.0]]), {"ranges": [(0, 1), (1, 1)]}, UsageError, "a lower and a higher limit"),
    ],
)
def test_unusable_input_is_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        delta(*arguments, **options)


def test_unusable_sizes_and_fits_are_named():
    with pytest.raises(InputError, match="at most half of the events"):
        delta_by_size(events(100, 22), [51])
    with pytest.raises(InputError, match="at least five values"):
        fit_delta_extrapolation([1, 2, 3, 4], [4, 3, 2, 1])
    with pytest.raises(InputError, match="lengths must be equal"):
        fit_delta_extrapolation([1, 2, 3, 4, 5], [4, 3, 2, 1])
