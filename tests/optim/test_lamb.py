"""LAMB against its equations written out in NumPy."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from hepgen.errors import UsageError
from hepgen.optim import LAMB, cosine_decay


def parameter(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return nn.Parameter((scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype))


def loss_of(*params):
    return sum((0.3 * p**4 + (i + 1) * p**2 + (3 * p).sin()).sum() for i, p in enumerate(params))


def descend(optimizer, *params, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(*params).backward()
        optimizer.step()


def slope_of(x, i):
    return 1.2 * x**3 + 2 * (i + 1) * x + 3 * np.cos(3 * x)


def follow(x, i, steps, lr, betas, eps, decay, bounds):
    """Algorithm 2 of You et al. on one array, x updated by a new array each step."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = slope_of(x, i)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        r = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + decay * x
        size, length = math.sqrt((x**2).sum()), math.sqrt((r**2).sum())
        ratio = min(max(size, bounds[0]), bounds[1]) / length if size > 0 and length > 0 else 1.0
        x = x - lr * ratio * r
    return x


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, 1.0),
        ({"lr": 0.02, "betas": (0.8, 0.95), "eps": 0.1, "weight_decay": 0.3}, 1.0),
        ({"bounds": (0.0, 0.5)}, 3.0),
        ({"bounds": (2.0, 7.0), "weight_decay": 0.1}, 1e-3),
    ],
)
def test_follows_the_equations(options, scale):
    a, b = parameter(7, 5, seed=1, scale=scale), parameter(11, seed=2, scale=scale)
    settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "bounds": (0.0, 10.0)} | options
    expected = [follow(p.detach().numpy().copy(), i, 60, *settings.values()) for i, p in enumerate((a, b))]
    start = a.detach().clone()
    descend(LAMB([a, b], **options), a, b, steps=60)
    for p, x in zip((a, b), expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12, atol=1e-14)
    assert (a - start).abs().max() > 1e-3


def test_ratio_is_one_where_a_norm_is_zero():
    zero, still = nn.Parameter(torch.zeros(4, dtype=torch.float64)), parameter(4)
    optimizer, before = LAMB([zero, still], lr=0.1, eps=1e-12, bounds=(2.0, 3.0)), still.detach().clone()
    zero.grad, still.grad = torch.tensor([1.0, -2.0, 3.0, -4.0]).double(), torch.zeros(4, dtype=torch.float64)
    optimizer.step()
    # the first step of Adam is lr times the sign
    torch.testing.assert_close(zero.detach(), torch.tensor([-0.1, 0.1, -0.1, 0.1], dtype=torch.float64), rtol=1e-9, atol=0)
    assert torch.equal(still, before)


def test_converges_on_a_quadratic():
    target = torch.linspace(-2, 2, 40)
    stiffness = torch.logspace(-1, 1, 40)
    x = nn.Parameter(torch.ones(40))
    optimizer = LAMB([x], lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_decay(step, 1000, 1.0))
    for _ in range(1000):
        optimizer.zero_grad()
        (stiffness * (x - target) ** 2).sum().backward()
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0
    assert (x - target).abs().max() < 1e-3


def test_a_tensor_moves_by_lr_of_its_norm_whatever_the_loss_is_scaled_by():
    for scale in (1.0, 1e3):
        p = parameter(6, 6)
        optimizer, before = LAMB([p], lr=0.01, eps=0.0), p.detach().clone()
        p.grad = scale * before.sin()
        optimizer.step()
        assert float((p.detach() - before).norm() / before.norm()) == pytest.approx(0.01, rel=1e-9)


def test_groups_have_their_own_options():
    a, b, c, d = parameter(5, seed=1), parameter(6, seed=2), parameter(5, seed=1), parameter(6, seed=2)
    both = LAMB([{"params": [a]}, {"params": [b], "lr": 0.1, "weight_decay": 0.2, "betas": (0.5, 0.9), "bounds": (0.0, 1.0)}])
    one, two = LAMB([c]), LAMB([d], 0.1, (0.5, 0.9), weight_decay=0.2, bounds=(0.0, 1.0))
    for _ in range(5):
        descend(both, a, b)
        for optimizer in (one, two):
            optimizer.zero_grad()
        loss_of(c, d).backward()
        one.step()
        two.step()
    assert torch.equal(a, c)
    assert torch.equal(b, d)
    both.add_param_group({"params": [e := parameter(3)], "lr": 0.5})
    descend(both, a, b, e)
    assert both.state[e]["step"] == 1
    assert both.state[a]["step"] == 6


def test_kinds_may_mix_and_a_parameter_without_gradient_takes_no_part():
    a, b, c, d = parameter(5), parameter(5, dtype=torch.float32), parameter(3), parameter(0)
    optimizer, start = LAMB([a, b, c, d], lr=0.1), c.detach().clone()
    optimizer.zero_grad()
    (loss_of(a) + loss_of(b).double() + d.sum()).backward()
    optimizer.step()
    torch.testing.assert_close(b.detach().double(), a.detach(), rtol=1e-5, atol=1e-6)
    assert b.dtype == optimizer.state[b]["mean"].dtype == torch.float32
    assert torch.equal(c, start)
    assert c not in optimizer.state


def test_goes_on_from_a_saved_state_bit_for_bit():
    def run(steps, saved=None):
        a, b = parameter(30, 9, seed=1, dtype=torch.float32), parameter(9, seed=2, dtype=torch.float32)
        optimizer = LAMB([{"params": [a], "weight_decay": 0.1}, {"params": [b], "lr": 0.05}], 0.02)
        if saved is not None:
            weights, state = saved
            with torch.no_grad():
                a.copy_(weights[0])
                b.copy_(weights[1])
            optimizer.load_state_dict(state)
        descend(optimizer, a, b, steps=steps)
        return a, b, optimizer

    a, b, _ = run(20)
    c, e, half = run(9)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    f, g, _ = run(11, ((c, e), torch.load(file)))
    assert torch.equal(a, f)
    assert torch.equal(b, g)


def test_closure_gives_the_loss():
    p = parameter(4)
    optimizer = LAMB([p])

    def closure():
        optimizer.zero_grad()
        loss = loss_of(p)
        loss.backward()
        return loss

    expected = loss_of(p).item()
    assert optimizer.step(closure).item() == expected
    assert optimizer.step() is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"eps": math.nan}, "eps must be at least 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"bounds": (2.0, 1.0)}, "bounds must be two rising numbers"),
        ({"bounds": (-1.0, 1.0)}, "bounds must be two rising numbers"),
    ],
)
def test_refused(options, match):
    with pytest.raises(UsageError, match=match):
        LAMB([parameter(3)], **options)


def test_other_refusals():
    table, other = nn.Embedding(5, 2, sparse=True), parameter(3)
    optimizer = LAMB([other, *table.parameters()])
    with pytest.raises(UsageError, match="lr must be at least 0"):
        optimizer.add_param_group({"params": [parameter(3)], "lr": -1.0})
    assert len(optimizer.param_groups) == 1
    before = other.detach().clone()
    (table(torch.tensor([1, 2])).sum() + loss_of(other)).backward()
    with pytest.raises(UsageError, match="sparse gradients"):
        optimizer.step()
    assert torch.equal(other, before)


def test_cosine_decay():
    assert cosine_decay(0, 5000, 1e-3) == 1e-3
    assert cosine_decay(2500, 5000, 1e-3) == pytest.approx(5e-4)
    assert cosine_decay(5000, 5000, 1e-3) == 0
    assert cosine_decay(9999, 5000, 1e-3, 1e-5) == pytest.approx(1e-5)
    assert cosine_decay(1250, 5000, 2.0, 1.0) == pytest.approx(1.5 + math.sqrt(0.125))
    rates = [cosine_decay(step, 10, 1.0, 0.1) for step in range(11)]
    optimizer = torch.optim.SGD([parameter(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=0.1)
    for rate in rates:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-12)
        optimizer.step()
        scheduler.step()
