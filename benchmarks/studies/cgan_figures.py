"""Figures 2 to 7 of paper C from our samples and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cgan_events import LABELS, Floats
from cgan_fits import COPIES, Result
from cgan_measure import Measured

plt.switch_backend("agg")

OBJECT = ("pT [GeV]", "eta", "ID")
SHARES = (0.25, 0.5, 0.75)


def write(folder: Path, runs: Sequence[tuple[Any, Result]], measured: Mapping[str, Measured]) -> None:
    """Write all figures for which there are models: cgan_figure2.png and so on."""
    curves = [(run, found) for run, found in runs if "scores" in found]
    copies_of_one(folder / "cgan_figure2.png", [pair for pair in curves if pair[0].part == "gan"])
    against_epoch(
        folder / "cgan_figure3.png",
        [pair for pair in curves if pair[0].part == "strategies" or (pair[0].part, pair[0].latent) == ("latents", 32)],
        "strategy",
    )
    against_epoch(folder / "cgan_figure4.png", [pair for pair in curves if pair[0].part == "latents"], "latent")
    best = [name for name in ("gan, full", "gan, full, by condition", "maf, full", "maf, full, by condition") if name in measured]
    momenta(folder / "cgan_figure5.png", measured, best)
    if best:
        corner(folder / "cgan_figure6.png", measured["signal region"], measured[best[-1]], best[-1])
        matrices(folder / "cgan_figure7.png", measured, best)


def copies_of_one(file: Path, curves: Sequence[tuple[Any, Result]]) -> None:
    """Figure 2: the figure of merit against the epoch, by 1, 10 and 100 objects an event."""
    if not curves:
        return
    figure, axis = plt.subplots(figsize=(7, 5))
    for run, found in curves:
        for copies in sorted(COPIES):
            axis.plot(_epochs(found), found["scores"][str(copies)], lw=1, label=f"{run.model}, {copies} objects an event")
    axis.set(xlabel="epoch", ylabel=r"$-2\,\ln\Lambda$ per validation event")
    axis.legend()
    _save(figure, file)


def against_epoch(file: Path, curves: Sequence[tuple[Any, Result]], what: str) -> None:
    """Figures 3 and 4: the figure of merit of several fits."""
    if not curves:
        return
    figure, axis = plt.subplots(figsize=(7, 5))
    for run, found in curves:
        axis.plot(
            _epochs(found), found["scores"][str(COPIES[0])], lw=1, label=f"{getattr(run, what)}" + (" latents" if what == "latent" else "")
        )
    axis.set(xlabel="epoch", ylabel=r"$-2\,\ln\Lambda$ per validation event")
    axis.legend()
    _save(figure, file)


def momenta(file: Path, measured: Mapping[str, Measured], names: Sequence[str]) -> None:
    """Figure 5: pT of the object in signal region, control region and replaced."""
    figure, axis = plt.subplots(figsize=(7, 5))
    edges = np.linspace(20, np.quantile(measured["signal region"].objects[:, 0], 0.995), 41)
    for name, colour in zip(("signal region", "control region as it is", *names), ("k", "C7", "C1", "C3", "C0", "C2"), strict=False):
        found = measured[name]
        counts, _ = np.histogram(found.objects[:, 0], edges, weights=found.weights)
        axis.stairs(counts / counts.sum() / np.diff(edges), edges, color=colour, label=name)
    axis.set(xlabel="pT of the misidentified photon [GeV]", ylabel="density [1/GeV]")
    axis.legend(fontsize="small")
    _save(figure, file)


def corner(file: Path, real: Measured, made: Measured, name: str) -> None:
    """Figure 6: pT, eta and ID of signal region and replaced objects; lines around a quarter, a half and three quarters of the events."""
    d = len(OBJECT)
    figure, axes = plt.subplots(d, d, figsize=(9, 9))
    edges = [np.linspace(*np.quantile(column, (0.002, 0.995)), 31) for column in real.objects.T]
    for i in range(d):
        for j in range(d):
            axis: Any = axes[i, j]
            if j > i:
                axis.axis("off")
                continue
            for found, colour, label in ((real, "k", "signal region"), (made, "C1", name)):
                if i == j:
                    axis.hist(
                        found.objects[:, i], edges[i], weights=found.weights, density=True, histtype="step", color=colour, label=label
                    )
                else:
                    _contours(axis, found, j, i, edges, colour)
            axis.set(xlabel=OBJECT[j] if i == d - 1 else "", ylabel=OBJECT[i] if j == 0 and i else "")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right")
    _save(figure, file)


def _contours(axis: Any, found: Measured, i: int, j: int, edges: Sequence[Floats], colour: str) -> None:
    counts, x, y = np.histogram2d(found.objects[:, i], found.objects[:, j], (edges[i], edges[j]), weights=found.weights)
    ordered = np.sort(counts.ravel())[::-1]
    inside = np.cumsum(ordered) / ordered.sum()
    levels = sorted({float(ordered[np.searchsorted(inside, share)]) for share in SHARES})
    axis.contour((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2, counts.T, levels=levels, colors=colour, linewidths=1)


def matrices(file: Path, measured: Mapping[str, Measured], names: Sequence[str]) -> None:
    """Figure 7: distance correlations of the signal region and of the best of `names`, and the pulls between them."""
    best = min(names, key=lambda name: measured[name].chi.chi)
    chi = measured[best].chi
    figure, axes = plt.subplots(1, 3, figsize=(17, 5.5))
    shown = (
        (chi.a, "signal region", 1.0, "viridis"),
        (chi.b, best, 1.0, "viridis"),
        (chi.pulls, f"pulls, chi = {chi.chi:.2f}", 4.0, "RdBu"),
    )
    for axis, (matrix, title, most, colours) in zip(axes, shown, strict=True):
        image = axis.imshow(matrix, cmap=colours, vmin=-most if colours == "RdBu" else 0, vmax=most)
        axis.set_title(title)
        axis.set_xticks(range(len(LABELS)), [label.split(" [")[0] for label in LABELS], rotation=60, ha="right")
        axis.set_yticks(range(len(LABELS)), [label.split(" [")[0] for label in LABELS])
        for i in range(len(LABELS)):
            for j in range(i):
                axis.text(j, i, f"{matrix[i, j]:.2f}" if most == 1 else f"{matrix[i, j]:.1f}", ha="center", va="center", fontsize=7)
        figure.colorbar(image, ax=axis, shrink=0.8)
    _save(figure, file)


def _epochs(found: Result) -> list[int]:
    n = len(found["scores"][str(COPIES[0])])
    return [min((i + 1) * found["every"], found["epochs"]) for i in range(n)]


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
