"""The main job on the packaged files: data-like simulation, the pictures that prove it, and an analysis that uses it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from hepgen.applying import apply_file
from hepgen.errors import MissingDependency, OutputError, UsageError
from hepgen.estimators import load
from hepgen.events import open_info, write_histograms
from hepgen.fitting import fit_study, outputs
from hepgen.histograms import axis_for
from hepgen.study import EvaluationSection, FeaturesSection, FitSection, SampleSection, SelectionSection, Study

if TYPE_CHECKING:
    from hepgen.evaluation import Evaluation
    from hepgen.examples.diphoton import Result

#: Epochs of MDMM, and how many times as many of log loss come before them.
EPOCHS, WARM_START = 10, 8
PATHS = [f"photon[{i}].{coordinate}" for i in (0, 1) for coordinate in ("pt", "eta", "phi")]


def demo_study(out: Path, sim: Path, data: Path, independent: Path, epochs: int = EPOCHS) -> Study:
    """The study of the demo: the six photon coordinates, the diphoton selection, MDMM after a short log-loss warm start."""
    return Study(
        output=str(out.resolve()),
        sim=SampleSection(files=[str(sim)]),
        data=SampleSection(files=[str(data)]),
        features=FeaturesSection(paths=PATHS),
        selection=SelectionSection(name="diphoton"),
        fit_selection=SelectionSection(name="diphoton-any-mass"),
        model={"loss": "mdmm", "warm_start": WARM_START * epochs, "outside": "reject"},
        fit=FitSection(epochs=epochs, batch_size=512),
        evaluation=EvaluationSection(sim=SampleSection(files=[str(independent)])),
    )


def run_demo(out: Path, *, epochs: int | None = None, overwrite: bool = False, progress: bool | None = None) -> None:
    """Run the demo into the folder `out` and print the table of figures and the files written.

    Raises
    ------
    OutputError
        When `out` exists and `overwrite` is not set.
    """
    from rich.console import Console

    from hepgen import samples

    if out.exists() and any(out.iterdir()) and not overwrite:
        raise OutputError(f"the folder {out} is not empty: choose another with --out, or pass --overwrite")
    started = time.monotonic()
    console = Console(width=None if Console().is_terminal else 140)
    files = samples.packaged("diphoton")
    study = demo_study(out, files["sim"], files["data"], files["sim_independent"], epochs or EPOCHS)
    console.print(
        f"fitting {study.model['loss']} for {study.fit.epochs} epochs after {study.model['warm_start']} epochs of log loss (warm start)"
    )
    evaluation = run(study, files["sim_independent"], overwrite=overwrite, progress=progress)
    console.print(evaluation.table())
    console.print("H -> yy on that background, through coffea to pyhf:")
    result = analyse(study, files["sim_independent"], files["data"], overwrite=overwrite, progress=progress)
    console.print(str(result), highlight=False)
    console.print("files written:")
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        console.print(f"  {path}  ({path.stat().st_size / 1024:.0f} kB)", soft_wrap=True, highlight=False)
    console.print(f"done in {time.monotonic() - started:.0f} s")


def run(study: Study, independent: Path, *, overwrite: bool = False, progress: bool | None = None) -> Evaluation:
    """Fit a study, transform an independent simulation file, and fill histograms of it in a coffea processor."""
    evaluation = fit_study(study, overwrite=overwrite, progress=progress)
    if evaluation is None:
        raise UsageError("the demo runs in one process: start it without torchrun")
    path = study.out / "model.hepgen"
    transformed = study.out / "transformed.root"
    done = apply_file(load(path), independent, transformed, overwrite=overwrite, progress=progress)
    print(f"{transformed.name}: {done.events} events, {done.transformed} transformed, {done.untouched} passed through")
    fill_histograms(study, path, independent, overwrite=overwrite)
    return evaluation


def analyse(study: Study, independent: Path, data: Path, *, overwrite: bool = False, progress: bool | None = None) -> Result:
    """Fit a second flow, with another seed and the log loss alone, and run the worked analysis with both into ``higgs/``."""
    try:
        from hepgen.examples import diphoton
    except ImportError as error:
        raise MissingDependency("the analysis runs in coffea and pyhf: pip install 'hepgen[coffea,plot,pyhf]'") from error
    other = study.model_copy(update={"model": {"loss": "nll", "outside": study.model["outside"]}, "seed": study.seed + 1}).estimator()
    epochs = study.model["warm_start"] // 2
    sim, target = (study.load(which, other.features) for which in ("sim", "data"))
    options = {"epochs": epochs, "batch_size": study.fit.batch_size, "seed": study.seed + 1, "progress": progress}
    other.fit(sim.events, target.events, sim.weights, target.weights, **options)
    path = other.save(study.out / "other.hepgen", overwrite=overwrite)
    return diphoton.run(independent, data, study.out / "model.hepgen", path, study.out / "higgs", overwrite=overwrite)


def fill_histograms(study: Study, model: Path, independent: Path, *, overwrite: bool = False) -> list[Path]:
    """Fill every transformed column before and after, and in data, by the coffea processor; write ``histograms.root`` and its JSON."""
    try:
        from coffea.nanoevents import BaseSchema
        from coffea.processor import IterativeExecutor, Runner
        from hepgen_coffea import TransformProcessor
    except ImportError as error:
        raise MissingDependency("the histograms are filled by a coffea processor: pip install 'hepgen[coffea]'") from error
    fitted = load(model)
    data = study.load("data", fitted.features)
    columns = dict(zip(fitted.features.outputs, outputs(fitted.features, data.events).T, strict=True))
    booked = {name: (name, axis_for(name, values)) for name, values in columns.items()}
    processor = TransformProcessor(model, booked, selection=fitted.selection, data={"data"})
    sources = {"simulation": [str(independent)], "data": [str(study.folder / file) for file in study.data.files]}
    fileset = {name: {"files": {file: open_info(file).tree for file in files}} for name, files in sources.items()}
    found = Runner(executor=IterativeExecutor(status=False), schema=BaseSchema)(fileset, processor)
    summed = {name: found["simulation"]["hists"][name] + found["data"]["hists"][name] for name in booked}
    split = {f"{sample}/{name}": h[sample, ...] for name, h in summed.items() for sample in h.axes[0]}
    return write_histograms(study.out / "histograms.root", split, overwrite=overwrite)
