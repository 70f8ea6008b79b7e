"""Cases of the MMD benchmark: the value, and the value with its gradient in x; peers pykeops, plain torch and compiled torch."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hepgen.bench import Case, quiet
from hepgen.errors import UsageError
from hepgen.kernels import mmd2

FEATURES = 6
STANDARD_SIZE, GPU_SIZES = 16_000, (16_000, 200_000)
SCAN = {"sizes": (1_000, 2_000, 4_000, 8_000, 16_000, 32_000), "features": (1, 2, 4, 6, 8, 16, 32, 64), "size": 8_000}
SIGMA = 1.0  # at the standard number of features; it grows with their number, as squared distances do
PEERS = ("pykeops", "torch", "torch-compile")

# per pair: d differences, d squares and additions; range reduction, degree-5 polynomial, scaling; the sum
_EXP_FLOPS = 13
_TORCH_MATRICES = 7  # plain torch holds about so many n x m matrices for the gradient


def cases(sizes: Sequence[int] | None, peers: Sequence[str] | None, features: int | None = None, device: str = "cpu") -> list[Case]:
    """Return "value" and "gradient" for every size n: x and y (n, d) normal in float32, one bandwidth, no weights."""
    unknown = [name for name in peers or () if name not in PEERS]
    if unknown:
        raise UsageError(f"no peer {unknown[0]!r} for mmd: choose from {', '.join(PEERS)}")
    standard = [STANDARD_SIZE] if device == "cpu" else GPU_SIZES
    wanted = PEERS[: None if device == "cuda" else 2] if peers is None else peers  # on a CPU torch takes minutes to compile it
    return [case for n in sizes or standard for case in _at_size(n, features or FEATURES, wanted, device)]


def _at_size(n: int, d: int, peers: Sequence[str], device: str) -> list[Case]:
    sigma = SIGMA * d / FEATURES
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=generator).to(device)
    y = (torch.randn(n, d, generator=generator) * 1.1).to(device)
    value_flops = 3 * d + _EXP_FLOPS + 1
    half, whole = n * (n + 1) / 2, float(n) * n
    # the gradient in x: a multiply-add per feature for the rows of x-y, two for the halves of x-x
    flops = {
        "value": value_flops * (2 * half + whole),
        "gradient": value_flops * (2 * half + whole) + 4 * d * half + 2 * d * whole,
    }
    functions = _peers(n, sigma, peers, device)
    return [
        Case(
            op="mmd2",
            name=name,
            label="mmd",
            shape=(n, n, d),
            work=3.0 * n * n,  # as if every pair of x-x, y-y and x-y were made
            unit="pairs/s",
            flops=flops[name],
            ours=_answer(lambda a, b: mmd2(a, b, sigma), x, y, gradient=name == "gradient"),
            peers={peer: _answer(function, x, y, gradient=name == "gradient") for peer, function in functions.items()},
            tolerance=1e-3,
        )
        for name in ("value", "gradient")
    ]


def _answer(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, *, gradient: bool) -> Callable[[], list[Any]]:
    def answer() -> list[Any]:
        if not gradient:
            with torch.no_grad():
                return [function(x, y)]
        leaf = x.clone().requires_grad_()
        value = function(leaf, y)
        (slope,) = torch.autograd.grad(value, leaf)
        return [value, slope]

    return answer


def _peers(n: int, sigma: float, names: Sequence[str], device: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    peers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    if "pykeops" in names and importlib.util.find_spec("pykeops") is not None:
        peers["pykeops"] = _keops(sigma)
    fits = 4 * n * n * _TORCH_MATRICES < _free_memory(device)
    if "torch" in names and fits:
        peers["torch"] = partial(_with_cdist, sigma)
    if "torch-compile" in names and fits:
        peers["torch-compile"] = torch.compile(partial(_with_differences, sigma), dynamic=False)
    return peers


def _free_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _mmd2(mean: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def _with_cdist(sigma: float, x: Tensor, y: Tensor) -> Tensor:
    return _mmd2(lambda a, b: torch.exp(-torch.cdist(a, b).square() / sigma).mean(), x, y)


def _with_differences(sigma: float, x: Tensor, y: Tensor) -> Tensor:
    """What a compiler can make one loop of, with no matrix in memory."""
    return _mmd2(lambda a, b: torch.exp(-(a[:, None, :] - b[None, :, :]).square().sum(-1) / sigma).mean(), x, y)


def _keops(sigma: float) -> Callable[[Tensor, Tensor], Tensor]:
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pykeops
        from pykeops.torch import LazyTensor

        pykeops.set_verbose(False)

    def mean(a: Tensor, b: Tensor) -> Tensor:
        squares = ((LazyTensor(a[:, None, :]) - LazyTensor(b[None, :, :])) ** 2).sum(-1)
        sums: Tensor = (-squares / sigma).exp().sum(1)
        return sums.sum() / (a.shape[0] * b.shape[0])

    def with_keops(x: Tensor, y: Tensor) -> Tensor:
        with quiet():
            return _mmd2(mean, x, y)

    return with_keops
