"""The columns that name an event, found by themselves or by name."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

import hepgen.events
from hepgen.errors import InputError, UsageError
from hepgen.events import entry_identity, identity, identity_columns, open_info, write

BIG = 2**64 - 3


@pytest.mark.parametrize(
    ("events", "columns"),
    [
        (
            {"run": np.array([1, 1], "u4"), "luminosityBlock": np.array([5, 6], "u4"), "event": np.array([7, BIG], "u8")},
            ["run", "luminosityBlock", "event"],
        ),
        ({"runNumber": np.array([1, 1], "i4"), "eventNumber": np.array([7, BIG], "u8")}, ["runNumber", "eventNumber"]),
        ({"EventInfoAuxDyn.runNumber": np.array([1, 1]), "EventInfoAuxDyn.eventNumber": np.array([7, BIG], "u8")}, None),
    ],
)
def test_known_columns_are_found(events: dict[str, np.ndarray], columns: list[str] | None) -> None:
    found = identity(ak.Array(events))
    assert found is not None
    assert (found.dtype, found.shape) == (np.uint64, (2, len(events)))
    assert found[:, -1].tolist() == [7, BIG]
    assert found[:, 0].tolist() == [1, 1]
    assert identity_columns([*events, "other"]) == tuple(columns or events)


def test_event_info_as_a_record_is_found() -> None:
    events = ak.Array({"EventInfo": ak.zip({"runNumber": [1], "eventNumber": [9]}), "x": [0.0]})
    found = identity(events)
    assert found is not None
    assert found.tolist() == [[1, 9]]
    assert identity_columns(["EventInfo.runNumber", "EventInfo.eventNumber"]) == ("EventInfo.runNumber", "EventInfo.eventNumber")


def test_no_known_columns_is_none_and_other_spellings_are_not_taken() -> None:
    assert identity(ak.Array({"Run": [1], "Event": [2], "LuminosityBlock": [3]})) is None
    assert identity(ak.Array({"runNumber": [1]})) is None
    assert identity_columns(["run", "event"]) == ()


def test_columns_named_by_the_user_or_a_schema() -> None:
    events = ak.Array({"run": [1.0, 2.0], "vertex": ak.zip({"id": [-1, 4]}), "text": ["a", "b"]})
    found = identity(events, ["vertex.id", "run"])
    assert found is not None
    assert found.tolist() == [[2**64 - 1, 1], [4, 2]]
    assert identity(events, "nanoaod") is None
    assert identity_columns(["vertex.id"], ["vertex.id"]) == ("vertex.id",)
    with pytest.raises(UsageError, match="nanoadd"):
        identity(events, "nanoadd")
    with pytest.raises(InputError, match="column 'evt' is not in the events"):
        identity(events, ["evt"])
    with pytest.raises(InputError, match="column 'evt' is not in the events"):
        identity_columns(["event"], ["evt"])
    with pytest.raises(InputError, match="column 'text' holds text"):
        identity(events, ["text"])
    with pytest.raises(UsageError, match=r"'count\(vertex\)' cannot name an event"):
        identity(events, ["count(vertex)"])
    with pytest.raises(UsageError, match=r"'count\(vertex\)' cannot name an event"):
        identity_columns(["vertex"], ["count(vertex)"])


def test_columns_that_are_no_identity() -> None:
    with pytest.raises(InputError, match="column 'eventNumber' cannot name the events: 1 of them have none"):
        identity(ak.Array({"runNumber": [1, 2], "eventNumber": [1, None]}))
    with pytest.raises(InputError, match="column 'eventNumber' cannot name the events: it holds numbers that are no integers"):
        identity(ak.Array({"runNumber": [1, 2], "eventNumber": [1.0, 2.5]}))


def test_no_events_and_sliced_events() -> None:
    events = ak.Array({"runNumber": np.arange(5), "eventNumber": np.arange(5) * 10})
    empty, sliced = identity(events[:0]), identity(events[[3, 1, 3]])
    assert empty is not None
    assert (empty.shape, empty.dtype) == ((0, 2), np.uint64)
    assert sliced is not None
    assert sliced.tolist() == [[3, 30], [1, 10], [3, 30]]


def test_real_files(shared_data: Path) -> None:
    for name, tree in (("nano_dy.root", "Events"), ("PHYSLITE_example.root", "CollectionTree")):
        branches = uproot.open(shared_data / name)[tree]
        columns = identity_columns(branches.keys())
        assert len(columns) == (3 if tree == "Events" else 2)
        raw = {column: branches[column].array() for column in columns}
        found = identity(ak.Array(raw))
        assert found is not None
        np.testing.assert_array_equal(found, np.stack([np.asarray(raw[column]).astype(np.uint64) for column in columns], axis=1))


def test_the_function_is_not_shadowed_by_its_module() -> None:
    import hepgen.events.identity

    assert callable(hepgen.events.identity)
    assert set(hepgen.events.__all__) <= set(dir(hepgen.events))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hepgen.events.nothing


@pytest.mark.parametrize("name", hepgen.events.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(hepgen.events, name).__module__.startswith("hepgen.events.")


def test_events_without_numbers_are_their_file_and_entry(tmp_path: Path) -> None:
    found = entry_identity((7 << 64) + 9, 1000, 3)
    assert found.dtype == np.uint64
    assert found.tolist() == [[7, 9, 1000], [7, 9, 1001], [7, 9, 1002]]
    events = {"x": np.arange(5.0)}
    paths = [write(tmp_path / name, events, tree="t") for name in ("a.root", "b.root", "a.parquet", "b.parquet")]
    known = [open_info(path).uuid for path in paths]
    assert len(set(known)) == 4
    assert all(0 < one < 2**128 for one in known)
    assert [open_info(path).uuid for path in paths] == known
