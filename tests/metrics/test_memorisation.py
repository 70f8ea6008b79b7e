"""Copies of training events: planted ones are found, honest generators pass, the error is the scatter."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from hepgen.errors import InputError, UsageError
from hepgen.metrics import copies_of


def events(n, seed, d=3):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1)


@pytest.mark.parametrize("d", [2, 20])
def test_is_what_all_distances_give(d):
    x, y, z = events(300, 1, d), events(200, 2, d), events(350, 3, d)
    found = copies_of(x, y, z)
    scale = x.std(axis=0)
    near, far = (cdist(y / scale, sample / scale) for sample in (x, z[:300]))
    a, b = near.min(axis=1), far.min(axis=1)
    assert found.closer == pytest.approx(np.mean(a < b), abs=1e-12)
    assert (found.distance, found.distance_holdout) == pytest.approx((np.median(a), np.median(b)), rel=1e-9)
    assert found.near == np.mean(a < 0.1 * b)
    nearest = np.concatenate([near, far], axis=1).argmin(axis=1)
    shares = np.bincount(nearest, minlength=600) / 200
    assert found.error == pytest.approx(np.sqrt((shares @ shares - 1 / 600) * 300 / (2 * 599)), rel=1e-9)
    assert json.loads(json.dumps(found.to_dict()))["closer"] == found.closer


@pytest.mark.parametrize("m", [300, 4000])
def test_honest_generators_have_a_half_with_its_error(m):
    found = [copies_of(events(300, seed), events(m, 1000 + seed), events(300, 2000 + seed)) for seed in range(120)]
    closer = np.array([one.closer for one in found])
    assert closer.mean() == pytest.approx(0.5, abs=4 * closer.std() / np.sqrt(120))
    assert np.mean([one.error for one in found]) == pytest.approx(closer.std(), rel=0.25)
    # the binomial error alone would be wrong where many generated events share a neighbour
    assert (np.mean([one.error for one in found]) > 0.75 / np.sqrt(m)) == (m == 4000)


def test_planted_copies_are_counted():
    x, y, z = events(1000, 4, 10), events(2000, 5, 10), events(1000, 6, 10)
    y[:100] = x[:100]
    y[100:250] = x[100:250] + 1e-3
    found = copies_of(x, y, z)
    assert found.exact == 0.05
    assert found.near == pytest.approx(0.125, abs=1e-3)
    assert found.near_holdout == 0
    assert found.pull > 3
    single = copies_of(x, y.astype(np.float32), z)
    assert single.exact == 0.05
    assert copies_of(z, y, x).pull < -3


def test_smearing_shows_until_it_is_wide():
    x, z = events(500, 7, 4), events(500, 8, 4)
    closer = [copies_of(x, x + width * events(500, 9, 4), z).closer for width in (1e-4, 0.1, 0.5, 3.0)]
    assert closer[0] == 1
    assert closer == sorted(closer, reverse=True)
    assert closer[-1] < 0.65


def test_ties_and_angles():
    x = events(100, 10)
    assert copies_of(x, events(50, 11), x).closer == 0.5
    rng = np.random.default_rng(12)
    phi = np.column_stack([rng.uniform(-np.pi, np.pi, 200), rng.normal(size=200)])
    turned = phi.copy()
    turned[:, 0] = np.where(phi[:, 0] > 0, phi[:, 0] - 2 * np.pi, phi[:, 0])
    z = np.column_stack([rng.uniform(-np.pi, np.pi, 200), rng.normal(size=200)])
    assert copies_of(phi, turned, z, angles=[0]).exact == 1
    assert copies_of(phi, turned, z).exact < 0.6


def test_only_some_are_looked_at():
    x, y, z = events(100, 13), events(500, 14), events(100, 15)
    one, two = (copies_of(x, y, z, most=50, seed=seed) for seed in (1, 2))
    assert one.events == 50
    assert one != two
    assert one == copies_of(x, y, z, most=50, seed=1)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.eye(3), np.eye(3), np.eye(3)[:2]), {}, InputError, "there are 3 training and 2 holdout events"),
        ((np.eye(3), np.eye(3)[:, :2], np.eye(3)), {}, InputError, "have 3, 2 and 3 columns"),
        ((np.ones((3, 1)), np.eye(1), np.ones((3, 1))), {"names": ["pt"]}, InputError, "column pt of the training sample is constant"),
        ((np.eye(3), np.eye(3), np.eye(3)), {"near": 1.5}, UsageError, "near is 1.5"),
        ((np.eye(3), np.eye(3), np.eye(3)), {"angles": [3]}, UsageError, "there are only 3"),
        ((np.eye(3), np.eye(3), np.eye(3)), {"most": 0}, UsageError, "most is 0"),
    ],
)
def test_unusable_input_is_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        copies_of(*arguments, **options)
