"""What an ensemble of ratio networks costs beside one training: milliseconds a step at the size of the thrust study.

    python benchmarks/ensemble.py --out benchmarks/ensemble.md

A step takes 500 + 500 events of one column through 1-50-100-50-1, and the optimiser. hepgen's figures are those of whole fits: batches,
loss, optimiser and bookkeeping are in them. The peers do the same work in plain torch: one network with torch's own dropout and fused Adam,
and all members at once by torch.func.vmap. Everything is timed in turn, round after round; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hepgen import __version__
from hepgen.estimators.fit_samples import sample_of
from hepgen.estimators.reweighter_fit import Shape, fit_members
from hepgen.training import Plan

EVENTS, BATCH, HIDDEN = 60_000, 500, (50, 100, 50)
STEPS = round(0.9 * EVENTS) // BATCH
MEMBERS = 10


def ours(optimizer: str, dropout: float, members: int, samples: dict[str, Any]) -> float:
    """Seconds of a step of our fit."""
    ecd = optimizer == "ecd"
    rate = (0.1, 0.1) if ecd else (1e-3, 1e-3)
    plan = Plan(1, BATCH, rate, optimizer=optimizer, clip_norm=None, options={"F0": -0.3} if ecd else {})
    fitted = fit_members(samples, Shape("bce", "sigmoid", HIDDEN, "relu", dropout), plan, members, progress=False)
    return float(fitted[0].record["epochs"][0]["seconds"]) / STEPS


def network(dropout: float) -> nn.Sequential:
    """The network of the study in plain torch."""
    layers: list[nn.Module] = []
    for seen, units in zip((1, *HIDDEN[:-1]), HIDDEN, strict=True):
        layers += [nn.Linear(seen, units), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN[-1], 1))


def torch_one(dropout: float, samples: dict[str, Any]) -> float:
    """Seconds of a step of one network in plain torch."""
    net = network(dropout)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    labels = torch.cat([torch.zeros(BATCH), torch.ones(BATCH)])
    orders = [torch.randperm(EVENTS) for _ in samples]
    started = time.perf_counter()
    for step in range(STEPS):
        rows = [s.values[order[step * BATCH : (step + 1) * BATCH]] for s, order in zip(samples.values(), orders, strict=True)]
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(torch.cat(rows))[:, 0], labels).backward()
        optimizer.step()
    return (time.perf_counter() - started) / STEPS


def torch_vmap(dropout: float, samples: dict[str, Any]) -> float:
    """Seconds of a step of all members by torch.func."""
    parameters, _ = torch.func.stack_module_state([network(dropout) for _ in range(MEMBERS)])
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    base = network(dropout)
    optimizer = torch.optim.Adam(leaves.values(), lr=1e-3, fused=True)
    labels = torch.cat([torch.zeros(BATCH), torch.ones(BATCH)]).expand(MEMBERS, -1)
    orders = [torch.stack([torch.randperm(EVENTS) for _ in range(MEMBERS)]) for _ in samples]

    def apply(own: dict[str, Tensor], x: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(base, own, (x,))
        return found

    together = torch.func.vmap(apply, randomness="different")
    started = time.perf_counter()
    for step in range(STEPS):
        rows = [s.values[order[:, step * BATCH : (step + 1) * BATCH]] for s, order in zip(samples.values(), orders, strict=True)]
        optimizer.zero_grad()
        z = together(leaves, torch.cat(rows, dim=1))[..., 0]
        nn.functional.binary_cross_entropy_with_logits(z, labels, reduction="none").mean(1).sum().backward()
        optimizer.step()
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    samples = {"sim": sample_of(rng.normal(size=(EVENTS, 1)), None), "data": sample_of(rng.normal(0.2, 1.0, (EVENTS, 1)), None)}
    runs: dict[tuple[str, float], Callable[[], float]] = {}
    for dropout in (0.0, 0.05):
        for optimizer in ("ecd", "adam"):
            for members in (1, MEMBERS):
                runs[f"{optimizer} {members}", dropout] = partial(ours, optimizer, dropout, members, samples)
        runs["torch 1", dropout] = partial(torch_one, dropout, samples)
        runs["torch vmap", dropout] = partial(torch_vmap, dropout, samples)
    times: dict[tuple[str, float], list[float]] = {key: [] for key in runs}
    for _ in range(options.rounds):
        for key, run in runs.items():
            times[key].append(run())
    found = {key: 1e3 * statistics.median(values) for key, values in times.items()}
    lines = [
        "# ensemble",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, hepgen {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"median of {options.rounds} rounds. Written by",
        "",
        "    python benchmarks/ensemble.py --out benchmarks/ensemble.md",
        "",
        f"Milliseconds a step at 1-50-100-50-1 and 500 + 500 events; E = {MEMBERS} members.",
        "",
        "| dropout | optimiser | one, hepgen | E, hepgen | E / one | one, plain torch, Adam | E / one of torch | E, torch.func.vmap |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for dropout in (0.0, 0.05):
        for optimizer in ("ecd", "adam"):
            one, all_ = found[f"{optimizer} 1", dropout], found[f"{optimizer} {MEMBERS}", dropout]
            plain, vmap = found["torch 1", dropout], found["torch vmap", dropout]
            ours_text = f"{one:.2f} | {all_:.2f} | {all_ / one:.1f}"
            lines.append(f"| {dropout:.0%} | {optimizer} | {ours_text} | {plain:.2f} | {all_ / plain:.1f} | {vmap:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
