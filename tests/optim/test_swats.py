"""SWATS against its algorithm written out in NumPy."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn

from hepgen.errors import UsageError
from hepgen.optim import SWATS

FACTORS = np.array([1.0, 3.0, 0.2, 0.7, 2.0])


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    start = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.5], dtype=dtype)
    return [nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone().reshape(3, 1))]


def flat(params: list[nn.Parameter]) -> np.ndarray:
    return np.concatenate([p.detach().double().numpy().ravel() for p in params])


def swing(k: int) -> float:
    """The loss of step k is so many times as steep: what SGD's rate should be then goes up and down, and its mean is met."""
    return 1 + 0.5 * float(np.cos(1.7 * k))


def loss_of(params: list[nn.Parameter]) -> torch.Tensor:
    x = torch.cat([p.reshape(-1) for p in params])
    return (torch.as_tensor(FACTORS, dtype=x.dtype) * (x.square() + 0.1 * x**4)).sum() / 2


def slope_of(x: np.ndarray, k: int) -> np.ndarray:
    return swing(k) * FACTORS * (x + 0.2 * x**3)


def descend(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int, done: int = 0) -> None:
    for k in range(done + 1, done + steps + 1):
        optimizer.zero_grad()
        (swing(k) * loss_of(params)).backward()
        optimizer.step()


def follow(x, steps, lr, betas, eps, tolerance, nesterov=False, schedule=lambda _: 1.0):
    """Algorithm 1 of Keskar and Socher on one vector: where it ends, Lambda (None before the switch), and the step of the switch."""
    m, a, v = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    lam, big, when, rate_then = 0.0, None, None, None
    for k in range(1, steps + 1):
        g, alpha = slope_of(x, k), lr * schedule(k)
        if big is not None:
            v = betas[0] * v + g
            x = x - (1 - betas[0]) * big * alpha / rate_then * (g + betas[0] * v if nesterov else v)
            continue
        m, a = betas[0] * m + (1 - betas[0]) * g, betas[1] * a + (1 - betas[1]) * g * g
        p = -alpha * np.sqrt(1 - betas[1] ** k) / (1 - betas[0] ** k) * m / (np.sqrt(a) + eps)
        x = x + p
        if p @ g != 0:
            gamma = p @ p / -(p @ g)
            lam = betas[1] * lam + (1 - betas[1]) * gamma
            mean = lam / (1 - betas[1] ** k)
            if k > 1 and abs(mean - gamma) < tolerance and mean > 0:
                big, when, rate_then = mean, k, alpha
    return x, big, when


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("lr", "betas", "eps", "tolerance"),
    [(1e-2, (0.9, 0.999), 1e-9, 3e-5), (3e-2, (0.8, 0.9), 1e-3, 3e-4), (1e-3, (0.0, 0.99), 1e-9, 1e-6), (1e-2, (0.9, 0.999), 1e-9, 0.0)],
)
def test_follows_the_algorithm_across_the_switch(nesterov, lr, betas, eps, tolerance) -> None:
    params = parameters()
    start = flat(params)
    optimizer = SWATS(params, lr, betas, eps, nesterov=nesterov, tolerance=tolerance)
    wanted, rate, when = follow(start, 300, lr, betas, eps, tolerance, nesterov)
    descend(optimizer, params, 300)
    np.testing.assert_allclose(flat(params), wanted, rtol=1e-9, atol=1e-12)
    if tolerance == 0:
        assert optimizer.rate is None
        assert when is None
    else:
        assert 10 < when < 300, "the run has both phases"
        assert optimizer.rate == pytest.approx(rate, rel=1e-9)


def test_before_the_switch_it_is_adam() -> None:
    ours, theirs = parameters(), parameters()
    descend(SWATS(ours, 1e-2, eps=0.0, tolerance=0.0), ours, 50)
    descend(torch.optim.Adam(theirs, 1e-2, eps=0.0), theirs, 50)
    np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_after_the_switch_it_is_sgd_with_momentum(nesterov) -> None:
    params = parameters()
    optimizer = SWATS(params, 1e-2, nesterov=nesterov, tolerance=np.inf)  # agrees at the second step, the first that may
    descend(optimizer, params, 1)
    assert optimizer.rate is None
    descend(optimizer, params, 1, done=1)
    assert optimizer.rate is not None
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    sgd = torch.optim.SGD(twins, 0.1 * optimizer.rate, momentum=0.9, nesterov=nesterov)
    descend(optimizer, params, 40)
    descend(sgd, twins, 40)
    np.testing.assert_allclose(flat(params), flat(twins), rtol=1e-12)


def test_the_rate_of_one_parameter_without_momentum_is_lr_over_the_slope() -> None:
    """With beta1 = 0 and a constant slope g Adam's step is -lr g / abs(g): gamma = lr / abs(g), and so is Lambda."""
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SWATS([x], 0.02, (0.0, 0.99), 0.0)
    for _ in range(3):
        optimizer.zero_grad()
        (-4.0 * x).sum().backward()
        optimizer.step()
    assert optimizer.rate == pytest.approx(0.02 / 4, rel=1e-12)
    assert x.item() == pytest.approx(2 * 0.02 + 0.005 * 4, rel=1e-12)


def test_the_rate_of_sgd_follows_a_schedule() -> None:
    params = parameters()
    wanted, _, when = follow(flat(params), 60, 1e-2, (0.9, 0.999), 1e-9, 3e-5, schedule=lambda k: 1.0 if k <= 40 else 0.25)
    optimizer = SWATS(params, 1e-2, tolerance=3e-5)
    descend(optimizer, params, 40)
    for group in optimizer.param_groups:
        group["lr"] = 0.25e-2
    descend(optimizer, params, 20, done=40)
    assert when < 40
    np.testing.assert_allclose(flat(params), wanted, rtol=1e-9)


def test_no_switch_to_a_rate_that_would_climb() -> None:
    """Where the gradient turns around, Adam's momentum goes on against it: p.g > 0 and gamma < 0."""
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SWATS([x], 0.1, tolerance=np.inf)
    slope = iter([1.0, -0.1])
    for _ in range(2):
        optimizer.zero_grad()
        (next(slope) * x).sum().backward()
        optimizer.step()
    assert optimizer._estimate < 0
    assert optimizer.rate is None


@pytest.mark.parametrize("cut", [5, 20, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_goes_on_from_its_state_bit_for_bit(cut, dtype) -> None:
    options = {"lr": 1e-2, "tolerance": 3e-5, "nesterov": True}
    whole, first = parameters(dtype), parameters(dtype)
    descend(SWATS(whole, **options), whole, 80)
    optimizer = SWATS(first, **options)
    descend(optimizer, first, cut)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = SWATS(second, 1.0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.rate == optimizer.rate
    assert (cut == 60) == (resumed.rate is not None)
    descend(resumed, second, 80 - cut, done=cut)
    assert all(torch.equal(a, b) for a, b in zip(second, whole, strict=True))
    assert resumed.rate is not None


def test_groups_move_at_their_own_rates_after_one_decision() -> None:
    params = parameters()
    optimizer = SWATS([{"params": params[:1]}, {"params": params[1:], "lr": 3e-2, "nesterov": True}], 1e-2, tolerance=np.inf)
    descend(optimizer, params, 2)
    assert [group["lr_at_switch"] for group in optimizer.param_groups] == [1e-2, 3e-2]
    before, slope = flat(params), slope_of(flat(params), 3)
    descend(optimizer, params, 1, done=2)
    factors = np.array([0.1, 0.1, 0.19, 0.19, 0.19])  # (1 - beta1) v = 0.1 g; with Nesterov 0.1 (g + 0.9 g)
    np.testing.assert_allclose(flat(params), before - factors * optimizer.rate * slope, rtol=1e-12)


def test_a_parameter_without_a_gradient_takes_no_part() -> None:
    params, idle = parameters(), nn.Parameter(torch.ones(3))
    twins = parameters()
    options = {"lr": 1e-2, "tolerance": 3e-5}
    descend(SWATS([*params, idle], **options), params, 60)
    descend(SWATS(twins, **options), twins, 60)
    assert np.array_equal(flat(params), flat(twins))
    assert torch.equal(idle, torch.ones(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"eps": -1.0}, "eps must be at least 0"),
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
    ],
)
def test_what_cannot_be(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        SWATS(parameters(), **options)


def test_the_state_of_another_optimizer_is_refused() -> None:
    params = parameters()
    with pytest.raises(UsageError, match="state of another optimiser"):
        SWATS(params).load_state_dict(torch.optim.Adam(params).state_dict())


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = SWATS(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(UsageError, match="sparse gradients"):
        optimizer.step()
