"""Figures 1, 3 and 4 of paper D from our samples and models."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import bvae_measure
import matplotlib.pyplot as plt
import numpy as np
from bvae_models import COLUMNS, Result

import hepgen
from hepgen.estimators import EventGenerator
from hepgen.metrics import ttbar_observables

plt.switch_backend("agg")


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
        else:
            both = [bvae_measure.matrix(part, one) for one in (sample.reference, events)]
            _one(folder / f"bvae_figure1_{part}.png", *both, COLUMNS[part])


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
