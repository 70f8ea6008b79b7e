from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from hepgen.errors import InputError, UsageError
from hepgen.estimators.ratio_checks import TAIL, Calibrator, ess, isotonic, reliability


def gaussians(n: int, seed: int, distance: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """The true log ratio of N(distance, 1) to N(0, 1) at events of either."""
    rng = np.random.default_rng(seed)
    sim, data = rng.normal(0, 1, n), rng.normal(distance, 1, n)
    return distance * sim - distance**2 / 2, distance * data - distance**2 / 2


def test_effective_sample_size() -> None:
    assert ess([2.0, 2.0, 2.0]) == pytest.approx(3)
    assert ess([1.0, 3.0]) == pytest.approx(16 / 10)
    assert ess([3.0, -1.0]) == pytest.approx(4 / 10)
    assert ess([]) == 0


def test_a_calibration_is_a_rising_broken_line() -> None:
    calibrator = Calibrator(np.array([-1.0, 0.0, 2.0]), np.array([-3.0, 0.0, 1.0]))
    np.testing.assert_allclose(calibrator(np.array([-5.0, -0.5, 1.0, 9.0])), [-3, -1.5, 0.5, 1])
    for x, y in (([0.0], [0.0]), ([0.0, 0.0], [0.0, 1.0]), ([0.0, 1.0], [1.0, 0.0]), ([0.0, 1.0], [0.0, 1.0, 2.0])):
        with pytest.raises(UsageError, match="points of a calibration must rise"):
            Calibrator(np.array(x), np.array(y))


@pytest.mark.parametrize("signed", [False, True])
def test_calibration_undoes_a_distortion(signed: bool) -> None:
    sim, data = gaussians(40_000, 1)
    rng = np.random.default_rng(2)
    weights = rng.choice([1.5, -0.5], p=[0.75, 0.25], size=40_000) if signed else None
    calibrator = isotonic(2 * sim + 0.5, 2 * data + 0.5, weights, None)
    inside = np.linspace(-1.5, 1.5, 31)  # 40 bins of 2000 events: 4.5 % each, 7 with the signed weights
    error = calibrator(2 * inside + 0.5) - inside
    assert np.abs(error).mean() < (0.06 if signed else 0.04)
    assert np.abs(error).max() < (0.2 if signed else 0.12)
    # beyond the outer bins the order of the events is kept
    assert calibrator(np.array([-8.0]))[0] < calibrator(np.array([-7.0]))[0]
    assert calibrator.x[-1] - calibrator.x[-2] == pytest.approx(TAIL)


def test_calibration_is_that_of_scikit_learn_on_the_shares_of_the_bins() -> None:
    sim, data = gaussians(3000, 3)
    calibrator = isotonic(sim, data)
    both = np.concatenate([sim, data])
    edges = np.quantile(both, [0, 1 / 3, 2 / 3, 1])
    edges[[0, -1]] = -np.inf, np.inf
    d, s = np.histogram(data, edges)[0] / 3000, np.histogram(sim, edges)[0] / 3000
    centre = np.array([both[(both >= low) & (both < high)].mean() for low, high in pairwise(edges)])
    share = IsotonicRegression().fit(centre, d / (d + s), sample_weight=d + s).predict(centre)
    np.testing.assert_allclose(calibrator.x[1:-1], centre)
    np.testing.assert_allclose(calibrator.y[1:-1], np.log(share / (1 - share)))


def test_reliability_of_true_and_of_wrong_ratios() -> None:
    sim, data = gaussians(50_000, 4)
    right = reliability(sim, data, bins=10)
    pulls = (right.observed - right.predicted) / right.error
    assert len(right.predicted) == 10
    assert np.abs(pulls).max() < 4
    assert right.chi2.p_value > 1e-3
    # by hand, in the bin in the middle
    low, high = right.chi2.edges[5:7]
    s, d = ((sim >= low) & (sim < high)).sum(), ((data >= low) & (data < high)).sum()
    assert right.observed[5] == pytest.approx(d / s)
    assert right.error[5] == pytest.approx(d / s * np.sqrt(1 / d + 1 / s - 2 / 50_000))  # two binomial shares
    assert right.predicted[5] == pytest.approx(np.exp(sim[(sim >= low) & (sim < high)]).mean() / np.exp(sim).mean())
    wrong = reliability(1.3 * sim, 1.3 * data, bins=10)
    assert wrong.chi2.per_ndf > 20
    assert set(right.to_dict()) == {"chi2", "ndf", "per_ndf", "p_value", "predicted", "observed", "error", "edges"}


def test_reliability_takes_signed_weights() -> None:
    sim, data = gaussians(50_000, 5)
    rng = np.random.default_rng(6)
    weights = rng.choice([1.5, -0.5], p=[0.75, 0.25], size=50_000)
    found = reliability(sim, data, weights, 3 * np.ones(50_000), bins=8)
    assert np.abs((found.observed - found.predicted) / found.error).max() < 4
    low, high = found.chi2.edges[3:5]
    w, d = weights[(sim >= low) & (sim < high)], ((data >= low) & (data < high)).sum()
    assert found.observed[3] == pytest.approx((d / 50_000) / (w.sum() / weights.sum()))
    p = w.sum() / weights.sum()
    spread = (1 - p) ** 2 * (w**2).sum() + p**2 * ((weights**2).sum() - (w**2).sum())
    assert found.error[3] == pytest.approx(found.observed[3] * np.sqrt(1 / d - 1 / 50_000 + spread / w.sum() ** 2))


def test_too_few_events_are_refused() -> None:
    with pytest.raises(InputError, match="the log ratio has fewer than two bins"):
        isotonic(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]))
