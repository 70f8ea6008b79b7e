"""Cases of the optimiser benchmark: a step of ECD over a small and over a large network.

Peers: the rule that the paper's authors published, in plain torch (the same answer in its per-tensor form), and torch's
fused Adam (another optimiser that moves as many bytes). All are timed as ``optimizer.step``, with all of its overhead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hepgen.bench import Case
from hepgen.errors import UsageError
from hepgen.kernels import dispatch
from hepgen.optim import ECD

SMALL = ((64, 6), (64,), (128, 64), (128,), (64, 128), (64,), (1, 64), (1,))  # the network of the jets study, 6-64-128-64-1
LARGE = ((1000, 1000),) * 10
HUGE = ((10_000, 10_000),)  # on a GPU: several times its caches
PEERS = ("torch-adam", "published")
SCAN = {"sizes": (1_000, 10_000, 100_000, 1_000_000, 10_000_000), "features": (), "size": 10_000_000}
LR, ETA, F0, LOSS = 0.1, 1000.0, -1.0, 0.7

_STREAMS = 7  # velocity and gradient are read, then both and the parameter, and velocity and parameter are written
_FLOPS = 12  # three sums, and the two new values


def cases(sizes: Sequence[int] | None, peers: Sequence[str] | None, features: int | None = None, device: str = "cpu") -> list[Case]:
    """Return "small" and "large", or one case for every number of parameters, in one tensor each: float32, no bounce."""
    if features is not None:
        raise UsageError("ecd has no features, only a number of parameters: leave them out")
    unknown = [name for name in peers or () if name not in PEERS]
    if unknown:
        raise UsageError(f"no peer {unknown[0]!r} for ecd: choose from {', '.join(PEERS)}")
    wanted = PEERS if peers is None else tuple(peers)
    if sizes is None:
        named = {"small": SMALL, "large": LARGE} | ({"huge": HUGE} if device == "cuda" else {})
        return [_case(name, shapes, wanted, device) for name, shapes in named.items()]
    return [_case("small" if n < 1_000_000 else "large", ((n,),), wanted, device) for n in sizes]


def _case(name: str, shapes: Sequence[tuple[int, ...]], peers: Sequence[str], device: str) -> Case:
    count = sum(math.prod(shape) for shape in shapes)
    runs: dict[str, Callable[[], list[Any]]] = {}
    if "published" in peers:
        runs["published"] = _run(shapes, device, lambda params: Published(params, LR, ETA, F0))
    unlike: dict[str, Callable[[], Any]] = {}
    if "torch-adam" in peers:
        unlike["torch-adam"] = _run(shapes, device, lambda params: torch.optim.Adam(params, fused=True))
    return Case(
        op="ecd_step",
        name=name,
        label="ecd",
        shape=(count, len(shapes)),
        work=float(count),
        unit="parameters/s",
        flops=float(_FLOPS * count),
        moved=4.0 * _STREAMS * count,
        ours=_run(shapes, device, lambda params: ECD(params, LR, eta=ETA, F0=F0, per_tensor=True)),
        peers=runs,
        tolerance=1e-4,
        unlike=unlike,
    )


def _run(
    shapes: Sequence[tuple[int, ...]], device: str, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
) -> Callable[[], list[Any]]:
    """A step on parameters of its own, for each backend; the first call returns where three steps from the same point lead."""
    made: dict[str, torch.optim.Optimizer] = {}

    def fresh() -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        generator = torch.Generator().manual_seed(1)
        params = [nn.Parameter((0.1 * torch.randn(shape, generator=generator)).to(device)) for shape in shapes]
        for p in params:
            p.grad = (1e-3 * torch.randn(p.shape, generator=generator)).to(device)
        return params, make(params)

    def run() -> list[Any]:
        backend = dispatch.choose("ecd_step", device=device)
        if backend in made:
            _step(made[backend])
            return []
        params, made[backend] = fresh()
        for _ in range(3):
            _step(made[backend])
        return list(params)

    return run


def _step(optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, torch.optim.Adam):
        optimizer.step()
    else:
        optimizer.step(LOSS)  # type: ignore[call-overload]


class Published(torch.optim.Optimizer):
    """ECD with q = 1 and no bounce as its authors published it, in plain torch: three sweeps over the parameters.

    u . grad F is taken tensor by tensor; the norm is put right by the norm left from the step before.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, eta: float, F0: float) -> None:
        super().__init__(params, {"lr": lr})
        self.eta, self.F0 = eta, F0
        self.size = sum(p.numel() for p in params)
        self.square: Tensor | None = None

    @torch.no_grad()
    def step(self, loss: float) -> None:  # type: ignore[override]
        """Move once."""
        params: list[Tensor] = self.param_groups[0]["params"]
        dt = self.param_groups[0]["lr"] / math.sqrt(self.eta)
        slopes = [p.grad for p in params if p.grad is not None]
        if self.square is None:
            length = torch.sqrt(torch.stack([g.square().sum() for g in slopes]).sum())
            for p, g in zip(params, slopes, strict=True):
                self.state[p]["velocity"] = -g / length
            self.square = torch.ones((), device=length.device)
        velocities = [self.state[p]["velocity"] for p in params]
        repair = torch.sqrt(1 / self.square)
        force = dt * self.eta * self.size / (2 * (self.size - 1) * (loss - self.F0))
        self.square = torch.zeros_like(self.square)
        for u, g in zip(velocities, slopes, strict=True):
            u.mul_(repair)
            along = torch.dot(u.view(-1), g.view(-1))
            u.sub_(force * (g - u * along))
            self.square += torch.norm(u) ** 2
        norm, turned = torch.sqrt(self.square), torch.zeros_like(self.square)
        for p, u in zip(params, velocities, strict=True):
            p.add_(dt * u)
            u.div_(norm)
            turned += torch.dot(u.view(-1), u.view(-1))
        for u in velocities:
            u.mul_(norm / torch.sqrt(turned))
