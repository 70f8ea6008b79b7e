"""What the tests of the kernel sums share: samples, and the sums by brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hepgen import kernels

CPP = any(op == "mmd2" and name == "cpp" and ok for op, name, ok, _ in kernels.registry())
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(name == "cpp" and not CPP, reason="hepgen._core is not built"))
    for name in ("reference", "cpp")
]
needs_cpp = pytest.mark.skipif(not CPP, reason="hepgen._core is not built")


def draw(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64, *, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).add(shift).to(dtype)


def brute_sums(x: Tensor, y: Tensor, sigma: object, wy: Tensor | None = None) -> np.ndarray:
    a, b = x.detach().double().numpy(), y.detach().double().numpy()
    k = np.exp(-((a[:, None, :] - b[None, :, :]) ** 2 / np.asarray(sigma, dtype=float)).sum(-1))
    return k @ (np.ones(len(b)) if wy is None else wy.detach().double().numpy())


def brute_mmd2(x, y, sigma, wx=None, wy=None, cross_weight=2.0) -> float:
    w = np.ones(len(x)) if wx is None else wx.detach().double().numpy()
    v = np.ones(len(y)) if wy is None else wy.detach().double().numpy()
    xx = w @ brute_sums(x, x, sigma, wx) / w.sum() ** 2
    yy = v @ brute_sums(y, y, sigma, wy) / v.sum() ** 2
    return float(xx + yy - cross_weight * (w @ brute_sums(x, y, sigma, wy)) / (w.sum() * v.sum()))
