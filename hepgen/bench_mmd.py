"""Cases of the MMD benchmark: the value, and the value with its gradient in x; peers pykeops and plain torch."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hepgen.bench import Case, quiet
from hepgen.errors import UsageError
from hepgen.kernels import mmd2

FEATURES = 6
STANDARD_SIZE = 16_000
SIGMA = 1.0
PEERS = ("pykeops", "torch")

# per pair: d differences, d squares and additions; range reduction, degree-5 polynomial, scaling; the sum
_EXP_FLOPS = 13
_TORCH_MATRICES = 7  # plain torch holds about so many n x m matrices for the gradient


def cases(sizes: Sequence[int] | None, peers: Sequence[str] | None) -> list[Case]:
    """Return "value" and "gradient" for every size n: x and y (n, 6) normal in float32, one bandwidth, no weights."""
    unknown = [name for name in peers or () if name not in PEERS]
    if unknown:
        raise UsageError(f"no peer {unknown[0]!r} for mmd: choose from {', '.join(PEERS)}")
    return [case for n in sizes or [STANDARD_SIZE] for case in _at_size(n, PEERS if peers is None else peers)]


def _at_size(n: int, peers: Sequence[str]) -> list[Case]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, FEATURES, generator=generator)
    y = torch.randn(n, FEATURES, generator=generator) * 1.1
    value_flops = 3 * FEATURES + _EXP_FLOPS + 1
    half, whole = n * (n + 1) / 2, float(n) * n
    # the gradient in x: a multiply-add per feature for the rows of x-y, two for the halves of x-x
    flops = {
        "value": value_flops * (2 * half + whole),
        "gradient": value_flops * (2 * half + whole) + 4 * FEATURES * half + 2 * FEATURES * whole,
    }
    functions = _peers(n, peers)
    return [
        Case(
            op="mmd2",
            name=name,
            label="mmd",
            shape=(n, n, FEATURES),
            work=3.0 * n * n,  # as if every pair of x-x, y-y and x-y were made
            unit="pairs/s",
            flops=flops[name],
            ours=_answer(lambda a, b: mmd2(a, b, SIGMA), x, y, gradient=name == "gradient"),
            peers={peer: _answer(function, x, y, gradient=name == "gradient") for peer, function in functions.items()},
            tolerance=1e-3,
        )
        for name in ("value", "gradient")
    ]


def _answer(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, *, gradient: bool) -> Callable[[], list[Any]]:
    def answer() -> list[Any]:
        if not gradient:
            with torch.no_grad():
                return [function(x, y).double().numpy()]
        leaf = x.clone().requires_grad_()
        value = function(leaf, y)
        (slope,) = torch.autograd.grad(value, leaf)
        return [value.detach().double().numpy(), slope.double().numpy()]

    return answer


def _peers(n: int, names: Sequence[str]) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    peers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    if "pykeops" in names and importlib.util.find_spec("pykeops") is not None:
        peers["pykeops"] = _keops()
    if "torch" in names and 4 * n * n * _TORCH_MATRICES < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        peers["torch"] = _with_cdist
    return peers


def _mmd2(mean: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def _with_cdist(x: Tensor, y: Tensor) -> Tensor:
    return _mmd2(lambda a, b: torch.exp(-torch.cdist(a, b).square() / SIGMA).mean(), x, y)


def _keops() -> Callable[[Tensor, Tensor], Tensor]:
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pykeops
        from pykeops.torch import LazyTensor

        pykeops.set_verbose(False)

    def mean(a: Tensor, b: Tensor) -> Tensor:
        squares = ((LazyTensor(a[:, None, :]) - LazyTensor(b[None, :, :])) ** 2).sum(-1)
        sums: Tensor = (-squares / SIGMA).exp().sum(1)
        return sums.sum() / (a.shape[0] * b.shape[0])

    def with_keops(x: Tensor, y: Tensor) -> Tensor:
        with quiet():
            return _mmd2(mean, x, y)

    return with_keops
