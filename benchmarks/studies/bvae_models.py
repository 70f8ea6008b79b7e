"""The models of the study of paper D, and how each is fitted."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import hepgen
from hepgen import Features
from hepgen.estimators import EventGenerator

Result = dict[str, Any]

_FOUR = ("E", "pt", "eta", "phi")
_CARTESIAN = ("E", "px", "py", "pz")
COLUMNS = {
    "ttbar": [*(f"{name}[{k}].{q}" for name, n in (("Jet", 4), ("Lepton", 2)) for k in range(n) for q in _FOUR), "MET_pt", "MET_phi"],
    "two_body": [f"Particle[{k}].{q}" for k in (0, 1) for q in (*_CARTESIAN, "mass")],
    "z_ll": [f"{flavour}[{k}].{q}" for flavour in ("Electron", "Muon") for k in (0, 1) for q in _CARTESIAN],
}
GAMMAS, ALPHAS = (0.0, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3), (1.0, 5.0)


@dataclass(frozen=True)
class Run:
    """One model of a part; with `base`, that model with the prior settings `prior`."""

    part: str
    name: str
    model: str
    settings: Result = field(default_factory=dict, hash=False)
    base: str | None = None
    prior: Result = field(default_factory=dict, hash=False)


def _vaes(part: str, name: str, settings: Result) -> list[Run]:
    """A B-VAE, its scan over alpha and gamma, and its other priors."""
    runs = [Run(part, name, "bvae", settings)]
    scan = [{"alpha": alpha, "gamma": gamma} for alpha in ALPHAS for gamma in GAMMAS]
    others: list[Result] = [{"prior": "normal"}, {"prior": "kde"}, *({"prior": "gmm", "components": n} for n in (50, 100))]
    others += [{"prior": "two-stage", "second_beta": beta} for beta in (1e-6, 1e-4, 1e-3, 1e-2, 1.0)]
    if part != "ttbar":
        scan, others = [], others[:1]
    for prior in (*scan, *others):
        label = ", ".join(f"{value}" if key == "prior" else f"{key} {value:g}" for key, value in prior.items())
        runs.append(Run(part, f"{name}: {label}", "bvae", settings, name, prior))
    return runs


def runs_of(part: str, components: tuple[int, ...]) -> list[Run]:
    """All models of a part."""
    runs = _vaes(part, "bvae", {}) + [Run(part, name, name) for name in ("maf", "flow-matching")]
    if part != "ttbar":
        return runs
    runs += _vaes(part, "bvae-max-abs", {"scaler": "max-abs", "relative_angles": False, "masses": False})
    runs += [Run(part, f"smearing-{percent}", "smearing", {"smearing": percent / 100}) for percent in (5, 10)]
    runs += [Run(part, "kde", "kde"), *(Run(part, f"gmm-{n}", "gmm", {"components": n}) for n in components)]
    return runs + [Run(part, name, name) for name in ("lsgan", "wgan", "wgan-gp", "mmd-gan", "dijet-gan")]


def epochs_of(run: Run, options: argparse.Namespace) -> int | None:
    """Epochs of a fit; None for the model's own schedule, and where there are none."""
    if run.model in ("kde", "gmm", "smearing"):
        return None
    vae = "bvae_epochs" if run.part == "ttbar" and not run.settings else "short_epochs"
    named = {"bvae": vae, "maf": "maf_epochs", "flow-matching": "matching_epochs"}
    return cast(int, getattr(options, named.get(run.model, "gan_epochs")))


def fit(run: Run, events: Any, folder: Path, options: argparse.Namespace) -> tuple[EventGenerator, float]:
    """A fitted model and the seconds that took, those before it was stopped and went on included."""
    model = EventGenerator(Features(COLUMNS[run.part]), run.model, **run.settings)
    began = time.perf_counter()
    model.fit(events, epochs=epochs_of(run, options), seed=options.seed, checkpoint=folder / "fit", progress=False)
    epochs = sum(epoch.get("seconds", 0.0) for epoch in model.record.get("epochs", []))
    return model, max(time.perf_counter() - began, epochs)


def other_prior(run: Run, file: Path, options: argparse.Namespace) -> tuple[EventGenerator, float]:
    """The model of a file with another prior, and the seconds that took."""
    model = cast(EventGenerator, hepgen.load(file))
    more = {"epochs": options.second_epochs} if run.prior.get("prior") == "two-stage" else {}
    began = time.perf_counter()
    return model.with_prior(**run.prior, **more), time.perf_counter() - began
