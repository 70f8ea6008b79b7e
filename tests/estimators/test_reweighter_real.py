"""The Reweighter on real muons: halves of a file, one of them altered by a known ratio, which has to come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

import hepgen
from hepgen.events import Features, read
from hepgen.kernels import threads

FILES: dict[str, tuple[str, Features]] = {
    "flat": ("uproot-Zmumu.root", Features(["pt1", "eta1", "pt2"])),
    "jagged": ("uproot-HZZ.root", Features(["MET_px", "MET_py"], computed=["pt(Muon[0])", "eta(Muon[0])"])),
}


def known_log_ratio(matrix: Any) -> Any:
    """A tilt of the first column and a bump in the second, mild enough that the ratio lies between 0.2 and 5."""
    x, y = ((column - np.median(column)) / np.subtract(*np.quantile(column, [0.84, 0.16])) * 2 for column in matrix.T[:2])
    return 0.45 * np.tanh(x) + 0.5 * np.exp(-0.5 * (y - 0.7) ** 2)


@pytest.mark.parametrize("layout", FILES)
def test_a_known_ratio_comes_back(shared_data: Path, layout: str) -> None:
    name, features = FILES[layout]
    events = read(shared_data / name)
    matrix, there = features.to_matrix(events)
    log_ratio = np.zeros(len(events))
    log_ratio[there] = known_log_ratio(matrix)
    half = np.random.default_rng(2).permutation(len(events)) % 2 == 0
    sim, data, weights = events[half], events[~half], np.exp(log_ratio[~half])
    model = hepgen.Reweighter(features, ensemble=3, hidden=(32, 32), normalise=None)
    with threads(1):
        model.fit(sim, data, data_weights=weights, epochs=40, batch_size=200, patience=8, seed=4, progress=False)
    kept = there[half]
    found = model.log_ratio(sim)
    truth = log_ratio[half] - np.log(np.exp(log_ratio[there]).mean())  # a ratio of densities
    assert np.all(found[~kept] == 0)  # no muon, no weight
    error = np.abs(found - truth)[kept]
    flat = np.abs(truth)[kept]  # what a weight of one would be off by
    assert error.mean() < 0.6 * flat.mean()
    assert np.corrcoef(found[kept], truth[kept])[0, 1] > 0.75
    # the sample as a whole: the first column reweighted is that of the target
    x = features.to_matrix(sim)[0][:, 0]
    y = matrix[:, 0][~half[there]]
    w, target = model.weights(sim)[kept], np.exp(log_ratio[there & ~half])
    quantiles = np.quantile(y, [0.25, 0.5, 0.75])
    for edge in quantiles:
        below = np.average(y < edge, weights=target)
        error = np.sqrt(below * (1 - below) * (1 / hepgen.Reweighter.ess(w) + 1 / hepgen.Reweighter.ess(target)))
        assert abs(np.average(x < edge, weights=w) - below) < 4 * error
    assert ak.all(ak.Array(w) > 0)
