"""The four losses of the sim-to-data paper side by side on the diphoton stand-in: its Table 1, chi2 and classifier AUC.

    hepgen samples make diphoton --events 400000 --seed 1 --out studies/diphoton
    hepgen samples make diphoton --events 100000 --seed 2 --out studies/diphoton-independent
    python benchmarks/studies/sim_to_data.py --fit studies/diphoton --evaluate studies/diphoton-independent --out studies/sim-to-data

The log-loss fit is the common start: the other three go on from it (a warm start, said in the table). Stopped, the same
command goes on where it was. The table is written to benchmarks/sim_to_data.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from hepgen import __version__
from hepgen.demo import PATHS
from hepgen.estimators import load
from hepgen.fitting import evaluate_study, fit_study
from hepgen.study import EvaluationSection, FeaturesSection, FitSection, SampleSection, SelectionSection, Study

LOSSES = ("nll", "kl", "mmd", "mdmm")


def study(loss: str, options: argparse.Namespace) -> Study:
    """The study of one loss; log loss first where the loss is another."""
    warm = {} if loss == "nll" else {"warm_start": options.epochs}
    fit = FitSection(epochs=options.epochs, batch_size=options.batch_size)
    if loss != "nll":
        fit = FitSection(epochs=options.more_epochs, batch_size=options.batch_size)
    independent = EvaluationSection(
        sim=SampleSection(files=[str((options.evaluate / "sim.root").resolve())]),
        data=SampleSection(files=[str((options.evaluate / "data.root").resolve())]),
    )
    return Study(
        output=str((options.out / loss).resolve()),
        sim=SampleSection(files=[str((options.fit / "sim.root").resolve())]),
        data=SampleSection(files=[str((options.fit / "data.root").resolve())]),
        features=FeaturesSection(paths=PATHS),
        selection=SelectionSection(name="diphoton"),
        fit_selection=SelectionSection(name="diphoton-any-mass"),
        model={"loss": loss, "outside": "reject", **warm},
        fit=fit,
        evaluation=independent,
    )


def run(loss: str, options: argparse.Namespace) -> None:
    """Fit and evaluate one loss, unless it was done before."""
    plan = study(loss, options)
    if (plan.out / "model.hepgen").exists():
        if not (plan.out / "report" / "metrics.json").exists():
            evaluate_study(plan, load(plan.out / "model.hepgen"), out=plan.out / "report", overwrite=True)
        return
    fit_study(plan)


def share_start(options: argparse.Namespace) -> None:
    """Give the other losses the finished log-loss checkpoint, so that its fit is done once."""
    done = options.out / "nll" / "checkpoints" / "nll.checkpoint"
    for loss in LOSSES[1:]:
        copy = options.out / loss / "checkpoints" / "nll.checkpoint"
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(done, copy)


def main() -> None:
    """Fit, evaluate, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, required=True, help="folder of sim.root and data.root to fit")
    parser.add_argument("--evaluate", type=Path, required=True, help="folder of an independent sim.root and data.root")
    parser.add_argument("--out", type=Path, required=True, help="folder for models and reports")
    parser.add_argument("--table", type=Path, default=Path(__file__).parent.parent / "sim_to_data.md", help="file of the table")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of log loss")
    parser.add_argument("--more-epochs", type=int, default=15, help="epochs of the other losses after it")
    parser.add_argument("--batch-size", type=int, default=4096)
    options = parser.parse_args()
    for loss in LOSSES:
        run(loss, options)
        if loss == "nll":
            share_start(options)
    text = table(options)
    options.table.write_text(text, encoding="utf-8")
    print(text)


def table(options: argparse.Namespace) -> str:
    """The study as Markdown: the paper's Table 1 beside ours, chi2, AUC, fraction outside, time."""
    found = {loss: json.loads((options.out / loss / "report" / "metrics.json").read_text(encoding="utf-8")) for loss in LOSSES}
    models = {loss: load(options.out / loss / "model.hepgen") for loss in LOSSES}
    seconds = {loss: sum(row["seconds"] for row in model.record["stages"][-1]["epochs"]) for loss, model in models.items()}
    pairs = list(found["nll"]["correlations"]["table"]["data"])
    shapes = list(found["nll"]["chi2"])
    rows = [_row("data", found["nll"], "data", pairs, shapes), _row("simulation", found["nll"], "simulation", pairs, shapes)]
    rows += [_row(loss, found[loss], "transformed", pairs, shapes, seconds[loss]) for loss in LOSSES]
    header = ["sample", *pairs, "largest difference", "AUC", "outside, first draw", *(f"chi2/ndf {name}" for name in shapes), "fit [s]"]
    counts = {name: entry["events"] for name, entry in found["nll"]["samples"].items()}
    events = {which: models["nll"].record["events"][which] for which in ("sim", "data")}
    floor = found["nll"]["auc"]["floor"]
    about = f"""\
# Simulation to data: the four losses on the diphoton stand-in

{time.strftime("%Y-%m-%d")}, hepgen {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads.
Fitted to {events["sim"]} simulated and {events["data"]} data events, evaluated on independent samples
of {counts["simulation"]} and {counts["data"]} that pass the selection.
The fit takes any mass; the mass cut is applied to what is transformed.
{options.epochs} epochs of log loss in batches of {options.batch_size}; for each of the other losses
{options.more_epochs} epochs from there (a warm start; the time is that of these epochs).
Transformed events outside the selection are drawn again; how many that were on the first draw is in the table.
AUC of a 2 x 32 classifier on its held-out half; data against shuffled data gives {floor["value"]:.4f} ± {floor["error"]:.4f}.
"""
    commands = [line.strip() for line in (__doc__ or "").splitlines() if line.startswith("    ")]
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join([about, "```sh", *commands, "```", "", *lines, ""])


def _row(label: str, found: dict[str, Any], sample: str, pairs: list[str], shapes: list[str], seconds: float | None = None) -> list[str]:
    correlations = [f"{found['correlations']['table'][sample][pair]['value']:.4f}" for pair in pairs]
    if sample == "data":
        return [label, *correlations, "", "", _percent(found, sample), *[""] * len(shapes), ""]
    auc = found["auc"][sample]
    return [
        label,
        *correlations,
        f"{found['correlations']['largest_difference'][sample]:.4f}",
        f"{auc['value']:.4f} ± {auc['error']:.4f}",
        _percent(found, sample),
        *(f"{found['chi2'][name][sample]['per_ndf']:.2f}" for name in shapes),
        "" if seconds is None else f"{seconds:.0f}",
    ]


def _percent(found: dict[str, Any], sample: str) -> str:
    return f"{100 * found['outside_selection']['untreated' if sample == 'transformed' else sample]['fraction']:.2f} %"


if __name__ == "__main__":
    main()
