"""The loss of the B-VAE against torch's own Kullback-Leibler divergence and by hand."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from hepgen.errors import UsageError
from hepgen.losses import vae_loss
from hepgen.networks import Reconstruction


def case() -> tuple[torch.Tensor, Reconstruction, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    x, values, mu, log_var = (torch.randn(50, k, generator=draw, dtype=torch.float64) for k in (4, 4, 3, 3))
    weights = torch.randn(50, generator=draw, dtype=torch.float64) + 1
    return x, Reconstruction(values, mu, log_var), weights


@pytest.mark.parametrize("b", [0.0, 1e-6, 0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("full_mse", [False, True])
def test_against_torch(b: float, weighted: bool, full_mse: bool) -> None:
    x, out, weights = case()
    w = weights if weighted else torch.ones(50, dtype=torch.float64)
    found = vae_loss(x, out, b, weights if weighted else None, full_mse=full_mse)
    kl = kl_divergence(Normal(out.mu, (out.log_var / 2).exp()), Normal(torch.zeros(3).double(), torch.ones(3).double())).sum(1)
    mse = torch.stack([((x[i] - out.values[i]) ** 2).sum() / 4 for i in range(50)])
    factor = 1.0 if full_mse else 1 - b
    assert found["mse"].item() == pytest.approx(((w * mse).sum() / w.sum()).item(), rel=1e-12)
    assert found["kl"].item() == pytest.approx(((w * kl).sum() / w.sum()).item(), rel=1e-12)
    assert found["loss"].item() == pytest.approx((factor * found["mse"] + b * found["kl"]).item(), rel=1e-12)


def test_by_hand() -> None:
    out = Reconstruction(torch.tensor([[0.5, 1.0]]), torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    found = vae_loss(torch.tensor([[0.0, 0.0]]), out, 0.25)
    assert (found["mse"].item(), found["kl"].item()) == (0.625, 2.0)
    assert found["loss"].item() == 0.75 * 0.625 + 0.25 * 2.0


def test_gradients() -> None:
    x, out, weights = case()
    leaves = [tensor.requires_grad_() for tensor in out]
    assert torch.autograd.gradcheck(lambda *parts: vae_loss(x, Reconstruction(*parts), 0.2, weights)["loss"], leaves)
    assert not vae_loss(x, out, 0.2)["kl"].requires_grad


@pytest.mark.parametrize("b", [-0.1, 1.5, float("nan")])
def test_b_is_a_share(b: float) -> None:
    with pytest.raises(UsageError, match="the factor B of the KL divergence lies between 0 and 1"):
        vae_loss(*case()[:2], b)
