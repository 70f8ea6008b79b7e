"""How fast an EventGenerator draws top pairs, beside the same decoder in plain torch.

    hepgen samples make ttbar --events 20000 --seed 1 --out ttbar
    python benchmarks/generator.py --sample ttbar/events.root --threads 2 --out benchmarks/generator.md

The B-VAE of paper D: 20 latents around those of 100 000 stored events, six layers of 128 with shortcuts, 26 columns and the code of the
objects that are there. In the paper's coordinates plain torch does the same: it picks stored events, draws latents, decodes, multiplies by
the scale, and sets what is absent to NaN. In ours quantiles, masses, relative angles and the order in pT come after the decoder, which the
peer does not do. The networks are fitted for one epoch: speed does not depend on it. Everything in turn; the median counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hepgen
from hepgen import EventGenerator, Features, __version__
from hepgen.kernels import threads

FOUR = ("E", "pt", "eta", "phi")
COLUMNS = [*(f"{name}[{k}].{q}" for name, n in (("Jet", 4), ("Lepton", 2)) for k in range(n) for q in FOUR), "MET_pt", "MET_phi"]
PAPER = {"scaler": "max-abs", "relative_angles": False, "masses": False}
PAPER_RATE = 1e7 / 177.5
STORED, CHUNK = 100_000, 16_384


class Plain:
    """The same decoder and buffer in plain torch."""

    def __init__(self, model: EventGenerator) -> None:
        state = {name.removeprefix("model."): torch.from_numpy(np.asarray(array)) for name, array in model.tensors().items()}
        count = sum(name.startswith("decoder.") and name.endswith("weight") for name in state)
        self.layers = [(state[f"decoder.layers.{k}.weight"], state[f"decoder.layers.{k}.bias"]) for k in range(count)]
        self.mu, self.sigma, self.scale = (state[name] for name in ("buffer.mu", "buffer.sigma", "scale"))
        self.sigma = self.sigma + 0.05
        self.patterns = torch.from_numpy(model.presence.patterns if model.presence is not None else np.empty((0, 0)))

    def sample(self, n: int) -> Tensor:
        """Rows (n, columns) float64, NaN where absent."""
        parts = [self._chunk(min(CHUNK, n - first)) for first in range(0, n, CHUNK)]
        return torch.cat(parts)

    @torch.no_grad()
    def _chunk(self, n: int) -> Tensor:
        stored = torch.randint(len(self.mu), (n,))
        before = x = self.mu[stored] + self.sigma[stored] * torch.randn(n, self.mu.shape[1])
        *hidden, (weight, bias) = self.layers
        for layer, (inner, offset) in enumerate(hidden, start=1):
            total = torch.nn.functional.linear(x, inner, offset)
            shortcut = layer > 2 and layer % 2 == 1
            before, x = x, torch.nn.functional.elu(total + before if shortcut else total)
        rows = torch.tanh(torch.nn.functional.linear(x, weight, bias)).double() * self.scale
        columns = self.patterns.shape[1]
        there = self.patterns[rows[:, columns:].argmax(1)]
        return torch.where(there, rows[:, :columns], torch.nan)


def fitted(events: Any, **settings: Any) -> EventGenerator:
    """A B-VAE of one epoch, whose buffer holds as many events as the paper's."""
    repeated = events[np.arange(STORED) % len(events)]
    return EventGenerator(Features(COLUMNS), "bvae", **settings).fit(repeated, epochs=1, progress=False)


def main() -> None:
    """Time all, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=Path, required=True, help="events.root of `hepgen samples make ttbar`")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="file of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    events = hepgen.events.read(options.sample)
    paper, own = fitted(events, **PAPER), fitted(events)
    plain = Plain(paper)
    cases: dict[str, Callable[[int], Any]] = {
        "plain torch, the paper's coordinates": plain.sample,
        "hepgen columns, the paper's coordinates": paper.sample_matrix,
        "hepgen events, the paper's coordinates": paper.sample,
        "hepgen columns": own.sample_matrix,
        "hepgen events": own.sample,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    with threads(options.threads):
        for draw in cases.values():
            draw(CHUNK)
        for _ in range(options.rounds):
            for name, draw in cases.items():
                began = time.perf_counter()
                draw(options.events)
                seconds[name].append(time.perf_counter() - began)
    text = table({name: options.events / statistics.median(found) for name, found in seconds.items()}, options)
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def table(rates: dict[str, float], options: argparse.Namespace) -> str:
    """The rates as Markdown."""
    peer = next(iter(rates.values()))
    lines = [
        "# generator",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, hepgen {__version__}, torch {torch.__version__}, {options.threads} threads, "
        f"median of {options.rounds} rounds of {options.events} events. Written by",
        "",
        f"    python benchmarks/generator.py --sample ttbar/events.root --threads {options.threads} --out FILE",
        "",
        "Top pairs drawn by the B-VAE of paper D, whose own rate is 56 000 events/s on a desktop computer.",
        "",
        "| | events/s | over plain torch | over the paper |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {rate:,.0f} | {rate / peer:.2f} | {rate / PAPER_RATE:.1f} |" for name, rate in rates.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
