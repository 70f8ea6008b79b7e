"""Generators of events on the three samples of paper D: its B-VAE, the baselines and flows, side by side.

    hepgen samples make ttbar --events 300000 --seed 1 --out studies/ttbar
    hepgen samples make two_body --events 200000 --seed 1 --out studies/two_body
    hepgen samples make z_ll --events 200000 --seed 1 --out studies/z_ll
    python benchmarks/studies/bvae.py --samples studies --out studies/bvae

Every model leaves its file and a JSON file in the output folder and is not fitted again. What --only and --models leave out is read from
there where it exists, so that parts can run side by side. The table is written to benchmarks/bvae.md, with --quick (the same code) to the
output folder, and the figures beside it. The parts are in bvae_*.py beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import bvae_figures
import bvae_measure
import bvae_report
import torch
from bvae_measure import Sample
from bvae_models import Result, Run, epochs_of, fit, other_prior, runs_of
from study_runs import Sizes, Store, parsed, say, table_file

import hepgen
from hepgen.estimators import EventGenerator
from hepgen.kernels import threads

PARTS = ("ttbar", "two_body", "z_ll", "speed")
#: What each option is in full and with --quick, and what it is.
SIZES: Sizes = {
    "train": (100_000, 1500, "events that are learnt from"),
    "reference": (None, 1500, "other events to compare with at most"),
    "generated": (200_000, 1500, "events drawn of each model"),
    "bvae_epochs": (1440, 8, "epochs of the B-VAE of ttbar in all, 4 x 240 + 4 x 120 in the paper"),
    "short_epochs": (240, 8, "epochs of the other B-VAEs"),
    "second_epochs": (100, 1, "epochs of the second stage of the prior two-stage"),
    "maf_epochs": (60, 1, "epochs of maf at most"),
    "matching_epochs": (100, 1, "epochs of flow-matching"),
    "gan_epochs": (100, 1, "epochs of each adversarial pair"),
    "copies": (20_000, 500, "generated events whose nearest neighbours are looked for"),
    "points": (12, 5, "sizes at which the reference is compared with itself"),
    "timed": (1_000_000, 5000, "events drawn for the speed"),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with the sizes of --quick where it is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", type=Path, required=True, help="folder of the folders ttbar, two_body and z_ll of `hepgen samples make`"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of models and results")
    parser.add_argument("--models", help="models that may be fitted, by semicolon; a B-VAE brings its priors with it (all)")
    parser.add_argument("--components", default="50,100", help="Gaussians of the mixtures of events, by comma")
    options = parsed(parser, SIZES, PARTS, arguments)
    options.models = None if options.models is None else tuple(options.models.split(";"))
    options.components = tuple(int(n) for n in options.components.split(","))
    names = [run.name for part in PARTS[:3] for run in runs_of(part, options.components) if run.base is None]
    if options.models is not None and set(options.models) - set(names):
        parser.error(f"--models knows {'; '.join(dict.fromkeys(names))}, not {'; '.join(sorted(set(options.models) - set(names)))}")
    options.table = table_file(options, "bvae.md")
    return options


def settings_of(run: Run, options: argparse.Namespace) -> Result:
    """What a result depends on, for its name."""
    sizes = {name: getattr(options, name) for name in ("train", "reference", "generated", "copies", "seed")}
    second = {"second": options.second_epochs} if run.prior.get("prior") == "two-stage" else {}
    return {**sizes, **second, "epochs": epochs_of(run, options), "model": run.model, "settings": run.settings, "prior": run.prior}


def measured(run: Run, sample: Sample, model: EventGenerator, options: argparse.Namespace) -> Result:
    """The figures of a model, from events drawn of it."""
    events, rate = bvae_measure.draw(model, options.generated, options.seed)
    if run.part == "ttbar":
        found = bvae_measure.ttbar(sample, events, options.copies)
    else:
        found = getattr(bvae_measure, run.part)(bvae_measure.matrix(run.part, events))
    return {**found, "rate": rate}


def part(name: str, store: Store, options: argparse.Namespace) -> dict[str, Result]:
    """The results of all models of a part that are there or may be computed."""
    sample = bvae_measure.load(options.samples / name, options.train, options.reference)
    found: dict[str, Result] = {}
    for run in runs_of(name, options.components):

        def compute(folder: Path, run: Run = run) -> Result:
            say(f"{name}: {run.name}")
            if run.base is None:
                model, seconds = fit(run, sample.training, folder, options)
            else:
                model, seconds = other_prior(run, options.out / found[run.base]["file"], options)
            file = folder / "model.hepgen"
            if run.base is None:
                file.parent.mkdir(parents=True, exist_ok=True)
                model.save(file, overwrite=True)
            return {**measured(run, sample, model, options), "seconds": seconds, "file": str(file.relative_to(options.out))}

        if run.base is not None and run.base not in found:
            continue
        may = name in options.only and (options.models is None or (run.base or run.name) in options.models)
        result = Store(options.out, [name] if may else []).get(name, run.name, settings_of(run, options), compute)
        if result is not None:
            found[run.name] = result
    sizes = {key: getattr(options, key) for key in ("train", "reference", "points")}
    truth = store.get(name, "events", sizes, lambda _: _truth(name, sample, options))
    return {**({} if truth is None else {"events": truth}), **found}


def _truth(name: str, sample: Sample, options: argparse.Namespace) -> Result:
    say(f"{name}: events against events")
    if name == "ttbar":
        return bvae_measure.ideal(sample, options.points)
    return cast(Result, getattr(bvae_measure, name)(bvae_measure.matrix(name, sample.reference)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit what is missing, measure, write table and figures."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    store = Store(options.out, options.only)
    with threads(options.threads or torch.get_num_threads()):
        found = {name: part(name, store, options) for name in PARTS[:3] if (options.samples / name / "events.root").exists()}
        bvae = found.get("ttbar", {}).get("bvae")
        if bvae is not None:
            model = cast(EventGenerator, hepgen.load(options.out / bvae["file"]))
            settings = {"timed": options.timed, "threads": options.threads, "file": bvae["file"]}
            speed = store.get("speed", "bvae", settings, lambda _: bvae_measure.speed(model, options.timed))
            found |= {} if speed is None else {"speed": {"bvae": speed}}
    if options.models is not None or 0 < len(options.only) < len(PARTS):
        say("the table is written with all parts and models")
        return
    text = bvae_report.table(found, options, __doc__ or "")
    options.table.write_text(text, encoding="utf-8")
    bvae_figures.write(options.table.parent, found, options)
    print(text)


if __name__ == "__main__":
    main()
