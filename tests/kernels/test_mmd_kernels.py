"""Kernels that are a mean of Gaussians: several bandwidths, and one feature at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmd_support import brute_mmd2, brute_sums, draw, needs_cpp

from hepgen import kernels
from hepgen.losses import MMD

WIDE = torch.tensor([[0.5], [2.0], [8.0]], dtype=torch.float64)  # proportional rows
ODD = torch.tensor([[0.5, 1.0, 2.0], [3.0, 1.0, 0.7], [1.0, 2.0, 4.0]], dtype=torch.float64)  # the first and the last are


@pytest.fixture
def on_device(device: torch.device) -> Iterator[None]:
    """Every backend, one after the other; new tensors lie on its device."""
    with device:
        yield


@pytest.mark.usefixtures("on_device")
class TestSeveralBandwidths:
    @pytest.mark.parametrize("sigma", [WIDE, ODD])
    def test_mean_of_the_values_for_each(self, sigma):
        x, y = draw(70, 3, 1), draw(50, 3, 2, shift=0.4)
        w = draw(70, 1, 3, shift=1.5)[:, 0]
        want = np.mean([brute_mmd2(x, y, row.numpy(), w) for row in sigma])
        want_sums = np.mean([brute_sums(x, y, row.numpy()) for row in sigma], axis=0)
        assert kernels.mmd2(x, y, sigma, x_weights=w).item() == pytest.approx(want, rel=1e-12)
        np.testing.assert_allclose(kernels.gaussian_sums(x, y, sigma).cpu().numpy(), want_sums, rtol=1e-12)
        known = kernels.kernel_mean(y, sigma)
        assert kernels.mmd2(x, y, sigma, x_weights=w, y_mean=known).item() == pytest.approx(want, rel=1e-12)

    @pytest.mark.parametrize("sigma", [WIDE, ODD])
    @pytest.mark.parametrize("per_feature", [False, True])
    def test_gradcheck(self, backend, sigma, per_feature):
        x, y = draw(6, 3, 1).requires_grad_(), draw(5, 3, 2).requires_grad_()
        w = torch.tensor([1.0, -0.3, 2.0, 0.5, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
        v = torch.tensor([0.7, 1.0, -0.2, 0.4, 1.1], dtype=torch.float64, requires_grad=True)

        def all_of_it(x, y, w, v):
            value = kernels.mmd2(x, y, sigma, x_weights=w, y_weights=v, per_feature=per_feature)
            return value, kernels.gaussian_sums(x, y, sigma, y_weights=v)

        assert torch.autograd.gradcheck(all_of_it, (x, y, w, v), fast_mode=backend in ("cuda", "triton"))

    def test_closed_form(self):
        """Two points at distance 1: k = mean of exp(-1 / sigma)."""
        x, y = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        got = kernels.mmd2(x, y, torch.tensor([[0.5], [2.0]]))
        assert got.item() == pytest.approx(2 - np.exp(-2) - np.exp(-0.5), rel=1e-14)


@pytest.mark.usefixtures("on_device")
class TestPerFeature:
    def test_mean_of_the_features(self):
        x, y = draw(80, 4, 1), draw(60, 4, 2, shift=0.3)
        w, v = draw(80, 1, 3, shift=1.5)[:, 0], draw(60, 1, 4, shift=1.5)[:, 0]
        sigma = torch.tensor([0.2, 0.5, 1.0, 3.0])
        want = np.mean([brute_mmd2(x[:, [f]], y[:, [f]], [float(sigma[f])], w, v) for f in range(4)])
        got = kernels.mmd2(x, y, sigma, x_weights=w, y_weights=v, per_feature=True)
        known = kernels.kernel_mean(y, sigma, weights=v, per_feature=True)
        again = kernels.mmd2(x, y, sigma, x_weights=w, y_weights=v, per_feature=True, y_mean=known)
        assert got.item() == pytest.approx(want, rel=1e-11)
        assert again.item() == pytest.approx(want, rel=1e-11)

    def test_sees_no_correlation(self):
        x = draw(400, 1, 1).repeat(1, 2)
        y = torch.cat(
            [x[:, :1], x[torch.randperm(400, generator=torch.Generator("cpu").manual_seed(2), device="cpu").to(x.device), 1:]], dim=1
        )
        assert kernels.mmd2(x, y, 1.0, per_feature=True).item() == pytest.approx(0, abs=1e-14)
        assert kernels.mmd2(x, y, 1.0).item() > 0.1

    def test_loss(self):
        x, y = draw(30, 3, 1), draw(30, 3, 2)
        got = MMD(WIDE, per_feature=True)(x, y)
        want = np.mean([brute_mmd2(x[:, [f]], y[:, [f]], [s]) for s in (0.5, 2.0, 8.0) for f in range(3)])
        assert got.item() == pytest.approx(want, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 300),
    m=st.integers(1, 300),
    d=st.sampled_from([1, 2, 6, 9, 64]),
    bandwidths=st.integers(1, 4),
    weighted=st.booleans(),
    per_feature=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
@needs_cpp
def test_cpp_equals_reference(n, m, d, bandwidths, weighted, per_feature, dtype, seed):
    x, y = draw(n, d, seed, dtype), draw(m, d, seed + 1, dtype, shift=0.3)
    w = draw(n, 1, seed + 2, dtype, shift=3.0)[:, 0].abs() if weighted else None
    sigma = torch.rand(bandwidths, 1 if seed % 2 else d, generator=torch.Generator().manual_seed(seed)) * 2 * d + 0.5
    results = {}
    for name, kind in (("cpp", dtype), ("reference", torch.float64)):
        a, b = (t.to(kind).clone().requires_grad_() for t in (x, y))
        with kernels.backend(name):
            value = kernels.mmd2(a, b, sigma, x_weights=None if w is None else w.to(kind), per_feature=per_feature)
        results[name] = [value.detach(), *torch.autograd.grad(value, (a, b))]
    eps = torch.finfo(dtype).eps
    for a, b in zip(results["cpp"], results["reference"], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=60 * eps * max(float(b.abs().max()), 1.0))
