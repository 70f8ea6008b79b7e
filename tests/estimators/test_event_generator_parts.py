"""The parts of an EventGenerator, each against what it is defined to be."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.estimators.event_coordinates import EventCoordinates, energy_objects
from hepgen.estimators.generator_models.base import drawn, event_numbers, resampled
from hepgen.estimators.generator_models.density import correlated
from hepgen.estimators.generator_models.gan import Box
from hepgen.estimators.generator_models.mixtures import bandwidth_by_validation, fit_mixture
from hepgen.estimators.generator_models.pairs import PairHistograms
from hepgen.estimators.generator_models.vae import smudged
from hepgen.estimators.positive_weights import positive_weights
from hepgen.estimators.pt_order import order_by_pt, ordered_collections
from hepgen.events import Features, Identity, Scaler
from hepgen.events.presence import Presence

Matrix = NDArray[np.float64]


def rng() -> np.random.Generator:
    return np.random.default_rng(20)


# -- presence ---------------------------------------------------------------------------------------------------------


def patterns(n: int) -> tuple[NDArray[np.bool_], Matrix]:
    kinds = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0]], dtype=bool)
    present = kinds[rng().choice(3, n, p=[0.2, 0.7, 0.1])]
    return present, rng().normal(5, 1, (n, 3))


def test_patterns_are_learnt_with_their_shares() -> None:
    present, _ = patterns(1000)
    weights = np.where(present[:, 1], 3.0, 1.0)
    presence = Presence.learn(present, weights)
    wanted = [weights[(present == pattern).all(axis=1)].sum() / weights.sum() for pattern in presence.patterns]
    np.testing.assert_allclose(presence.shares, wanted, rtol=1e-12)
    assert (np.diff(presence.shares) <= 0).all()
    assert (presence.codes, presence.width) == (3, 6)


def test_rows_go_there_and_back() -> None:
    present, values = patterns(500)
    presence = Presence.learn(present)
    rows = presence.encode(values, presence.index(present))
    assert (rows[:, :3][~present] == 0).all()
    back, index = presence.decode(rows + rng().normal(0, 0.1, rows.shape) * (np.arange(6) >= 3))
    np.testing.assert_array_equal(presence.patterns[index], present)
    np.testing.assert_array_equal(back, np.where(present, values, np.nan))


def test_a_pattern_that_was_not_learnt() -> None:
    presence = Presence.learn(patterns(100)[0])
    assert presence.index(np.array([[0, 0, 0], [1, 1, 0]], dtype=bool)).tolist()[0] == -1
    assert len(presence.index(np.zeros((0, 3), dtype=bool))) == 0


def test_one_pattern_needs_no_code() -> None:
    presence = Presence.learn(np.ones((10, 2), dtype=bool))
    assert presence.width == 2
    rows = presence.encode(np.ones((4, 2)), np.zeros(4, dtype=np.int64))
    assert rows.shape == (4, 2)
    assert presence.decode(rows)[1].tolist() == [0, 0, 0, 0]
    with pytest.raises(UsageError, match="the rows have 3 columns"):
        presence.decode(np.ones((4, 3)))


def test_patterns_are_drawn_as_often_as_they_occur() -> None:
    presence = Presence.learn(patterns(1000)[0])
    uniform = (np.arange(100_000) + 0.5) / 100_000
    np.testing.assert_allclose(np.bincount(presence.draw(uniform)) / 100_000, presence.shares, atol=2e-5)


def test_presence_is_saved() -> None:
    presence = Presence.learn(patterns(100)[0])
    again = Presence.from_dict(presence.to_dict())
    np.testing.assert_array_equal(again.patterns, presence.patterns)
    np.testing.assert_array_equal(again.shares, presence.shares)
    with pytest.raises(ModelFileError, match="patterns and shares do not fit"):
        Presence.from_dict(presence.to_dict() | {"shares": [1.0]})


# -- weights ----------------------------------------------------------------------------------------------------------


def test_negative_weights_are_taken_from_near_by() -> None:
    rows = rng().normal(0, 1, (4000, 2))
    weights = np.where(rng().random(4000) < 0.2, -1.0, 1.0)
    positive = positive_weights(rows, weights)
    assert (positive >= 0).all()
    assert positive.sum() == pytest.approx(weights.sum())
    for cut in (-0.5, 0.0, 0.7):  # what is larger than a cell keeps its sum, but for the cells across its border
        inside = rows[:, 0] > cut
        assert positive[inside].sum() == pytest.approx(weights[inside].sum(), abs=12)
    np.testing.assert_array_equal(positive_weights(rows, np.abs(weights)), np.abs(weights))
    with pytest.raises(InputError, match="the sum must be positive"):
        positive_weights(rows, -np.abs(weights))


def test_one_cell_by_hand() -> None:
    rows = np.array([[0.0], [1.0], [3.0], [10.0]])
    # the cell of the second event: itself and the first, which is nearer than the third
    np.testing.assert_allclose(positive_weights(rows, np.array([2.0, -0.5, 1.0, 1.0])), [1.2, 0.3, 1.0, 1.0])


def test_draws_and_resampling_follow_the_shares() -> None:
    shares = np.array([0.5, 0.0, 0.2, 0.3])
    counts = np.bincount(drawn(shares, event_numbers(40_000, 7), 3), minlength=4)
    np.testing.assert_allclose(counts / 40_000, shares, atol=0.01)
    assert counts[1] == 0
    assert np.bincount(resampled(shares, 100, 1), minlength=4).tolist() == [50, 0, 20, 30]


# -- coordinates ------------------------------------------------------------------------------------------------------


def test_coordinates_go_there_and_back() -> None:
    features = Features([f"jet[{i}].{x}" for i in (0, 1) for x in ("pt", "eta", "phi", "E")] + ["met", "fixed"])
    n, numbers = 800, rng()
    pt, eta, phi = 20 + numbers.exponential(30, (n, 2)), numbers.normal(0, 1, (n, 2)), numbers.uniform(-np.pi, np.pi, (n, 2))
    energy = np.sqrt((pt * np.cosh(eta)) ** 2 + numbers.gamma(3, 2, (n, 2)) ** 2)
    matrix = np.concatenate([np.stack([pt, eta, phi, energy], axis=2).reshape(n, 8), numbers.normal(0, 9, (n, 1)), np.full((n, 1), 3.5)], 1)
    present = np.ones(matrix.shape, dtype=bool)
    present[numbers.random(n) < 0.4, 4:8] = False
    matrix[~present] = np.nan
    coordinates = EventCoordinates(features).fit(matrix, present)
    scaled = coordinates.forward(matrix, present)
    assert scaled.shape == (n, 9)
    assert (scaled[~present[:, coordinates.varying]] == 0).all()
    np.testing.assert_allclose(coordinates.inverse(scaled, present), matrix, rtol=1e-9, atol=1e-9)
    again = EventCoordinates.from_dict(features, coordinates.to_dict())
    np.testing.assert_array_equal(again.inverse(scaled, present), coordinates.inverse(scaled, present))
    # the second jet, where there is one, recoils against the first: its coordinate knows of the angle between them only
    turned = matrix.copy()
    turned[:, [2, 6]] = (matrix[:, [2, 6]] + 1.0 + np.pi) % (2 * np.pi) - np.pi
    both = present.all(axis=1)
    np.testing.assert_allclose(coordinates.forward(turned, present)[both, 6], scaled[both, 6], atol=1e-6)


def test_energies_have_the_mass_that_was_learnt() -> None:
    names = ["a.E", "a.px", "a.py", "a.pz", "b_energy", "b_pt", "b_eta", "E_other"]
    features = Features(names)
    assert energy_objects(features) == [(0, (1, 2, 3)), (4, (5, 6))]
    momenta = rng().normal(0, 10, (200, 3))
    mass = rng().uniform(1, 2, 200)
    energy = np.sqrt(np.square(momenta).sum(1) + mass**2)
    columns = Features(["E", "px", "py", "pz"])
    matrix, present = np.column_stack([energy, momenta]), np.ones((200, 4), dtype=bool)
    coordinates = EventCoordinates(columns, Scaler([Identity()] * 4)).fit(matrix, present)
    scaled = coordinates.forward(matrix, present)
    np.testing.assert_allclose(scaled[:, 0], mass, rtol=1e-10)
    scaled[:, 1:] *= 0.5  # another momentum, the same mass
    found = coordinates.inverse(scaled, present)
    np.testing.assert_allclose(found[:, 0] ** 2 - np.square(found[:, 1:]).sum(1), mass**2, rtol=1e-9)


def test_what_leaves_the_sample_is_brought_back() -> None:
    coordinates = EventCoordinates(Features(["x"]), Scaler([Identity()])).fit(np.array([[1.0], [2.0]]), np.ones((2, 1), dtype=bool))
    assert coordinates.inverse(np.array([[0.0], [1.5], [7.0]]), np.ones((3, 1), dtype=bool)).ravel().tolist() == [1.0, 1.5, 2.0]


def test_columns_that_no_event_has() -> None:
    with pytest.raises(UsageError, match="no event has the column 'x'"):
        EventCoordinates(Features(["x"])).fit(np.full((3, 1), np.nan), np.zeros((3, 1), dtype=bool))


# -- order ------------------------------------------------------------------------------------------------------------


def test_collections_are_put_in_order() -> None:
    features = Features(["jet[0].pt", "jet[0].m", "jet[1].pt", "jet[1].m", "jet[2].pt", "jet[2].m", "el_pt[0]", "el_pt[1]"])
    sample = np.array([[9, 1, 5, 2, 3, 3, 1, 2], [9, 1, 5, 2, np.nan, np.nan, 4, 3]], dtype=float)
    found = ordered_collections(features, sample)
    assert [(c.pt, c.fields) for c in found] == [([0, 2, 4], [[0, 2, 4], [1, 3, 5]])]
    mixed = np.array([[3, 30, 7, 70, 5, 50, 1, 2], [4, 40, 6, 60, np.nan, np.nan, 1, 2], [9, 90, 8, 80, 7, 70, 1, 2]], dtype=float)
    wanted = [[7, 70, 5, 50, 3, 30, 1, 2], [6, 60, 4, 40, np.nan, np.nan, 1, 2], [9, 90, 8, 80, 7, 70, 1, 2]]
    np.testing.assert_array_equal(order_by_pt(mixed, found), wanted)


# -- densities --------------------------------------------------------------------------------------------------------


def test_correlated_is_the_matrix_product() -> None:
    noise, means = rng().normal(size=(50, 4)), rng().normal(size=(3, 4))
    factors = np.tril(rng().normal(size=(3, 4, 4)))
    component = rng().integers(0, 3, 50)
    wanted = means[component] + np.einsum("nij,nj->ni", factors[component], noise)
    np.testing.assert_allclose(correlated(noise, component, means, factors), wanted, rtol=1e-12)


def test_bandwidth_is_that_of_scikit_learn() -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity

    rows, grid = rng().normal(size=(400, 2)), np.geomspace(0.1, 1, 9)
    order = np.random.default_rng(1).permutation(400)
    folds = [(np.delete(order, np.s_[k::5]), order[k::5]) for k in range(5)]
    wanted = GridSearchCV(KernelDensity(), {"bandwidth": grid}, cv=folds).fit(rows).best_params_["bandwidth"]
    assert bandwidth_by_validation(rows, grid, seed=1) == pytest.approx(wanted * 0.8 ** (1 / 6))


def test_a_mixture_of_one_is_mean_and_covariance() -> None:
    rows = rng().multivariate_normal([1, 2], [[2, 0.5], [0.5, 1]], 500)
    found = fit_mixture(rows, 1, seed=1)
    np.testing.assert_allclose(found.means[0], rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.factors[0] @ found.factors[0].T, np.cov(rows.T, bias=True), rtol=1e-4)


def test_buffer() -> None:
    sigma = np.array([[0.01, 0.04, 0.5]])
    np.testing.assert_allclose(smudged(sigma, 4.0, 0.1), [[0.12, 0.18, 0.6]])
    np.testing.assert_allclose(smudged(sigma, 1.0, (0.1, 0.0, 0.2)), [[0.11, 0.04, 0.7]])


def test_box() -> None:
    box = Box(np.array([0.0, -4.0]), np.array([1.0, 4.0]))
    np.testing.assert_allclose(box.forward(np.array([[0.5, 2.0], [2.0, -4.0]])), [[0.0, 0.5], [1.0, -1.0]])
    np.testing.assert_allclose(box.inverse(np.array([[0.0, 0.5]])), [[0.5, 2.0]])


def test_pairs_of_columns() -> None:
    a, b = rng().normal(size=(500, 3)), rng().normal(0.3, 1, (400, 3))
    weights = rng().uniform(0.5, 2, 400)
    pairs = PairHistograms(a, bins=4)
    edges = [np.concatenate([[-np.inf], np.quantile(column, [0.25, 0.5, 0.75]), [np.inf]]) for column in a.T]
    wanted = []
    for i, j in combinations(range(3), 2):
        p = np.histogram2d(a[:, i], a[:, j], bins=[np.clip(edges[i], -99, 99), np.clip(edges[j], -99, 99)])[0] / 500
        q = np.histogram2d(b[:, i], b[:, j], bins=[np.clip(edges[i], -99, 99), np.clip(edges[j], -99, 99)], weights=weights)[0]
        q /= weights.sum()
        wanted.append(((p - q) ** 2 / (p + q)).sum())
    assert pairs.distance(pairs.histograms(a), pairs.histograms(b, weights)) == pytest.approx(np.mean(wanted))
