from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from hepgen.losses import MMD, KLOfKDE, negative_log_likelihood, weighted_mean


def gaussian_mixture(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64) + shift


def test_weighted_mean_takes_signed_weights() -> None:
    values, weights = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, -0.5, 2.0])
    assert float(weighted_mean(values, weights)) == pytest.approx((1 - 1 + 8) / 2.5)
    assert float(negative_log_likelihood(values)) == pytest.approx(-7 / 3)


def test_kl_of_two_gaussians_approaches_the_closed_form() -> None:
    # KDE widens both normals by the bandwidth h: KL(N(0, 1 + h^2) || N(m, 1 + h^2)) = m^2 / 2 / (1 + h^2)
    h = 0.2
    target, samples = gaussian_mixture(200_000, 1), gaussian_mixture(200_000, 2, 0.5)
    divergence = KLOfKDE(target, bandwidth=torch.full((2,), h, dtype=torch.float64))
    assert float(divergence(samples)) == pytest.approx(0.5**2 / 2 / (1 + h**2), rel=0.05)
    assert 0 <= float(divergence(gaussian_mixture(200_000, 3))) < 2e-4


def test_kl_against_scipy_densities() -> None:
    target, samples = gaussian_mixture(400, 1), gaussian_mixture(300, 2, 0.3)
    target_weights, weights = torch.rand(400, dtype=torch.float64) + 0.5, torch.rand(300, dtype=torch.float64) + 0.5
    h = torch.tensor([0.3, 0.4], dtype=torch.float64)
    divergence = KLOfKDE(target, target_weights, bandwidth=h, points=2048)
    expected = []
    for f in range(2):
        grid = divergence.grid[:, f].numpy()
        densities = []
        for column, w in ((target[:, f].numpy(), target_weights.numpy()), (samples[:, f].numpy(), weights.numpy())):
            density = (w[:, None] * stats.norm.pdf(grid, column[:, None], float(h[f]))).sum(0)
            densities.append(density / w.sum() * (grid[1] - grid[0]))
        p, q = densities[0] / densities[0].sum(), densities[1]
        inside = p > 1e-9
        expected.append(float((p[inside] * np.log(p[inside] / q[inside])).sum()))
    assert float(divergence(samples, weights)) == pytest.approx(np.mean(expected), rel=2e-3)


def test_kl_gradient_is_that_of_finite_differences() -> None:
    divergence = KLOfKDE(gaussian_mixture(500, 1), bandwidth=torch.full((2,), 0.3, dtype=torch.float64))
    samples = gaussian_mixture(40, 2, 0.4).requires_grad_()
    divergence(samples).backward()
    for row, column in ((0, 0), (7, 1), (39, 0)):
        shifted = [samples.detach().clone() for _ in range(2)]
        shifted[0][row, column] += 1e-6
        shifted[1][row, column] -= 1e-6
        slope = (float(divergence(shifted[0])) - float(divergence(shifted[1]))) / 2e-6
        assert float(samples.grad[row, column]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_kl_stays_finite_where_the_samples_are_elsewhere() -> None:
    divergence = KLOfKDE(gaussian_mixture(500, 1))
    far = gaussian_mixture(50, 2, 1e3).requires_grad_()
    value = divergence(far)
    assert math.isfinite(float(value.detach()))
    assert float(value.detach()) > 1


@pytest.mark.parametrize("per_feature", [False, True])
def test_mmd_is_the_brute_force_sum(per_feature: bool) -> None:
    x, y = gaussian_mixture(30, 1), gaussian_mixture(20, 2, 0.5)
    wx, wy = torch.rand(30, dtype=torch.float64) - 0.2, torch.rand(20, dtype=torch.float64)

    def brute(a: torch.Tensor, b: torch.Tensor) -> float:
        def mean(p: torch.Tensor, q: torch.Tensor, wp: torch.Tensor, wq: torch.Tensor) -> float:
            k = torch.exp(-(p[:, None] - q[None]).square().sum(-1) / 0.7)
            return float(wp @ k @ wq / wp.sum() / wq.sum())

        return mean(a, a, wx, wx) + mean(b, b, wy, wy) - 2 * mean(a, b, wx, wy)

    expected = np.mean([brute(x[:, f : f + 1], y[:, f : f + 1]) for f in range(2)]) if per_feature else brute(x, y)
    loss = MMD(0.7, per_feature=per_feature)
    assert float(loss(x, y, wx, wy)) == pytest.approx(expected, rel=1e-10)


def test_printed_cross_weight_of_the_paper_is_reachable() -> None:
    x = gaussian_mixture(50, 1)
    assert float(MMD(1.0)(x, x)) == pytest.approx(0, abs=1e-12)
    assert float(MMD(1.0, cross_weight=1.0)(x, x)) > 0.1
