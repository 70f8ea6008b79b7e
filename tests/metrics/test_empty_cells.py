"""delta_OF against numpy's histograms and the occupancy of uniform events."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hepgen.errors import InputError, UsageError
from hepgen.metrics import delta_of


def events(n, seed, spread=1.0):
    return np.random.default_rng(seed).normal(size=(n, 2)) * spread


def empty(x, side, limits):
    return np.mean(np.histogram2d(x[:, 0], x[:, 1], side, limits)[0] == 0)


def test_is_the_trapezoid_through_numpy_histograms():
    x, y, limits = events(700, 1), events(700, 2, 1.3), [(-2.5, 2.5), (-1, 3)]
    found = delta_of(x, y, limits=limits, largest=60)
    first, second = (np.array([0.0, *(empty(sample, side, limits) for side in range(1, 61))]) for sample in (x, y))
    np.testing.assert_allclose(found.empty_reference, first[1:], atol=1e-15)
    np.testing.assert_allclose(found.empty, second[1:], atol=1e-15)
    assert found.value == pytest.approx(np.trapezoid(np.abs(second - first)), rel=1e-12)
    assert found.holes == pytest.approx(np.trapezoid(second - first), rel=1e-12)
    assert delta_of(y, x, limits=limits, largest=60).value == pytest.approx(found.value, rel=1e-12)
    assert json.loads(json.dumps(found.to_dict()))["value"] == found.value


def test_uniform_events_leave_the_cells_empty_that_they_should():
    n, largest = 20_000, 300
    x, y = np.random.default_rng(3).uniform(-2.5, 2.5, (2, n, 2))
    found = delta_of(x, y, largest=largest)
    cells = np.arange(1, largest + 1) ** 2.0
    expected = (1 - 1 / cells) ** n
    # variance of the number of empty cells, each side of n events in `cells` cells
    variance = expected * (1 - expected * (1 + n / cells)) / cells
    np.testing.assert_allclose(found.empty, expected, atol=1e-9 + 5 * np.sqrt(variance.max()))
    assert found.floor == pytest.approx(np.sum(2 * np.sqrt(variance.clip(0) / np.pi)), rel=0.03)


def test_floor_is_the_mean_of_samples_of_one_distribution():
    found = [delta_of(events(1000, seed), events(1000, 1000 + seed), largest=80, uncertainty=False) for seed in range(200)]
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(np.mean([one.floor for one in found]), rel=0.1)


def test_error_is_on_the_safe_side_of_the_scatter():
    found = [delta_of(events(1000, seed), events(1000, 1000 + seed, 1.4), largest=80) for seed in range(150)]
    ratio = np.sqrt(np.mean([one.error**2 for one in found])) / np.std([one.value for one in found])
    assert 0.9 < ratio < 1.5


def test_copied_events_leave_holes():
    training, reference = events(1000, 4), events(10_000, 5)
    copied = np.repeat(training, 10, axis=0)
    smeared = copied + 0.01 * events(10_000, 6)
    bad, better = (delta_of(reference, sample, largest=200) for sample in (copied, smeared))
    honest = delta_of(reference, events(10_000, 7), largest=200)
    assert bad.value > better.value > 3 * honest.value
    assert bad.holes == pytest.approx(bad.value, rel=1e-3)
    assert honest.value < 3 * honest.floor


def test_events_beyond_the_limits_do_not_count_and_the_border_does():
    x = events(500, 8)
    inside = np.clip(x, -2.4, 2.4)
    found = delta_of(inside, np.where(np.arange(500)[:, None] < 20, 7.0, inside), largest=40)
    assert np.all(found.empty >= found.empty_reference)
    border = delta_of([[2.5, -2.5], [0.1, 0.1]], [[2.4999, -2.4999], [0.1, 0.1]], largest=20)
    assert border.value == 0
    assert [len(delta_of(x, x + 1, largest=largest).empty) for largest in (1, 2, 3)] == [1, 2, 3]
    nothing = delta_of(x + 100, x + 100, largest=10)
    assert np.all(nothing.empty == 1)


def test_does_not_depend_on_threads_or_order(monkeypatch):
    import numba

    x, y = events(20_000, 9), events(20_000, 10)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        found.append(delta_of(x, y, largest=50))
    assert found[0][:3] == found[1][:3]
    assert delta_of(x[::-1], y, largest=50).value == found[0].value


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros((3, 2)), np.zeros((4, 2))), {}, InputError, "has 3 events and the generated sample 4"),
        ((np.zeros((3, 3)), np.zeros((3, 2))), {}, InputError, "the reference has 3 columns"),
        ((np.zeros((3, 2)), np.full((3, 2), np.inf)), {}, InputError, "NaN or infinite"),
        ((np.zeros((3, 2)), np.zeros((3, 2))), {"limits": (1, 1)}, UsageError, "a lower and a higher number"),
        ((np.zeros((3, 2)), np.zeros((3, 2))), {"largest": 0}, UsageError, "largest is 0"),
        ((np.zeros((3, 2)), np.zeros((3, 2))), {"largest": 20_000}, UsageError, "at most 10000"),
    ],
)
def test_unusable_input_is_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        delta_of(*arguments, **options)
