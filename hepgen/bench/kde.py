"""Cases of the density benchmark: exact and binned values, binned value with gradient; peers KDEpy, scikit-learn, scipy and plain torch.

Every peer is timed on all features. It is compared with the same tolerance as the backends: what binning or cutting the
kernel costs in accuracy is part of the answer.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hepgen.bench import Case
from hepgen.errors import UsageError
from hepgen.kernels import dispatch, kde

FEATURES, POINTS = 6, 1024
STANDARD_SIZE, GPU_SIZES = 25_600, (25_600, 10_000_000)
SCAN = {"sizes": (1_000, 10_000, 100_000, 1_000_000), "features": (1, 2, 4, 6, 8, 16, 32, 64), "size": STANDARD_SIZE}
BANDWIDTH = 0.118  # Silverman's rule at the standard size
PEERS = ("KDEpy", "scikit-learn", "scipy", "torch", "torch-binned")
_MODULES = {"KDEpy": "KDEpy", "scikit-learn": "sklearn", "scipy": "scipy", "torch": "torch", "torch-binned": "torch"}
_PEERS_OF = {
    "exact": ("scikit-learn", "scipy", "torch"),
    "binned": ("KDEpy", "torch-binned"),
    "binned-gradient": ("torch", "torch-binned"),
}
_EXACT_ON_GPU = 100_000  # samples: beyond, plain torch takes longer than anybody waits

# exact: position, centre and exp(-y^2) of a sample, then a multiply-add for each of 8 powers; per point 64 cells, each a
# polynomial of 8 terms and an exponential
_EXACT_SAMPLE_FLOPS, _EXACT_POINT_FLOPS = 15 + 3 * 8, 64 * (2 * 8 + 13)
_REACH = 6.5  # bandwidths beyond which float32 needs no kernel
_BIN_FLOPS = 8  # position, its integer part, two shares


def cases(sizes: Sequence[int] | None, peers: Sequence[str] | None, features: int | None = None, device: str = "cpu") -> list[Case]:
    """Return "exact", "binned" and "binned-gradient" for every number of samples: normal features in float32 at 1024 points."""
    unknown = [name for name in peers or () if name not in PEERS]
    if unknown:
        raise UsageError(f"no peer {unknown[0]!r} for kde: choose from {', '.join(PEERS)}")
    here = [name for name in PEERS if (peers is None or name in peers) and importlib.util.find_spec(_MODULES[name]) is not None]
    if device == "cuda":
        here = [name for name in here if _MODULES[name] == "torch"]
    standard = [STANDARD_SIZE] if device == "cpu" else GPU_SIZES
    return [_case(name, n, features or FEATURES, here, device) for n in sizes or standard for name in _PEERS_OF]


def _case(name: str, n: int, d: int, peers: Sequence[str], device: str) -> Case:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=generator).clamp(-5, 5).to(device)
    # KDEpy wants every sample inside
    grid = torch.linspace(-5.5, 5.5, POINTS, dtype=torch.float64)
    # densities fall off within a bandwidth: so does what comes back for them
    slope = (torch.sin(grid).float()[:, None] * torch.linspace(0.5, 1.0, d)).to(device)
    columns, points = x.double().T.contiguous().numpy() if device == "cpu" else None, grid.numpy()  # peers get what they work on
    make: dict[str, Callable[[], list[Any]]] = {
        "KDEpy": lambda: [_kdepy(columns, points)],
        "scikit-learn": lambda: [_sklearn(columns, points)],
        "scipy": lambda: [_scipy(columns, points)],
        "torch": _plain(_values(x, grid, "exact") if name == "exact" else _with_gradient(x, grid, slope, "exact")),
        "torch-binned": _plain(_values(x, grid, "binned") if name == "binned" else _with_gradient(x, grid, slope, "binned")),
    }
    if device == "cuda" and n > _EXACT_ON_GPU:
        peers = [peer for peer in peers if peer != "torch"]
    method = name.partition("-")[0]
    numbers = float(n * d)
    taps = 2 * _REACH * BANDWIDTH / (11 / (POINTS - 1)) + 1
    binned_flops = _BIN_FLOPS * numbers + 2 * d * POINTS * taps
    flops = {
        "exact": _EXACT_SAMPLE_FLOPS * numbers + _EXACT_POINT_FLOPS * d * POINTS,
        "binned": binned_flops,
        "binned-gradient": 2 * binned_flops,
    }
    gradient = name.endswith("gradient")
    return Case(
        op="kde",
        name=name,
        label="kde",
        shape=(n, d, POINTS),
        work=numbers,
        unit="samples/s",
        flops=flops[name],
        moved=4 * numbers * (3 if gradient else 1),  # samples read by value and gradient, the gradient written
        ours=_with_gradient(x, grid, slope, method) if gradient else _values(x, grid, method),
        peers={peer: make[peer] for peer in peers if peer in _PEERS_OF[name]},
        # scikit-learn and scipy make the same sums; binning costs 1e-3 of the peak, KDEpy cuts the kernel at 1e-4 beside; among many
        # samples one lies so near to the border of two bins that rounding says whose slope it has
        tolerance={"exact": 1e-5, "binned": 1e-3, "binned-gradient": 2e-2}[name],
    )


def _values(x: Tensor, grid: Tensor, method: str) -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        with torch.no_grad():
            return [kde(x, grid, BANDWIDTH, method=method)]

    return run


def _with_gradient(x: Tensor, grid: Tensor, slope: Tensor, method: str) -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        leaf = x.clone().requires_grad_()
        density = kde(leaf, grid, BANDWIDTH, method=method)
        (gradient,) = torch.autograd.grad(density, leaf, slope)
        return [density, gradient]

    return run


def _plain(function: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    """On plain torch, whatever backend is in force."""

    def run() -> list[Any]:
        with dispatch.backend("reference"):
            return function()

    return run


def _kdepy(columns: Any, points: Any) -> Any:
    estimate: Any = importlib.import_module("KDEpy").FFTKDE
    return np.stack([estimate(kernel="gaussian", bw=BANDWIDTH).fit(column).evaluate(points) for column in columns], 1)


def _sklearn(columns: Any, points: Any) -> Any:
    estimate: Any = importlib.import_module("sklearn.neighbors").KernelDensity
    logs = [estimate(bandwidth=BANDWIDTH, rtol=1e-6).fit(column[:, None]).score_samples(points[:, None]) for column in columns]
    return np.exp(np.stack(logs, 1))


def _scipy(columns: Any, points: Any) -> Any:
    estimate: Any = importlib.import_module("scipy.stats").gaussian_kde
    return np.stack([estimate(column, bw_method=BANDWIDTH / column.std(ddof=1))(points) for column in columns], 1)
