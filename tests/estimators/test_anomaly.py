"""An injected signal is found by the anomaly score: the area under its ROC curve."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest

import hepgen
from hepgen.events import Features
from hepgen.kernels import threads
from hepgen.metrics import roc_curve, weighted_auc
from hepgen.samples import two_body

FEATURES = Features([f"Particle_{name}[{i}]" for i in (0, 1) for name in ("px", "py", "pz")])
MODELS: dict[str, dict[str, Any]] = {
    "bvae": {"latent": 3, "hidden": (32, 32, 32)},
    "gmm": {"components": 30},
    "maf": {"blocks": 4, "hidden": (32, 32)},
}


def recoil(events: ak.Array, size: float, seed: int) -> ak.Array:
    """The same with something unseen of `size` GeV along every axis, which the second particle recoils from."""
    kick = np.random.default_rng(seed).normal(0, size, (len(events), 3))
    for name, column in zip(("px", "py", "pz"), kick.T, strict=True):
        moved = np.asarray(events[f"Particle_{name}"]) - column[:, None] * [0, 1]
        events = ak.with_field(events, ak.from_regular(ak.Array(moved)), f"Particle_{name}")
    return events


@pytest.mark.parametrize("name", list(MODELS))
def test_an_unseen_particle_is_an_anomaly(name: str) -> None:
    """Learnt are two particles of a decay at rest; in the signal their momenta do not cancel."""
    background = two_body.generate_block("events", 1, 0, 4000)[0]
    with threads(1):
        model = hepgen.EventGenerator(FEATURES, name, **MODELS[name]).fit(background[:3000], epochs=24, batch_size=250, progress=False)
    standard, signal = background[3000:], recoil(background[3000:], 15.0, 2)
    scores = model.anomaly(standard), model.anomaly(signal)
    auc, error = weighted_auc(*scores)
    assert auc > 0.8
    assert error < 0.02
    # the area is that of the curve, and of the ranks of scikit-learn
    fpr, tpr = roc_curve(*scores, points=4000)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc, abs=1e-3)
    from sklearn.metrics import roc_auc_score

    assert auc == pytest.approx(roc_auc_score(np.repeat([0, 1], 1000), np.concatenate(scores)), abs=1e-9)
    # nothing is found where nothing was put in
    null, null_error = weighted_auc(scores[0], model.anomaly(recoil(standard, 0.0, 3)))
    assert abs(null - 0.5) < 4 * null_error
