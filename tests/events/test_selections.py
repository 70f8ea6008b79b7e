"""Selections against event loops in plain Python."""

from __future__ import annotations

import json
import math
from typing import Any

import awkward as ak
import numpy as np
import pytest

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events import Cut, Features, Selection

SIX = [f"photon[{i}].{field}" for i in (0, 1) for field in ("pt", "eta", "phi")]


def diphoton_by_hand(event: dict[str, Any]) -> bool:
    """The selection of the paper, written out for one event."""
    photons = event["photon"]
    if len(photons) != 2:
        return False
    one, two = photons
    if not (35 <= one["pt"] <= 250 and 25 <= two["pt"] <= 250):
        return False
    if not all(abs(p["eta"]) <= 1.37 or 1.52 <= abs(p["eta"]) <= 2.37 for p in photons):
        return False
    cosines = math.cosh(one["eta"] - two["eta"]) - math.cos(one["phi"] - two["phi"])
    return 60 <= math.sqrt(2 * one["pt"] * two["pt"] * cosines) <= 300


def sample(n: int = 4000, **extra: Any) -> ak.Array:
    rng = np.random.default_rng(3)
    counts = rng.choice([0, 1, 2, 3], n, p=[0.05, 0.1, 0.75, 0.1])
    total = int(counts.sum())
    fields = {"pt": rng.uniform(20, 260, total), "eta": rng.uniform(-2.5, 2.5, total), "phi": rng.uniform(-np.pi, np.pi, total)}
    fields |= {name: np.full(total, value) for name, value in extra.items()}
    return ak.Array({"photon": ak.unflatten(ak.zip(fields), counts)})


def test_diphoton_is_the_selection_of_the_paper() -> None:
    events = sample()
    selection = Selection.named("diphoton")
    expected = [diphoton_by_hand(event) for event in ak.to_list(events)]
    assert 100 < sum(expected) < 2000
    assert selection.mask(events).tolist() == expected
    # a stale energy column does not matter to massless photons
    assert selection.mask(sample(E=1.0)).tolist() == expected
    flat = ak.Array({f"photon_{name}": events.photon[name] for name in ("pt", "eta", "phi")})
    assert selection.mask(flat).tolist() == expected


def test_diphoton_bounds_are_closed() -> None:
    edges = ak.Array(
        [
            {"photon": [{"pt": 35.0, "eta": 1.37, "phi": 0.0}, {"pt": 25.0, "eta": -1.52, "phi": 3.0}]},
            {"photon": [{"pt": 250.0, "eta": 2.37, "phi": 0.0}, {"pt": 250.0, "eta": 2.37, "phi": 1.0}]},
            {"photon": [{"pt": 34.99, "eta": 0.0, "phi": 0.0}, {"pt": 50.0, "eta": 0.0, "phi": 3.0}]},
            {"photon": [{"pt": 50.0, "eta": 1.4, "phi": 0.0}, {"pt": 50.0, "eta": 0.0, "phi": 3.0}]},
        ]
    )
    assert Selection.named("diphoton").mask(edges).tolist() == [True, True, False, False]


def test_a_matrix_is_judged_as_its_events_are() -> None:
    events = sample()
    features, selection = Features(SIX, computed=["count(photon)"]), Selection.named("diphoton")
    matrix, mask = features.to_matrix(events)
    np.testing.assert_array_equal(selection.matrix_mask(features, matrix), selection.mask(events)[mask])
    # without its column the count is taken as satisfied
    without = Selection(selection.cuts[1:]).mask(events)[mask]
    np.testing.assert_array_equal(selection.matrix_mask(Features(SIX), matrix[:, :6]), without)
    np.testing.assert_array_equal(selection.matrix_mask(features, matrix[:, :6]), without)
    assert [cut.expression for cut in selection.matrix_cuts(Features(SIX))] == [cut.expression for cut in selection.cuts[1:]]
    assert [cut.label for cut in selection.matrix_cuts(Features(["photon[1].pt", "photon[0].phi"]))] == ["25 <= photon[1].pt <= 250"]
    assert selection.matrix_mask(Features(["x"]), np.zeros((3, 1))).tolist() == [True] * 3
    with pytest.raises(InputError, match=r"the matrix has shape \(3, 2\)"):
        selection.matrix_mask(Features(["x"]), np.zeros((3, 2)))


def test_cutflow_counts_and_weighs_what_is_left() -> None:
    events = ak.Array({"x": [1.0, 2.0, 3.0, np.nan], "n": [1, 1, 2, 2]})
    selection = Selection([Cut("x", minimum=1.5), Cut("n", equal=2)])
    weights = np.array([1.0, -2.0, 4.0, 8.0])
    assert selection.cutflow(events, weights) == [("all", 4, 11.0), ("x >= 1.5", 2, 2.0), ("n == 2", 1, 4.0)]
    assert selection.cutflow(events)[1:] == [("x >= 1.5", 2, 2.0), ("n == 2", 1, 1.0)]
    assert Selection([]).cutflow(events) == [("all", 4, 4.0)]
    with pytest.raises(InputError, match=r"there are 4 events and weights of shape \(3,\)"):
        selection.cutflow(events, np.ones(3))


@pytest.mark.parametrize(
    ("cut", "label", "passed"),
    [
        (Cut("x", minimum=2), "x >= 2", [False, True, True, False]),
        (Cut("x", maximum=2), "x <= 2", [True, True, False, False]),
        (Cut("x", 2, 2.5), "2 <= x <= 2.5", [False, True, False, False]),
        (Cut("x", equal=3), "x == 3", [False, False, True, False]),
        (Cut("abs( x )", intervals=[(0, 1), (3, 4)]), "abs(x) in [0, 1] or [3, 4]", [True, False, True, False]),
        (Cut("x", minimum=2, equal=3), "x >= 2 and x == 3", [False, False, True, False]),
    ],
)
def test_cuts(cut: Cut, label: str, passed: list[bool]) -> None:
    events = ak.Array([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}, {"x": None}])
    assert cut.label == label
    selection = Selection([cut])
    assert selection.mask(events).tolist() == passed
    again = Selection.from_dict(json.loads(json.dumps(selection.to_dict())))
    assert again == selection
    assert hash(again) == hash(selection)
    assert repr(again) == f"Selection([Cut('{label}')])"
    assert selection.mask(events[:0]).shape == (0,)


def test_none_events_fail() -> None:
    events = ak.Array([None, {"photon": [{"pt": 1.0}]}, {"photon": [None]}, {"photon": None}])
    assert Selection([Cut("photon[0].pt", minimum=0)]).mask(events).tolist() == [False, True, False, False]
    assert Selection([Cut("count(photon)", equal=1)]).mask(events).tolist() == [False, True, True, False]


def test_columns_that_a_selection_reads() -> None:
    names = ["photon.pt", "photon.eta", "photon.phi", "photon.E", "MET.pt"]
    assert Selection.named("diphoton").columns(names) == {"photon.pt", "photon.eta", "photon.phi"}


def test_wrong_cuts_and_names_are_refused() -> None:
    with pytest.raises(UsageError, match="the cut on 'x' has no bound"):
        Cut("x")
    with pytest.raises(UsageError, match="the cut '3 <= x <= 2' leaves nothing"):
        Cut("x", 3, 2)
    with pytest.raises(UsageError, match="leaves nothing"):
        Cut("x", intervals=[])
    with pytest.raises(UsageError, match="there is no selection 'dijet'; there are diphoton"):
        Selection.named("dijet")
    assert Selection.names() == ("diphoton", "diphoton-any-mass")
    with pytest.raises(InputError, match="column 'x' is not in the events"):
        Selection([Cut("x", 1)]).mask(ak.Array({"y": [1.0]}))
    for data in ({}, {"cuts": [{"expression": "x"}]}, {"cuts": [{"expression": "x", "above": 1}]}):
        with pytest.raises(ModelFileError, match="description of a selection is damaged"):
            Selection.from_dict(data)
