"""Figures 1 and 2 of the paper from our samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from ecd_jets import Surrogates
from ecd_runs import Floats
from ecd_thrust import EDGES, KEPT
from study_runs import Result

from hepgen.samples.originals import JET_COLUMNS

plt.switch_backend("agg")

LABELS = ("m [GeV]", "M", "w", r"ln $\rho$", r"$\tau_{21}$", r"$p_T$ [GeV]")


def residuals(file: Path, sample: Result, thrust: dict[str, Result]) -> None:
    """Figure 1: thrust, and what is left of data / simulation after reweighting, with the spread of the trainings."""
    centres, data = (EDGES[1 : KEPT + 1] + EDGES[:KEPT]) / 2, np.asarray(sample["data"])[:KEPT]
    n = sample["events"]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 7), sharex=True, height_ratios=(1, 2))
    width = EDGES[1]
    for name, values, style in (("data", data, "k-"), ("simulation", np.asarray(sample["sim"])[:KEPT], "C7--")):
        top.plot(EDGES[: KEPT + 1], np.append(values, values[-1]) / width, style, drawstyle="steps-post", label=name)
    top.set(yscale="log", ylabel="density")
    top.legend()
    error = np.sqrt(1 / (data * n["data test"]) + 1 / (np.asarray(sample["sim"])[:KEPT] * n["sim test"]))
    bottom.fill_between(
        EDGES[: KEPT + 1],
        *(np.append(s * error, s * error[-1]) for s in (-1, 1)),
        step="post",
        color="0.85",
        label="statistical, data and simulation",
    )
    shown = [name for name in ("ECD default", "ECD tuned", "Adam tuned", "Adam default") if thrust.get(name, {}).get("spectra")]
    for number, name in enumerate(shown):
        ratio = np.asarray(thrust[name]["spectra"])[:, :KEPT] / data - 1
        spread = ratio.std(axis=0, ddof=1) if len(ratio) > 1 else np.zeros(KEPT)
        shift = (number - (len(shown) - 1) / 2) * width / 8
        bottom.errorbar(centres + shift, ratio.mean(axis=0), spread, fmt="o", ms=4, capsize=2, label=name)
    bottom.axhline(0, color="k", lw=0.8)
    bottom.set(xlabel="1 - T", ylabel="reweighted simulation / data - 1")
    bottom.legend(fontsize="small")
    _save(figure, file)


def corner(file: Path, real: tuple[Floats, Floats] | None, made: Surrogates) -> None:
    """Figure 2: the six observables of the surrogates against one another, and of the samples that the flows were fitted to."""
    d = len(JET_COLUMNS)
    both = np.concatenate([made.sim, made.data])
    edges = [np.linspace(np.quantile(column, 0.002), np.quantile(column, 0.99), 31) for column in both.T]
    figure, axes = plt.subplots(d, d, figsize=(13, 13))
    for i in range(d):
        for j in range(d):
            axis: Any = axes[i, j]
            if j > i:
                axis.axis("off")
                continue
            for color, flow, sample in (
                ("C0", made.sim, None if real is None else real[0]),
                ("C1", made.data, None if real is None else real[1]),
            ):
                if i == j:
                    axis.hist(flow[:, i], edges[i], density=True, histtype="step", color=color)
                    if sample is not None:
                        axis.hist(sample[:, i], edges[i], density=True, alpha=0.25, color=color)
                else:
                    counts, *_ = np.histogram2d(flow[:, j], flow[:, i], (edges[j], edges[i]))
                    axis.contour(
                        *((e[1:] + e[:-1]) / 2 for e in (edges[j], edges[i])), counts.T / counts.max(), (0.1, 0.3, 0.6), colors=color
                    )
            if i == d - 1:
                axis.set_xlabel(LABELS[j])
            if j == 0 and i > 0:
                axis.set_ylabel(LABELS[i])
    figure.suptitle("blue: simulation, orange: data; lines: flows, filled: samples")
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
