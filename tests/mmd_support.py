"""What the tests of the kernel sums share: samples, and the sums by brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hepgen import kernels

CPP = any(op == "mmd2" and name == "cpp" and ok for op, name, ok, _ in kernels.registry())
needs_cpp = pytest.mark.skipif(not CPP, reason="hepgen._core is not built")


def draw(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64, *, shift: float = 0.0) -> Tensor:
    """Normal numbers, the same on every device, on torch's default one."""
    numbers = torch.randn(n, d, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu")
    return numbers.add(shift).to(torch.get_default_device(), dtype)


def brute_sums(x: Tensor, y: Tensor, sigma: object, wy: Tensor | None = None) -> np.ndarray:
    a, b = x.detach().double().cpu().numpy(), y.detach().double().cpu().numpy()
    widths = np.asarray(sigma.cpu() if isinstance(sigma, Tensor) else sigma, dtype=float)
    k = np.exp(-((a[:, None, :] - b[None, :, :]) ** 2 / widths).sum(-1))
    return k @ (np.ones(len(b)) if wy is None else wy.detach().double().cpu().numpy())


def brute_mmd2(x, y, sigma, wx=None, wy=None, cross_weight=2.0) -> float:
    w = np.ones(len(x)) if wx is None else wx.detach().double().cpu().numpy()
    v = np.ones(len(y)) if wy is None else wy.detach().double().cpu().numpy()
    xx = w @ brute_sums(x, x, sigma, wx) / w.sum() ** 2
    yy = v @ brute_sums(y, y, sigma, wy) / v.sum() ** 2
    return float(xx + yy - cross_weight * (w @ brute_sums(x, y, sigma, wy)) / (w.sum() * v.sum()))
