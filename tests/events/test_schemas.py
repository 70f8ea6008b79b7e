"""Schemas: branches seen as records in GeV and put back, against numbers worked out beside them."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hepgen.errors import InputError, UsageError
from hepgen.events.schemas import detect, schema

ATLAS = schema("atlas-open-data")


def jagged(counts: list[int], values: np.ndarray) -> ak.Array:
    return ak.unflatten(ak.Array(values), np.array(counts, np.int64))


def mini(counts: list[int] | None = None, seed: int = 1) -> ak.Array:
    counts = [2, 0, 3, 1] if counts is None else counts
    rng = np.random.default_rng(seed)
    n, m = len(counts), sum(counts)
    return ak.Array(
        {
            "runNumber": np.full(n, 284500, np.int32),
            "channelNumber": np.full(n, 343981, np.int32),
            "mcWeight": rng.normal(1, 0.5, n).astype(np.float32),
            "scaleFactor_PILEUP": rng.normal(1, 0.1, n).astype(np.float32),
            "scaleFactor_PHOTON": rng.normal(1, 0.1, n).astype(np.float32),
            "trigP": rng.random(n) > 0.5,
            "photon_n": np.array(counts, np.uint32),
            "photon_pt": jagged(counts, rng.exponential(5e4, m).astype(np.float32)),
            "photon_eta": jagged(counts, rng.normal(0, 1, m).astype(np.float32)),
            "photon_E": jagged(counts, rng.exponential(9e4, m).astype(np.float32)),
            "photon_isTightID": jagged(counts, rng.random(m) > 0.5),
            "photon_ptcone30": jagged(counts, rng.exponential(1e3, m).astype(np.float32)),
            "met_et": rng.exponential(3e4, n).astype(np.float32),
            "met_phi": rng.uniform(-3, 3, n).astype(np.float32),
            "jet_n": np.zeros(n, np.uint32),
            "jet_pt": jagged([0] * n, np.zeros(0, np.float32)),
        }
    )


ATLAS_VIEW = "runNumber channelNumber mcWeight scaleFactor_PILEUP scaleFactor_PHOTON trigP photon_n photon MET jet_n jet"


def bits(array: ak.Array) -> bytes:
    return np.asarray(ak.flatten(array, axis=None)).tobytes()


def test_atlas_view_names_units_and_types():
    raw = mini()
    events = ATLAS.view(raw)
    assert events.fields == ATLAS_VIEW.split()
    assert events.photon.fields == ["pt", "eta", "E", "isTightID", "ptcone30"]
    assert events.MET.fields == ["pt", "phi"]
    assert events.photon.pt.tolist() == [[np.float32(x) / np.float32(1000) for x in event] for event in raw.photon_pt.tolist()]
    assert bits(events.photon.eta) == bits(raw.photon_eta)
    assert np.allclose(events.photon.ptcone30[2], np.asarray(raw.photon_ptcone30[2]) / 1000, rtol=1e-7)
    assert np.allclose(events.photon.E[0], np.asarray(raw.photon_E[0]) / 1000, rtol=1e-7)
    assert np.allclose(events.MET.pt, np.asarray(raw.met_et) / 1000, rtol=1e-7)
    assert bits(events.MET.phi) == bits(raw.met_phi)
    assert str(events.type.content.content("photon")) == "var * {pt: float32, eta: float32, E: float32, isTightID: bool, ptcone30: float32}"
    assert events.attrs["schema"] == "atlas-open-data"


def test_view_of_columns_reads_no_others():
    raw = mini()
    events = ATLAS.view(raw, columns=["photon[1].pt", "MET.pt", "trigP"])
    assert events.fields == ["trigP", "photon", "MET"]
    assert (events.photon.fields, events.MET.fields) == (["pt"], ["pt"])
    assert ATLAS.branches(["photon"], raw.fields) == ["photon_pt", "photon_eta", "photon_E", "photon_isTightID", "photon_ptcone30"]
    assert ATLAS.branches(["photon_pt", "photon.eta", "met_et", "MET.phi"], raw.fields) == ["photon_pt", "photon_eta", "met_et", "met_phi"]


def test_missing_column_names_the_near_one():
    with pytest.raises(InputError, match=r"column 'photon\.pT': did you mean 'photon\.pt' or 'photon_pt'"):
        ATLAS.branches(["photon.pT"], mini().fields)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)), st.randoms(use_true_random=False))
def test_unview_of_view_is_the_same_bits(values, random):
    counts = []
    while sum(counts) < len(values):
        counts.append(min(random.randint(0, 3), len(values) - sum(counts)))
    raw = ak.Array({"photon_pt": jagged(counts, values), "photon_phi": jagged(counts, values[::-1].copy())})
    back = ATLAS.unview(raw, ATLAS.view(raw), ["photon.pt", "photon.phi"])
    assert back.type == raw.type
    assert bits(back.photon_pt) == bits(raw.photon_pt)
    assert bits(back.photon_phi) == bits(raw.photon_phi)


def test_unview_writes_changed_values_in_raw_units():
    raw = mini()
    events = ATLAS.view(raw)
    moved = ak.with_field(events, ak.where(events.photon.eta > 0, events.photon.pt + 1.5, events.photon.pt), ["photon", "pt"])
    moved = ak.with_field(moved, ak.values_astype(moved.MET.pt * 2, np.float64), ["MET", "pt"])
    back = ATLAS.unview(raw, moved, ["photon[0].pt", "photon[1].pt", "MET.pt"])
    assert back.type == raw.type
    before, eta = np.asarray(ak.flatten(raw.photon_pt)), np.asarray(ak.flatten(raw.photon_eta))
    after = np.asarray(ak.flatten(back.photon_pt))
    assert np.array_equal(after[eta <= 0], before[eta <= 0])
    assert np.allclose(after[eta > 0], before[eta > 0] + 1500, rtol=3e-7)
    assert np.allclose(back.met_et, 2 * np.asarray(raw.met_et), rtol=2e-7)
    for name in raw.fields:
        if name not in ("photon_pt", "met_et"):
            assert bits(back[name]) == bits(raw[name])


def test_unview_of_sliced_events():
    raw = mini([2, 0, 3, 1, 2])[np.array([4, 2, 0])]
    events = ATLAS.view(raw)
    assert np.allclose(events.photon.pt[1], np.asarray(raw.photon_pt[1]) / 1000, rtol=1e-7)
    back = ATLAS.unview(raw, events, ["photon.pt"])
    assert back.photon_pt.tolist() == raw.photon_pt.tolist()


def test_unview_refuses_other_objects():
    raw = mini()
    events = ATLAS.view(raw)
    fewer = ak.with_field(events, events.photon[:, :1], "photon")
    with pytest.raises(InputError, match="objects of 'photon_pt' are not those that were read"):
        ATLAS.unview(raw, fewer, ["photon.pt"])
    with pytest.raises(InputError, match="3 events cannot be put back into 4"):
        ATLAS.unview(raw, events[:3], ["photon.pt"])
    with pytest.raises(InputError, match=r"no column 'photon\.pt' to write"):
        ATLAS.unview(raw, ak.without_field(events, ["photon", "pt"]), ["photon.pt"])
    none = ak.with_field(events, ak.mask(events.MET.pt, events.MET.pt > 1e9), ["MET", "pt"])
    with pytest.raises(InputError, match="'met_et' has not its missing values where they were read"):
        ATLAS.unview(raw, none, ["MET.pt"])


def test_missing_values_stay_where_they_are():
    raw = ak.Array({"photon_pt": [[1e3, None], [], [3e3]], "met_et": [None, 5e3, 6e3]})
    events = ATLAS.view(raw)
    assert events.photon.pt.tolist() == [[1.0, None], [], [3.0]]
    moved = ak.with_field(ak.with_field(events, events.photon.pt + 1, ["photon", "pt"]), events.MET.pt * 2, ["MET", "pt"])
    back = ATLAS.unview(raw, moved, ["photon.pt", "MET.pt"])
    assert back.tolist() == [{"photon_pt": p, "met_et": m} for p, m in zip([[2e3, None], [], [4e3]], [None, 1e4, 1.2e4], strict=True)]
    assert back.type == raw.type


def test_lists_that_may_be_none_but_are_not():
    raw = ak.Array({"photon_pt": [[1e3], [], [3e3]], "photon_eta": [[0.5], [], [1.5]]})
    allowed = ak.zip({name: ak.mask(raw[name], [True] * 3) for name in raw.fields}, depth_limit=1)
    assert str(allowed.type) == "3 * {photon_pt: option[var * float64], photon_eta: option[var * float64]}"
    assert ATLAS.view(allowed).photon.tolist() == [[{"pt": 1.0, "eta": 0.5}], [], [{"pt": 3.0, "eta": 1.5}]]


def test_members_of_unequal_length_stay_at_event_level():
    raw = ak.Array({"photon_pt": jagged([1, 2], np.arange(3.0)), "photon_track": jagged([2, 0], np.arange(2.0))})
    events = ATLAS.view(raw)
    assert events.photon.fields == ["pt"]
    assert events.photon_track.tolist() == [[0.0, 1.0], []]


def test_flatten_undoes_view():
    raw = mini()
    back = ATLAS.flatten(ATLAS.view(raw))
    assert back.fields == raw.fields
    assert back.type == raw.type
    for name in raw.fields:
        assert np.allclose(ak.flatten(back[name], axis=None), ak.flatten(raw[name], axis=None), rtol=2e-7)


def test_atlas_weight_is_the_product():
    raw = mini()
    expected = [
        w * p * f for w, p, f in zip(raw.mcWeight.tolist(), raw.scaleFactor_PILEUP.tolist(), raw.scaleFactor_PHOTON.tolist(), strict=True)
    ]
    for events in (raw, ATLAS.view(raw)):
        weights = ATLAS.weight(events)
        assert weights.dtype == np.float64
        assert np.allclose(weights, expected, rtol=1e-14)
    assert ATLAS.weight_columns(raw.fields) == ["runNumber", "channelNumber", "mcWeight", "scaleFactor_PILEUP", "scaleFactor_PHOTON"]


def test_atlas_data_weigh_one_event_by_event():
    raw = ak.Array(
        {
            "runNumber": np.array([350000, 350000, 284500, 284500]),
            "channelNumber": np.array([0, 350000, 343981, 343981]),
            "mcWeight": np.array([0, 0, 0, -2], np.float32),
            "scaleFactor_PILEUP": np.array([0, 0, 1, 3], np.float32),
        }
    )
    assert ATLAS.weight(raw).tolist() == [1, 1, 0, -6]
    assert [ATLAS.weight(raw[i : i + 1]).item() for i in range(4)] == [1, 1, 0, -6]
    assert ATLAS.weight(raw[["runNumber"]]).tolist() == [1, 1, 1, 1]
    assert ATLAS.weight(raw[["mcWeight", "scaleFactor_PILEUP"]]).tolist() == [1, 1, 1, -6]


def test_weight_refuses_nan():
    raw = ak.with_field(mini(), np.array([1, np.nan, 1, np.inf], np.float32), "scaleFactor_PHOTON")
    with pytest.raises(InputError, match=r"2 event weights from mcWeight, .*scaleFactor_PHOTON are NaN or infinite \(entries 1, 3"):
        ATLAS.weight(raw)


def test_nanoaod_view_and_weight():
    raw = ak.Array(
        {
            "run": np.array([1, 1], np.uint32),
            "genWeight": np.array([-2.0, 3.0], np.float32),
            "nPhoton": np.array([1, 2], np.uint32),
            "Photon_pt": jagged([1, 2], np.array([10, 20, 30], np.float32)),
            "Photon_mvaID_WP80": jagged([1, 2], np.array([True, False, True])),
            "MET_pt": np.array([5, 6], np.float32),
            "HLT_Photon_30": np.array([True, False]),
            "nLHEScaleWeight": np.array([0, 1], np.uint32),
            "LHEScaleWeight": jagged([0, 1], np.array([1.0])),
        }
    )
    nano = schema("nanoaod")
    events = nano.view(raw)
    assert events.fields == ["run", "genWeight", "nPhoton", "Photon", "MET", "HLT", "nLHEScaleWeight", "LHEScaleWeight"]
    assert events.Photon.pt.tolist() == [[10], [20, 30]]
    assert events.Photon.mvaID_WP80.tolist() == [[True], [False, True]]
    assert events.HLT.Photon_30.tolist() == [True, False]
    assert nano.weight(raw).tolist() == [-2, 3]
    assert nano.weight(raw[["run"]]).tolist() == [1, 1]
    assert nano.flatten(events).fields == raw.fields


def test_physlite_view_and_weight():
    raw = ak.Array(
        {
            "EventInfoAuxDyn.runNumber": np.array([1, 2], np.uint32),
            "EventInfoAuxDyn.mcEventWeights": jagged([2, 1], np.array([3, 9, -4], np.float32)),
            "EventInfoAuxDyn.PileupWeight_NOSYS": np.array([0.5, 2], np.float32),
            "AnalysisPhotonsAuxDyn.pt": jagged([0, 2], np.array([1e4, 2e4], np.float32)),
            "AnalysisPhotonsAuxDyn.topoetcone40": jagged([0, 2], np.array([1e3, 2e3], np.float32)),
            "TruthPhotonsAuxDyn.pdgId": jagged([1, 0], np.array([22], np.int32)),
        }
    )
    lite = schema("physlite")
    events = lite.view(raw)
    assert events.fields == ["EventInfo", "Photons", "TruthPhotons"]
    assert events.Photons.tolist() == [[], [{"pt": 10.0, "topoetcone40": 1.0}, {"pt": 20.0, "topoetcone40": 2.0}]]
    assert events.EventInfo.runNumber.tolist() == [1, 2]
    assert lite.view(raw, columns=["EventInfo.mcEventWeights"]).EventInfo.mcEventWeights.tolist() == [[3, 9], [-4]]
    assert lite.weight(raw).tolist() == lite.weight(events).tolist() == [1.5, -8]
    assert lite.weight(raw[["TruthPhotonsAuxDyn.pdgId"]]).tolist() == [1, 1]
    assert lite.flatten(events).fields == raw.fields


def test_flat_view_is_the_branches():
    raw = ak.Array({"Jet_pt": jagged([1, 0], np.array([1.0])), "mass": np.array([90.0, 91.0]), "weight": np.array([2.0, -1.0])})
    flat = schema("flat")
    assert flat.view(raw).tolist() == raw.tolist()
    assert flat.weight(raw).tolist() == [2, -1]
    assert flat.weight(raw[["mass"]]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("tree", "branches", "name"),
    [
        ("mini", ["mcWeight", "photon_n", "photon_pt"], "atlas-open-data"),
        ("mini", ["photon_pt", "photon_eta"], "atlas-open-data"),
        ("Events", ["run", "luminosityBlock", "event", "nJet"], "nanoaod"),
        ("Events", ["nMuon", "Muon_pt"], "nanoaod"),
        ("CollectionTree", ["EventInfoAuxDyn.runNumber"], "physlite"),
        ("events", ["NJet", "Jet_Px"], "flat"),
        ("Events", ["mass"], "flat"),
        ("mini", ["mass"], "flat"),
    ],
)
def test_detect(tree, branches, name):
    assert detect(tree, branches).name == name


def test_unknown_schema():
    with pytest.raises(UsageError, match="no schema 'atlas': choose one of atlas-open-data, nanoaod, physlite, flat"):
        schema("atlas")
    assert schema(ATLAS) is ATLAS


def test_events_must_be_records():
    with pytest.raises(InputError, match="array of records"):
        ATLAS.view(ak.Array([1.0, 2.0]))


def test_view_without_data_has_the_same_type():
    raw = mini()
    tracer = ak.Array(raw.layout.to_typetracer(forget_length=True))
    assert str(ATLAS.view(tracer).type.content) == str(ATLAS.view(raw).type.content)
    assert ATLAS.view(raw[:0]).type.content == ATLAS.view(raw).type.content
