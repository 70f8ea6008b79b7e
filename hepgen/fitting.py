"""From a study file to a model, its figures and its report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import OutputError
from hepgen.evaluation import Evaluation, evaluate
from hepgen.events import Features, identity

if TYPE_CHECKING:
    from hepgen.estimators import SimToData
    from hepgen.study import LoadedSample, Study


def fit_study(study: Study, *, overwrite: bool = False, progress: bool | None = None) -> Evaluation:
    """Fit the model of a study, save it as ``model.hepgen`` in the study's folder, and evaluate it into ``report/``.

    The fit keeps ``checkpoints/`` in that folder; after a stop the same call goes on from there.

    Raises
    ------
    OutputError
        When the folder holds a model already and `overwrite` is not set.
    """
    path = study.out / "model.hepgen"
    checkpoints = study.out / "checkpoints"
    if path.exists():
        if not overwrite:
            raise OutputError(f"{path} exists already: give the study another output, or pass --overwrite")
        shutil.rmtree(checkpoints, ignore_errors=True)
    model = study.estimator()
    sim, data = (study.load(which, model.features) for which in ("sim", "data"))
    print(f"sim: {len(sim.events)} of {sim.read} events pass; data: {len(data.events)} of {data.read} events pass")
    options = study.fit.model_dump()
    model.fit(sim.events, data.events, sim.weights, data.weights, seed=study.seed, checkpoint=checkpoints, progress=progress, **options)
    model.save(path, overwrite=overwrite)
    return evaluate_study(study, model, out=study.out / "report", overwrite=overwrite)


def evaluate_study(study: Study, model: SimToData, *, out: Path, overwrite: bool = False) -> Evaluation:
    """Compare data, simulation and transformed simulation of a study; see `hepgen.evaluation.evaluate`."""
    sim, data = (study.load(which, model.features, evaluation=True) for which in ("sim", "data"))
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
