"""The coffea processor: values against plain numpy, chunks, executors, tracers, and what it reads."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
import uproot

from hepgen.errors import InputError, MissingDependency, ModelFileError, UsageError
from hepgen.estimators import cache
from hepgen.estimators.transformer import Counts
from hepgen.events import Cut, Features, Selection, entry_identity, open_info
from hepgen.kernels import threads
from hepgen.kernels.dispatch import thread_count

coffea = pytest.importorskip("coffea", reason="coffea is not installed")

PT = hist.axis.Regular(30, 0, 150, name="pt1", label="leading pT [GeV]")
MASS = hist.axis.Regular(40, 60, 300, name="mass")
ALL = hist.axis.Regular(30, 0, 150, name="pt")
ETA = hist.axis.Regular(10, -2.5, 2.5, name="eta1")
PAIR = "mass(massless(photon[0]), massless(photon[1]))"
HISTOGRAMS: dict[str, tuple[Any, Any]] = {
    "pt1": ("photon[0].pt", PT),
    "pt": ("photon.pt", ALL),
    "mass": (PAIR, MASS),
    "plane": (("photon[0].eta", "photon[0].pt"), (ETA, PT)),
}


class Shift:
    """Stands in for a fitted model: 10 % more leading pT where there are two photons."""

    features = Features(["photon[0].pt", "photon[1].pt"])

    def __init__(self, schema: str | None = "atlas-open-data") -> None:
        self.schema = schema
        self.identities: list[Any] = []
        self.threads: list[int] = []

    def columns(self, available: Iterable[str]) -> set[str]:
        return self.features.columns(available)

    def transform_counted(
        self, events: ak.Array, *, seed: int | None = None, identity: Any = None, copy: int = 0
    ) -> tuple[ak.Array, Counts]:
        self.identities.append(identity)
        self.threads.append(thread_count())
        matrix, mask = self.features.to_matrix(events)
        matrix[:, 0] *= 1.1 + copy
        return self.features.from_matrix(events, matrix, mask), Counts(len(mask), int(mask.sum()), int((~mask).sum()), 0)


@pytest.fixture
def shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "shift.hepgen"
    path.write_bytes(b"shift")
    monkeypatch.setattr(cache, "from_content", lambda content, name: Shift())
    cache.forget()
    yield path
    cache.forget()


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ak.Array | Path]:
    """A file in the layout of the open data with 0 to 3 photons, and the same events in memory."""
    rng = np.random.default_rng(3)
    counts = rng.choice([0, 1, 2, 3], p=[0.05, 0.1, 0.75, 0.1], size=500)
    pt = np.concatenate([np.sort(rng.uniform(20e3, 140e3, n))[::-1] for n in counts])
    photons = {"pt": pt, "eta": rng.uniform(-2.3, 2.3, len(pt)), "phi": rng.uniform(-3.1, 3.1, len(pt)), "E": 2 * pt}
    events = ak.Array(
        {
            "runNumber": np.full(500, 284500, dtype=np.int32),
            "eventNumber": np.arange(500, dtype=np.int32),
            "channelNumber": np.full(500, 343981, dtype=np.int32),
            "mcWeight": rng.choice([1.0, -1.0], p=[0.9, 0.1], size=500).astype(np.float32),
            "scaleFactor_PILEUP": rng.uniform(0.9, 1.1, 500).astype(np.float32),
            "photon_n": counts.astype(np.int32),
            **{f"photon_{name}": ak.unflatten(column.astype(np.float32), counts) for name, column in photons.items()},
        }
    )
    path = tmp_path_factory.mktemp("mini") / "mini.root"
    with uproot.recreate(path) as file:
        file.mktree("mini", {name: events[name].type.content for name in events.fields}, counter_name=lambda _: "photon_n")
        file["mini"].extend({name: events[name] for name in events.fields})
    return {"path": path, "events": events}


def runner(executor: Any = None, **options: Any) -> Any:
    from coffea.nanoevents import BaseSchema
    from coffea.processor import IterativeExecutor, Runner

    executor = executor or IterativeExecutor(status=False)
    return Runner(executor=executor, schema=options.pop("schema", BaseSchema), **options)


def run(path: Path | Mapping[str, Path], processor: Any, **options: Any) -> Any:
    tree, trace = options.pop("tree", "mini"), options.pop("trace", None)
    files = path if isinstance(path, Mapping) else {"sim": path}
    return runner(**options)({dataset: {"files": {str(file): tree}} for dataset, file in files.items()}, processor, trace=trace)


def make(model: Path, **options: Any) -> Any:
    from hepgen_coffea import TransformProcessor

    return TransformProcessor(model, options.pop("histograms", HISTOGRAMS), **options)


def equal(a: hist.Hist, b: hist.Hist) -> None:
    assert a.axes == b.axes
    for moment in ("value", "variance"):
        np.testing.assert_allclose(a.view(flow=True)[moment], b.view(flow=True)[moment], rtol=1e-12, atol=1e-12)


def test_histograms_are_those_of_plain_numpy(mini: dict[str, Any], shift: Path) -> None:
    out = run(mini["path"], make(shift), chunksize=60)["sim"]
    events = mini["events"]
    counts = ak.to_numpy(ak.num(events.photon_pt))
    weights = ak.to_numpy(events.mcWeight).astype(float) * ak.to_numpy(events.scaleFactor_PILEUP)
    pt, eta, phi = (
        ak.to_numpy(ak.pad_none(events[f"photon_{name}"], 2)[:, :2]).filled(np.nan).astype(float) for name in ("pt", "eta", "phi")
    )
    pt /= 1e3
    moved = pt.copy()
    moved[counts >= 2, 0] *= 1.1
    assert (out["events"], out["transformed"], out["untouched"]) == (500, int((counts >= 2).sum()), int((counts < 2).sum()))
    for category, leading in (("simulation", pt[:, 0]), ("transformed", moved[:, 0])):
        with_one, with_two = counts >= 1, counts >= 2
        mass = np.sqrt(2 * leading * pt[:, 1] * (np.cosh(eta[:, 0] - eta[:, 1]) - np.cos(phi[:, 0] - phi[:, 1])))
        every = ak.to_numpy(ak.flatten(events.photon_pt)).astype(float) / 1e3
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        every[first[with_one]] = leading[with_one]
        for name, values, w in (
            ("pt1", leading[with_one], weights[with_one]),
            ("mass", mass[with_two], weights[with_two]),
            ("pt", every, np.repeat(weights, counts)),
        ):
            found = out["hists"][name][category, :]
            edges = found.axes[0].edges
            np.testing.assert_allclose(found.values(), np.histogram(values, edges, weights=w)[0], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found.variances(), np.histogram(values, edges, weights=w**2)[0], rtol=1e-9, atol=1e-9)
        plane = np.histogram2d(eta[with_one, 0], leading[with_one], (ETA.edges, PT.edges), weights=weights[with_one])[0]
        np.testing.assert_allclose(out["hists"]["plane"][category, ...].values(), plane, rtol=1e-9, atol=1e-9)


def test_chunks_and_threads_change_nothing_and_the_model_is_loaded_once(mini: dict[str, Any], shift: Path) -> None:
    from coffea.processor import FuturesExecutor

    whole = run(mini["path"], make(shift))["sim"]
    small = run(mini["path"], make(shift), chunksize=11)["sim"]
    with ThreadPoolExecutor(3) as pool:
        threaded = run(mini["path"], make(shift), chunksize=50, executor=FuturesExecutor(pool=pool, status=False))["sim"]
    for other in (small, threaded):
        assert {key: other[key] for key in ("events", "transformed", "untouched")} == {
            key: whole[key] for key in ("events", "transformed", "untouched")
        }
        for name in HISTOGRAMS:
            equal(other["hists"][name], whole["hists"][name])
    assert cache.loads() == 1


def test_kernels_use_one_thread_where_chunks_run_side_by_side(mini: dict[str, Any], shift: Path) -> None:
    from coffea.processor import FuturesExecutor

    with threads(3), ThreadPoolExecutor(2) as pool:
        run(mini["path"], make(shift), chunksize=100)
        run(mini["path"], make(shift), chunksize=100, executor=FuturesExecutor(pool=pool, status=False))
        assert thread_count() == 3
    assert cache.cached(shift).threads == [1] * 10


def test_only_declared_columns_are_read(mini: dict[str, Any], shift: Path) -> None:
    _, metrics = run(mini["path"], make(shift, histograms={"pt1": HISTOGRAMS["pt1"]}), chunksize=100, savemetrics=True)
    read = {column.partition("-")[0] for column in metrics["columns"]}
    assert read == {"photon_pt", "runNumber", "eventNumber", "channelNumber", "mcWeight", "scaleFactor_PILEUP"}
    _, metrics = run(mini["path"], make(shift, histograms={"pt1": HISTOGRAMS["pt1"]}, weight=False), savemetrics=True)
    assert {column.partition("-")[0] for column in metrics["columns"]} == {"photon_pt", "runNumber", "eventNumber"}


@pytest.mark.parametrize("tracer", ["typetracer", "length_zero_array", "length_one_array"])
def test_tracers_find_the_declared_columns(mini: dict[str, Any], shift: Path, tracer: str) -> None:
    from coffea.nanoevents import BaseSchema, NanoEventsFactory, trace

    factory = NanoEventsFactory.from_root({str(mini["path"]): "mini"}, schemaclass=BaseSchema, mode="virtual", metadata={"dataset": "sim"})
    processor = make(shift)
    touched = getattr(trace, f"trace_with_{tracer}")(processor.process, factory.events(), throw=True)
    wanted = {f"photon_{name}" for name in ("pt", "eta", "phi")}
    assert touched == wanted | {"runNumber", "eventNumber", "channelNumber", "mcWeight", "scaleFactor_PILEUP"}


def test_runner_may_trace_first(mini: dict[str, Any], shift: Path) -> None:
    from coffea.nanoevents.trace import trace

    plain = run(mini["path"], make(shift))["sim"]
    traced = run(mini["path"], make(shift), trace=trace)["sim"]
    equal(traced["hists"]["mass"], plain["hists"]["mass"])


def test_no_events_fill_nothing(mini: dict[str, Any], shift: Path) -> None:
    from coffea.nanoevents import BaseSchema, NanoEventsFactory

    options = {"schemaclass": BaseSchema, "mode": "virtual", "entry_start": 5, "entry_stop": 5}
    events = NanoEventsFactory.from_root({str(mini["path"]): "mini"}, metadata={"dataset": "sim"}, **options).events()
    out = make(shift).process(events)["sim"]
    assert (out["events"], out["transformed"], out["untouched"]) == (0, 0, 0)
    assert out["hists"]["pt1"].sum(flow=True).value == 0
    from coffea.processor import accumulate

    more = run(mini["path"], make(shift))
    equal(accumulate([{"sim": out}, more])["sim"]["hists"]["pt1"], more["sim"]["hists"]["pt1"])


def test_data_are_filled_as_they_are(mini: dict[str, Any], shift: Path) -> None:
    out = run({"sim": mini["path"], "periodA": mini["path"]}, make(shift, data=["periodA"]))
    found, sim = out["periodA"], out["sim"]
    assert list(found["hists"]["pt1"].axes[0]) == ["data"]
    assert list(sim["hists"]["pt1"].axes[0]) == ["simulation", "transformed"]
    assert (found["events"], found["transformed"], found["untouched"]) == (500, 0, 500)
    np.testing.assert_array_equal(found["hists"]["mass"]["data", :].values(), sim["hists"]["mass"]["simulation", :].values())


def test_weights_and_selection_are_optional(mini: dict[str, Any], shift: Path) -> None:
    events = mini["events"]
    counts = ak.num(events.photon_pt)
    selection = Selection([Cut("count(photon)", equal=2), Cut("photon[0].pt", maximum=100.0)])
    for weight, weights in ((False, np.ones(500)), ("mcWeight", ak.to_numpy(events.mcWeight))):
        out = run(mini["path"], make(shift, weight=weight, selection=selection), chunksize=90)["sim"]["hists"]["pt1"]
        pt = ak.to_numpy(ak.fill_none(ak.firsts(events.photon_pt), 0.0)).astype(float) / 1e3
        before = weights[(counts == 2) & (pt <= 100)].sum()
        after = weights[(counts == 2) & (1.1 * pt <= 100)].sum()
        assert out["simulation", :].sum(flow=True).value == pytest.approx(before)
        assert out["transformed", :].sum(flow=True).value == pytest.approx(after)
        assert before != after


def test_it_pickles_to_a_few_kilobytes_and_works_after(mini: dict[str, Any], shift: Path) -> None:
    processor = make(shift)
    content = pickle.dumps(processor)
    assert len(content) < 4096
    again = pickle.loads(content)
    equal(run(mini["path"], again)["sim"]["hists"]["mass"], run(mini["path"], processor)["sim"]["hists"]["mass"])


def test_events_without_numbers_are_known_by_file_and_entry(mini: dict[str, Any], shift: Path, tmp_path: Path) -> None:
    path = tmp_path / "anonymous.root"
    with uproot.recreate(path) as file:
        file.mktree("mini", {"photon_pt": mini["events"].photon_pt.type.content}, counter_name=lambda _: "photon_n")
        file["mini"].extend({"photon_pt": mini["events"].photon_pt})
    keys = []
    for chunksize in (500, 60):
        cache.forget()
        processor = make(shift, histograms={"pt1": HISTOGRAMS["pt1"]})
        run(path, processor, chunksize=chunksize)
        keys.append(np.concatenate(processor.model.identities))
    np.testing.assert_array_equal(keys[0], keys[1])
    assert len(np.unique(keys[0], axis=0)) == 500
    np.testing.assert_array_equal(keys[0], entry_identity(open_info(path).uuid, 0, 500))  # as hepgen apply has them
    again = tmp_path / "again.root"
    with uproot.recreate(again) as file:
        file.mktree("mini", {"photon_pt": mini["events"].photon_pt.type.content}, counter_name=lambda _: "photon_n")
        file["mini"].extend({"photon_pt": mini["events"].photon_pt})
    assert open_info(again).uuid != open_info(path).uuid  # the same entries of another file are other events


@pytest.mark.filterwarnings("ignore:Branch Photon_:RuntimeWarning")
def test_records_of_nanoaod_are_taken_as_they_are(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coffea.nanoevents import NanoAODSchema

    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)
    model = Shift(None)
    model.features = Features(["Muon[0].pt", "Muon[1].pt"])
    path = tmp_path / "shift.hepgen"
    path.write_bytes(b"nanoaod")
    monkeypatch.setattr(cache, "from_content", lambda content, name: model)
    source = shared_data / "nano_dimuon.root"
    processor = make(path, histograms={"pt": ("Muon[0].pt", PT), "all": ("Muon.pt", ALL)})
    out, metrics = run(source, processor, tree="Events", schema=NanoAODSchema, chunksize=13, savemetrics=True)
    with uproot.open(source) as file:
        pt = file["Events"]["Muon_pt"].array()
    counts = ak.to_numpy(ak.num(pt))
    first = ak.to_numpy(ak.drop_none(ak.firsts(pt)))
    hists = out["sim"]["hists"]
    for category, leading in (("simulation", first), ("transformed", np.where(counts[counts > 0] >= 2, first * np.float32(1.1), first))):
        np.testing.assert_array_equal(hists["pt"][category, :].values(), np.histogram(leading, PT.edges)[0])
        others = ak.to_numpy(ak.flatten(pt[:, 1:]))
        np.testing.assert_array_equal(hists["all"][category, :].values(), np.histogram(np.concatenate([leading, others]), ALL.edges)[0])
    assert (out["sim"]["events"], out["sim"]["transformed"]) == (len(pt), int((counts >= 2).sum()))
    assert {column.partition("-")[0] for column in metrics["columns"]} == {"nMuon", "Muon_pt", "run", "luminosityBlock", "event"}


def test_wrong_requests_are_refused(mini: dict[str, Any], shift: Path) -> None:
    with pytest.raises(InputError, match=r"there is no model file .*none\.hepgen"):
        make(shift.parent / "none.hepgen")
    with pytest.raises(UsageError, match="'pt1' has 2 columns and 1 axes"):
        make(shift, histograms={"pt1": (("photon[0].pt", "photon[1].pt"), PT)})
    with pytest.raises(UsageError, match="give each a name="):
        make(shift, histograms={"pt1": ("photon[0].pt", hist.axis.Regular(3, 0, 1))})
    with pytest.raises(UsageError, match="no function 'eval'"):
        make(shift, histograms={"pt1": ("eval(photon)", PT)})
    from coffea.nanoevents import BaseSchema, NanoEventsFactory

    events = NanoEventsFactory.from_root({str(mini["path"]): "mini"}, schemaclass=BaseSchema, mode="virtual").events()
    with pytest.raises(InputError, match="electron"):
        make(shift, histograms={"pt1": ("electron[0].pt", PT)}).process(events)


def test_a_changed_model_is_not_used(mini: dict[str, Any], shift: Path) -> None:
    from coffea.nanoevents import BaseSchema, NanoEventsFactory

    processor = make(shift)
    shift.write_bytes(b"another")
    events = NanoEventsFactory.from_root({str(mini["path"]): "mini"}, schemaclass=BaseSchema, mode="virtual").events()
    with pytest.raises(ModelFileError, match="was changed"):
        processor.process(events)


def test_without_coffea_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import hepgen_coffea

    for name in [
        name for name in sys.modules if name.partition(".")[0] == "coffea" or name in {"hepgen_coffea.transform", "hepgen_coffea.processor"}
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "coffea", None)
    with pytest.raises(MissingDependency, match=r"pip install 'hepgen\[coffea\]'"):
        _ = hepgen_coffea.TransformProcessor
