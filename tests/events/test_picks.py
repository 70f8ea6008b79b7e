"""Objects that are found event by event, and paths that name them."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events import Features, Pick
from hepgen.events.expressions import parse
from hepgen.events.picks import checked_picks, find_picks

PICKS = {"fake": Pick("photon", lowest="id"), "other": Pick("photon", highest="pt", besides="fake")}
PT = [[50.0, 40.0, 30.0], [], [70.0], [20.0, 60.0]]
ID = [[0.9, 0.2, 0.8], [], [0.1], [0.7, 0.7]]


def records() -> ak.Array:
    return ak.zip({"photon": ak.zip({"pt": ak.Array(PT), "id": ak.Array(ID)}), "x": np.arange(4.0)}, depth_limit=1)


def flat() -> ak.Array:
    return ak.zip({"photon_pt": ak.Array(PT), "photon_id": ak.Array(ID), "x": np.arange(4.0)}, depth_limit=1)


@pytest.mark.parametrize("events", [records(), flat()], ids=["records", "flat"])
def test_the_lowest_the_highest_and_what_others_leave(events: ak.Array) -> None:
    found = find_picks(PICKS, events)
    assert found["fake"].tolist() == [1, -1, 0, 0]  # of equal ones the first
    assert found["other"].tolist() == [0, -1, -1, 1]


@pytest.mark.parametrize("events", [records(), flat()], ids=["records", "flat"])
def test_columns_are_read_and_written_at_their_places(events: ak.Array) -> None:
    features = Features(["photon[fake].pt"], computed=["photon[other].pt", "x"])
    assert features.picked == {"fake", "other"}
    bound = features.bind(find_picks(PICKS, events))
    matrix, mask = bound.to_matrix(events)
    assert mask.tolist() == [True, False, False, True]
    assert matrix.tolist() == [[40.0, 50.0, 0.0], [20.0, 60.0, 3.0]]
    moved = bound.from_matrix(events, [[1.0], [2.0]], mask)
    pt = moved.photon.pt if "photon" in moved.fields else moved.photon_pt
    assert pt.tolist() == [[50.0, 1.0, 30.0], [], [70.0], [2.0, 60.0]]
    assert ak.array_equal(moved.x, events.x)
    assert not features.of(["x"]).picked


def test_none_is_no_object() -> None:
    events = records()
    photons = ak.mask(events.photon, ak.Array([[True, False, True], [], [False], [True, True]]))
    events = ak.with_field(events, ak.mask(photons, np.array([True, True, True, False])), "photon")
    assert find_picks(PICKS, events)["fake"].tolist() == [2, -1, -1, -1]
    matrix, mask = Features(["photon[fake].pt"]).bind(find_picks(PICKS, events)).to_matrix(events)
    assert (mask.tolist(), matrix.tolist()) == ([True, False, False, False], [[30.0]])


def test_regular_lists() -> None:
    events = ak.zip({"photon": ak.to_regular(ak.zip({"pt": ak.Array([[1.0, 2.0], [4.0, 3.0]])}), axis=1)}, depth_limit=1)
    bound = Features(["photon[best].pt"]).bind({"best": np.array([1, -1])})
    matrix, mask = bound.to_matrix(events)
    assert (mask.tolist(), matrix.tolist()) == ([True, False], [[2.0]])
    assert bound.from_matrix(events, [[9.0]], mask).photon.pt.tolist() == [[1.0, 9.0], [4.0, 3.0]]


def test_paths_keep_their_spelling_and_features_their_picks_to_themselves() -> None:
    assert str(parse("photon[fake].pt")) == "photon[fake].pt"
    features = Features(["photon[fake].pt"], computed=["deltaR(photon[fake], photon[0])"])
    assert Features.from_dict(features.to_dict()) == features
    assert features.bind({"fake": np.zeros(4, dtype=np.int64)}).to_dict() == features.to_dict()
    with pytest.raises(UsageError, match=r"'photon\[fake\].pt' names the pick 'fake': nothing is picked here"):
        Features(["photon[fake].pt"]).to_matrix(records())


def test_columns_and_json() -> None:
    for pick in PICKS.values():
        assert Pick.from_dict(pick.to_dict()) == pick
    assert PICKS["fake"].columns(["photon.pt", "photon.id", "x"]) == {"photon.id"}
    assert PICKS["fake"].columns(["photon_pt", "photon_id"]) == {"photon_id"}
    assert repr(PICKS["other"]) == "Pick('photon', highest='pt', besides=['fake'])"
    with pytest.raises(ModelFileError, match="description of a pick is damaged"):
        Pick.from_dict({"collection": "photon"})


def test_refusals() -> None:
    with pytest.raises(UsageError, match="needs lowest= or highest="):
        Pick("photon")
    with pytest.raises(UsageError, match="needs lowest= or highest="):
        Pick("photon", lowest="pt", highest="pt")
    with pytest.raises(UsageError, match="is besides 'fake', which must be picked before it"):
        checked_picks(dict(reversed(PICKS.items())), [])
    with pytest.raises(UsageError, match="name 'tag' in brackets, which is not picked"):
        checked_picks(PICKS, ["tag"])
    with pytest.raises(InputError, match="is no list of numbers in every event"):
        Pick("x", lowest="y").find(ak.zip({"x": ak.zip({"y": np.arange(3.0)})}, depth_limit=1), {})
    with pytest.raises(InputError, match=r"column 'photon.score' is not in the events"):
        Pick("photon", lowest="score").find(records(), {})
