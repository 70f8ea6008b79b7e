"""Cases of the perceptron benchmark: the B-VAE's decoder of the top-pair paper, plain and as it is, and a ratio network; peer plain torch.

The peer runs the same weights in chunks of 2048 events, as the paper generated, and all events at once (``torch-whole``):
the faster of the two is the one to be measured against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hepgen.bench import Case
from hepgen.errors import UsageError
from hepgen.kernels.perceptron import mlp_reference
from hepgen.networks import MLP

CHUNK = 2048
DECODER, RATIO = (20, *[128] * 6, 26), (6, 64, 128, 64, 1)
BVAE = {"activation": "elu", "output": "tanh", "shortcuts": True}
# case -> widths, options of MLP, standard number of events
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "decoder": (DECODER, {}, 51_200),
    "decoder-bvae": (DECODER, BVAE, 51_200),
    "ratio": (RATIO, {"output": "sigmoid"}, 51_200),
    "decoder-step": (DECODER, {}, 2_048),
    "decoder-bvae-step": (DECODER, BVAE, 1_024),
    "ratio-step": (RATIO, {"output": "sigmoid"}, 25_600),
}
SCAN = {"sizes": (100, 1_000, 10_000, 51_200), "features": (), "size": 10_000}
PEERS = ("torch", "torch-whole")


def cases(sizes: Sequence[int] | None, peers: Sequence[str] | None, features: int | None = None, device: str = "cpu") -> list[Case]:
    """Return the cases at every size, or each at its standard size: events normal in float32."""
    if device != "cpu":
        raise UsageError("mlp runs on a CPU only: leave the device out")
    if features is not None:
        raise UsageError("the networks of mlp have their own numbers of features: leave them out")
    unknown = [name for name in peers or () if name not in PEERS]
    if unknown:
        raise UsageError(f"no peer {unknown[0]!r} for mlp: choose from {', '.join(PEERS)}")
    made = []
    for name, (widths, options, standard) in NETWORKS.items():
        for n in sizes or [standard]:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                network = MLP(widths[0], widths[-1], widths[1:-1], **options)
                events = torch.randn(n, widths[0])
            make = _step if name.endswith("step") else _forward
            made.append(_case(name, n, network, events, make, PEERS if peers is None else peers))
    return made


def _case(name: str, n: int, network: MLP, events: Tensor, make: Callable[..., Callable[[], list[Any]]], peers: Sequence[str]) -> Case:
    def plain(x: Tensor) -> Tensor:
        return mlp_reference(x, network.weights())

    runs = {"torch": make(network, plain, events, CHUNK), "torch-whole": make(network, plain, events, n)}
    if make is _step:  # a step takes its batch as a whole
        runs = {"torch": make(network, plain, events, n)}
    widths = [network.linears[0].in_features, *(layer.out_features for layer in network.linears)]
    once = 2.0 * n * sum(seen * units for seen, units in pairwise(widths))
    return Case(
        op="mlp",
        name=name,
        label="mlp",
        shape=(n, *widths),
        work=float(n),
        unit="events/s",
        # a step: values, adjoints, gradients of the weights; nobody asks for the gradient of the events
        flops=3 * once - 2.0 * n * widths[0] * widths[1] if make is _step else once,
        ours=make(network, network, events, n),
        peers={peer: run for peer, run in runs.items() if peer in peers},
        tolerance=1e-4,
    )


def _forward(_: MLP, apply: Callable[[Tensor], Tensor], events: Tensor, chunk: int) -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        with torch.no_grad():
            return [torch.cat([apply(part) for part in events.split(chunk)]).numpy()]

    return run


def _step(network: MLP, apply: Callable[[Tensor], Tensor], events: Tensor, _: int) -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        network.zero_grad()
        value = apply(events).square().mean()
        value.backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        return [value.detach().double().numpy(), *(gradient.numpy() for gradient in gradients)]

    return run
