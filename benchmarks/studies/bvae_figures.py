"""Figures 1 to 5 and 9 of paper D from our samples and models."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import bvae_measure
import matplotlib.pyplot as plt
import numpy as np
from bvae_models import COLUMNS, Result, other_prior, runs_of

import hepgen
from hepgen import plots
from hepgen.estimators import EventGenerator
from hepgen.estimators.steering import Steering
from hepgen.metrics import delta_of, fit_delta_extrapolation, ttbar_observables

plt.switch_backend("agg")


#: Whose empty cells are drawn, of those that there are.
DRAWN = ("bvae", "bvae: alpha 1, gamma 0", "bvae: alpha 1, gamma 0.15", "bvae: kde", "maf", "gmm-100", "kde", "smearing-5", "lsgan")


def write(folder: Path, found: Mapping[str, Mapping[str, Result]], options: argparse.Namespace) -> None:
    """Write the figures for which there are models."""
    for part in ("two_body", "z_ll", "ttbar"):
        if "bvae" not in found.get(part, {}):
            continue
        sample = bvae_measure.load(options.samples / part, options.train, options.reference)
        model = cast(EventGenerator, hepgen.load(options.out / found[part]["bvae"]["file"]))
        events, _ = bvae_measure.draw(model, len(sample.reference), options.seed)
        if part == "ttbar":
            both = [ttbar_observables(one) for one in (sample.reference, events)]
            _one(folder / "bvae_figure3.png", both[0].matrix, both[1].matrix, both[0].names)
            _phi(folder / "bvae_figure4.png", *(one.columns("jet1.phi", "jet2.phi") for one in both))
            _empty(folder / "bvae_figure5.png", sample.reference, found[part], options)
            plots.event_display(Steering(model).grid(8, 8), columns=8, path=folder / "bvae_figure9.png")
        else:
            both = [bvae_measure.matrix(part, one) for one in (sample.reference, events)]
            _one(folder / f"bvae_figure1_{part}.png", *both, COLUMNS[part])
        if part == "z_ll":
            normal, _ = bvae_measure.draw(model.with_prior(prior="normal"), len(sample.reference), options.seed)
            _pairs(folder / "bvae_figure2.png", {"events": both[0], "bvae, normal": bvae_measure.matrix(part, normal), "bvae": both[1]})


def _one(file: Path, truth: Any, made: Any, names: Any) -> None:
    """Histograms of all columns."""
    rows = -(-len(names) // 5)
    figure, axes = plt.subplots(rows, 5, figsize=(14, 2.2 * rows), squeeze=False, layout="constrained")
    for k, (axis, name) in enumerate(zip(axes.flat, names, strict=False)):
        edges = np.linspace(*np.quantile(truth[:, k], (0.001, 0.999)) + np.array([0, 1e-9]), 50)
        axis.hist(truth[:, k], edges, color="0.8", density=True, label="events")
        axis.hist(made[:, k], edges, histtype="step", color="C3", density=True, label="bvae")
        axis.set_xlabel(name)
    axes[0, 0].legend()
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _phi(file: Path, truth: Any, made: Any) -> None:
    """Azimuths of the two leading jets, whole and in part."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 8), layout="constrained")
    for row, (name, x) in enumerate((("events", truth), ("bvae", made))):
        for axis, (low, high) in zip(axes[row], ((-np.pi, np.pi), (2, 3)), strict=True):
            axis.hist2d(x[:, 0], x[:, 1], 200, ((low, high), (low, high)))
            axis.set_title(name)
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _pairs(file: Path, samples: Mapping[str, Any]) -> None:
    """Azimuth, polar angle and transverse momentum of one lepton against those of the other, of events of one pair."""
    labels = ("phi [rad]", "theta [rad]", "pT [GeV]")
    figure, axes = plt.subplots(3, len(samples), figsize=(3.4 * len(samples), 10), layout="constrained")
    for column, (name, x) in enumerate(samples.items()):
        p = x.reshape(len(x), 4, 4)
        there = np.any(p != 0, axis=2)
        pairs = there.sum(axis=1) == 2
        momenta = p[pairs][there[pairs]].reshape(-1, 2, 4)[:5000, :, 1:]
        pt = np.hypot(momenta[..., 0], momenta[..., 1])
        values = np.arctan2(momenta[..., 1], momenta[..., 0]), np.arctan2(pt, momenta[..., 2]), pt
        for row, (axis, value, label) in enumerate(zip(axes[:, column], values, labels, strict=True)):
            axis.plot(*value.T, ",", color="0.3" if column == 0 else "C3")
            low, high = ((-np.pi, np.pi), (0, np.pi), (0, 60))[row]
            axis.set(xlim=(low, high), ylim=(low, high), xlabel=f"lepton 1 {label}", ylabel=f"lepton 2 {label}")
        axes[0, column].set_title(f"{name}: one pair in {100 * pairs.mean():.2f} %")
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _empty(file: Path, reference: Any, rows: Mapping[str, Result], options: argparse.Namespace) -> None:
    """The share of empty cells less that of the reference, and delta of the reference with itself by its size."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    truth = ttbar_observables(reference)
    runs = {run.name: run for run in runs_of("ttbar", options.components)}
    for number, name in enumerate(name for name in DRAWN if name in rows):
        file_of = options.out / rows[runs[name].base or name]["file"]
        model = other_prior(runs[name], file_of, options)[0] if runs[name].base else cast(EventGenerator, hepgen.load(file_of))
        made = ttbar_observables(bvae_measure.draw(model, options.generated, options.seed)[0])
        n = min(len(made.matrix), len(truth.matrix))
        for axis, (which, two) in zip(axes, bvae_measure.HOLES.items(), strict=False):
            both = truth.columns(*two)[:n], made.columns(*two)[:n]
            found = delta_of(*both, limits=bvae_measure.LIMITS[which], uncertainty=False)
            axis.plot(np.arange(1, 1001), found.empty - found.empty_reference, color=f"C{number}", label=f"{name}: {found.value:.2f}")
            axis.set(xlabel="sqrt(number of cells)", ylabel=f"share of empty cells ({which}, {which}), less that of events")
    for axis in axes[:2]:
        axis.axhline(0, color="0.6", lw=0.8)
        axis.legend(fontsize=8)
    if "events" in rows:
        sizes = {name: np.asarray(values) for name, values in rows["events"]["sizes"].items()}
        fit = fit_delta_extrapolation(sizes["events"], sizes["value"], sizes["error"])
        axes[2].errorbar(sizes["events"], sizes["value"], sizes["error"], fmt=".", color="k", label="events against events")
        n = np.geomspace(sizes["events"].min(), rows["events"]["extrapolated"][0], 100)
        axes[2].plot(n, [fit.at(float(one))[0] for one in n], color="C3", label="eq. 24")
        axes[2].set(xlabel="events", ylabel="delta", xscale="log", yscale="log")
        axes[2].legend()
    figure.savefig(file, dpi=90)
    plt.close(figure)
