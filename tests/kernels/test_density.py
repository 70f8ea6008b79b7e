from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hepgen.errors import InputError, UsageError
from hepgen.kernels import kde


def draw(n, features, seed, dtype=torch.float64):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def brute(samples, grid, bandwidth, weights=None):
    """(G, F): one normal density per sample, feature by feature."""
    x, g = samples.numpy(), grid.numpy()
    w = np.ones(len(x)) if weights is None else weights.numpy()
    b = np.broadcast_to(np.asarray(bandwidth, dtype=float), x.shape[1])
    g = np.broadcast_to(g[:, None] if g.ndim == 1 else g, (len(g), x.shape[1]))
    columns = [(w * scipy.stats.norm.pdf(g[:, f, None], x[:, f], b[f])).sum(1) / w.sum() for f in range(x.shape[1])]
    return np.stack(columns, 1)


@pytest.mark.parametrize("method", ["exact", "binned"])
class TestBoth:
    def test_one_sample_on_a_grid_point(self, method):
        # the density of one sample is the normal density itself, and linear binning does not move a sample on a point
        grid = torch.linspace(-2, 2, 41, dtype=torch.float64)
        density = kde(torch.tensor([[0.5]], dtype=torch.float64), grid, 0.4, method=method)
        np.testing.assert_allclose(density[:, 0].numpy(), scipy.stats.norm.pdf(grid.numpy(), 0.5, 0.4), atol=1e-13)

    def test_integrates_to_one_where_the_grid_holds_all(self, method):
        grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
        density = kde(draw(500, 3, 1), grid, torch.tensor([0.1, 0.2, 0.3]), method=method)
        np.testing.assert_allclose(density.sum(0).numpy() * 16 / 800, 1.0, rtol=1e-12)

    def test_signed_weights(self, method):
        x, grid = draw(300, 2, 1), torch.linspace(-4, 4, 512, dtype=torch.float64)
        w = draw(300, 1, 2)[:, 0] + 0.8
        assert (w < 0).any()
        want = brute(x, grid, 0.3, w)
        got = kde(x, grid, 0.3, weights=w, method=method).numpy()
        np.testing.assert_allclose(got, want, atol=1e-12 if method == "exact" else 1e-3 * np.abs(want).max())

    def test_weights_repeat_samples(self, method):
        x, grid = draw(20, 2, 1), torch.linspace(-3, 3, 100, dtype=torch.float64)
        w = torch.arange(20) % 3
        torch.testing.assert_close(kde(x, grid, 0.3, weights=w, method=method), kde(x.repeat_interleave(w, 0), grid, 0.3, method=method))

    def test_gradcheck(self, method):
        x, w = draw(7, 2, 3).requires_grad_(), (draw(7, 1, 4)[:, 0].abs() + 0.1).requires_grad_()
        grid = torch.stack([torch.linspace(-2, 2, 17), torch.linspace(-1, 3, 17)], 1).double()
        b = torch.tensor([0.5, 0.8])
        assert torch.autograd.gradcheck(lambda x, w: kde(x, grid, b, weights=w, method=method), (x, w))
        assert torch.autograd.gradcheck(lambda x: kde(x, grid, b, method=method), (x,))

    def test_nan_poisons_its_feature_alone(self, method):
        x = draw(20, 3, 1)
        x[4, 1] = torch.nan
        density = kde(x, torch.linspace(-1, 1, 9, dtype=torch.float64), 0.5, method=method)
        assert density.isnan().all(0).tolist() == [False, True, False]
        assert not density[:, [0, 2]].isnan().any()

    def test_samples_beyond_the_grid(self, method):
        grid = torch.linspace(0, 1, 101, dtype=torch.float64)
        x = torch.tensor([[-0.1], [1.2], [50.0], [-1e300], [float("inf")]], dtype=torch.float64)
        want = (scipy.stats.norm.pdf(grid.numpy(), -0.1, 0.1) + scipy.stats.norm.pdf(grid.numpy(), 1.2, 0.1)) / 5
        np.testing.assert_allclose(kde(x, grid, 0.1, method=method)[:, 0].numpy(), want, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shape_and_dtype(self, method, dtype):
        density = kde(draw(5, 2, 1, dtype), torch.linspace(0, 1, 3), 0.5, method=method)
        assert density.shape == (3, 2)
        assert density.dtype == dtype

    def test_not_contiguous(self, method):
        x = draw(3, 40, 1).T[::2]
        grid = torch.linspace(-1, 1, 50, dtype=torch.float64)
        torch.testing.assert_close(kde(x, grid, 0.5, method=method), kde(x.contiguous(), grid, 0.5, method=method))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 200), features=st.integers(1, 4), points=st.integers(1, 60), weighted=st.booleans(), seed=st.integers(0, 10**6))
def test_exact_equals_brute_force(n, features, points, weighted, seed):
    x, grid = draw(n, features, seed), draw(points, features, seed + 1)
    w = draw(n, 1, seed + 2)[:, 0].abs() + 0.1 if weighted else None
    b = torch.linspace(0.2, 1.0, features)
    np.testing.assert_allclose(kde(x, grid, b, weights=w).numpy(), brute(x, grid, b, w), rtol=1e-11, atol=1e-14)


def test_against_scipy():
    x = draw(400, 1, 5)
    estimate = scipy.stats.gaussian_kde(x[:, 0].numpy(), weights=np.linspace(0.1, 2, 400))
    grid = torch.linspace(-3, 3, 64, dtype=torch.float64)
    got = kde(x, grid, math.sqrt(estimate.covariance[0, 0]), weights=torch.linspace(0.1, 2, 400, dtype=torch.float64))
    np.testing.assert_allclose(got[:, 0].numpy(), estimate(grid.numpy()), rtol=1e-12)


def test_exact_in_chunks_is_the_same(monkeypatch):
    x, grid = draw(100, 2, 1).requires_grad_(), torch.linspace(-2, 2, 30, dtype=torch.float64)
    whole = kde(x, grid, 0.3)
    monkeypatch.setattr("hepgen.kernels.density._EXACT_NUMBERS", 900)  # 4 grid points at a time
    parts = kde(x, grid, 0.3)
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), x), torch.autograd.grad(whole.square().sum(), x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binned_error_is_within_its_bound(dtype):
    x, b = draw(5000, 2, 1), 0.15
    grid = torch.linspace(-4, 4, 512, dtype=torch.float64)
    want = brute(x, grid, b)
    got = kde(x.to(dtype), grid.to(dtype), b, method="binned").double().numpy()
    h = 8 / 511
    assert np.abs(got - want).max() <= (h / b) ** 2 / 8 / (b * math.sqrt(2 * math.pi)) + 1e-6
    assert np.abs(got - want).max() <= 1e-3 * want.max()


def test_binned_is_never_negative_without_weights():
    density = kde(draw(50, 1, 1), torch.linspace(-30, 30, 2000, dtype=torch.float64), 0.05, method="binned")
    assert (density >= 0).all()
    assert (density == 0).any()


@pytest.mark.parametrize(
    ("samples", "grid", "bandwidth", "options", "error", "match"),
    [
        (torch.zeros(0, 1), torch.linspace(0, 1, 5), 1.0, {}, InputError, "at least one sample"),
        (torch.zeros(3), torch.linspace(0, 1, 5), 1.0, {}, UsageError, "samples must have shape"),
        (torch.zeros(3, 1).long(), torch.linspace(0, 1, 5), 1.0, {}, UsageError, "float32 or float64"),
        (torch.zeros(3, 2), torch.zeros(5, 3), 1.0, {}, UsageError, "grid must have shape"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), 0.0, {}, UsageError, "positive"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), [1.0, float("inf")], {}, UsageError, "positive and finite"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), torch.ones(3), {}, UsageError, "one value per feature"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), 1.0, {"weights": torch.ones(2)}, UsageError, "weights must have shape"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), 1.0, {"method": "fft"}, UsageError, "'exact' or 'binned'"),
        (torch.zeros(3, 1), torch.linspace(0, 1, 5) ** 2, 1.0, {"method": "binned"}, UsageError, "uniform, increasing"),
        (torch.zeros(3, 1), torch.linspace(1, 0, 5), 1.0, {"method": "binned"}, UsageError, "uniform, increasing"),
        (torch.zeros(3, 1), torch.zeros(1), 1.0, {"method": "binned"}, UsageError, "at least two points"),
        (torch.zeros(3, 1), torch.linspace(0, 1, 5), 1e7, {"method": "binned"}, UsageError, "too many for the binned"),
    ],
)
def test_refused(samples, grid, bandwidth, options, error, match):
    with pytest.raises(error, match=match):
        kde(samples, grid, bandwidth, **options)
