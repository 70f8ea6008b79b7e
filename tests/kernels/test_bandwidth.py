from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from hepgen.errors import InputError, UsageError
from hepgen.kernels import kde, kde_bandwidth


def normal(n, seed=1, features=1):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_peaks(n, seed=1):
    x = normal(n, seed)
    x[: n // 2] = 0.5 * x[: n // 2] - 5
    x[n // 2 :] += 5
    return x


def test_silverman_in_closed_form():
    x = normal(10_001, features=2) * torch.tensor([1.0, 3.0])
    want = 0.9 * np.minimum(x.numpy().std(0, ddof=1), scipy.stats.iqr(x.numpy(), axis=0) / 1.34) * 10_001**-0.2
    np.testing.assert_allclose(kde_bandwidth(x).numpy(), want, rtol=1e-12)
    np.testing.assert_allclose(kde_bandwidth(x, events=32 * 10_001).numpy(), want / 2, rtol=1e-12)


def test_scott_is_that_of_scipy():
    x, w = normal(300)[:, 0].numpy(), np.linspace(0.1, 2, 300)
    for weights in (None, w):
        estimate = scipy.stats.gaussian_kde(x, bw_method="scott", weights=weights)
        got = kde_bandwidth(torch.from_numpy(x)[:, None], "scott", None if weights is None else torch.from_numpy(weights))
        assert got.item() == pytest.approx(math.sqrt(estimate.covariance[0, 0]), rel=1e-12)


def test_silverman_with_weights():
    """Two groups of 1 and 3 fold weight: the quartiles are those of the samples repeated, but for steps between neighbours."""
    x = normal(4000)
    w = 1.0 + 2 * (torch.arange(4000) % 2)
    repeated = x.repeat_interleave(w.long(), 0)
    effective = float(w.sum() ** 2 / w.square().sum())
    spread = min(repeated.std().item(), scipy.stats.iqr(repeated.numpy()) / 1.34)
    assert kde_bandwidth(x, weights=w).item() == pytest.approx(0.9 * spread * effective**-0.2, rel=2e-3)
    torch.testing.assert_close(kde_bandwidth(x, weights=torch.full((4000,), 7.0)), kde_bandwidth(x), rtol=1e-9, atol=0)


def test_signed_weights_that_cancel_leave_the_rest():
    x = normal(3000)
    both = torch.cat([x, x[:100] + 3, x[:100] + 3])
    w = torch.cat([torch.ones(3100), -torch.ones(100)])
    got, want = kde_bandwidth(both, weights=w, events=3000), kde_bandwidth(x)
    assert got.item() == pytest.approx(want.item(), rel=0.02)


@pytest.mark.parametrize("rule", ["silverman", "scott", "isj"])
def test_scale_shift_dtype_and_nan(rule):
    x = normal(2000, features=2)
    b = kde_bandwidth(x, rule)
    torch.testing.assert_close(kde_bandwidth(1e-3 * x + 5, rule), 1e-3 * b, rtol=1e-6, atol=0)
    assert kde_bandwidth(x.float(), rule).dtype == torch.float32
    torch.testing.assert_close(kde_bandwidth(x.float(), rule).double(), b, rtol=1e-5, atol=0)
    x[3, 1] = torch.nan
    got = kde_bandwidth(x.requires_grad_(), rule)
    assert got.isnan().tolist() == [False, True]
    assert not got.requires_grad


@pytest.mark.parametrize("rule", ["silverman", "scott", "isj"])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_constant_features_get_one(rule, n):
    want = n**-0.2 * (0.9 if rule == "silverman" else 1.0) if rule != "isj" else 1.0
    assert kde_bandwidth(torch.full((n, 1), 4.0), rule).item() == pytest.approx(want)


def test_equal_quartiles_leave_the_deviation():
    x = torch.zeros(100, 1, dtype=torch.float64)
    x[:10, 0] = torch.arange(10)
    assert kde_bandwidth(x).item() == pytest.approx(0.9 * x.std().item() * 100**-0.2)


def test_isj_on_a_normal_density():
    """The normal reference is right here: (4/3)^(1/5) sd n^(-1/5)."""
    for n in (20_000, 100_000):
        assert kde_bandwidth(normal(n), "isj").item() == pytest.approx(1.0592 * n**-0.2, rel=0.06)


def test_isj_on_two_peaks_has_the_smaller_error():
    x, grid = two_peaks(10_000), torch.linspace(-10, 10, 2001, dtype=torch.float64)
    true = 0.5 * (scipy.stats.norm.pdf(grid, -5, 0.5) + scipy.stats.norm.pdf(grid, 5, 1))

    def error(b):
        return float(np.square(kde(x, grid, b)[:, 0].numpy() - true).mean())

    b = kde_bandwidth(x, "isj").item()
    tried = [error(b * factor) for factor in (0.25, 0.5, 0.8, 1, 1.25, 2, 4)]
    assert tried[3] < 1.1 * min(tried)
    assert tried[3] < 0.1 * error(kde_bandwidth(x, "silverman").item())


@pytest.mark.parametrize("sample", [normal(3000), two_peaks(1000)])
def test_isj_against_kdepy(sample):
    """KDEpy 1.1 solves the same equations, but scales with the range of the data instead of that of its grid (its issue 199)."""
    kdepy = pytest.importorskip("KDEpy.bw_selection")
    from KDEpy.utils import autogrid

    x = 30 * sample.numpy()
    grid = autogrid(x, boundary_abs=6, num_points=1024, boundary_rel=0.5)
    want = kdepy.improved_sheather_jones(x) * np.ptp(grid) / np.ptp(x)
    assert kde_bandwidth(torch.from_numpy(x), "isj").item() == pytest.approx(want, rel=5e-3)


def test_isj_with_weights_is_that_of_the_weighted_density():
    x = two_peaks(4000)
    w = torch.ones(4000)
    w[:2000] = 1e-6  # the left peak all but vanishes
    assert kde_bandwidth(x, "isj", w).item() == pytest.approx(kde_bandwidth(x[2000:], "isj").item(), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((torch.zeros(3),), UsageError, "must have shape"),
        ((torch.zeros(3, 1), "thumb"), UsageError, "rule must be one of silverman, scott, isj, got 'thumb'"),
        ((torch.zeros(3, 1), "scott", torch.ones(2)), UsageError, r"weights must have shape \(3,\)"),
        ((torch.zeros(0, 1),), InputError, "at least one sample"),
        ((torch.tensor([[0.0], [1.0]]), "isj"), InputError, "finds no bandwidth"),
    ],
)
def test_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        kde_bandwidth(*arguments)
