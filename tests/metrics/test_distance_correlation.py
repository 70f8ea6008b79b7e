"""Distance correlations against the definition in O(n^2), closed forms, and the scatter of toys."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from hepgen.errors import InputError, UsageError
from hepgen.metrics import correlation_chi, distance_correlation, distance_correlation_error


def definition(x, y, weights=None):
    """R^2 with every distance centred by itself."""
    x, y, w = (np.asarray(column, np.longdouble) for column in (x, y, np.ones(len(x)) if weights is None else weights))
    p = w / w.sum()

    def centred(column):
        a = np.abs(column[:, None] - column)
        return a - (a @ p)[:, None] - a @ p + p @ a @ p

    a, b, pairs = centred(x), centred(y), np.outer(p, p)
    return (pairs * a * b).sum() / np.sqrt((pairs * a**2).sum() * (pairs * b**2).sum())


def columns(kind, n, rng):
    x, y, w = rng.normal(size=n), rng.normal(size=n), None
    if kind == "ties":
        x, y = rng.integers(0, 5, n) * 1.0, np.round(y + 0.3 * x)
    if kind == "weights":
        x, y, w = rng.exponential(size=n) ** 2, np.sin(x) + y, rng.exponential(size=n)
    if kind == "signed":
        y, w = y + 0.5 * x, rng.choice([1.0, -0.6], n, p=[0.8, 0.2]) * rng.gamma(3, size=n)
    if kind == "offset":
        x, y, w = 1e6 + np.round(x, 2), -1e3 * np.abs(x), rng.normal(1, 1, n)
    return x, y, w


@pytest.mark.parametrize("kind", ["plain", "ties", "weights", "signed", "offset"])
def test_equals_the_definition(kind):
    rng = np.random.default_rng(1)
    for n in [2, 3, 5, 16, 17, *rng.integers(20, 300, 12)]:
        x, y, w = columns(kind, n, rng)
        if np.ptp(x) and np.ptp(y):
            assert distance_correlation(x, y, w) == pytest.approx(float(np.sqrt(definition(x, y, w))), abs=1e-10)


def test_values_worked_out_by_hand():
    assert distance_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(np.sqrt(0.7), abs=1e-14)
    assert distance_correlation([1, 2, 3], [-5, -10, -15]) == pytest.approx(1, abs=1e-14)
    # every combination once: the columns are independent
    assert distance_correlation([0, 0, 1, 1], [0, 5, 0, 5]) == pytest.approx(0, abs=1e-7)
    # a fair coin against itself with one side in four turned: R^2 = (1 - 2 / 4)^2
    assert distance_correlation([0, 0, 1, 1], [0, 1, 0, 1], [3, 1, 1, 3]) == pytest.approx(0.5, abs=1e-14)


def test_normal_columns_have_the_closed_form():
    rho, n = 0.5, 200_000
    x, z = np.random.default_rng(2).normal(size=(2, n))
    found = distance_correlation_error(x, rho * x + np.sqrt(1 - rho**2) * z)
    # Szekely, Rizzo and Bakirov 2007, theorem 7
    above = rho * np.arcsin(rho) + np.sqrt(1 - rho**2) - rho * np.arcsin(rho / 2) - np.sqrt(4 - rho**2) + 1
    expected = np.sqrt(above / (1 + np.pi / 3 - np.sqrt(3)))
    assert found.error < 0.003
    assert abs(found.value - expected) < 3 * found.error


def test_many_equal_weights_lose_no_digits():
    x, z = np.random.default_rng(3).normal(size=(2, 200_000))
    y = np.abs(x) + z
    value = distance_correlation(x, y)
    assert distance_correlation(x, y, np.full(200_000, 0.1)) == pytest.approx(value, abs=1e-13)
    assert distance_correlation(y[::-1], 1e3 - 7 * x[::-1]) == pytest.approx(value, abs=1e-12)


def test_whole_weights_are_repeated_events_and_negative_ones_take_away():
    rng = np.random.default_rng(4)
    x, y, _ = columns("ties", 200, rng)
    w = rng.integers(1, 5, 200)
    assert distance_correlation(x, y, w) == pytest.approx(distance_correlation(np.repeat(x, w), np.repeat(y, w)), abs=1e-12)
    extra = rng.normal(size=(2, 50)) * 9
    both = [np.concatenate([column, more, more]) for column, more in zip((x, y), extra, strict=True)]
    w = np.concatenate([np.ones(250), -np.ones(50)])
    assert distance_correlation(*both, w) == pytest.approx(distance_correlation(x, y), abs=1e-12)


@pytest.mark.parametrize("kind", ["plain", "ties", "weights", "signed"])
def test_error_follows_from_moving_weight_in_the_definition(kind):
    x, y, w = columns(kind, 60, np.random.default_rng(5))
    p = np.ones(60) / 60 if w is None else w / w.sum()
    square, step = definition(x, y, p), 1e-7
    slopes = [float((definition(x, y, (1 - step) * p + step * (np.arange(60) == i)) - square) / step) for i in range(60)]
    jackknife, second = np.sum(p**2 * np.square(slopes)), 2 * np.sum(p**2) ** 2 * float(1 - square) ** 2
    found = distance_correlation_error(x, y, w)
    expected = np.sqrt(max(jackknife - second, jackknife / 2, second / 2)) / (2 * found.value)
    assert found.error == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("slope", "signed", "n", "low", "high"),
    [(0.0, False, 400, 1.0, 1.4), (0.0, True, 400, 1.0, 1.4), (0.2, False, 1500, 0.85, 1.15), (1.0, True, 400, 0.85, 1.15)],
)
def test_error_is_the_scatter_of_repeated_samples(slope, signed, n, low, high):
    rng = np.random.default_rng(6)
    found = []
    for _ in range(250):
        x, y = rng.normal(size=(2, n))
        w = rng.choice([1.0, -1.0], n, p=[0.9, 0.1]) if signed else None
        found.append(distance_correlation_error(x, y + slope * x, w))
    values, errors = np.array([one.value for one in found]), np.array([one.error for one in found])
    # 250 toys know the scatter to 4.5 %; for independent columns the error is on the safe side
    assert low < np.sqrt((errors**2).mean()) / values.std(ddof=1) < high
    if slope == 0:
        assert np.mean([one.floor for one in found]) == pytest.approx(np.sqrt((values**2).mean()), rel=0.05)
    else:
        assert 0.58 < np.mean(np.abs(values - values.mean()) < errors) < 0.78


def test_copies_of_an_event_are_one_event():
    rng = np.random.default_rng(7)
    x, y, w = columns("weights", 200, rng)
    alone = distance_correlation_error(x, y, w)
    names = np.repeat(rng.permutation(200), 5)
    order = rng.permutation(1000)
    copied = [np.repeat(column, 5)[order] for column in (x, y, w / 5)]
    together = distance_correlation_error(*copied, events=names[order])
    assert together.to_dict() == pytest.approx(alone.to_dict(), rel=1e-9)
    assert distance_correlation_error(*copied).error < 0.6 * alone.error
    assert distance_correlation_error(x, y, w, events=names[::5]).to_dict() == pytest.approx(alone.to_dict(), rel=1e-12)


def test_floor_of_copies_is_what_their_independent_columns_show():
    """x is the event's and y drawn anew for each of its copies, so that all rows count for the pair, though x has only 100 values."""
    rng, squares, found = np.random.default_rng(8), [], None
    for _ in range(150):
        x, events = np.repeat(rng.normal(size=100), 10), np.repeat(np.arange(100), 10)
        found = distance_correlation_error(x, rng.normal(size=1000), events=events)
        squares.append(found.value**2)
    assert found.floor == pytest.approx(np.sqrt(np.mean(squares)), rel=0.15)


NAMES = ["pt", "eta", "jets", "id"]


def sample(n, rng, bend=0.0):
    z = rng.normal(size=(n, 4))
    return np.column_stack(
        [np.exp(z[:, 0]), z[:, 1] + bend * z[:, 0] ** 2, np.floor(np.abs(z[:, 2] + 0.5 * z[:, 0])), z[:, 3] + 0.3 * z[:, 1]]
    )


@pytest.mark.parametrize(("n", "m", "signed"), [(1000, 1000, False), (4000, 500, False), (1000, 1000, True)])
def test_chi_of_one_distribution(n, m, signed):
    rng = np.random.default_rng(9)
    found = []
    for _ in range(40):
        w = rng.choice([1.0, -1.0], n, p=[0.9, 0.1]) if signed else None
        found.append(correlation_chi(sample(n, rng), sample(m, rng), NAMES, w))
    # sqrt(2 / pi) for normal pulls; six pairs of which four are independent have it a little lower
    assert np.mean([one.chi for one in found]) == pytest.approx(0.72, abs=0.12)
    assert np.quantile([abs(one.worst[2]) for one in found], 0.9) < 3.2


def test_samples_of_two_sizes_differ_without_levelling():
    rng = np.random.default_rng(15)
    samples = [(sample(8000, rng), sample(500, rng)) for _ in range(10)]
    assert np.mean([correlation_chi(a, b, NAMES, level=False).chi for a, b in samples]) > 1.4
    assert np.mean([correlation_chi(a, b, NAMES).chi for a, b in samples]) < 0.9


def test_chi_finds_the_pair_that_differs():
    rng = np.random.default_rng(10)
    found = correlation_chi(sample(3000, rng, 0.5), sample(3000, rng), NAMES)
    first, second, pull = found.worst
    assert (first, second) == ("pt", "eta")
    assert pull > 5
    assert found.pull("eta", "pt") == pull
    assert found.chi > 1.2
    assert found.a[0, 1] > found.b[0, 1]
    for table in (found.a, found.b, found.sigma, found.pulls):
        np.testing.assert_array_equal(table, table.T)


def test_chi_is_the_mean_of_the_pulls_of_the_single_functions():
    rng = np.random.default_rng(11)
    a, b, w, events = sample(300, rng), sample(200, rng), rng.exponential(size=300), rng.integers(0, 150, 300)
    found = correlation_chi(a, b, NAMES, w, a_events=events, level=False)
    pulls = []
    for i in range(4):
        for j in range(i + 1, 4):
            one = distance_correlation_error(a[:, i], a[:, j], w, events=events)
            two = distance_correlation_error(b[:, i], b[:, j])
            pulls.append((one.value - two.value) / np.hypot(one.error, two.error))
            assert found.a[i, j] == pytest.approx(one.value, abs=1e-12)
            assert found.pulls[i, j] == pytest.approx(pulls[-1], abs=1e-9)
    assert found.chi == pytest.approx(np.mean(np.abs(pulls)), abs=1e-9)
    written = json.loads(json.dumps(found.to_dict()))
    assert written["value"] == found.chi
    assert written["worst"] == {"columns": list(found.worst[:2]), "pull": found.worst[2]}
    assert written["pairs"]["pt, jets"]["pull"] == found.pulls[0, 2]


def test_levelled_samples_have_one_floor():
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=(5000, 2)), rng.normal(size=(500, 2))
    plain, level = correlation_chi(a, b, ["x", "y"], level=False), correlation_chi(a, b, ["x", "y"])
    floors = [distance_correlation_error(*matrix.T).floor for matrix in (a, b)]
    assert level.b[0, 1] == pytest.approx(plain.b[0, 1], rel=1e-12)
    square = plain.a[0, 1] ** 2
    assert level.a[0, 1] ** 2 == pytest.approx(square + (1 - square) * (floors[1] ** 2 - floors[0] ** 2), rel=1e-9)


def test_columns_that_determine_each_other_agree():
    rng = np.random.default_rng(13)
    a, b = (np.column_stack([x, 1000 * x, rng.normal(size=len(x))]) for x in (rng.exponential(size=200), rng.exponential(size=500)))
    assert abs(correlation_chi(a, b, ["GeV", "MeV", "other"]).pull("GeV", "MeV")) < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "x has no entries"),
        (([1.0, 2.0], [1.0, np.nan]), "y has 1 NaN"),
        (([1.0, 2.0], [1.0]), "x has 2 entries, y has 1"),
        (([1.0, 2.0], [3.0, 3.0]), "column y of the sample is constant"),
        (([1.0, 2.0], [1.0, 3.0], [1.0]), r"expected \(2,\)"),
        (([1.0, 2.0], [1.0, 3.0], [1.0, -1.0]), "sum to zero"),
        # the second value is taken away by its weights
        (([0.1, 0.7, 0.7], [1.0, 2.0, 3.0], [1.0, 0.3, -0.3]), "column x of the sample is constant"),
    ],
)
def test_unusable_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        distance_correlation(*arguments)


def test_unusable_samples_are_named():
    x = np.random.default_rng(14).normal(size=(20, 2))
    with pytest.raises(InputError, match=r"the event numbers of the sample have shape \(3,\), expected \(20,\)"):
        distance_correlation_error(*x.T, events=[1, 2, 3])
    with pytest.raises(InputError, match="column b of the second sample is constant"):
        correlation_chi(x, x * [1, 0], ["a", "b"])
    with pytest.raises(UsageError, match="at least two columns of different names, got a, a"):
        correlation_chi(x, x, ["a", "a"])
    with pytest.raises(InputError, match="the first sample has 2 columns, but 3 names"):
        correlation_chi(x, x, ["a", "b", "c"])
    with pytest.raises(UsageError, match="no column 'c' among a, b"):
        correlation_chi(x, x[::-1] + x**2, ["a", "b"]).pull("a", "c")


def test_numba_is_imported_at_the_first_use():
    script = "import hepgen.metrics, sys; print('numba' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"
