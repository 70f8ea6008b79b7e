"""Features against ak.to_list, value by value, over every kind of layout that events come in."""

from __future__ import annotations

import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events import Features, Standard

SIX = [f"photon[{i}].{field}" for i in (0, 1) for field in ("pt", "eta", "phi")]


def photons(counts: Any, seed: int = 1, dtype: str = "f4", **columns: Any) -> ak.Array:
    """Events with a jagged collection of photons, and what else a file has beside it."""
    counts = np.asarray(counts)
    rng = np.random.default_rng(seed)
    total = int(counts.sum())
    fields = {
        "pt": rng.exponential(50, total).astype(dtype),
        "eta": rng.normal(size=total).astype(dtype),
        "phi": rng.uniform(-3.1, 3.1, total).astype(dtype),
        "tight": rng.integers(0, 2, total).astype(bool),
    }
    jagged = ak.unflatten(ak.zip(fields, with_name="Photon"), counts)
    return ak.zip({"photon": jagged, "weight": rng.normal(size=len(counts)), **columns}, depth_limit=1, with_name="Event")


def brute(events: ak.Array, paths: list[tuple[str, int, str]]) -> tuple[list[list[float]], list[bool]]:
    """Matrix and mask from Python lists."""
    rows, mask = [], []
    for event in ak.to_list(events):
        row = []
        for collection, index, field in paths:
            objects = None if event is None else event[collection]
            item = objects[index] if objects is not None and index < len(objects) else None
            row.append(None if item is None else item[field])
        mask.append(None not in row)
        if mask[-1]:
            rows.append(row)
    return rows, mask


def test_matrix_and_mask_are_those_of_python_lists() -> None:
    events = photons([2, 0, 1, 3, 2])
    matrix, mask = Features(SIX).to_matrix(events)
    rows, expected = brute(events, [("photon", i, field) for i in (0, 1) for field in ("pt", "eta", "phi")])
    assert mask.tolist() == expected == [True, False, False, True, True]
    assert matrix.dtype == np.float64
    assert matrix.tolist() == rows


@pytest.mark.parametrize(
    ("paths", "fields"),
    [
        (["photon[1].pt"], {"photon_pt": [[1.0, 2.0], [3.0]]}),
        (["photon[1].pt"], {"Photon_pt": [[1.0, 2.0], [3.0]]}),
        (["photon_pt[1]"], {"photon_pt": [[1.0, 2.0], [3.0]]}),
        (["photon_pt[1]"], {"photon": [[{"pt": 1.0}, {"pt": 2.0}], [{"pt": 3.0}]]}),
        (["Photon[1].Pt"], {"photon": [[{"pt": 1.0}, {"pt": 2.0}], [{"pt": 3.0}]]}),
    ],
)
def test_a_path_finds_record_and_flat_branches(paths: list[str], fields: dict[str, Any]) -> None:
    events = ak.Array(fields)
    features = Features(paths)
    matrix, mask = features.to_matrix(events)
    assert (matrix.tolist(), mask.tolist()) == ([[2.0]], [True, False])
    back = features.from_matrix(events, matrix + 5, mask)
    assert back.fields == events.fields
    assert ak.flatten(back[back.fields[0]], axis=None).tolist() == [1.0, 7.0, 3.0]


def test_scalar_records_flat_numbers_and_nested_records() -> None:
    events = ak.Array([{"MET": {"pt": 1.5, "phi": 0.5}, "mass": 91, "a": {"b": [{"c": [7.0, 8.0]}]}}])
    matrix, _ = Features(["MET.pt", "mass", "a.b[0].c[1]"]).to_matrix(events)
    assert matrix.tolist() == [[1.5, 91.0, 8.0]]


def test_mapping_and_structured_arrays_come_back_as_such() -> None:
    columns = {"pt": np.array([1.0, 2.0], dtype="f4"), "n": np.array([3, 4]), "jagged": ak.Array([[1.0], []])}
    features = Features(["pt", "n"])
    matrix, mask = features.to_matrix(columns)
    back = features.from_matrix(columns, matrix * 2, mask)
    assert back["pt"].dtype == np.float32
    assert (back["pt"].tolist(), back["n"].tolist()) == ([2.0, 4.0], [6, 8])
    assert back["jagged"] is columns["jagged"]
    assert columns["pt"].tolist() == [1.0, 2.0]
    structured = np.array([(1.0, 3), (2.0, 4)], dtype=[("pt", ">f4"), ("n", "i8")])
    back = features.from_matrix(structured, *features.to_matrix(structured))
    assert back.dtype == structured.dtype
    assert back.tolist() == structured.tolist()


def test_from_matrix_changes_the_slots_and_nothing_else() -> None:
    events = photons([2, 0, 1, 3, 2])
    events = ak.with_parameter(events, "note", "kept")
    events.attrs["origin"] = "a test"
    features = Features(SIX, computed=["mass(photon[0], photon[1])"])
    matrix, mask = features.to_matrix(events)
    before = ak.to_list(events)
    back = features.from_matrix(events, matrix[:, :6] + 0.25, mask)
    assert ak.to_list(events) == before
    assert back.type == events.type
    assert back.fields == events.fields
    assert back.photon.fields == events.photon.fields
    assert ak.parameters(back) == ak.parameters(events)
    assert back.attrs["origin"] == "a test"
    expected = [dict(event, photon=[dict(item) for item in event["photon"]]) for event in before]
    rows = iter(matrix[:, :6] + 0.25)
    for event, selected in zip(expected, mask, strict=True):
        if selected:
            row = next(rows).tolist()
            for i in (0, 1):
                pt, eta, phi = row[3 * i : 3 * i + 3]
                wrapped = (phi + math.pi) % (2 * math.pi) - math.pi
                event["photon"][i].update(pt=float(np.float32(pt)), eta=float(np.float32(eta)), phi=float(np.float32(wrapped)))
    got = ak.to_list(back)
    for event, reference in zip(got, expected, strict=True):
        assert event["weight"] == reference["weight"]
        for item, other in zip(event["photon"], reference["photon"], strict=True):
            assert item == pytest.approx(other, rel=1e-6)


def test_none_inside_lists_and_none_events_stay_where_they_are() -> None:
    events = ak.Array(
        [
            {"photon": [{"pt": 1.0}, None, {"pt": 2.0}]},
            None,
            {"photon": None},
            {"photon": [None, {"pt": 3.0}]},
            {"photon": [{"pt": 4.0}, {"pt": None}, {"pt": 5.0}]},
        ]
    )
    features = Features(["photon[0].pt", "photon[2].pt"])
    found = features.extract(events)
    assert found.mask.tolist() == [True, False, False, False, True]
    assert (found.absent, found.invalid) == (3, 0)
    back = features.from_matrix(events, found.matrix * 10, found.mask)
    assert back.type == events.type
    expected = ak.to_list(events)
    for event, pts in ((0, (10.0, 20.0)), (4, (40.0, 50.0))):
        expected[event]["photon"][0]["pt"], expected[event]["photon"][2]["pt"] = pts
    assert ak.to_list(back) == expected


def test_sliced_arrays_share_memory_but_not_slots() -> None:
    whole = photons([2, 3, 2, 1])
    events = whole[[2, 0, 2, 3]]
    features = Features(["photon[0].pt", "photon[1].pt"])
    matrix, mask = features.to_matrix(events)
    matrix[:] = np.arange(6).reshape(3, 2)
    back = features.from_matrix(events, matrix, mask)
    assert back.photon.pt[:3].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert ak.array_equal(back.photon.eta, events.photon.eta)
    assert ak.array_equal(back.photon[3], events.photon[3])
    assert whole.photon.pt[2].tolist() == events.photon.pt[0].tolist()


MASKS = {
    "byte": lambda content, kept: ak.contents.ByteMaskedArray(ak.index.Index8(kept.astype("i1")), content, valid_when=True),
    "bit": lambda content, kept: ak.contents.BitMaskedArray(
        ak.index.IndexU8(np.packbits(kept, bitorder="little")), content, valid_when=True, length=len(kept), lsb_order=True
    ),
    "indexed": lambda content, kept: ak.contents.IndexedOptionArray(ak.index.Index64(np.where(kept, np.arange(len(kept)), -1)), content),
    "unmasked": lambda content, _: ak.contents.UnmaskedArray(content),
}


@pytest.mark.parametrize("depth", ["number", "record", "list", "event"])
@pytest.mark.parametrize("mask", list(MASKS))
def test_options_of_every_form_at_every_depth(mask: str, depth: str) -> None:
    masked = MASKS[mask]

    def option(content: Any, here: str) -> Any:
        if here != depth:
            return content
        kept = np.ones(len(content), dtype=bool)
        kept[1] = False
        return masked(content, kept)

    pt = option(ak.contents.NumpyArray(np.arange(6, dtype="f4")), "number")
    record = option(ak.contents.RecordArray([pt, ak.contents.NumpyArray(np.arange(6) * 10)], ["pt", "n"]), "record")
    lists = option(ak.contents.ListOffsetArray(ak.index.Index32(np.array([0, 3, 4, 6], "i4")), record), "list")
    events = ak.Array(option(ak.contents.RecordArray([lists], ["jet"]), "event"))
    features = Features(["jet[0].pt"])
    matrix, selected = features.to_matrix(events)
    absent = mask != "unmasked" and depth in {"list", "event"}
    assert (matrix[:, 0].tolist(), selected.tolist()) == (([0.0, 4.0], [True, False, True]) if absent else ([0.0, 3.0, 4.0], [True] * 3))
    back = features.from_matrix(events, matrix + 100, selected)
    assert back.type == events.type
    expected = ak.to_list(events)
    for event in np.flatnonzero(selected):
        expected[event]["jet"][0]["pt"] += 100
    assert ak.to_list(back) == expected


def test_regular_arrays_stay_regular() -> None:
    events = ak.zip(
        {"x": ak.Array(np.arange(12.0, dtype="f4").reshape(3, 4)), "photon": ak.to_regular(photons([2, 2, 2]).photon)}, depth_limit=1
    )
    features = Features(["x[1]", "photon[1].pt"])
    matrix, mask = features.to_matrix(events)
    assert matrix[:, 0].tolist() == [1.0, 5.0, 9.0]
    back = features.from_matrix(events, -matrix, mask)
    assert back.type == events.type
    assert back.x.tolist() == [[0, -1, 2, 3], [4, -5, 6, 7], [8, -9, 10, 11]]
    assert back.photon.pt[:, 1].tolist() == (-events.photon.pt[:, 1]).tolist()
    assert not Features(["x[4]"]).to_matrix(events)[1].any()


@pytest.mark.parametrize("n", [0, 1])
def test_short_arrays(n: int) -> None:
    events = photons([2, 2])[:n]
    features = Features(SIX, computed=["deltaR(photon[0], photon[1])"])
    matrix, mask = features.to_matrix(events)
    assert (matrix.shape, mask.shape) == ((n, 7), (n,))
    back = features.from_matrix(events, matrix, mask)
    assert back.type == events.type
    assert ak.array_equal(back, events)
    assert features.to_matrix(ak.Array([]))[0].shape == (0, 7)


def test_empty_lists_of_unknown_type_hold_no_objects() -> None:
    events = ak.Array({"photon": ak.Array([[], [], []]), "x": [1.0, 2.0, 3.0]})
    matrix, mask = Features(["x", "photon[0].pt"]).to_matrix(events)
    assert matrix.shape == (0, 2)
    assert not mask.any()


ITEMS = st.lists(st.none() | st.floats(-1e6, 1e6, width=32), max_size=4)


@st.composite
def layouts(draw: st.DrawFn) -> ak.Array:
    """Jagged records in many forms: options at every depth, slices with repeats, list arrays, regular and masked arrays."""
    lists = draw(st.lists(st.none() | ITEMS, min_size=1, max_size=6))
    dtype = draw(st.sampled_from(["f4", "f8"]))
    value = ak.values_astype(ak.Array([*lists, [0.5, None], None])[:-2] if draw(st.booleans()) else ak.Array([*lists, [0.5]])[:-1], dtype)
    photon = ak.zip(
        {"pt": value, "phi": value / 1e6, "n": ak.values_astype(ak.fill_none(ak.zeros_like(value), 0), "i4")}, with_name="Photon"
    )
    if draw(st.booleans()):
        photon = ak.mask(photon, ak.fill_none(photon.n == 0, True))
    events = ak.zip({"photon": photon, "x": np.arange(len(photon), dtype="f4")}, depth_limit=1)
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["take", "reverse", "lists", "mask", "range"]))
        if kind == "take":
            events = events[draw(st.lists(st.integers(0, len(events) - 1), min_size=1, max_size=6))]
        elif kind == "reverse":
            events = events[::-1]
        elif kind == "lists":
            events = ak.with_field(events, events.photon[:, ::-1], "photon")
        elif kind == "mask":
            events = ak.mask(events, draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events))))
        elif len(events) > 1:
            events = events[1:]
    return events


@settings(deadline=None, max_examples=150)
@given(layouts(), st.integers(0, 3))
def test_there_and_back_is_the_identity(events: ak.Array, index: int) -> None:
    features = Features([f"photon[{index}].pt", "photon[0].phi", "x"])
    matrix, mask = features.to_matrix(events)
    rows, expected = brute_of(events, index)
    assert mask.tolist() == expected
    np.testing.assert_array_equal(matrix, np.array(rows).reshape(-1, 3))
    back = features.from_matrix(events, matrix, mask)
    assert back.type == events.type
    assert ak.to_list(back) == ak.to_list(events)


@settings(deadline=None, max_examples=100)
@given(layouts(), st.integers(0, 3))
def test_new_values_reach_their_slots_only(events: ak.Array, index: int) -> None:
    features = Features([f"photon[{index}].pt"])
    matrix, mask = features.to_matrix(events)
    new = np.arange(100.0, 100.0 + len(matrix))
    expected = ak.to_list(events)
    for value, event in zip(new, np.flatnonzero(mask), strict=True):
        expected[event] = dict(expected[event], photon=[None if item is None else dict(item) for item in expected[event]["photon"]])
        expected[event]["photon"][index]["pt"] = value
    back = features.from_matrix(events, new[:, None], mask)
    assert back.type == events.type
    assert ak.to_list(back) == expected


def brute_of(events: ak.Array, index: int) -> tuple[list[list[float]], list[bool]]:
    rows, mask = [], []
    for event in ak.to_list(events):
        objects = (event or {}).get("photon") or []
        first, item = (objects[0] if objects else None), (objects[index] if index < len(objects) else None)
        row = [item and item["pt"], first and first["phi"], event and event["x"]]
        row = [None if value is None else value for value in row]
        mask.append(None not in row)
        if mask[-1]:
            rows.append(row)
    return rows, mask


def test_periodic_columns() -> None:
    names = ["photon[0].phi", "photon_phi[1]", "MET.Phi", "photon[0].pt", "dphi_cut"]
    features = Features(names, computed=["deltaphi(photon[0], photon[1])", "abs(MET.phi2)"])
    assert features.periodic.tolist() == [True, True, True, False, False, True, False]
    assert Features(names, periodic=["dphi_cut"]).periodic.tolist() == [False, False, False, False, True]
    assert Features(names, periodic={"MET.Phi": False}).periodic.tolist() == [True, True, False, False, False]
    with pytest.raises(UsageError, match=r"periodic= names 'x', which is not one of the columns"):
        Features(names, periodic=["x"])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_angles_are_wrapped_in_the_precision_of_the_column(dtype: str) -> None:
    events = ak.Array({"phi": np.zeros(7, dtype=dtype)})
    given_angles = np.array([3.5, -3.5, np.pi, -np.pi, np.nextafter(np.pi, 0), 0.1, 1e3])
    back = np.asarray(Features(["phi"]).from_matrix(events, given_angles[:, None], np.ones(7, dtype=bool)).phi)
    assert back.dtype == dtype
    assert ((back.astype("f8") >= -np.pi) & (back.astype("f8") < np.pi)).all()
    np.testing.assert_allclose(np.exp(1j * back.astype("f8")), np.exp(1j * given_angles), atol=1e-6 if dtype == "f4" else 1e-12)
    assert back[5] == np.dtype(dtype).type(0.1)


def test_invalid_values_are_named_counted_or_left_alone() -> None:
    pt = np.arange(10.0)
    pt[[2, 5, 7]] = [np.nan, np.inf, -np.inf]
    events = ak.Array({"pt": pt, "eta": np.zeros(10)})
    features = Features(["eta", "pt"])
    with pytest.raises(InputError, match=r"column 'pt' holds 3 values that are NaN or inf, at entries 2, 5, 7: remove"):
        features.to_matrix(events)
    with pytest.raises(InputError, match=r"1 value that is NaN or inf, at entry 1002:"):
        features.to_matrix(events[:5], entry_start=1000)
    found = features.extract(events, invalid="identity")
    assert (found.absent, found.invalid, found.matrix[:, 1].tolist()) == (0, 3, [0, 1, 3, 4, 6, 8, 9])
    back = features.from_matrix(events, found.matrix + 1, found.mask)
    np.testing.assert_array_equal(back.pt, np.where(found.mask, pt + 1, pt))
    matrix, mask = features.to_matrix(events, invalid="nan")
    assert mask.all()
    np.testing.assert_array_equal(matrix[:, 1], pt)
    with pytest.raises(UsageError, match="invalid='skip' is none of"):
        features.to_matrix(events, invalid="skip")  # type: ignore[arg-type]


def test_a_nan_of_an_event_without_the_object_is_no_error() -> None:
    events = ak.Array([{"x": float("nan"), "photon": []}, {"x": 1.0, "photon": [{"pt": 2.0}]}])
    matrix, mask = Features(["x", "photon[0].pt"]).to_matrix(events)
    assert (matrix.tolist(), mask.tolist()) == ([[1.0, 2.0]], [False, True])


def test_missing_columns_name_what_is_near() -> None:
    events = photons([2], MET_pt=[1.0])
    with pytest.raises(InputError, match=r"column 'photon\[0\].ptt' is not in the events .*did you mean photon.pt"):
        Features(["photon[0].ptt"]).to_matrix(events)
    with pytest.raises(InputError, match=r"column 'MTE.pt' .*did you mean MET_pt"):
        Features(["MTE.pt"]).to_matrix(events)
    with pytest.raises(InputError, match=r"column 'zzz' .*there are photon, weight, MET_pt"):
        Features(["zzz"]).to_matrix(events)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("photon.pt", r"lies inside a list per event: say which element"),
        ("photon", r"is a list in every event"),
        ("x[0]", r"'x' has no list to take element \[0\] of"),
        ("text", r"column 'text' holds text, not numbers"),
        ("MET", r"column 'MET' holds records, not numbers"),
        ("mixed", r"column 'mixed' holds a union, not numbers"),
        ("when", r"column 'when' holds datetime64\[s\], not numbers"),
    ],
)
def test_columns_that_are_no_numbers(path: str, match: str) -> None:
    when = np.array(["2026-11-21"], dtype="datetime64[s]")
    events = photons([2], x=[1.0], text=["a"], MET=[{"pt": 1.0}], mixed=ak.Array([[1.0], "b"])[:1], when=when)
    with pytest.raises(InputError, match=match):
        Features([path]).to_matrix(events)


def test_integer_and_bool_columns_are_rounded_and_checked() -> None:
    events = ak.Array({"n": np.array([1, 2], dtype="u1"), "ok": [True, False]})
    features = Features(["n", "ok"])
    mask = np.ones(2, dtype=bool)
    back = features.from_matrix(events, np.array([[1.6, 0.2], [254.6, 0.9]]), mask)
    assert (back.n.tolist(), back.ok.tolist(), back.type == events.type) == ([2, 255], [False, True], True)
    with pytest.raises(InputError, match="column 'n' holds uint8, and some of the new values do not fit"):
        features.from_matrix(events, np.array([[256.0, 0], [1, 0]]), mask)
    with pytest.raises(InputError, match="column 'n' holds uint8 and cannot take NaN or inf"):
        features.from_matrix(events, np.array([[np.nan, 0], [1, 0]]), mask)


def test_from_matrix_refuses_shapes_that_do_not_fit() -> None:
    events = photons([2, 1])
    features = Features(["photon[1].pt"], computed=["weight"])
    matrix, mask = features.to_matrix(events)
    with pytest.raises(InputError, match=r"matrix has shape \(2, 2\), but the mask and the columns ask for \(1, 1\) or \(1, 2\)"):
        features.from_matrix(events, np.zeros((2, 2)), mask)
    with pytest.raises(InputError, match=r"mask has shape \(3,\) and dtype bool: give one bool for each of 2 events"):
        features.from_matrix(events, matrix, np.ones(3, dtype=bool))
    with pytest.raises(InputError, match=r"the mask selects event 1, which has no 'photon\[1\].pt'"):
        features.from_matrix(events, np.zeros((2, 2)), np.ones(2, dtype=bool))
    with pytest.raises(InputError, match="not a float"):
        features.to_matrix(1.0)
    with pytest.raises(InputError, match="different lengths"):
        features.to_matrix({"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(InputError, match="column 'a' is an array of object"):
        features.to_matrix({"a": np.array([None, "x"])})


def test_features_check_what_they_are_given() -> None:
    with pytest.raises(UsageError, match=r"'photon_pt\[0\]' is named twice \(as 'photon\[0\].pt'\)"):
        Features(["photon[0].pt"], computed=["photon_pt[0]"])
    with pytest.raises(UsageError, match="is computed and cannot be written: give it in computed="):
        Features(["mass(a, b)"])
    with pytest.raises(UsageError, match="at least one column"):
        Features([])
    with pytest.raises(UsageError, match="a list of texts, not as the one text 'pt'"):
        Features("pt")
    with pytest.raises(UsageError, match="scalings= names 'eta'"):
        Features(["pt"], scalings={"eta": Standard()})


def test_names_lengths_equality_and_json() -> None:
    features = Features(
        ["photon[0].pt", "MET.phi"], computed=["deltaR( photon[0],jet[0] )"], scalings={"MET.phi": Standard()}, periodic={"MET.phi": False}
    )
    assert features.names == ("photon[0].pt", "MET.phi", "deltaR(photon[0], jet[0])")
    assert (features.outputs, features.computed, len(features)) == (features.names[:2], features.names[2:], 3)
    again = Features.from_dict(json.loads(json.dumps(features.to_dict())))
    assert again == features
    assert hash(again) == hash(features)
    assert not again.periodic.any()
    assert again != Features(["photon[0].pt", "MET.phi"], computed=["deltaR(photon[0], jet[0])"])
    assert repr(features) == "Features(['photon[0].pt', 'MET.phi'], computed=['deltaR(photon[0], jet[0])'])"
    with pytest.raises(ModelFileError, match="description of the features is damaged"):
        Features.from_dict({"paths": ["a("], "computed": [], "periodic": []})
    with pytest.raises(ModelFileError, match="description of the features is damaged"):
        Features.from_dict({"paths": ["a"]})


def test_columns_for_reading() -> None:
    features = Features(["photon[0].pt", "MET_phi"], computed=["mass(jet[0], jet[1])", "count(tau)"])
    dotted = ["photon.pt", "photon.eta", "MET.phi", "MET.pt", "jet.pt", "jet.eta", "jet.phi", "jet.E", "jet.btag", "tau.q", "tau.pt"]
    assert features.columns(dotted) == {"photon.pt", "MET.phi", "jet.pt", "jet.eta", "jet.phi", "jet.E", "tau.pt"}
    flat = ["Photon_pt", "MET_phi", "jet_pt", "jet_eta", "jet_phi", "tau_n", "tau_q", "tau_pt"]
    assert features.columns(flat) == {"Photon_pt", "MET_phi", "jet_pt", "jet_eta", "jet_phi", "tau_q"}
    assert features.columns(["photon", "MET_phi", "jet", "tau"]) >= {"photon.pt", "MET_phi", "jet", "tau"}
    with pytest.raises(InputError, match=r"column 'photon\[0\].pt' .*did you mean photon.p_t"):
        features.columns(["photon.p_t"])


def nano(path: Path, log: list[Any]) -> Any:
    """Virtual events of a NanoAOD file; what is read is noted in `log`."""
    nanoevents = pytest.importorskip("coffea.nanoevents")
    with warnings.catch_warnings():
        # the file is older than the schema and lacks cross references
        warnings.simplefilter("ignore")
        return nanoevents.NanoEventsFactory.from_root({str(path): "Events"}, mode="virtual", access_log=log).events()


def test_virtual_nanoevents_read_the_declared_columns_only(shared_data: Path) -> None:
    log: list[Any] = []
    features = Features(["Jet[1].pt", "Jet[0].phi", "MET.pt"], computed=["deltaR(Jet[0], Jet[1])"])
    events = nano(shared_data / "nano_dy.root", log)
    assert not log
    matrix, mask = features.to_matrix(events)
    assert {access.branch for access in log} == {"nJet", "Jet_pt", "Jet_eta", "Jet_phi", "MET_pt"}
    assert 0 < mask.sum() < len(events)
    log.clear()
    fresh = nano(shared_data / "nano_dy.root", log)[2:]
    back = features.from_matrix(fresh, matrix[mask[:2].sum() :], mask[2:])
    assert {access.branch for access in log} == {"nJet", "Jet_pt", "Jet_phi", "MET_pt"}
    assert type(back) is type(fresh)
    assert (type(back.Jet), back.Jet.fields) == (type(fresh.Jet), fresh.Jet.fields)
    assert back.metadata == fresh.metadata
    assert back.Jet.type == fresh.Jet.type
    assert ak.parameters(back.Jet) == ak.parameters(fresh.Jet)
    assert ak.array_equal(back.Jet.pt, fresh.Jet.pt)
    assert ak.array_equal(back.Jet.mass, fresh.Jet.mass)
    # behaviours that reach into other collections still do
    assert ak.array_equal(back.Jet.matched_gen.pt, fresh.Jet.matched_gen.pt)


def test_reordered_virtual_nanoevents_stay_virtual(shared_data: Path) -> None:
    log: list[Any] = []
    features = Features(["Jet[0].pt"])
    events = nano(shared_data / "nano_dy.root", log)[[3, 3, 0]]
    matrix, mask = features.to_matrix(events)
    moved = features.from_matrix(events, matrix + np.array([[1.0], [2.0], [3.0]])[mask], mask)
    assert {access.branch for access in log} == {"nJet", "Jet_pt"}
    np.testing.assert_allclose(moved.Jet.pt[mask, 0] - events.Jet.pt[mask, 0], [1.0, 2.0, 3.0], rtol=1e-5)
    assert ak.array_equal(moved.Jet.eta, events.Jet.eta)


def test_a_million_events_are_done_column_by_column() -> None:
    events = photons(np.resize([2, 3, 1, 2], 200_000))
    features = Features(SIX)
    features.to_matrix(events[:10])
    start = time.process_time()
    matrix, mask = features.to_matrix(events)
    back = features.from_matrix(events, matrix, mask)
    spent = time.process_time() - start
    start = time.process_time()
    packed = [ak.pad_none(events.photon[field], 2, axis=1)[:, i] for i in (0, 1) for field in ("pt", "eta", "phi")]
    reference = np.stack([ak.to_numpy(ak.drop_none(column[mask])) for column in packed], axis=1)
    by_awkward = time.process_time() - start
    np.testing.assert_array_equal(matrix, reference)
    assert ak.array_equal(back, events)
    # a loop over events would take a hundred times as long as awkward's own padding
    assert spent < 20 * by_awkward
