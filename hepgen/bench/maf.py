"""Cases of the flow benchmark: log-density, sampling, and a training step through either; peers zuko, its networks compiled, and nflows.

The flow is the sim-to-data paper's: ten blocks of two layers of 128, six columns, six of context. Its last layers hold
biases only, of which the peers' flows can hold the same, so that the answers agree; the networks do their whole work all the same.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hepgen.bench import Case
from hepgen.errors import UsageError
from hepgen.networks import MAF, Affine
from hepgen.networks.frozen import autoregressive_masks

FEATURES = CONTEXT = 6
BLOCKS, HIDDEN = 10, (128, 128)
STANDARD_SIZES = {"log-density": 25_600, "sampling": 25_600, "nll-step": 25_600, "sample-step": 1_000}
SCAN = {"sizes": (100, 1_000, 10_000, 25_600), "features": (2, 4, 6, 8, 16, 32, 64), "size": 4_000}
GPU_SIZES = {"log-density": 1_000_000, "sampling": 1_000_000, "nll-step": 25_600, "sample-step": 25_600}
PEERS = ("zuko", "nflows", "zuko-compile")


def cases(sizes: Sequence[int] | None, peers: Sequence[str] | None, features: int | None = None, device: str = "cpu") -> list[Case]:
    """Return the four cases at every size, or each at its standard size: events and context normal in float32."""
    unknown = [name for name in peers or () if name not in PEERS]
    if unknown:
        raise UsageError(f"no peer {unknown[0]!r} for maf: choose from {', '.join(PEERS)}")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        d = features or FEATURES
        flow = MAF(d, CONTEXT, BLOCKS, HIDDEN)
        biases = 0.1 * torch.randn(BLOCKS, d, 2)
        others: dict[str, Any] = {"ours": _Ours(flow, biases)}
        wanted = PEERS[: None if device == "cuda" else 2] if peers is None else peers  # on a CPU torch takes minutes to compile
        for name, peer in {"zuko": _Zuko, "nflows": _Nflows, "zuko-compile": _CompiledZuko}.items():
            if name in wanted and importlib.util.find_spec(name.partition("-")[0]) is not None:
                others[name] = peer(biases)
    for other in others.values():
        other.module.to(device)
    standard = STANDARD_SIZES if device == "cpu" else GPU_SIZES
    return [_case(name, n, flow, others, device) for name, usual in standard.items() for n in sizes or [usual]]


def _case(name: str, n: int, flow: MAF, flows: dict[str, Any], device: str) -> Case:
    generator = torch.Generator().manual_seed(n)
    events, context = (torch.randn(n, columns, generator=generator).to(device) for columns in (flow.features, CONTEXT))
    make = {"log-density": _log_density, "sampling": _sampling, "nll-step": _nll_step, "sample-step": _sample_step}[name]
    runs = {who: make(other, events, context) for who, other in flows.items()}
    once = useful_flops(flow.features, CONTEXT, HIDDEN, len(flow.mades)) * n
    return Case(
        op="maf_inverse" if name.startswith("sampl") else "maf_forward",
        name=name,
        label="maf",
        shape=(n, flow.features, CONTEXT),
        work=float(n),
        unit="events/s",
        flops=3 * once if name.endswith("step") else once,  # a step: values, adjoints, gradients of the weights
        ours=runs.pop("ours"),
        peers=runs,
        tolerance=1e-4,
    )


def useful_flops(features: int, context: int, hidden: Sequence[int], blocks: int) -> float:
    """Multiplications and additions of one event that the masks of a flow leave."""
    masks = autoregressive_masks(features, context, hidden)
    return 2.0 * blocks * (sum(int(mask.sum()) for mask in masks) + context * hidden[0])


def _log_density(flow: Any, events: Tensor, context: Tensor) -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        with torch.no_grad():
            return [flow.log_prob(events, context)]

    return run


def _sampling(flow: Any, events: Tensor, context: Tensor) -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        with torch.no_grad():
            return [flow.inverse(events, context)]

    return run


def _nll_step(flow: Any, events: Tensor, context: Tensor) -> Callable[[], list[Any]]:
    return _step(flow, lambda: flow.nll(events, context))


def _sample_step(flow: Any, events: Tensor, context: Tensor) -> Callable[[], list[Any]]:
    return _step(flow, lambda: flow.inverse(events, context).square().mean())


def _step(flow: Any, loss: Callable[[], Tensor]) -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        flow.module.zero_grad()
        value = loss()
        value.backward()
        return [value]

    return run


class _Ours:
    def __init__(self, flow: MAF, biases: Tensor) -> None:
        self.module = flow
        self.log_prob = flow.log_prob
        self.nll = flow.negative_log_likelihood
        with torch.no_grad():
            for made, order, bias in zip(flow.mades, flow.orders, biases, strict=True):
                made.linears[-1].weight.zero_()
                made.linears[-1].bias.copy_(bias[order].reshape(-1))

    def inverse(self, z: Tensor, context: Tensor) -> Tensor:
        return self.module.inverse(z, context)[0]


def _shift_and_log_scale(bias: Tensor) -> tuple[Tensor, Tensor]:
    """m and a of z = (x - m) exp(-a), from the biases (d, 2) of one of our blocks."""
    shift, raw = bias.unbind(-1)
    return shift, raw / (1 + raw.abs() / Affine().bound)


class _Zuko:
    """z = x exp(a') + b', so a' = -a and b' = -m exp(-a)."""

    def __init__(self, biases: Tensor) -> None:
        zuko: Any = importlib.import_module("zuko")
        self.module = zuko.flows.MAF(biases.shape[1], CONTEXT, transforms=BLOCKS, hidden_features=HIDDEN)
        with torch.no_grad():
            for transform, bias in zip(self.module.transform.transforms, biases, strict=True):
                shift, log_scale = _shift_and_log_scale(bias)
                last = transform.hyper[-1]
                last.weight.zero_()
                last.bias.copy_(torch.stack([-shift * torch.exp(-log_scale), -bias[:, 1]], dim=-1).reshape(-1))

    def nll(self, x: Tensor, context: Tensor) -> Tensor:
        return -self.log_prob(x, context).mean()

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        density: Tensor = self.module(context).log_prob(x)
        return density

    def inverse(self, z: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.module(context).transform.inv(z)
        return x


class _CompiledZuko(_Zuko):
    """Its masked networks compiled, each pass of which is one fused graph."""

    def __init__(self, biases: Tensor) -> None:
        super().__init__(biases)
        for transform in self.module.transform.transforms:
            transform.hyper.compile(dynamic=False)


class _Nflows:
    """z = x (softplus(u) + 0.001) + b, after the columns were reversed; built of its parts, for its ready-made flow takes no context."""

    def __init__(self, biases: Tensor) -> None:
        transforms: Any = importlib.import_module("nflows.transforms")
        steps: list[Any] = []
        for block, bias in enumerate(biases):
            steps.append(transforms.ReversePermutation(biases.shape[1]))
            # the layer that takes the input in and one more: the same two hidden layers
            step = transforms.MaskedAffineAutoregressiveTransform(
                biases.shape[1], HIDDEN[0], CONTEXT, num_blocks=1, use_residual_blocks=False
            )
            shift, log_scale = _shift_and_log_scale(bias if block % 2 else bias.flip(0))
            last = step.autoregressive_net.final_layer
            with torch.no_grad():
                last.weight.zero_()
                last.bias.copy_(torch.stack([(torch.exp(-log_scale) - 1e-3).expm1().log(), -shift * torch.exp(-log_scale)], -1).reshape(-1))
            steps.append(step)
        base = importlib.import_module("nflows.distributions.normal").StandardNormal([biases.shape[1]])
        self.module = importlib.import_module("nflows.flows.base").Flow(transforms.CompositeTransform(steps), base)

    def nll(self, x: Tensor, context: Tensor) -> Tensor:
        return -self.log_prob(x, context).mean()

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        density: Tensor = self.module.log_prob(x, context)
        return density

    def inverse(self, z: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.module._transform.inverse(z, context)[0]
        return x
