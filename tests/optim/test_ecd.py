from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from hepgen import kernels
from hepgen.errors import StepError, UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.ecd import value_of
from hepgen.optim import ECD, eta_for

BACKENDS = dispatch.available("ecd_step", "cpu")  # those of a GPU: see tests/kernels/test_ecd_gpu.py


def parameter(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype))


def quartic(*params: torch.Tensor) -> torch.Tensor:
    return (
        sum(((i + 1) * (p**2).sum() + 0.1 * (p**4).sum() + p.sum().sin() for i, p in enumerate(params)), start=torch.zeros(()).double())
        / 10
    )


def backward(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    loss.backward()
    return loss


@pytest.mark.parametrize("name", BACKENDS)
def test_follows_the_published_rule(name):
    """Kick, move, then bounce, the norm being put right by energy conservation with the norm left from the step before."""
    p = parameter(40)
    dt_hat, eta, f0, d = 0.3, 30.0, -1.5, 40
    x = p.detach().numpy().copy()

    def loss_and_slope(x):
        t = torch.from_numpy(x).requires_grad_()
        value = quartic(t)
        return float(value.detach()), torch.autograd.grad(value, t)[0].numpy()

    dt = dt_hat / math.sqrt(eta)
    velocity, square = None, 1.0
    optimizer = ECD([p], dt_hat, eta=eta, F0=f0)
    with kernels.backend(name):
        for _ in range(1000):
            value, slope = loss_and_slope(x)
            if velocity is None:
                velocity = -slope / np.sqrt((slope**2).sum())
            velocity = velocity * np.sqrt(1.0 / square)  # energy conservation: |u| = 1
            factor = -0.5 * dt * eta * d / (d - 1)
            velocity = velocity + factor / (value - f0) * (slope - velocity * np.dot(velocity, slope))
            square = float((velocity**2).sum())
            x = x + dt * velocity
            # the bounce for nu = 0: to length one and back
            turned = velocity / np.sqrt(square)
            velocity = np.sqrt(square) * turned / np.sqrt((turned**2).sum())
            optimizer.step(backward(optimizer, quartic(p)))
    assert np.abs(x - parameter(40).detach().numpy()).max() > 0.5
    np.testing.assert_allclose(p.detach().numpy(), x, rtol=0, atol=1e-12)


def test_per_tensor_form_follows_the_published_rule():
    a, b = parameter(6, 5, seed=1), parameter(7, seed=2)
    xs = [a.detach().clone(), b.detach().clone()]
    dt_hat, eta, f0, decay, d = 0.2, 20.0, -1.0, 0.02, 37
    dt = dt_hat / math.sqrt(eta)
    optimizer = ECD([a, b], dt_hat, eta=eta, F0=f0, weight_decay=decay, per_tensor=True)
    us, square = [], 1.0
    for _ in range(200):
        leaves = [x.clone().requires_grad_() for x in xs]
        value = quartic(*leaves) + decay / 2 * sum((x**2).sum() for x in leaves)
        slopes = torch.autograd.grad(value, leaves)
        if not us:
            length = torch.sqrt(sum((g**2).sum() for g in slopes))
            us = [-g / length for g in slopes]
        us = [u / math.sqrt(square) for u in us]
        factor = dt * eta * d / (2 * (d - 1) * (float(value.detach()) - f0))
        us = [u - factor * (g - u * (u * g).sum()) for u, g in zip(us, slopes, strict=True)]
        square = float(sum((u**2).sum() for u in us))
        xs = [x + dt * u for x, u in zip(xs, us, strict=True)]
        optimizer.step(backward(optimizer, quartic(a, b)))
    torch.testing.assert_close(a.detach(), xs[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(b.detach(), xs[1], rtol=0, atol=1e-12)
    with_all = ECD([c := parameter(6, 5, seed=1), e := parameter(7, seed=2)], dt_hat, eta=eta, F0=f0, weight_decay=decay)
    with_all.step(backward(with_all, quartic(c, e)))
    with_all.step(backward(with_all, quartic(c, e)))
    assert (c - a).abs().max() > 1e-3  # the two forms do differ


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_energy_is_conserved(q):
    """The speed, theta's step over dt, keeps to |u|^2 = (F - F0)^(-eta d (q - 1) / (d - q)) as the loss changes (B6)."""
    p, dt_hat, eta, d = parameter(3), 0.002, 1.0, 3
    optimizer = ECD([p], dt_hat, eta=eta, q=q)
    for _ in range(300):
        before = p.detach().clone()
        loss = optimizer.step(backward(optimizer, quartic(p))).item()
        speed = float((p.detach() - before).norm()) / (dt_hat / math.sqrt(eta))
        assert speed**2 == pytest.approx((loss + 1) ** (-eta * d * (q - 1) / (d - q)), rel=1e-2)
        assert float(optimizer.state[p]["velocity"].norm()) == pytest.approx(1.0, abs=4e-15)


@pytest.mark.parametrize("name", BACKENDS)
def test_minimises(name):
    with kernels.backend(name):
        x = nn.Parameter(torch.full((50,), 2.0))
        weights = torch.linspace(0.5, 2.0, 50)
        optimizer = ECD([x], 0.3, eta=200.0)
        best = min(value_of(optimizer.step(backward(optimizer, (weights * x**2).sum()))) for _ in range(1500))
        assert best < 0.02  # F = 1 - F0 halves d eta times: eq. 13 gives F about 1 / eta
        y = nn.Parameter(torch.tensor([-1.2, 1.0]))
        optimizer = ECD([y], 0.3, eta=300.0)
        best = min(value_of(optimizer.step(backward(optimizer, (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2))) for _ in range(4000))
        assert best < 0.1  # from 24.2, along a bent valley without friction


def test_stays_where_the_loss_is_small():
    """Eq. 13: for F = F2 theta^2 the typical distance from the minimum is theta^2 = (F_min - F0)(d - 1) / (F2 (1 + d (eta - 1)))."""
    d, eta = 60, 50.0
    p = parameter(d)
    optimizer = ECD([p], 0.1, eta=eta, nu=0.1, seed=3)
    seen = []
    for step in range(8000):
        loss = optimizer.step(backward(optimizer, (p**2).sum()))
        if step > 3000:
            seen.append(loss.item())
    assert np.mean(seen) == pytest.approx((d - 1) / (1 + d * (eta - 1)), rel=0.3)


@pytest.mark.parametrize("name", BACKENDS)
def test_goes_on_from_a_saved_state_bit_for_bit(name):
    def run(steps, saved=None):
        a, b = parameter(30, 9, seed=1, dtype=torch.float32), parameter(9, seed=2, dtype=torch.float32)
        optimizer = ECD([{"params": [a]}, {"params": [b], "weight_decay": 0.1, "lr": 0.1}], 0.2, eta=10.0, nu=0.3, seed=7)
        if saved is not None:
            weights, state = saved
            with torch.no_grad():
                a.copy_(weights[0])
                b.copy_(weights[1])
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.step(backward(optimizer, quartic(a.double(), b.double())))
        return a, b, optimizer

    with kernels.backend(name):
        a, b, _ = run(20)
        c, e, half = run(9)
        file = io.BytesIO()
        torch.save(half.state_dict(), file)
        file.seek(0)
        f, g, _ = run(11, ((c, e), torch.load(file)))
    assert torch.equal(a, f)
    assert torch.equal(b, g)


def test_noise_has_the_size_that_was_asked_for():
    p = parameter(200_000)
    p.grad = torch.ones_like(p)
    optimizer = ECD([p], 1e-9, eta=1.0, nu=0.5, seed=2)
    optimizer.step(0.1)
    u = -1 / math.sqrt(200_000)
    z = (optimizer.state[p]["velocity"] - u) * math.sqrt(200_000) / 0.5
    assert abs(z.mean()) < 4 / math.sqrt(200_000)
    assert abs(z.std() - 1) < 4 / math.sqrt(400_000)
    first = optimizer.state[p]["velocity"].clone()
    optimizer.step(0.1)
    new = optimizer.state[p]["velocity"] - first / first.norm()  # what was added in this step
    assert new.std() == pytest.approx(0.5 / math.sqrt(200_000), rel=0.02)
    assert abs(np.corrcoef(first.numpy(), new.numpy())[0, 1]) < 0.01


def test_equal_seeds_equal_runs():
    def run(seed):
        p = parameter(500, dtype=torch.float32)
        optimizer = ECD([p], 0.1, eta=3.0, nu=0.1, seed=seed)
        for _ in range(5):
            optimizer.step(backward(optimizer, quartic(p.double())))
        return p.detach()

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_closure_loss_and_accumulation_agree():
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss_of(p, rows):
        return ((rows @ p) ** 2).sum() / 12

    a, b, c = (parameter(4, seed=3) for _ in range(3))
    with_closure, with_loss, accumulated = (ECD([p], 0.1, eta=5.0) for p in (a, b, c))
    for _ in range(5):
        returned = with_closure.step(lambda: backward(with_closure, loss_of(a, x)))
        assert with_loss.step(float(backward(with_loss, loss_of(b, x)).detach())) == pytest.approx(returned.item())
        accumulated.zero_grad()
        parts = [loss_of(c, rows) for rows in x.split(4)]
        for part in parts:
            part.backward()
        accumulated.step(sum(part.detach() for part in parts))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-12)


def test_schedulers_change_the_step():
    p = parameter(10)
    optimizer = ECD([p], 1.0, eta=4.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    lengths = []
    for _ in range(4):
        before = p.detach().clone()
        p.grad = torch.zeros_like(p) if optimizer.state else before.clone()
        optimizer.step(1.0)
        scheduler.step()
        lengths.append(float((p.detach() - before).norm()))
    np.testing.assert_allclose(lengths, [0.5, 0.25, 0.125, 0.0625], rtol=1e-12)


def test_a_parameter_without_gradient_takes_no_part():
    a, b, c = parameter(5), parameter(6, seed=1), parameter(5)
    both, alone = ECD([a, b], 0.1, eta=3.0), ECD([c], 0.1, eta=3.0)
    start = b.detach().clone()
    for _ in range(3):
        both.step(backward(both, quartic(a)))
        alone.step(backward(alone, quartic(c)))
    assert torch.equal(a, c)
    assert torch.equal(b, start)
    assert b not in both.state
    both.step(backward(both, quartic(a, b)))  # now it joins
    assert not torch.equal(b, start)
    both.zero_grad()
    before = a.detach().clone()
    assert both.step(0.5) == 0.5  # nothing has a gradient
    assert torch.equal(a, before)


def test_groups_are_one_system():
    a, b = parameter(5), parameter(6, seed=1)
    c, d = parameter(5), parameter(6, seed=1)
    one, two = ECD([a, b], 0.1, eta=3.0), ECD([{"params": [c]}, {"params": [d]}], 0.1, eta=3.0)
    for _ in range(5):
        one.step(backward(one, quartic(a, b)))
        two.step(backward(two, quartic(c, d)))
    assert torch.equal(a, c)
    assert torch.equal(b, d)
    two.param_groups[1]["lr"] = 0.0
    before = d.detach().clone()
    two.step(backward(two, quartic(c, d)))
    assert torch.equal(d, before)


def test_tensors_that_move_in_memory_are_followed():
    p, twin = parameter(50), parameter(50)
    optimizer, other = ECD([p], 0.1, eta=3.0), ECD([twin], 0.1, eta=3.0)
    for step in range(4):
        optimizer.step(backward(optimizer, quartic(p)))
        other.step(backward(other, quartic(twin)))
        if step == 1:
            p.data = p.data.clone()
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(p, twin)
    again = copy.deepcopy(optimizer)
    assert again.state_dict()["state"][0]["velocity"].equal(optimizer.state_dict()["state"][0]["velocity"])


def test_bad_losses_change_nothing():
    p = parameter(5)
    optimizer = ECD([p], 0.1, eta=3.0)
    optimizer.step(backward(optimizer, quartic(p)))
    before, velocity = p.detach().clone(), optimizer.state[p]["velocity"].clone()
    for bad in (math.nan, math.inf, -1.0, torch.tensor(-2.0)):
        with pytest.raises(StepError, match="not finite|not above F0"):
            optimizer.step(bad)
    p.grad[2] = math.nan
    with pytest.raises(StepError, match="not finite"):
        optimizer.step(0.5)
    assert torch.equal(p, before)
    assert torch.equal(optimizer.state[p]["velocity"], velocity)
    assert optimizer.param_groups[0]["step"] == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"eta": 0.0}, "eta must be positive"),
        ({"eta": math.nan}, "eta must be positive"),
        ({"nu": -1.0}, "nu must be at least 0"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"q": -1.0}, "q must be"),
        ({"seed": -1}, "seed must lie in"),
    ],
)
def test_refused(options, match):
    with pytest.raises(UsageError, match=match):
        ECD([parameter(3)], **({"eta": 1.0} | options))


def test_other_refusals():
    p = parameter(3)
    optimizer = ECD([p], eta=1.0)
    with pytest.raises(UsageError, match="needs the loss"):
        optimizer.step()
    with pytest.raises(UsageError, match="eta must be the same in each, got 1.0 and 2.0"):
        optimizer.add_param_group({"params": [parameter(3)], "eta": 2.0})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [parameter(3)]})
    optimizer.param_groups[1]["F0"] = -3.0
    with pytest.raises(UsageError, match="F0 must be the same"):
        optimizer.step(0.0)
    single = nn.Parameter(torch.ones(1))
    single.grad = torch.ones(1)
    with pytest.raises(UsageError, match=r"q must lie in \[0, 1\), below the number of parameters"):
        ECD([single], eta=1.0).step(0.5)


def test_eta_for():
    thrust = nn.Sequential(nn.Linear(1, 50), nn.ReLU(), nn.Linear(50, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 1))
    assert eta_for(thrust, 300) == pytest.approx(2 * 300**2 / (3 * 100))
    with pytest.raises(UsageError, match="at least one weight matrix"):
        eta_for(nn.LayerNorm(3), 10)
    with pytest.raises(UsageError, match="n_steps must be positive"):
        eta_for(thrust, 0)


class TestSystems:
    options = {"lr": 0.3, "eta": 4.0, "nu": 1e-2, "weight_decay": 0.1}  # noqa: RUF012
    seeds = [7, 3, 9]  # noqa: RUF012

    def run(self, rows: list[int], steps: int = 6, skip: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The parameters of these systems after some steps; one may rest in the second half."""
        a, b = (nn.Parameter(parameter(3, *shape, seed=k).detach()[rows]) for k, shape in enumerate([(4,), (2, 3)]))
        optimizer = ECD([a, b], systems=len(rows), seed=[self.seeds[row] for row in rows], **self.options)
        for step in range(steps):
            moving = [k for k in range(len(rows)) if not (k == skip and step >= steps // 2)]
            optimizer.zero_grad()
            loss = torch.stack([quartic(a[k], b[k]) for k in moving])
            loss.sum().backward()
            optimizer.step(loss, moving)
        return a.detach(), b.detach()

    def test_each_moves_as_it_would_alone(self):
        together = self.run([0, 1, 2])
        for row in range(3):
            for whole, alone in zip(together, self.run([row]), strict=True):
                assert torch.equal(whole[row], alone[0])
        a, b = (nn.Parameter(parameter(3, *shape, seed=k).detach()[1].clone()) for k, shape in enumerate([(4,), (2, 3)]))
        optimizer = ECD([a, b], seed=self.seeds[1], **self.options)
        for _ in range(6):
            optimizer.step(backward(optimizer, quartic(a, b)))
        assert torch.equal(together[0][1], a)
        assert torch.equal(together[1][1], b)

    def test_those_that_rest_change_nothing(self):
        whole, rested, half = self.run([0, 1, 2]), self.run([0, 1, 2], skip=1), self.run([0, 1, 2], steps=3)
        for all_, some, before in zip(whole, rested, half, strict=True):
            assert torch.equal(some[[0, 2]], all_[[0, 2]])
            assert torch.equal(some[1], before[1])

    def test_refusals(self):
        with pytest.raises(UsageError, match="systems=3 every parameter must have a first axis of that length"):
            ECD([parameter(3, 2), parameter(2)], eta=1.0, systems=3)
        with pytest.raises(UsageError, match="one for each system, got 2 for systems=3"):
            ECD([parameter(3, 2)], eta=1.0, systems=3, seed=[1, 2])
        p = parameter(3, 2)
        optimizer = ECD([p], eta=1.0, systems=3)
        p.grad = torch.ones_like(p)
        with pytest.raises(UsageError, match=r"3 systems move, so the loss must be a tensor \(3,\)"):
            optimizer.step(0.5)
        with pytest.raises(StepError, match="not above F0"):
            optimizer.step(torch.tensor([0.5, -2.0, 0.5]))
