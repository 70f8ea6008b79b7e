"""The table of the study of paper C."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from cgan_events import LABELS, Regions
from cgan_fits import COPIES, Result
from cgan_measure import Measured

from hepgen import __version__


def table(
    runs: Sequence[tuple[Any, Result]],
    measured: Mapping[str, Measured],
    scattered: Mapping[str, Mapping[int, tuple[float, float]]],
    regions: Regions,
    options: argparse.Namespace,
    about: str,
) -> str:
    """The study as Markdown."""
    commands = [line.strip() for line in about.splitlines() if line.startswith("    ")]
    commands[-1] += f" {options.given}" if options.given else ""
    parts = [
        _head(regions, options),
        "```sh",
        *commands,
        "```",
        "",
        *_measured(measured),
        "",
        *_fits(runs),
        "",
        *_scatter(scattered, options.repeats),
        "",
    ]
    return "\n".join(parts)


def _head(regions: Regions, options: argparse.Namespace) -> str:
    n, copies, threads = len(regions.test.events), options.copies, options.threads or torch.get_num_threads()
    return f"""\
# Control region to signal region: gamma_jet

{time.strftime("%Y-%m-%d")}, hepgen {__version__}, torch {torch.__version__}, {threads} threads.
Fitted to {len(regions.fit.events)} events of the signal region (transfer: and of the control region), measured on {n} others of each.

-2 ln Lambda, per event, is the paper's: pT, abs(eta) and ID of the object and pTyy / myy in 10 uniformised bins each, {copies} objects
for each event of the *signal* region. The excess is over the score of these events against themselves; "other events" says what an
independent sample of that size has, once and not {copies} times. chi is the mean pull of the distance correlations of all pairs of
{len(LABELS)} columns, {copies} objects for each event of the *control* region; chi2/ndf is that of one object each. "By condition":
a replaced event is weighted by the ratio that {options.networks} networks learned from its condition, in place of one factor for all.
"""


def _measured(measured: Mapping[str, Measured]) -> list[str]:
    header = ["", "-2 ln Lambda", "excess", "chi", "worst pair", *(f"chi2/ndf {label.split(' [')[0]}" for label in LABELS)]
    rows = []
    for name, found in measured.items():
        if found.score is None:
            continue
        first, second, pull = found.chi.worst
        shapes = ["" if value is None else f"{value:.2f}" for value in found.shapes.values()]
        worst = f"{pull:.1f} ({first.split(' [')[0]}, {second.split(' [')[0]})"
        rows.append([name, f"{found.score.per_event:.3f}", f"{found.score.excess:.3f}", f"{found.chi.chi:.2f}", worst, *shapes])
    return _markdown(header, rows)


def _fits(runs: Sequence[tuple[Any, Result]]) -> list[str]:
    header = ["fit", "epochs", "best epoch", "seconds", "seconds per epoch", "best -2 ln Lambda on validation events"]
    rows = []
    for run, found in runs:
        scores = found.get("scores", {}).get(str(COPIES[0]))
        cells = [found.get("best_epoch", ""), f"{found['seconds']:.0f}", f"{found['seconds_per_epoch']:.1f}" if scores else ""]
        rows.append([run.name, str(found["epochs"]), *map(str, cells), f"{min(scores):.3f}" if scores else ""])
    return _markdown(header, rows)


def _scatter(scattered: Mapping[str, Mapping[int, tuple[float, float]]], repeats: int) -> list[str]:
    """Figure 2 in numbers."""
    header = [
        f"-2 ln Lambda of {repeats} draws of all latents",
        *(f"{copies} objects an event: mean, scatter" for copies in sorted(COPIES)),
    ]
    rows = []
    for name, found in scattered.items():
        cells = [f"{found[copies][0]:.4f}, {found[copies][1]:.4f}" if copies in found else "" for copies in sorted(COPIES)]
        rows.append([name, *cells])
    return _markdown(header, rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
