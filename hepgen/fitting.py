"""From a study file to a model, its figures and its report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import OutputError
from hepgen.estimators.weigher import Weigher
from hepgen.evaluation import Evaluation, evaluate
from hepgen.events import Features, identity, write_histograms
from hepgen.histograms import axis_for, book, fill
from hepgen.variations import NOMINAL, pair

if TYPE_CHECKING:
    from hist import Hist

    from hepgen.estimators import Reweighter, SimToData
    from hepgen.study import LoadedSample, Study

SAMPLES = ("data", "simulation", "reweighted")
#: Variations of the reweighted simulation: those that `hepgen_coffea.ReweightProcessor` fills too.
SIDES = (NOMINAL, *pair("reweighter"))


def fit_study(study: Study, *, overwrite: bool = False, progress: bool | None = None) -> Evaluation | None:
    """Fit the model of a study, save it as ``model.hepgen`` in the study's folder, and evaluate it into ``report/``.

    The fit keeps ``checkpoints/`` in that folder; after a stop the same call goes on from there. Where torchrun started several ranks they
    fit together, and each reads its part of the files; the first one saves and evaluates, and the others return None.

    Raises
    ------
    OutputError
        When the folder holds a model already and `overwrite` is not set.
    """
    from hepgen import ranks

    path = study.out / "model.hepgen"
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already: give the study another output, or pass --overwrite")
    with ranks.joined(study.fit.device or "cpu"):
        first = ranks.number() == 0
        checkpoints = study.out / "checkpoints"
        if path.exists() and first:
            shutil.rmtree(checkpoints, ignore_errors=True)
        ranks.wait()
        model = study.estimator()
        share = ranks.number(), ranks.count()
        options = {"seed": study.seed, "checkpoint": checkpoints, "progress": progress if first else False, **study.fit_options()}
        if study.fit.stream:
            model.fit(study.stream("sim", share), study.stream("data", share), **options)
        else:
            sim, data = (study.load(which, model.features, share=share) for which in ("sim", "data"))
            counts = np.sum(ranks.objects([len(sim.events), sim.read, len(data.events), data.read]), axis=0)
            if first:
                print("sim: {} of {} events pass; data: {} of {} events pass".format(*counts))
            model.fit(sim.events, data.events, sim.weights, data.weights, **options)
    if not first:
        return None
    model.save(path, overwrite=overwrite)
    return evaluate_study(study, model, out=study.out / "report", overwrite=overwrite)


def evaluate_study(study: Study, model: SimToData | Reweighter, *, out: Path, overwrite: bool = False) -> Evaluation:
    """Compare data, simulation and what the model makes of it; see `hepgen.evaluation.evaluate`.

    A reweighting leaves ``histograms.root`` in the folder `out` too: every feature and variable of data, simulation and reweighted
    simulation with its variations.
    """
    sim, data = (study.load(which, model.features, evaluation=True) for which in ("sim", "data"))
    if isinstance(model, Weigher):
        options = {"seed": study.seed, "out": out, "overwrite": overwrite, "title": study.out.name}
        found = evaluate_weights(model, sim, data, **options)
        booked = reweighted_histograms(model, sim, data, study.evaluation.variables)
        write_histograms(out / "histograms.root", booked, overwrite=overwrite)
        return found
    return evaluate_model(model, sim, data, seed=study.seed, out=out, overwrite=overwrite, title=study.out.name)


def evaluate_model(model: SimToData, sim: LoadedSample, data: LoadedSample, **options: Any) -> Evaluation:
    """Transform a loaded simulation and evaluate it against loaded data; `options` go to `hepgen.evaluation.evaluate`."""
    keys = identity(sim.events)
    keys = np.arange(len(sim.events), dtype=np.uint64)[:, None] if keys is None else keys
    transformed = model.transform(sim.events, identity=keys)
    sim_matrix, data_matrix, moved = (outputs(model.features, events) for events in (sim.events, data.events, transformed))
    whole, _ = model.features.to_matrix(sim.events)
    untreated = model.transform_matrix(whole, keys, outside="keep") if model.outside != "keep" else None
    return evaluate(
        model.features,
        sim_matrix,
        data_matrix,
        moved,
        sim_weights=sim.weights,
        data_weights=data.weights,
        transformed_weights=sim.weights,
        selection=model.selection,
        untreated=untreated,
        history=history(model.record),
        **options,
    )


def evaluate_weights(model: Weigher, sim: LoadedSample, data: LoadedSample, **options: Any) -> Evaluation:
    """Weight a loaded simulation and evaluate it against loaded data; `options` go to `hepgen.evaluation.evaluate`."""
    sim_matrix, data_matrix = (outputs(model.features, events) for events in (sim.events, data.events))
    weights = sim.weights * model.weights(sim.events)
    samples = {"sim_weights": sim.weights, "data_weights": data.weights, "transformed_weights": weights, "result": "reweighted"}
    return evaluate(model.features, sim_matrix, data_matrix, sim_matrix, selection=model.selection, **samples, **options)


def reweighted_histograms(model: Weigher, sim: LoadedSample, data: LoadedSample, variables: Sequence[str] = ()) -> dict[str, Hist[Any]]:
    """Histograms of every feature and variable: data, simulation, and simulation with the weights of a model and their variations.

    Parameters
    ----------
    model
        A fitted `hepgen.Reweighter`.
    sim, data
        As `hepgen.study.load_sample` gives them.
    variables
        Expressions of `hepgen.Features`, such as "mass(photon[0], photon[1])".

    Returns
    -------
    dict of column -> hist.Hist with the axes dataset ("data", "simulation", "reweighted"), variation ("nominal", "reweighterUp",
    "reweighterDown"; the first alone for one network) and the column. Data and simulation have their own weights.
    """
    columns = Features(model.features.outputs, computed=[*model.features.computed, *variables])
    (x, there), (y, seen) = (columns.to_matrix(sample.events) for sample in (sim, data))
    weights, target = sim.weights[there], data.weights[seen]
    if model.ensemble > 1:
        factors = model.variations(sim.events)
        found = {variation: weights * factors[name][there] for name, variation in zip(("nominal", "up", "down"), SIDES, strict=True)}
    else:
        found = {SIDES[0]: weights * model.weights(sim.events)[there]}
    booked = {}
    for number, name in enumerate(columns.names):
        booked[name] = book(axis_for(name, y[:, number]), samples=SAMPLES, variations=["reweighter"] if model.ensemble > 1 else True)
        for sample, values, weight in (("data", y, target), ("simulation", x, weights), ("reweighted", x, found)):
            fill(booked[name], {name: values[:, number]}, weight, sample=sample)
    return booked


def outputs(features: Features, events: Any) -> NDArray[np.float64]:
    """The columns of `events` that are transformed, (n, outputs) in GeV and rad."""
    matrix, _ = features.to_matrix(events)
    return matrix[:, : len(features.outputs)]


def history(record: dict[str, Any]) -> dict[str, list[float]]:
    """The last stage of a training record as columns for the figures: epoch, train, valid, and what each step recorded."""
    stage = record["stages"][-1]
    columns: dict[str, list[float]] = {name: [row[name] for row in stage["epochs"]] for name in ("epoch", "train", "valid")}
    steps: dict[str, list[float]] = stage["steps"]
    return columns | steps
