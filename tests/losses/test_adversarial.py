"""The adversarial losses against their formulas in plain numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hepgen.errors import UsageError
from hepgen.losses import adversarial_loss
from hepgen.losses.adversarial import clip_weights, gradient_penalty
from hepgen.networks import gan_networks

Z = [-30.0, -3.0, -0.4, 0.0, 0.2, 2.0, 30.0]
W = [1.0, -0.5, 2.0, 1.5, 1.0, 0.5, 1.5]  # signed, of mean one


def ln_d(z: float | Tensor) -> float:
    """ln sigmoid(z), and ln(1 - sigmoid(z)) of -z."""
    return -math.log1p(math.exp(-float(z)))


def both(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    z = torch.tensor(Z, dtype=dtype)
    return z, 0.3 - z.flip(0) / 2, torch.tensor(W, dtype=dtype)


def test_the_cross_entropy_is_the_papers_with_its_sign() -> None:
    real, generated, w = both()
    loss = adversarial_loss("gan", label_noise=0.0)
    rows = [*((1, z, weight) for z, weight in zip(real, W, strict=True)), *((0, z, weight) for z, weight in zip(generated, W, strict=True))]
    printed = np.mean([weight * (label * ln_d(z) + (1 - label) * ln_d(-z)) for label, z, weight in rows])
    assert float(loss.discriminator(real, generated, w, w)) == pytest.approx(-printed, rel=1e-12)
    of_generator = np.mean([weight * ln_d(z) for z, weight in zip(generated, W, strict=True)])
    assert float(loss.generator(generated, w)) == pytest.approx(-of_generator, rel=1e-12)
    # at the start, where nothing is known, and far from it
    assert float(loss.discriminator(torch.zeros(3), torch.zeros(5))) == pytest.approx(math.log(2))
    assert float(loss.discriminator(torch.full((3,), 500.0), torch.full((3,), -500.0))) == 0.0
    assert float(loss.generator(torch.full((3,), -500.0))) == 500.0


def test_label_noise_is_drawn_from_its_interval() -> None:
    loss = adversarial_loss("gan")
    assert loss.label_noise == 0.15
    real, generated, w = both()
    found = float(loss.discriminator(real, generated, w, w, torch.Generator().manual_seed(4)))
    numbers = torch.Generator().manual_seed(4)
    u_real, u_generated = (torch.rand(len(Z), generator=numbers, dtype=torch.float64) * 0.15 for _ in range(2))
    expected = 0.0
    for z, label, weight in [*zip(real, 1 - u_real, w, strict=True), *zip(generated, u_generated, w, strict=True)]:
        expected -= float(weight * (label * ln_d(z) + (1 - label) * ln_d(-z))) / len(Z) / 2
    assert found == pytest.approx(expected, rel=1e-12)
    assert found != pytest.approx(float(loss.discriminator(real, generated, w, w)))
    # with noise the best discriminator is not sure: its loss is smallest at a mean label of 1 - 0.15 / 2
    z = torch.linspace(0, 5, 501, dtype=torch.float64)
    noise = torch.full_like(z, 0.075)
    assert float(z[loss.real_terms(z, noise).argmin()]) == pytest.approx(math.log(0.925 / 0.075), abs=0.01)
    assert float(-z[loss.generated_terms(-z, noise).argmin()]) == pytest.approx(-math.log(0.925 / 0.075), abs=0.01)


def test_least_squares_and_wasserstein_are_their_formulas() -> None:
    real, generated, w = both()
    x, y = real.numpy(), generated.numpy()
    squares = adversarial_loss("lsgan")
    assert float(squares.discriminator(real, generated, w, w)) == pytest.approx(0.5 * np.mean(W * (x - 1) ** 2) + 0.5 * np.mean(W * y**2))
    assert float(squares.generator(generated, w)) == pytest.approx(0.5 * np.mean(W * (y - 1) ** 2))
    noise = torch.full_like(real, 0.1)
    np.testing.assert_allclose(squares.real_terms(real, noise), 0.5 * (x - 0.9) ** 2, rtol=1e-12)
    np.testing.assert_allclose(squares.generated_terms(real, noise), 0.5 * (x - 0.1) ** 2, rtol=1e-12)
    for name, penalty, clip in (("wgan", 0.0, 0.01), ("wgan-gp", 10.0, 0.0)):
        critic = adversarial_loss(name)
        assert (critic.penalty, critic.clip, critic.label_noise) == (penalty, clip, 0.0)
        assert float(critic.discriminator(real, generated, w, w)) == pytest.approx(np.mean(W * y) - np.mean(W * x))
        assert float(critic.generator(generated, w)) == pytest.approx(-np.mean(W * y))


@pytest.mark.parametrize("name", ["gan", "lsgan", "wgan"])
def test_players_pull_against_each_other(name: str) -> None:
    loss = adversarial_loss(name)
    real, generated, _ = (part.requires_grad_() for part in both())
    loss.discriminator(real, generated).backward()
    toward = generated.grad.clone()
    generated.grad = None
    loss.generator(generated).backward()
    between = [(z.detach() > 0) & (z.detach() < 1) for z in (real, generated)]  # beyond their labels the least squares pull back
    assert (toward[between[1]] > 0).all(), "the discriminator pushes generated objects down"
    assert (generated.grad[between[1]] < 0).all(), "the generator pushes them up"
    assert (real.grad[between[0]] < 0).all()


@pytest.mark.parametrize("kind", ["convolutional", "dense"])
def test_the_gradient_penalty_and_its_gradient(kind: str) -> None:
    torch.manual_seed(2)  # a difference quotient over a kink of the network is no slope: points that lie on none
    _, critic = gan_networks(kind, 1, 2)
    critic = critic.double()
    real, generated = (torch.rand(5, 2, dtype=torch.float64) for _ in range(2))
    condition, w = torch.rand(5, 1, dtype=torch.float64), torch.tensor([1.0, -0.5, 2.0, 1.5, 1.0], dtype=torch.float64)

    def penalty() -> Tensor:
        return gradient_penalty(lambda x: critic(x, condition), real, generated, w, torch.Generator().manual_seed(3))

    a = torch.rand(5, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x, step, expected = a * real + (1 - a) * generated, 1e-6, 0.0
    for row in range(5):
        slopes = []
        for column in range(2):
            shift = torch.zeros_like(x)
            shift[row, column] = step
            slopes.append(float((critic(x + shift, condition) - critic(x - shift, condition))[row].detach()) / (2 * step))
        expected += float(w[row]) * (math.hypot(*slopes) - 1) ** 2 / 5
    assert float(penalty().detach()) == pytest.approx(expected, rel=1e-6)
    penalty().backward()
    weight = critic.last.weight
    slope = float(weight.grad[0, 3])
    values = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            weight[0, 3] += shift
        values.append(float(penalty().detach()))
        with torch.no_grad():
            weight[0, 3] -= shift
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-9)


def test_a_linear_critic_has_a_constant_penalty() -> None:
    x = torch.rand(6, 2)
    assert float(gradient_penalty(lambda x: 3 * x[:, 0] + 4 * x[:, 1], x, x.flip(0)).detach()) == pytest.approx(16.0)


def test_clipping() -> None:
    layer = torch.nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -0.005]]))
    clip_weights(layer, 0.01)
    assert layer.weight.tolist() == [[pytest.approx(0.01), pytest.approx(-0.005)]]


def test_what_is_not_known_is_named() -> None:
    with pytest.raises(UsageError, match="adversarial loss 'hinge' is not known: choose one of gan, lsgan, wgan, wgan-gp"):
        adversarial_loss("hinge")
    with pytest.raises(UsageError, match="'wgan-gp' does not take these options: .*label_noise"):
        adversarial_loss("wgan-gp", label_noise=0.1)
    with pytest.raises(UsageError, match="label_noise must lie between 0 and 0.5, not 0.7"):
        adversarial_loss("gan", label_noise=0.7)
    with pytest.raises(UsageError, match="at least 0, not penalty=-1, clip=0.0"):
        adversarial_loss("wgan-gp", penalty=-1)
