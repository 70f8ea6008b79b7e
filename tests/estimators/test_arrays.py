"""Every estimator on every kind of array that coffea may hand over: values, layout, None, names, behaviour, metadata and columns read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_kinds as kinds
import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hepgen
from hepgen.errors import InputError, UsageError
from hepgen.events.adapter import Objects

N = 23
SMALL: dict[str, Any] = {"blocks": 2, "hidden": (8, 8)}
BEHAVIOR = {"__doc__": {"Jet": "kept"}}


def made(seed: int, n: int = N, harder: float = 1.0) -> ak.Array:
    """Events with a jagged collection, an event-level record, flat columns, and columns that no model names."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, n)
    total = int(counts.sum())
    jets = {
        "pt": (20 + harder * rng.exponential(30, total)).astype(np.float32),
        "eta": rng.normal(0, 1, total),
        "phi": rng.uniform(-3, 3, total).astype(np.float32),
        "flavour": rng.integers(0, 6, total),
    }
    met = {"pt": rng.exponential(20 * harder, n), "phi": rng.uniform(-3, 3, n), "significance": rng.exponential(1, n)}
    return ak.zip(
        {
            "run": np.full(n, 3, dtype=np.uint32),
            "luminosityBlock": np.ones(n, dtype=np.uint32),
            "event": np.arange(n, dtype=np.uint64),
            "rho": rng.uniform(5, 30, n),
            "x": rng.normal(0, harder, n),
            "y": rng.normal(harder, 1, n).astype(np.float32),
            "Jet": ak.unflatten(ak.zip(jets, with_name="Jet"), counts),
            "MET": ak.zip(met, with_name="Momentum"),
            "HLT": ak.zip({"a": rng.integers(0, 2, n) > 0, "b": rng.integers(0, 2, n) > 0}),
        },
        depth_limit=1,
        with_name="Event",
        behavior=BEHAVIOR,
    )


def with_options(events: ak.Array) -> ak.Array:
    """Lists that are None, objects that are None."""
    jets = ak.mask(events.Jet, events.Jet.eta > -0.8)
    jets = ak.mask(jets, events.rho < 27)
    return ak.with_field(events, jets, "Jet")


def regular(events: ak.Array) -> ak.Array:
    """Lists of one length, None where there is no jet."""
    return ak.with_field(events, ak.to_regular(ak.pad_none(events.Jet, 2, clip=True), axis=1), "Jet")


def indexed(events: ak.Array) -> ak.Array:
    """Lists and records that are picked from others by number."""
    backwards = events[::-1]
    return ak.with_field(backwards, backwards.Jet[:, ::-1], "Jet")


LAYOUTS: dict[str, tuple[list[str], Callable[[ak.Array], ak.Array]]] = {
    "flat": (["x", "y"], lambda events: events),
    "record": (["MET.pt", "MET.phi"], lambda events: events),
    "jagged": (["Jet[0].pt", "Jet[0].eta"], lambda events: events),
    "option": (["Jet[0].pt", "Jet[0].eta"], with_options),
    "regular": (["Jet[0].pt", "Jet[0].eta"], regular),
    "indexed": (["Jet[0].pt", "Jet[0].eta"], indexed),
}
NUMBERS = {"run", "luminosityBlock", "event"}


def fitted(name: str, features: hepgen.Features, sim: ak.Array, data: ak.Array) -> Any:
    if name == "SimToData":
        return hepgen.SimToData(features, loss="nll", **SMALL).fit(sim, data, epochs=1, batch_size=200, progress=False)
    return hepgen.Reweighter(features, ensemble=2, hidden=(8,)).fit(sim, data, epochs=1, batch_size=200, progress=False)


def call(model: Any, events: Any) -> Any:
    return model.transform(events) if isinstance(model, hepgen.SimToData) else model.weights(events)


class Fitted(dict[Any, Any]):
    """Models by estimator and columns, each fitted when first asked for."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __missing__(self, key: Any) -> Any:
        self[key] = self.make(key)
        return self[key]


@pytest.fixture(scope="module")
def models() -> Fitted:
    """By estimator and paths."""
    sim, data = made(1, 800), made(2, 800, harder=1.4)
    return Fitted(lambda key: fitted(key[0], hepgen.Features(key[1]), sim, data))


@pytest.fixture(scope="module")
def object_models() -> Fitted:
    """By estimator: models of one jet, with a column of its event."""
    features = hepgen.Features(["pt", "eta"], computed=["rho"])
    tables = [Objects(events.Jet).with_columns({"rho": events.rho}) for events in (made(1, 800), made(2, 800, harder=1.4))]
    return Fitted(lambda name: fitted(name, features, *tables))


def parts(paths: list[str]) -> set[str]:
    return {path.replace("[0]", "") for path in paths}


def missing(array: ak.Array) -> Any:
    """The array as lists, with True for None and False for what is there."""

    def mark(item: Any) -> Any:
        return [mark(one) for one in item] if isinstance(item, list) else item is None

    return mark(ak.to_list(array))


def equal(one: Any, other: Any) -> bool:
    """The same values and types, bit for bit; one may hold its None in another way than the other."""
    return bool(ak.array_equal(one, other, equal_nan=True, same_content_types=False))


def check_events(out: ak.Array, events: ak.Array, paths: list[str]) -> None:
    """What every transformation of events keeps, and that it did something."""
    assert str(out.type) == str(events.type)
    assert out.behavior == events.behavior
    assert out.attrs == events.attrs
    changed = {path.partition("[")[0].partition(".")[0] for path in paths}
    for field in events.fields:
        if field not in changed:
            assert equal(out[field], events[field]), field
    for top in changed & {"Jet", "MET"}:
        others = [name for name in events[top].fields if name not in ("pt", "eta", "phi")]
        assert equal(out[top][others], events[top][others])
        assert missing(out[top]) == missing(events[top])


@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("estimator", ["SimToData", "Reweighter"])
def test_every_kind_of_array_gives_what_one_in_memory_does(models: Any, estimator: str, layout: str, kind: str) -> None:
    paths, shape = LAYOUTS[layout]
    model, events = models[estimator, tuple(paths)], shape(made(5))
    events.attrs["dataset"] = "ttbar"
    wanted = call(model, events)
    transforms = estimator == "SimToData"
    needed = parts(paths) | (NUMBERS if transforms else set())
    if transforms:
        check_events(wanted, events, paths)
        assert not equal(wanted, events)
    if kind == "virtual":
        lazy, read = kinds.virtual(events)
        out = call(model, lazy)
        assert read - {""} <= needed | {path.partition(".")[0] for path in parts(paths)}
        assert needed <= read
        same(out, wanted)
    elif kind == "typetracer":
        lazy, touched = kinds.typetracer(events)
        out = call(model, lazy)
        assert ak.backend(out) == "typetracer"
        assert str(out.type).partition(" * ")[2] == str(ak.Array(wanted).type).partition(" * ")[2]
        assert needed <= touched() <= needed | {"", *(path.partition(".")[0] for path in parts(paths))}
        assert not transforms or (out.behavior == events.behavior and out.attrs["dataset"] == "ttbar")
    elif kind == "dask":
        # dask-awkward takes whole arrays apart along their lists, which it packs
        out = call(model, kinds.dask(events)).compute(scheduler="sync")
        assert equal(out, wanted)
        assert not transforms or ak.parameters(out) == ak.parameters(wanted)
    else:
        n = {"eager": N, "length-0": 0, "length-1": 1}[kind]
        same(call(model, events[:n]), wanted[:n])


def same(out: Any, wanted: Any) -> None:
    """Equal bit for bit, and of one type."""
    one, other = ak.Array(out), ak.Array(wanted)
    assert str(one.type) == str(other.type)
    assert equal(one, other)
    assert one.behavior == other.behavior
    assert one.attrs == other.attrs


@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("shape", [lambda events: events, with_options, regular, indexed], ids=["jagged", "option", "regular", "indexed"])
@pytest.mark.parametrize("estimator", ["SimToData", "Reweighter"])
def test_objects_with_columns_of_their_events(object_models: Any, estimator: str, shape: Any, kind: str) -> None:
    model, events = object_models[estimator], shape(made(6))

    def run(events: Any) -> Any:
        return model(events.Jet, rho=events.rho, identity=events) if estimator == "SimToData" else model(events.Jet, rho=events.rho)

    wanted = run(events)
    assert len(wanted) == N
    assert missing(wanted) == missing(events.Jet)
    needed = {"Jet.pt", "Jet.eta", "rho"} | (NUMBERS if estimator == "SimToData" else set())
    if estimator == "SimToData":
        assert str(wanted.type) == str(events.Jet.type)
        assert equal(wanted.flavour, events.Jet.flavour)
        assert not ak.any(wanted.pt == events.Jet.pt)
    if kind == "virtual":
        lazy, read = kinds.virtual(events)
        out = run(lazy)
        assert needed <= read <= needed | {"", "Jet"}
        same(out, wanted)
    elif kind == "typetracer":
        lazy, touched = kinds.typetracer(events)
        out = run(lazy)
        assert ak.backend(out) == "typetracer"
        assert str(out.type).partition(" * ")[2] == str(wanted.type).partition(" * ")[2]
        assert needed <= touched() <= needed | {"", "Jet"}
    elif kind == "dask":
        assert equal(run(kinds.dask(events)).compute(scheduler="sync"), wanted)
    else:
        n = {"eager": N, "length-0": 0, "length-1": 1}[kind]
        same(run(events[:n]), wanted[:n])


def one_by_one(model: Any, events: ak.Array) -> list[Any]:
    """Every jet on its own, as an array of one flat record with its own key, put into Python lists."""
    found: list[Any] = []
    for event in ak.to_list(events[["run", "luminosityBlock", "event", "rho", "Jet"]]):
        lists = event["Jet"]
        row: Any = None if lists is None else []
        for place, jet in enumerate(lists or []):
            if jet is None:
                row.append(None)
                continue
            key = np.array([[event["run"], event["luminosityBlock"], event["event"], place]], dtype=np.uint64)
            columns = {"pt": np.array([jet["pt"]], dtype=np.float32), "eta": np.array([jet["eta"]]), "rho": np.array([event["rho"]])}
            out = model.transform(columns, identity=key)
            row.append((float(out["pt"][0]), float(out["eta"][0])))
        found.append(row)
    return found


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_random_layouts_give_what_every_object_alone_does(object_models: Any, data: st.DataObject) -> None:
    model = object_models["SimToData"]
    events = made(data.draw(st.integers(0, 5)), n=data.draw(st.integers(0, 9)))
    for step in data.draw(st.lists(st.sampled_from(["mask objects", "mask lists", "pick", "slice", "reverse lists", "pack"]), max_size=4)):
        if step == "mask objects" and "?" not in str(events.Jet.type):
            events = ak.with_field(events, ak.mask(events.Jet, events.Jet.phi > 0), "Jet")
        elif step == "mask lists" and "option" not in str(events.Jet.type):
            events = ak.with_field(events, ak.mask(events.Jet, events.rho > 12), "Jet")
        elif step == "pick" and len(events):
            events = events[np.array(data.draw(st.lists(st.integers(0, len(events) - 1), max_size=12)), dtype=np.int64)]
        elif step == "slice":
            events = events[data.draw(st.integers(0, 3)) :: data.draw(st.integers(1, 3))]
        elif step == "reverse lists":
            events = ak.with_field(events, events.Jet[:, ::-1], "Jet")
        elif step == "pack":
            events = ak.to_packed(events)
    out = model(events.Jet, rho=events.rho, identity=events)
    pairs = [None if row is None else [None if jet is None else (jet["pt"], jet["eta"]) for jet in row] for row in ak.to_list(out)]
    assert pairs == one_by_one(model, events)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_give_the_same_bits(models: Any, object_models: Any, chunk: int) -> None:
    events, model = made(7, 1200), models["SimToData", ("Jet[0].pt", "Jet[0].eta")]
    stop = 150 if chunk == 1 else len(events)
    whole = model.transform(events)
    cut = ak.concatenate([model.transform(events[i : i + chunk]) for i in range(0, stop, chunk)])
    assert equal(cut, whole[:stop])
    objects = object_models["SimToData"]
    jets = objects(events.Jet, rho=events.rho, identity=events)
    cut = ak.concatenate([objects(e.Jet, rho=e.rho, identity=e) for e in (events[i : i + chunk] for i in range(0, stop, chunk))])
    assert equal(cut, jets[:stop])
    weights = models["Reweighter", ("x", "y")]
    cut_weights = np.concatenate([weights.weights(events[i : i + chunk]) for i in range(0, stop, chunk)])
    assert np.array_equal(cut_weights, weights.weights(events)[:stop])


def test_threads_and_order_change_nothing(models: Any) -> None:
    from hepgen.kernels import threads

    events, model = made(8, 3000), models["SimToData", ("x", "y")]
    order = np.random.default_rng(1).permutation(len(events))
    results = []
    for count in (1, 2):
        with threads(count):
            results += [model.transform(events), model.transform(events[order])[np.argsort(order)]]
    assert all(equal(one, results[0]) for one in results)


def test_copies_have_noise_of_their_own(models: Any) -> None:
    events, model = made(8), models["SimToData", ("x", "y")]
    first, second = (model.transform(events, copy=copy) for copy in (0, 1))
    assert equal(model.transform(events), first)
    assert not np.any(np.isclose(ak.to_numpy(first.x), ak.to_numpy(second.x)))


def test_what_came_in_may_be_kept_beside(models: Any, object_models: Any) -> None:
    events = made(9)
    moved = models["SimToData", ("Jet[0].pt", "Jet[0].eta")].transform(events, raw=True)
    assert moved.Jet.fields == [*events.Jet.fields, "raw_pt", "raw_eta"]
    assert equal(moved.Jet.raw_pt, events.Jet.pt)
    assert equal(moved.Jet.raw_eta, events.Jet.eta)
    assert ak.parameters(moved.Jet) == ak.parameters(events.Jet)
    flat = models["SimToData", ("x", "y")].transform(events, raw=True)
    assert flat.fields[-2:] == ["raw_x", "raw_y"]
    assert equal(flat.raw_x, events.x)
    columns = {name: ak.to_numpy(events[name]) for name in ("x", "y", "run", "luminosityBlock", "event")}
    mapped = models["SimToData", ("x", "y")].transform(columns, raw=True)
    assert np.array_equal(mapped["raw_x"], columns["x"])
    assert np.array_equal(mapped["x"], ak.to_numpy(flat.x))
    jets = object_models["SimToData"](events.Jet, rho=events.rho, identity=events, raw=True)
    assert jets.fields == [*events.Jet.fields, "raw_pt", "raw_eta"]
    with pytest.raises(InputError, match="have a field 'raw_x' already"):
        models["SimToData", ("x", "y")].transform(flat, raw=True)
    lazy, _ = kinds.typetracer(events)
    assert models["SimToData", ("x", "y")].transform(lazy, raw=True).fields[-2:] == ["raw_x", "raw_y"]


def test_invalid_events_get_what_was_asked_for_and_are_counted(models: Any) -> None:
    events = made(10)
    values = np.array(events.x)
    values[[3, 7]] = np.nan, np.inf
    broken = ak.with_field(events, values, "x")
    model = models["SimToData", ("x", "y")]
    with pytest.raises(InputError, match="column 'x' holds 2 values that are NaN or inf, at entries 3, 7"):
        model.transform(broken)
    good = np.setdiff1d(np.arange(N), [3, 7])
    untouched, counts = model.transform_counted(broken, invalid="identity")
    assert tuple(counts) == (N, N - 2, 0, 2)
    assert equal(untouched.x[[3, 7]], broken.x[[3, 7]])
    assert equal(untouched.x[good], model.transform(events).x[good])
    marked, counts = model.transform_counted(broken, invalid="nan")
    assert tuple(counts) == (N, N, 0, 2)
    assert np.isnan(ak.to_numpy(marked.x)[[3, 7]]).all()
    assert equal(marked.x[good], untouched.x[good])


def test_values_outside_the_support_of_a_scaling_are_invalid_too() -> None:
    from hepgen.events import LogitRange

    sim, data = made(1, 400), made(2, 400)
    for events in (sim, data):
        events["p"] = 1 / (1 + np.exp(-events.x))
    features = hepgen.Features(["p", "y"], scalings={"p": LogitRange(0, 1)})
    model = hepgen.SimToData(features, loss="nll", **SMALL).fit(sim, data, epochs=1, batch_size=200, progress=False)
    events = sim[:5]
    events["p"] = [0.5, 1.0, 0.2, -3.0, 0.9]
    with pytest.raises(InputError, match="column 'p': values must lie strictly between 0 and 1"):
        model.transform(events)
    moved, counts = model.transform_counted(events, invalid="identity")
    assert tuple(counts) == (5, 3, 0, 2)
    assert moved.p[1] == 1.0
    assert moved.p[3] == -3.0
    marked, counts = model.transform_counted(events, invalid="nan")
    assert np.isnan(ak.to_numpy(marked.p)).tolist() == [False, True, False, True, False]
    assert counts.invalid == 2


def test_what_cannot_be_told_is_asked_for(models: Any, object_models: Any) -> None:
    events, model, objects = made(11), models["SimToData", ("x", "y")], object_models["SimToData"]
    nameless = events[["x", "y", "Jet", "rho"]]
    with pytest.raises(InputError, match="carry no run and event numbers .* pass identity="):
        model.transform(nameless)
    with pytest.raises(InputError, match="carry no run and event numbers"):
        objects(events.Jet, rho=events.rho)
    with pytest.raises(InputError, match="given as identity=|carry no run and event numbers"):
        objects(events.Jet, rho=events.rho, identity=nameless)
    with pytest.raises(UsageError, match="identity='event' is no name of a field of events"):
        objects(events.Jet, rho=events.rho, identity="event")
    entry = objects(events.Jet, rho=events.rho, identity="entry")
    assert equal(entry, objects(events.Jet, rho=events.rho, identity=np.arange(N)))
    with pytest.raises(InputError, match=r"identity has shape \(3, 1\), and there are 23 events"):
        objects(events.Jet, rho=events.rho, identity=np.arange(3))
    with pytest.raises(InputError, match="must be made of integers, not of float64"):
        model.transform(nameless, identity=np.linspace(0, 1, N))
    with pytest.raises(InputError, match="column 'rho' has 4 events, and the objects have 23"):
        objects(events.Jet, rho=events.rho[:4], identity=events)
    with pytest.raises(InputError, match="column 'rho' has other lists than the objects"):
        objects(events.Jet, rho=events.Jet.eta[:, ::2], identity=events)
    with pytest.raises(UsageError, match="have a field 'eta' already"):
        objects(events.Jet, rho=events.rho, eta=events.rho, identity=events)
    with pytest.raises(InputError, match="objects are an awkward array of records"):
        objects(events.Jet.pt, identity=events)
    with pytest.raises(UsageError, match="has no meaning for partitions of dask-awkward"):
        model.transform(kinds.dask(nameless), identity="entry")
    with pytest.raises(UsageError, match="has no meaning for partitions of dask-awkward"):
        objects(kinds.dask(events).Jet, rho=kinds.dask(events).rho, identity="entry")
    with pytest.raises(UsageError, match="transform_counted takes events in memory"):
        model.transform_counted(kinds.dask(events))
    with pytest.raises(InputError, match="array in memory cannot go with a dask-awkward collection"):
        objects(kinds.dask(events).Jet, rho=np.ones(N), identity=kinds.dask(events))


def test_columns_of_any_level_are_broadcast(object_models: Any) -> None:
    events, model = made(12), object_models["SimToData"]
    wanted = model(events.Jet, rho=events.rho, identity=events)
    repeated = ak.broadcast_arrays(events.rho, events.Jet.pt)[0]
    for rho in (ak.to_numpy(events.rho), repeated):
        assert equal(model(events.Jet, rho=rho, identity=events), wanted)
    constant = model(events.Jet, rho=11.0, identity=events)
    assert equal(constant, model(events.Jet, rho=np.full(N, 11.0), identity=events))
    holes = ak.mask(events.rho, events.rho > 10)
    out = model(events.Jet, rho=holes, identity=events)
    known = ~ak.is_none(holes)
    assert equal(out[known], wanted[known])
    assert equal(out[~known], events.Jet[~known])  # an object that lacks a column passes through untouched
