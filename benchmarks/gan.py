"""What a step of the conditional GAN costs, beside the same networks written straightforwardly in torch.

    python benchmarks/gan.py --threads 2 --out benchmarks/gan.md

A step takes 1024 events through discriminator and generator of paper C (4 outputs, 10 conditions, 32 latents, label noise, dropout) and
both optimisers. hepgen's figures are those of whole fits: batches, losses and bookkeeping are in them, not the figure of merit. The peer
has ConvTranspose2d and Conv2d of the same shapes, and does the same draws and updates. Everything is timed in turn; the median counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepgen import __version__
from hepgen.estimators.gan_objective import AdversarialObjective
from hepgen.losses.adversarial import adversarial_loss
from hepgen.networks import gan_networks
from hepgen.training import Plan, Sample, train

BATCH, OUTPUTS, CONDITIONS, LATENT, NOISE = 1024, 4, 10, 32, 0.15
EVENTS, EPOCHS = 100_000, 5000  # of the paper


def generator() -> nn.Module:
    """The generator of paper C in torch's own layers."""
    return nn.Sequential(
        nn.Linear(CONDITIONS + LATENT, 1024), nn.ReLU(), nn.Unflatten(1, (1024, 1, 1)),
        nn.ConvTranspose2d(1024, 32, 4), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 2, stride=2), nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, OUTPUTS), nn.Tanh(),
    )  # fmt: skip


def discriminator() -> nn.Module:
    """The discriminator of paper C in torch's own layers."""
    return nn.Sequential(
        nn.Linear(OUTPUTS + CONDITIONS, 256), nn.LeakyReLU(0.2), nn.Unflatten(1, (1, 16, 16)),
        nn.Conv2d(1, 32, 2, stride=2), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 2, stride=2), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 64, 4), nn.LeakyReLU(0.2), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(64, 1),
    )  # fmt: skip


class PlainLAMB(torch.optim.Optimizer):
    """LAMB tensor by tensor, as its paper prints it."""

    def __init__(self, parameters: Iterator[nn.Parameter], lr: float, betas: tuple[float, float] = (0.5, 0.999)) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every tensor by its own trust ratio."""
        del closure
        for group in self.param_groups:
            (first, second), rate = group["betas"], group["lr"]
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state.update(steps=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
                state["steps"] += 1
                state["mean"].mul_(first).add_(parameter.grad, alpha=1 - first)
                state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                root = (state["square"] / (1 - second ** state["steps"])).sqrt_().add_(1e-6)
                update = state["mean"] / (1 - first ** state["steps"]) / root
                size, length = parameter.norm(), update.norm()
                trust = torch.where((size > 0) & (length > 0), size / length, torch.ones(()))
                parameter.sub_(rate * trust * update)


def plain(optimizer: Callable[..., torch.optim.Optimizer], values: Tensor, steps: int) -> float:
    """Seconds of a step in plain torch."""
    g, d = generator(), discriminator()
    players = [optimizer(network.parameters(), lr=1e-3) for network in (d, g)]
    order = torch.randperm(len(values))
    started = time.perf_counter()
    for step in range(steps):
        rows = values[order[step * BATCH : (step + 1) * BATCH]]
        condition = rows[:, OUTPUTS:]
        objects = g(torch.cat([condition, torch.randn(BATCH, LATENT)], 1))
        real, fake = d(rows), d(torch.cat([objects.detach(), condition], 1))
        labels = 1 - NOISE * torch.rand(BATCH, 1), NOISE * torch.rand(BATCH, 1)
        loss = 0.5 * sum(F.binary_cross_entropy_with_logits(z, t) for z, t in zip((real, fake), labels, strict=True))
        players[0].zero_grad()
        loss.backward()
        players[0].step()
        loss = F.binary_cross_entropy_with_logits(d(torch.cat([objects, condition], 1)), torch.ones(BATCH, 1))
        players[1].zero_grad()
        loss.backward()
        players[1].step()
    return (time.perf_counter() - started) / steps


def ours(kind: str, optimizer: str, values: Tensor, steps: int) -> float:
    """Seconds of a step of our fit."""
    sample = Sample(values)
    pair = gan_networks(kind, CONDITIONS, OUTPUTS, LATENT)
    objective = AdversarialObjective(*pair, adversarial_loss("gan", label_noise=NOISE), sample, copies=1)
    plan = Plan(1, BATCH, optimizer=optimizer, clip_norm=None, options={"betas": (0.5, 0.999)}, validation=1 - steps * BATCH / len(values))
    record = train(objective, {"signal": sample}, plan, progress=False)
    return float(record.epochs[0]["seconds"]) / len(record.steps["generator"])


def main() -> None:
    """Time all, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps in a round")
    parser.add_argument("--out", type=Path, help="file of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    values = torch.rand(BATCH * (options.steps + 2), OUTPUTS + CONDITIONS) * 2 - 1
    adam = partial(torch.optim.Adam, betas=(0.5, 0.999))
    cases: dict[str, Callable[[], float]] = {
        "plain torch, LAMB": partial(plain, PlainLAMB, values, options.steps),
        "hepgen convolutional, LAMB": partial(ours, "convolutional", "lamb", values, options.steps),
        "plain torch, Adam": partial(plain, adam, values, options.steps),
        "hepgen convolutional, Adam": partial(ours, "convolutional", "adam", values, options.steps),
        "hepgen dense, Adam": partial(ours, "dense", "adam", values, options.steps),
    }
    rounds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, run in cases.items():
            rounds[name].append(run())
    text = table({name: statistics.median(found) for name, found in rounds.items()}, options)
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def table(found: dict[str, float], options: argparse.Namespace) -> str:
    """The figures as Markdown."""
    steps = EVENTS // BATCH * EPOCHS
    lines = [
        "# gan",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, hepgen {__version__}, torch {torch.__version__}, {options.threads} threads, "
        f"median of {options.rounds} rounds of {options.steps} steps. Written by",
        "",
        f"    python benchmarks/gan.py --threads {options.threads} --rounds {options.rounds} --steps {options.steps} --out FILE",
        "",
        f"A step of the conditional GAN of paper C at {BATCH} events; hours of its schedule, {EPOCHS} epochs of {EVENTS} events; and "
        "plain torch with the same optimiser over ours.",
        "",
        "| networks and optimiser | ms a step | hours | ratio |",
        "|---|---|---|---|",
    ]
    for name, seconds in found.items():
        peer = found.get(f"plain torch, {name.split(', ')[1]}", 0.0) if name.startswith("hepgen") else 0.0
        lines.append(f"| {name} | {1e3 * seconds:.0f} | {seconds * steps / 3600:.1f} | {f'{peer / seconds:.2f}' if peer else ''} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
