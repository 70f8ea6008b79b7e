"""Control region to signal region: figures 2 to 7 of the paper, and its GAN and our flow in one table.

    hepgen samples make gamma_jet --events 100000 --seed 1 --out studies/gamma_jet
    python benchmarks/studies/cgan.py --sample studies/gamma_jet --out studies/cgan

Every model leaves its file and a JSON file in the output folder and is not fitted again. Models that --only leaves out are read from there
where they exist, so that parts can run side by side. The table is written to benchmarks/cgan.md, with --quick (minutes, the same code) to
the output folder, and the figures beside it. The parts are in cgan_*.py beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cgan_figures
import cgan_report
import torch
from cgan_events import Regions, load
from cgan_fits import COPIES, Result, fit_flow, fit_gan
from cgan_measure import measure, scatter
from study_runs import Sizes, Store, parsed, say, table_file

import hepgen
from hepgen import ObjectReplacer
from hepgen.kernels import threads

PARTS = ("flow", "gan", "strategies", "latents")
#: What each option is in full and with --quick, and what it is.
SIZES: Sizes = {
    "events": (None, 4000, "events of each region at most"),
    "test": (20_000, 1000, "events of each region that are kept from the fits"),
    "flow_epochs": (60, 5, "epochs of a flow at most"),
    "networks": (5, 2, "ratio networks of the transfer by condition"),
    "gan_epochs": (200, 2, "epochs of the convolutional pair"),
    "dense_epochs": (40, 2, "epochs of the dense pairs, which differ in their latents and conditions"),
    "every": (2, 1, "epochs from one measurement of -2 ln Lambda to the next"),
    "copies": (10, 2, "objects drawn for each event that is measured"),
    "repeats": (10, 3, "times that latents are drawn anew for the scatter of -2 ln Lambda"),
}


@dataclass(frozen=True)
class Run:
    """One model of the study."""

    part: str
    model: str
    strategy: str
    latent: int = 32

    @property
    def name(self) -> str:
        """What the table calls it."""
        latents = f", {self.latent} latents" if self.part == "latents" else ""
        return f"{self.model}, {self.strategy}{latents}"


RUNS = (
    *(Run("flow", "maf", strategy) for strategy in ("vanilla", "partial", "full")),
    Run("gan", "gan", "full"),
    *(Run("latents", "gan-dense", "full", latent) for latent in (32, 4, 128, 16, 64)),
    *(Run("strategies", "gan-dense", strategy) for strategy in ("partial", "vanilla")),
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with the sizes of --quick where it is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=Path, required=True, help="folder of sr.root and cr.root of `hepgen samples make gamma_jet`")
    parser.add_argument("--out", type=Path, required=True, help="folder of models and results")
    parser.add_argument("--blocks", type=int, default=8, help="of the flow")
    parser.add_argument("--flow-batch", type=int, default=1024)
    parser.add_argument("--gan-batch", type=int, default=1024)
    options = parsed(parser, SIZES, PARTS, arguments)
    options.table = table_file(options, "cgan.md")
    return options


def settings_of(run: Run, options: argparse.Namespace) -> Result:
    """What a model depends on, for the name of its result."""
    names = ["events", "test", "seed"]
    names += ["flow_epochs", "flow_batch", "blocks", "networks"] if run.part == "flow" else ["every", "gan_batch"]
    more = {} if run.part == "flow" else {"epochs": options.gan_epochs if run.part == "gan" else options.dense_epochs}
    return {**{name: getattr(options, name) for name in names}, **more, "model": run.model, "strategy": run.strategy, "latent": run.latent}


def fitted(run: Run, store: Store, regions: Regions, options: argparse.Namespace) -> Result | None:
    """The result of a run, fitted where it is not there yet; "file" is that of the model."""

    def fit(folder: Path) -> Result:
        say(run.name)
        if run.part == "flow":
            model, found = fit_flow(run.strategy, regions, options.networks if run.strategy == "full" else 0, options)
        else:
            epochs = options.gan_epochs if run.part == "gan" else options.dense_epochs
            copies = COPIES if run.part == "gan" else COPIES[:1]
            model, found = fit_gan(run.model, run.strategy, run.latent, epochs, copies, regions, options)
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder / "model.hepgen", overwrite=True)
        return {**found, "file": str((folder / "model.hepgen").relative_to(options.out))}

    return store.get(run.part, run.name, settings_of(run, options), fit)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit what is missing, measure all models on the same events, write table and figures."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with threads(options.threads or torch.get_num_threads()):
        regions = load(options.sample, options.events, options.test)
        store = Store(options.out, options.only)
        found = {run: result for run in RUNS if (result := fitted(run, store, regions, options))}
        if 0 < len(options.only) < len(PARTS):
            say("measure and report with all parts")
            return
        say("measuring")
        models = {run: cast(ObjectReplacer, hepgen.load(options.out / result["file"])) for run, result in found.items()}
        weighted = {run.name for run in models if run.strategy == "full" and run.part != "latents"}
        measured = measure({run.name: model for run, model in models.items()}, regions, options.copies, weighted)
        scattered = {}
        for run, model in models.items():
            if run.part != "strategies" and run.strategy == "full" and run.latent == 32:
                say(f"latents anew: {run.name}")
                scattered[run.name] = scatter(model, regions.test, sorted(COPIES)[: None if run.part == "flow" else 2], options.repeats)
    runs: list[tuple[Any, Result]] = list(found.items())
    text = cgan_report.table(runs, measured, scattered, regions, options, __doc__ or "")
    options.table.write_text(text, encoding="utf-8")
    cgan_figures.write(options.table.parent, runs, measured)
    print(text)


if __name__ == "__main__":
    main()
