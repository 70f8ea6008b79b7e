"""What weights are for events and objects of every kind, in coffea and in dask; test_arrays.py holds the layouts and the columns read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import array_kinds as kinds
import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ratio_support import MEAN, STD, made, replicas

import hepgen
from hepgen.errors import InputError, UsageError
from hepgen.estimators.reweighter import per_event
from hepgen.events import Log, Scaler, Standard

FLAT = made(hepgen.Features(["x", "y"]))
JETS = made(hepgen.Features(["pt", "eta"], computed=["rho"]))
FIRST = made(hepgen.Features(["Jet[0].pt", "Jet[0].eta"]))
COUNTS = [2, 0, 3, 1, 0]


def events(counts: Any = COUNTS, seed: int = 1) -> ak.Array:
    n, total, rng = len(counts), int(sum(counts)), np.random.default_rng(seed)
    pt, eta = rng.normal(MEAN, STD, (2, total))
    columns = {name: rng.normal(MEAN, STD, n) for name in ("x", "y", "rho")}
    return ak.Array({**columns, "Jet": ak.unflatten(ak.Array({"pt": pt, "eta": eta}), np.asarray(counts, dtype=np.int64))})


def jet_weights(array: ak.Array) -> np.ndarray:
    """(number of jets, E), by plain numpy."""
    rho = np.repeat(ak.to_numpy(array.rho), ak.to_numpy(ak.num(array.Jet)))
    return replicas(JETS, np.stack([ak.to_numpy(ak.flatten(array.Jet.pt)), ak.to_numpy(ak.flatten(array.Jet.eta)), rho], axis=1))


@given(counts=st.lists(st.integers(0, 4), max_size=8), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_values_against_plain_numpy(counts: list[int], seed: int) -> None:
    array = events(counts, seed)
    flat = replicas(FLAT, np.stack([array.x, array.y], axis=1))
    np.testing.assert_allclose(FLAT.weights(array), flat.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(FLAT.weights(array, replicas=True), flat, rtol=1e-5)
    np.testing.assert_allclose(FLAT.log_ratio(array), np.log(flat.mean(axis=1)), rtol=1e-5, atol=1e-5)
    dw = FLAT.weights(array, uncertainty=True)[1]
    np.testing.assert_allclose(dw, flat.std(axis=1, ddof=1), rtol=1e-4, atol=1e-6)
    jets, spread = JETS(array.Jet, rho=array.rho, uncertainty=True)
    wanted = jet_weights(array)
    assert ak.num(jets).tolist() == counts
    np.testing.assert_allclose(ak.flatten(jets), wanted.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(ak.flatten(spread), wanted.std(axis=1, ddof=1), rtol=1e-4, atol=1e-6)
    products = [np.prod(part) for part in np.split(wanted.mean(axis=1), np.cumsum(counts)[:-1])] if counts else []
    np.testing.assert_allclose(per_event(jets), products, rtol=1e-5)


def test_events_without_the_objects_weigh_one_and_are_counted() -> None:
    array = events()
    w, counts = FIRST.weights_counted(array)
    there = np.array(COUNTS) > 0
    assert tuple(counts) == (5, 3, 2, 0, 0, 0.0)
    assert w[~there].tolist() == [1.0, 1.0]
    _, dw = FIRST.weights(array, uncertainty=True)
    assert dw[~there].tolist() == [0.0, 0.0]
    assert np.all(dw[there] > 0)
    assert FIRST.log_ratio(array)[~there].tolist() == [0.0, 0.0]
    assert FIRST.weights(array, replicas=True)[~there].tolist() == [[1.0] * 3] * 2
    matrix = np.stack([ak.to_numpy(array.Jet[there][:, 0][name]) for name in ("pt", "eta")], axis=1)
    np.testing.assert_allclose(w[there], replicas(FIRST, matrix).mean(axis=1), rtol=1e-5)


def test_a_mapping_of_columns_and_a_structured_array_are_events_too() -> None:
    array = events()
    columns = {name: ak.to_numpy(array[name]) for name in ("x", "y")}
    structured = np.zeros(5, dtype=[("x", float), ("y", float)])
    structured["x"], structured["y"] = columns["x"], columns["y"]
    assert np.array_equal(FLAT.weights(columns), FLAT.weights(array))
    assert np.array_equal(FLAT.weights(structured), FLAT.weights(array))
    assert FLAT.weights(array).dtype == np.float64


def test_invalid_values_get_what_was_asked_for_and_are_counted() -> None:
    model = made(hepgen.Features(["x", "y"], scalings={"y": Log()}))
    model.scaler = Scaler([Standard.from_dict({"kind": "Standard", "mean": 0.0, "std": 1.0}), Log()], ["x", "y"])
    columns = {"x": np.array([0.5, np.nan, 1.0, 2.0]), "y": np.array([1.0, 2.0, -3.0, 4.0])}
    with pytest.raises(InputError, match="column 'x' holds 1 value that is NaN or inf, at entry 101"):
        model.weights_counted(columns, entry_start=100)
    with pytest.raises(InputError, match="column 'y': values must lie above 0"):
        model.weights({**columns, "x": np.zeros(4)})
    good = model.weights({name: column[[0, 3]] for name, column in columns.items()})
    for invalid, value in (("identity", 1.0), ("nan", np.nan)):
        w, counts = model.weights_counted(columns, invalid=invalid)  # type: ignore[arg-type]
        np.testing.assert_array_equal(w, [good[0], value, value, good[1]])
        assert counts[:4] == (4, 2, 0, 2)
    _, dw = model.weights(columns, uncertainty=True, invalid="nan")
    assert np.isnan(dw).tolist() == [False, True, True, False]


def test_clip_holds_the_mean_ratio_of_densities_and_says_so() -> None:
    model = made(hepgen.Features(["x", "y"]), clip=0.55)
    array = events([0] * 200)
    free = replicas(model, np.stack([array.x, array.y], axis=1))
    scale = np.exp(model.log_scale)
    mean = free.mean(axis=1)
    held = np.minimum(mean, 0.55 * scale)
    w, counts = model.weights_counted(array)
    np.testing.assert_allclose(w, held, rtol=1e-5)
    assert counts.clipped == (mean > 0.55 * scale).sum() > 10
    assert counts.cut == pytest.approx((mean - held).sum(), rel=1e-4)
    np.testing.assert_allclose(model.weights(array, replicas=True), free * (held / mean)[:, None], rtol=1e-5)


def test_per_object_weights_make_one_an_event() -> None:
    jagged = ak.Array([[2.0, 3.0], [], None, [4.0, None], [0.5]])
    assert per_event(jagged).tolist() == [6.0, 1.0, 1.0, 4.0, 0.5]
    assert per_event(ak.Array([[[2.0, 3.0], []], [], [[4.0]]])).tolist() == [6.0, 1.0, 4.0]
    assert per_event(np.array([2.0, 3.0])).tolist() == [2.0, 3.0]
    assert per_event(ak.Array([2.0, None])).tolist() == [2.0, 1.0]
    assert per_event(np.array([[2.0, 3.0], [1.0, 5.0]])).tolist() == [6.0, 5.0]
    assert per_event(ak.Array([[2.0]])[:0]).shape == (0,)
    assert isinstance(per_event(jagged), np.ndarray)
    lazy, touched = kinds.typetracer(ak.Array({"w": jagged}))
    traced = per_event(lazy.w)
    assert ak.backend(traced) == "typetracer"
    assert str(traced.type) == "## * float64"
    assert touched() == {"w"}
    assert per_event(kinds.dask(jagged)).compute(scheduler="sync").to_list() == [6.0, 1.0, 1.0, 4.0, 0.5]


@pytest.mark.parametrize("what", ["events", "objects"])
def test_pairs_replicas_and_variations_are_the_same_from_every_kind_of_array(what: str) -> None:
    array = events()

    def ask(given: Any) -> list[Any]:
        if what == "events":
            return [*FLAT.weights(given, uncertainty=True), FLAT.weights(given, replicas=True), *FLAT.variations(given).values()]
        jets = given.Jet, {"rho": given.rho}
        return [
            *JETS(jets[0], uncertainty=True, **jets[1]),
            JETS(jets[0], replicas=True, **jets[1]),
            *JETS.variations(jets[0], **jets[1]).values(),
        ]

    wanted = [ak.to_list(one) for one in ask(array)]
    assert [ak.to_list(one) for one in ask(kinds.virtual(array)[0])] == wanted
    assert [ak.to_list(one.compute(scheduler="sync")) for one in ask(kinds.dask(array))] == wanted
    lazy, touched = kinds.typetracer(array)
    for traced, one in zip(ask(lazy), ask(array), strict=True):
        assert ak.backend(traced) == "typetracer"
        assert str(traced.type).partition(" * ")[2] == str(ak.Array(one).type).partition(" * ")[2]
    assert touched() - {"", "Jet"} == ({"x", "y"} if what == "events" else {"Jet.pt", "Jet.eta", "rho"})
    assert [ak.to_list(one) for one in ask(array[:0])] == [[]] * 6


def test_branches_of_the_schema_are_taken_in_their_own_units() -> None:
    model = made(hepgen.Features(["photon[0].pt", "photon[0].eta"]), schema="atlas-open-data")
    pt, eta = ak.Array([[50.0, 30.0], [], [40.0]]), ak.Array([[0.1, 0.2], [], [-1.0]])
    records = ak.Array({"photon": ak.zip({"pt": pt, "eta": eta})})
    raw = ak.Array({"photon_n": ak.num(pt), "photon_pt": 1000 * pt, "photon_eta": eta, "met_et": np.zeros(3)})
    np.testing.assert_allclose(model.weights(raw), model.weights(records), rtol=1e-6)
    assert model.weights(raw)[1] == 1.0
    lazy, touched = kinds.typetracer(raw)
    assert str(model.weights(lazy).type) == "## * float64"
    assert {"photon_pt", "photon_eta"} <= touched() <= {"", "photon_pt", "photon_eta", "photon_n"}
    assert model.columns(raw.fields) == {"photon_pt", "photon_eta"}


@pytest.mark.filterwarnings("ignore:Missing cross-reference index:RuntimeWarning", "ignore:Branch Photon_:RuntimeWarning")
def test_coffea_weights_and_systematics(shared_data: Path) -> None:
    pytest.importorskip("coffea")
    from coffea.analysis_tools import Weights
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

    path = shared_data / "nano_dimuon.root"
    first = made(hepgen.Features(["Muon[0].pt", "Muon[0].eta"]))
    for mode in ("virtual", "eager"):
        nano = NanoEventsFactory.from_root({str(path): "Events"}, schemaclass=NanoAODSchema, mode=mode).events()
        found, wanted = first.variations(nano), first.variations(nano)
        assert np.all(found["up"][ak.num(nano.Muon) > 0] > found["nominal"][ak.num(nano.Muon) > 0])
        weights = Weights(len(nano))
        weights.add("reweighter", found["nominal"], found["up"], found["down"])
        for variation, name in ((None, "nominal"), ("reweighterUp", "up"), ("reweighterDown", "down")):
            np.testing.assert_allclose(weights.weight(variation), wanted[name], rtol=1e-12)
        nano.add_systematic("reweighter", "UpDownSystematic", "weight", first.systematic(nano))
        for side in ("up", "down"):
            np.testing.assert_allclose(nano.systematics.reweighter[side].weight_reweighter, wanted[side], rtol=1e-12)
        muons = nano.Muon
        muons.add_systematic("reweighter", "UpDownSystematic", "weight", JETS.systematic(muons, rho=5.0))
        each = JETS.variations(muons, rho=5.0)
        varied = muons.systematics.reweighter.down.weight_reweighter
        assert ak.num(varied).to_list() == ak.num(muons).to_list()
        np.testing.assert_allclose(ak.flatten(varied), ak.flatten(each["down"]), rtol=1e-12)


def test_a_systematic_multiplies_the_column_it_varies() -> None:
    array = events()
    varied = FLAT.systematic(array)(np.array([2.0, 1.0, 1.0, -1.0, 0.0]))
    found = FLAT.variations(array)
    np.testing.assert_allclose(varied, np.array([2.0, 1.0, 1.0, -1.0, 0.0])[:, None] * np.stack([found["up"], found["down"]], axis=1))
    lazy, _ = kinds.typetracer(array)
    assert FLAT.systematic(lazy)(np.ones(0)).shape == (0, 2)
    with pytest.raises(InputError, match="made for 5 events or objects, and coffea has 3: make it of the same array"):
        FLAT.systematic(array)(np.ones(3))


def test_what_cannot_be_given_is_refused() -> None:
    array, lonely = events(), made(hepgen.Features(["x", "y"]), ensemble=1)
    for ask in (lambda: lonely.weights(array, uncertainty=True), lambda: lonely.variations(array), lambda: lonely.systematic(array)):
        with pytest.raises(UsageError, match="one network has no scatter: fit an ensemble of 2 or more"):
            ask()
    assert lonely.weights(array, replicas=True).shape == (5, 1)
    with pytest.raises(UsageError, match="ask for uncertainty or for replicas"):
        FLAT.weights(array, uncertainty=True, replicas=True)
    with pytest.raises(UsageError, match="coffea calls a systematic partition by partition"):
        FLAT.systematic(kinds.dask(array))
    with pytest.raises(UsageError, match="weights_counted takes events in memory"):
        FLAT.weights_counted(kinds.dask(array))
    with pytest.raises(InputError, match="column 'y' is not in the events"):
        FLAT.weights(array[["x"]])
    with pytest.raises(InputError, match="column 'rho' has 2 events, and the objects have 5"):
        JETS(array.Jet, rho=array.rho[:2])
