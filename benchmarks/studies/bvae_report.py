"""The table of the study of paper D."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence

import torch
from bvae_models import Result

from hepgen import __version__


def table(found: Mapping[str, Mapping[str, Result]], options: argparse.Namespace, about: str) -> str:
    """The study as Markdown."""
    commands = [line.strip() for line in about.splitlines() if line.startswith("    ")]
    commands[-1] += f" {options.given}" if options.given else ""
    lines = [*_head(options), "```sh", *commands, "```", ""]
    if found.get("ttbar"):
        lines += ["## ttbar", "", *_ttbar(found["ttbar"]), ""]
    for part in ("two_body", "z_ll", "speed"):
        if found.get(part):
            lines += [f"## {part}", "", *_plain(found[part]), ""]
    return "\n".join(lines)


def _head(options: argparse.Namespace) -> list[str]:
    count = options.threads or torch.get_num_threads()
    return [
        "# Generators of events: ttbar, two_body, z_ll",
        "",
        f"{time.strftime('%Y-%m-%d')}, hepgen {__version__}, torch {torch.__version__}, {count} threads.",
        f"{options.train} events learnt from, {options.generated} drawn of each model. delta is that of 528 pairs between the smallest and",
        "largest value of the reference; delta_OF that of (eta, eta) and (phi, phi) of the two leading jets, of as many events as the",
        "smaller of both samples has; closer the share of generated events that are nearer to an event learnt from than to one of as many",
        "others.",
        "Seconds of another prior of a B-VAE are those of the prior alone.",
        "",
    ]


def _ttbar(rows: Mapping[str, Result]) -> list[str]:
    header = ["", "fit [s]", "events/s", "delta", "floor", "delta_OF eta", "delta_OF phi", "closer", "exact copies", "broken", "2 leptons"]
    lines = []
    for name, row in rows.items():
        holes = [f"{row['holes'][which]['value']:.2f}" for which in ("eta", "phi")]
        cells = [f"{row['delta']:.5f} ± {row['error']:.5f}", f"{row['floor']:.5f}", *holes]
        if name == "events":
            lines.append(["training events", "", "", *cells, "", "", "", ""])
            n, value, error = row["extrapolated"]
            lines.append([f"eq. 24, {n} events", "", "", f"{value:.5f} ± {error:.5f}", *[""] * 7])
            continue
        copies, two = row["copies"], f"{row['two_leptons']:.4f} ({row['two_leptons_reference']:.4f})"
        closer = f"{copies['closer']:.3f} ± {copies['error']:.3f}"
        more = [closer, f"{copies['exact']:.4f}", f"{row['broken']:.5f}", two]
        lines.append([name, f"{row['seconds']:.0f}", f"{row['rate']:.3g}", *cells, *more])
    return _markdown(header, lines)


def _plain(rows: Mapping[str, Result]) -> list[str]:
    names = list(dict.fromkeys(key for row in rows.values() for key in row if key != "file"))
    return _markdown(["", *names], [[name, *(f"{row[key]:.5g}" if key in row else "" for key in names)] for name, row in rows.items()])


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
