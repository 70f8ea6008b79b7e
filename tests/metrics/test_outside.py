"""The fraction outside a selection against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hepgen.errors import InputError
from hepgen.events import Cut, Features, Selection
from hepgen.metrics import fraction_outside

FEATURES = Features(["photon[0].pt", "photon[0].eta"])
SELECTION = Selection(
    [Cut("photon[0].pt", minimum=35), Cut("abs(photon[0].eta)", intervals=[(0, 1.37), (1.52, 2.37)]), Cut("count(photon)", equal=2)]
)


def test_fractions_are_those_counted():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(25, 100, 4000), rng.uniform(-2.5, 2.5, 4000)])
    low, crack = x[:, 0] < 35, ~((abs(x[:, 1]) <= 1.37) | ((abs(x[:, 1]) >= 1.52) & (abs(x[:, 1]) <= 2.37)))
    found = fraction_outside(SELECTION, FEATURES, x)
    f = np.mean(low | crack)
    assert found.fraction == pytest.approx(f, abs=1e-12)
    assert found.error == pytest.approx(np.sqrt(f * (1 - f) / 4000), rel=1e-9)
    assert found.events == np.sum(low | crack)
    assert [cut[1] for cut in found.cuts] == [pytest.approx(low.mean()), pytest.approx(crack.mean())]
    assert found.skipped == ("count(photon) == 2",)


def test_signed_weights_and_their_error():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        x = np.column_stack([rng.uniform(25, 75, 500), np.zeros(500)])
        found.append(fraction_outside(SELECTION, FEATURES, x, rng.choice([1.0, -1.0], 500, p=[0.9, 0.1])))
    assert np.mean([one.fraction for one in found]) == pytest.approx(0.2, abs=0.005)
    assert np.mean([one.error for one in found]) == pytest.approx(np.std([one.fraction for one in found]), rel=0.12)


def test_nothing_outside_has_the_error_of_one_event():
    found = fraction_outside(SELECTION, FEATURES, np.tile([50.0, 0.5], (200, 1)))
    assert (found.fraction, found.error, found.events) == (0, 1 / 200, 0)
    assert found.to_dict()["cuts"]["photon[0].pt >= 35"] == {"fraction": 0.0, "error": 1 / 200}


def test_unusable_input_is_named():
    with pytest.raises(InputError, match="no events"):
        fraction_outside(SELECTION, FEATURES, np.ones((0, 2)))
    with pytest.raises(InputError, match="sum to zero"):
        fraction_outside(SELECTION, FEATURES, np.ones((2, 2)), [1.0, -1.0])
