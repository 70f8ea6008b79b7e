"""The classifier against closed forms; areas under the curve against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from hepgen.errors import InputError, UsageError
from hepgen.metrics import classifier_auc, classifier_floor, roc_curve, weighted_auc


def shifted(n, delta, seed=1):
    """Two normal samples whose best classifier has the area Phi(delta / sqrt 2)."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 3)), rng.normal(size=(n, 3))
    b[:, 1] += delta
    return a * [1, 30, 0.01] + 5, b * [1, 30, 0.01] + 5


def scores(seed=0, ties=True):
    rng = np.random.default_rng(seed)
    s, t = rng.normal(size=700), rng.normal(0.4, size=500)
    return (np.round(s, 1), np.round(t, 1)) if ties else (s, t)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_area_is_scikit_learns(ties, weighted):
    s, t = scores(ties=ties)
    rng = np.random.default_rng(1)
    v, w = (rng.exponential(size=len(x)) if weighted else None for x in (s, t))
    labels = np.repeat([0, 1], [len(s), len(t)])
    # scikit-learn counts all weights in one class the same way whatever the other's scale
    reference = roc_auc_score(labels, np.concatenate([s, t]), sample_weight=None if v is None else np.concatenate([v, w]))
    assert weighted_auc(s, t, v, w)[0] == pytest.approx(reference, abs=1e-12)


def test_signed_area_is_the_sum_over_pairs():
    s, t = scores()
    rng = np.random.default_rng(2)
    v, w = rng.choice([1.0, -0.4], len(s)), rng.normal(1, 1, len(t))
    pairs = (s[:, None] < t) + 0.5 * (s[:, None] == t)
    assert weighted_auc(s, t, v, w)[0] == pytest.approx(v @ pairs @ w / (v.sum() * w.sum()), abs=1e-12)


def test_error_under_equal_samples_is_mann_whitneys():
    rng = np.random.default_rng(3)
    n, m = 4000, 2500
    _, error = weighted_auc(rng.normal(size=n), rng.normal(size=m))
    assert error == pytest.approx(np.sqrt((n + m + 1) / (12 * n * m)), rel=0.02)


def test_error_of_signed_weights_is_the_scatter():
    rng = np.random.default_rng(4)
    found = np.array(
        [
            weighted_auc(
                rng.normal(size=300), rng.normal(0.7, size=200), rng.choice([1.0, -1.0], 300, p=[0.9, 0.1]), rng.exponential(size=200)
            )
            for _ in range(500)
        ]
    )
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.1)
    assert found[:, 0].mean() == pytest.approx(norm.cdf(0.7 / np.sqrt(2)), abs=0.006)


def test_curve_encloses_the_area():
    s, t = scores(ties=False)
    rng = np.random.default_rng(5)
    v, w = rng.uniform(size=len(s)), rng.uniform(size=len(t))
    fpr, tpr = roc_curve(s, t, v, w, points=10_000)
    assert np.trapezoid(tpr, fpr) == pytest.approx(weighted_auc(s, t, v, w)[0], abs=1e-9)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, pytest.approx(1), pytest.approx(1))
    assert np.all(np.diff(fpr) >= -1e-12)
    thin_fpr, thin_tpr = roc_curve(s, t, v, w, points=100)
    assert len(thin_fpr) <= 100
    assert np.trapezoid(thin_tpr, thin_fpr) == pytest.approx(np.trapezoid(tpr, fpr), abs=2e-3)


@pytest.mark.parametrize("delta", [0.5, 1.5])
def test_shifted_normals_reach_the_best_area(delta):
    a, b = shifted(12_000, delta)
    found = classifier_auc(a, b, floor=False)
    best = norm.cdf(delta / np.sqrt(2))
    assert found.auc == pytest.approx(best, abs=4 * found.error + 0.003)
    assert found.events == (6000, 6000)
    assert len(found.fpr) == len(found.tpr) <= 500
    assert np.trapezoid(found.tpr, found.fpr) == pytest.approx(found.auc, abs=1e-3)


def test_equal_samples_and_floor_are_one_half():
    a, b = shifted(8000, 0.0)
    found = classifier_auc(a, b)
    assert found.auc == pytest.approx(0.5, abs=4 * found.error)
    assert found.floor is not None
    assert found.floor.auc == pytest.approx(0.5, abs=4 * found.floor.error)
    assert found.floor.events == (2000, 2000)
    assert found.floor.auc == classifier_floor(b).auc


def test_signed_weights_undo_what_they_take_away():
    rng = np.random.default_rng(6)
    b, wrong = rng.normal(size=(12_000, 2)), rng.normal(2, 0.5, size=(6000, 2))
    a = np.concatenate([rng.normal(size=(12_000, 2)), wrong])
    again = rng.normal(2, 0.5, size=(6000, 2))
    plain = classifier_auc(a, b, floor=False)
    signed = classifier_auc(np.concatenate([a, again]), b, a_weights=np.concatenate([np.ones(18_000), -np.ones(6000)]), floor=False)
    assert plain.auc > 0.6
    assert signed.auc == pytest.approx(0.5, abs=4 * signed.error)


def test_scale_of_the_weights_does_not_matter():
    a, b = shifted(2000, 0.8)
    w = np.random.default_rng(7).uniform(0.5, 1.5, 2000)
    one, other = (classifier_auc(a, b, a_weights=scale * w, floor=False, epochs=5) for scale in (1, 1024))
    assert one.auc == pytest.approx(other.auc, abs=1e-9)


def test_seed_decides_and_torch_is_left_alone():
    a, b = shifted(1000, 0.5)
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first, second, third = (classifier_auc(a, b, floor=False, epochs=3, seed=seed).auc for seed in (1, 1, 2))
    assert first == second != third
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_training_stops_early_and_keeps_the_best_epoch():
    a, b = shifted(2000, 0.0)
    found = classifier_auc(a, b, floor=False, epochs=200, patience=4, max_events=1000)
    assert found.events == (500, 500)
    assert found.epochs == found.best_epoch + 4


def test_constant_column_does_no_harm():
    a, b = shifted(1000, 1.0)
    a[:, 0] = b[:, 0] = 7
    assert classifier_auc(a, b, floor=False).auc > 0.7


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones((5, 3))}, InputError, "the first sample has 5 events"),
        ({"a": np.ones((0, 3))}, InputError, "the first sample has no events"),
        ({"b": np.ones((50, 2))}, InputError, "has 3 columns, the second 2"),
        ({"b": np.full((50, 3), np.inf)}, InputError, "column 0 of the second sample has 50 NaN or infinite"),
        ({"a_weights": np.ones(3)}, InputError, r"expected \(50,\)"),
        ({"a_weights": np.resize([1.0, -1.0], 50)}, InputError, "the weights of the first sample sum to zero"),
        ({"epochs": 0}, UsageError, "epochs is 0"),
        ({"batch_size": 2.5}, UsageError, "batch_size is 2.5"),
        ({"learning_rate": -1.0}, UsageError, "learning_rate is -1.0"),
        ({"hidden": (32, 0)}, UsageError, "hidden is 0"),
    ],
)
def test_unusable_input_is_named(change, error, message):
    rng = np.random.default_rng(8)
    arguments = {"a": rng.normal(size=(50, 3)), "b": rng.normal(size=(50, 3))} | change
    with pytest.raises(error, match=message):
        classifier_auc(arguments.pop("a"), arguments.pop("b"), **arguments)


def test_floor_needs_two_halves():
    with pytest.raises(InputError, match="at least 40"):
        classifier_floor(np.ones((30, 2)))
