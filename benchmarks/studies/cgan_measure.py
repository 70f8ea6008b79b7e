"""All models on the same events: in the signal region the object drawn anew, in the control region the object replaced."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cgan_events import LABELS, PICKS, TRUE_PICKS, Floats, Made, Region, Regions, figure_columns, massless, replaced
from study_runs import say

from hepgen import ObjectReplacer
from hepgen.errors import InputError
from hepgen.events import identity
from hepgen.metrics import CorrelationChi, LambdaReference, LambdaScore, correlation_chi, lambda_score, marginal_chi2

#: Columns whose shape is compared: all of `LABELS`. Those of the object come first.
SHAPES = 40
_D = len(LABELS)


@dataclass(frozen=True)
class Measured:
    """What a model, or a sample, does."""

    score: LambdaScore | None
    chi: CorrelationChi
    shapes: dict[str, float | None]
    objects: Floats = field(repr=False)
    """pT, eta and ID (n, 3) of the objects, once for each event."""
    weights: Floats = field(repr=False)


def measure(models: Mapping[str, ObjectReplacer], regions: Regions, copies: int, by_condition: Collection[str]) -> dict[str, Measured]:
    """Measure the regions themselves and all models, those named with the transfer by condition as well, where a model has learned it."""
    real, control, again = (region.matrix() for region in (regions.test, regions.control, regions.again))
    found = {
        "signal region": Measured(None, *_compared(real, _alone(real)), real[:, :3], np.ones(len(real))),
        "control region as it is": _sample(real, control),
        "signal region, other events": _sample(real, again),
    }
    transfers = [model.transfer_weights(regions.control.events)[0] for model in models.values() if model.condition_transfer is not None]
    for name, model in models.items():
        say(f"measuring {name}")
        score = _score(real, replaced(model, regions.test, copies, TRUE_PICKS))
        made = replaced(model, regions.control, copies, PICKS)
        found[name] = _model(real, made, score, copies)
        if name in by_condition and transfers:
            weighted = made._replace(weights=np.tile(transfers[0] / copies, copies))
            found[f"{name}, by condition"] = _model(real, weighted, score, copies)
    return found


def scatter(model: ObjectReplacer, region: Region, copies: Sequence[int], repeats: int, bins: int = 10) -> dict[int, tuple[float, float]]:
    """Mean and standard deviation of -2 ln Lambda per event of one model from fresh latents, for several numbers of objects an event."""
    features = model.features.bind(region.picked)
    matrix = features.to_matrix(region.events)[0]
    keys, reference = identity(region.events), LambdaReference(_pairs(matrix), bins=bins)
    found = {}
    for number in copies:
        starts = range(0, repeats * number, number)
        drawn = ((model.transform_matrix(matrix, keys, copy=copy) for copy in range(start, start + number)) for start in starts)
        values = [reference.score(_pairs(np.column_stack([objects, matrix[:, 4:]])) for objects in part).per_event for part in drawn]
        found[number] = (float(np.mean(values)), float(np.std(values, ddof=1)))
    return found


def _pairs(matrix: Floats) -> Floats:
    """Columns of a model that knows the other photon (n, 8 or more) -> those of -2 ln Lambda (n, 4)."""
    pair = massless(matrix[:, :3]) + massless(matrix[:, 4:7])
    return np.column_stack([matrix[:, 0], np.abs(matrix[:, 1]), matrix[:, 3], pair.pt / pair.mass])


def _alone(matrix: Floats) -> Made:
    return Made(matrix, np.ones(len(matrix)), np.arange(len(matrix)))


def _sample(real: Floats, matrix: Floats) -> Measured:
    return Measured(_score(real, _alone(matrix)), *_compared(real, _alone(matrix)), matrix[:, :3], np.ones(len(matrix)))


def _model(real: Floats, made: Made, score: LambdaScore, copies: int) -> Measured:
    n = len(made.matrix) // copies
    return Measured(score, *_compared(real, made, n), made.matrix[:n, :3], made.weights[:n] * copies)


def _score(real: Floats, made: Made) -> LambdaScore:
    return lambda_score(figure_columns(real), figure_columns(made.matrix), generated_weights=made.weights)


def _compared(real: Floats, made: Made, once: int | None = None) -> tuple[CorrelationChi, dict[str, float | None]]:
    """Distance correlations of all copies, and shapes of the first, whose errors are those of independent events."""
    chi = correlation_chi(real[:, :_D], made.matrix[:, :_D], LABELS, b_weights=made.weights, b_events=made.events)
    shapes: dict[str, float | None] = {}
    for column, label in enumerate(LABELS):
        x, y, w = real[:, [column]], made.matrix[:once, [column]], made.weights[:once]
        try:
            shapes[label] = marginal_chi2(x, y, [label], SHAPES, b_weights=w)[label].per_ndf
        except InputError:  # no common bins: the ID of a photon that fails
            shapes[label] = None
    return chi, shapes
