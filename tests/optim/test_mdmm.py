from __future__ import annotations

import math

import pytest
import torch

from hepgen.optim import MDMM, power_decay


def test_finds_the_constrained_minimum_and_its_multiplier() -> None:
    # minimise (x - 3)^2 + (y - 1)^2 under x^2 + y^2 <= 1: the minimum is (3, 1) / sqrt(10), the multiplier sqrt(10) - 1
    point = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    method = MDMM(1.0, damping=2.0, rate=0.05)
    optimizer = torch.optim.SGD([point], lr=0.02)
    for _ in range(4000):
        primary, secondary = (point - torch.tensor([3.0, 1.0])).square().sum(), point.square().sum()
        optimizer.zero_grad()
        method(primary, secondary).backward()
        optimizer.step()
        method.ascend(secondary)
    assert point.tolist() == pytest.approx([3 / math.sqrt(10), 1 / math.sqrt(10)], abs=1e-6)
    assert float(method.multiplier) == pytest.approx(math.sqrt(10) - 1, abs=1e-5)


def test_a_constraint_that_holds_leaves_the_primary_loss_alone() -> None:
    point = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    method = MDMM(10.0)
    lagrangian = method((point - 1).square().sum(), point.square().sum())
    method.ascend(point.square().sum())
    assert float(lagrangian.detach()) == pytest.approx(0.25)
    assert float(method.multiplier) == 0.0


def test_power_decay_is_the_papers() -> None:
    assert power_decay(0, 1000, 1e-3, 1e-5) == pytest.approx(1e-3)
    assert power_decay(1000, 1000, 1e-3, 1e-5) == pytest.approx(1e-5)
    assert power_decay(750, 1000, 1e-3, 1e-5) == pytest.approx(1e-5 + 0.5 * (1e-3 - 1e-5))
    assert power_decay(2000, 1000, 1e-3, 1e-5) == pytest.approx(1e-5)
