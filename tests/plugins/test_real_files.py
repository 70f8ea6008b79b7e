"""Models on real files, through coffea's schemas: NanoAOD, PHYSLITE and an RNTuple."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
import uproot

import hepgen
from hepgen.applying import apply_file
from hepgen.errors import InputError
from hepgen.events import read

nanoevents = pytest.importorskip("coffea.nanoevents", reason="coffea is not installed")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Branch:RuntimeWarning",
    "ignore:Missing cross-reference:RuntimeWarning",
    "ignore:Found duplicate branch:RuntimeWarning",
    "ignore:Skipping:UserWarning",
)
SETTINGS: dict[str, Any] = {"loss": "nll", "blocks": 2, "hidden": (12, 12)}


def fitted(features: hepgen.Features, columns: dict[str, Any], **options: Any) -> hepgen.SimToData:
    """A flow after one epoch from a sample to a harder one: not good, but as deterministic as a good one."""
    rng = np.random.default_rng(5)
    sim, data = ({name: make(rng, 600) for name, make in columns.items()} for _ in range(2))
    return hepgen.SimToData(features, **SETTINGS, **options).fit(sim, data, epochs=1, batch_size=200, progress=False)


def momentum(low: float, width: float) -> Any:
    return lambda rng, n: low + rng.exponential(width, n)


def normal(rng: np.random.Generator, n: int) -> Any:
    return rng.normal(0, 1.2, n)


@pytest.fixture(scope="module")
def jets() -> hepgen.SimToData:
    columns = {"pt": momentum(15, 25), "eta": normal, "rho": lambda rng, n: rng.uniform(1, 40, n)}
    return fitted(hepgen.Features(["pt", "eta"], computed=["rho"]), columns)


def nano(path: Path, log: list[Any] | None = None, **options: Any) -> ak.Array:
    nanoevents.NanoAODSchema.warn_missing_crossrefs = False
    options = {"mode": "virtual", "schemaclass": nanoevents.NanoAODSchema, **options}
    return nanoevents.NanoEventsFactory.from_root({str(path): "Events"}, access_log=log, **options).events()


@pytest.mark.parametrize("name", ["nano_dy.root", "nano_dimuon.root"])
def test_objects_of_nanoevents(shared_data: Path, jets: hepgen.SimToData, name: str) -> None:
    log: list[Any] = []
    events = nano(shared_data / name, log)
    moved = jets(events.Jet, rho=events.fixedGridRhoFastjetAll)
    assert {entry.branch for entry in log} == {"nJet", "Jet_pt", "Jet_eta", "fixedGridRhoFastjetAll", "run", "luminosityBlock", "event"}
    assert type(moved) is type(events.Jet)
    assert str(moved.type) == str(events.Jet.type)
    with uproot.open(shared_data / name) as file:
        raw = file["Events"].arrays(["run", "luminosityBlock", "event", "Jet_pt", "Jet_eta", "fixedGridRhoFastjetAll"])
    counts = ak.to_numpy(ak.num(raw.Jet_pt))
    keys = [np.repeat(ak.to_numpy(raw[column]).astype(np.uint64), counts) for column in ("run", "luminosityBlock", "event")]
    keys.append(ak.to_numpy(ak.flatten(ak.local_index(raw.Jet_pt))).astype(np.uint64))
    flat = {"pt": ak.flatten(raw.Jet_pt), "eta": ak.flatten(raw.Jet_eta), "rho": np.repeat(ak.to_numpy(raw.fixedGridRhoFastjetAll), counts)}
    wanted = jets.transform({key: ak.to_numpy(value) for key, value in flat.items()}, identity=np.stack(keys, axis=1))
    for field in ("pt", "eta"):
        assert np.array_equal(ak.to_numpy(ak.flatten(moved[field])), wanted[field])
    assert ak.all(moved.matched_electrons.pt == events.Jet.matched_electrons.pt, axis=None)  # cross references still work
    # vector sees the new momentum
    assert np.allclose(ak.flatten(moved.px), wanted["pt"] * np.cos(ak.to_numpy(ak.flatten(events.Jet.phi))), rtol=1e-5)


def test_selected_events_name_themselves(shared_data: Path, jets: hepgen.SimToData) -> None:
    events = nano(shared_data / "nano_dy.root")
    whole = jets(events.Jet, rho=events.fixedGridRhoFastjetAll)
    kept = ak.to_numpy(ak.num(events.Jet) > 4)
    few = events[kept]
    with pytest.raises(InputError, match=r"there are \d+ events left of the 40 that were read: pass the selected events as identity="):
        jets(few.Jet, rho=few.fixedGridRhoFastjetAll)
    assert ak.array_equal(jets(few.Jet, rho=few.fixedGridRhoFastjetAll, identity=few).pt, whole.pt[kept])


def test_objects_put_back_into_nanoevents_can_be_written_and_read_again(shared_data: Path, jets: hepgen.SimToData, tmp_path: Path) -> None:
    events = nano(shared_data / "nano_dy.root", mode="eager")[["run", "luminosityBlock", "event", "Jet", "Muon", "MET"]]
    moved = jets(events.Jet, rho=11.0, identity=events, raw=True)
    events["Jet"] = moved
    with uproot.recreate(tmp_path / "nano.root") as file:
        writeable = nanoevents.NanoAODSchema.uproot_writeable(events)
        file.mktree("Events", {field: column.type.content for field, column in writeable.items()})
        file["Events"].extend(writeable)
    again = nano(tmp_path / "nano.root")
    assert ak.array_equal(again.Jet.pt, moved.pt, same_content_types=False, check_parameters=False)
    assert "raw_pt" in again.Jet.fields
    assert ak.array_equal(again.Muon.pt, events.Muon.pt, same_content_types=False, check_parameters=False)


@pytest.mark.parametrize("tracer", ["typetracer", "length_zero_array", "length_one_array"])
def test_coffeas_tracers_see_through_the_model(shared_data: Path, jets: hepgen.SimToData, tracer: str) -> None:
    from coffea.nanoevents import trace

    def analysis(events: ak.Array) -> Any:
        moved = jets(events.Jet, rho=events.fixedGridRhoFastjetAll)
        events = ak.with_field(events, moved, "Jet")
        central = events.Jet[abs(events.Jet.eta) < 2.4]
        return ak.sum(central.mass), ak.sum(moved.pt), ak.sum(events.MET.pt)

    touched = getattr(trace, f"trace_with_{tracer}")(analysis, nano(shared_data / "nano_dy.root"), throw=True)
    wanted = {"nJet", "Jet_pt", "Jet_eta", "Jet_mass", "fixedGridRhoFastjetAll", "run", "luminosityBlock", "event", "MET_pt"}
    # of a typetracer, vector touches the azimuth whatever it is asked for
    assert wanted <= touched <= wanted | {"Jet_phi", "MET_phi"}
    assert tracer == "typetracer" or touched == wanted


def test_a_model_of_jets_in_a_processor(shared_data: Path, jets: hepgen.SimToData, tmp_path: Path) -> None:
    from coffea.processor import IterativeExecutor, Runner
    from worker_processors import JetProcessor

    nanoevents.NanoAODSchema.warn_missing_crossrefs = False
    axis = hist.axis.Regular(20, 0, 200, name="pt")
    columns = ["Jet.pt", "Jet.eta", "fixedGridRhoFastjetAll"]
    processor = JetProcessor(jets.save(tmp_path / "jets.hepgen"), {"pt": ("Jet.pt", axis)}, weight=False, columns=columns)
    runner = Runner(executor=IterativeExecutor(status=False), schema=nanoevents.NanoAODSchema, chunksize=11, savemetrics=True)
    found, metrics = runner({"dy": {"files": {str(shared_data / "nano_dy.root"): "Events"}}}, processor)
    read_columns = {column.partition("-")[0] for column in metrics["columns"]}
    assert read_columns == {"nJet", "Jet_pt", "Jet_eta", "fixedGridRhoFastjetAll", "run", "luminosityBlock", "event"}
    events = nano(shared_data / "nano_dy.root")
    wanted = ak.to_numpy(ak.flatten(jets(events.Jet, rho=events.fixedGridRhoFastjetAll).pt))
    assert np.array_equal(found["dy"]["hists"]["pt"]["transformed", :].values(), np.histogram(wanted, axis.edges)[0])


@pytest.fixture(scope="module")
def muons() -> hepgen.SimToData:
    features = hepgen.Features(["Muon[0].pt", "Muon[0].eta"])
    model = fitted(hepgen.Features(["Muon_pt", "Muon_eta"]), {"Muon_pt": momentum(5, 20), "Muon_eta": normal})
    model.features = features  # the same columns, of the leading muon of an event
    return model


def test_apply_writes_nanoaod_that_nanoevents_opens(shared_data: Path, muons: hepgen.SimToData, tmp_path: Path) -> None:
    muons.schema = "nanoaod"
    source, out = shared_data / "nano_dimuon.root", tmp_path / "out.root"
    branches = [
        "run",
        "luminosityBlock",
        "event",
        "nMuon",
        "Muon_pt",
        "Muon_eta",
        "Muon_phi",
        "Muon_mass",
        "Muon_charge",
        "MET_pt",
        "MET_phi",
    ]
    few = tmp_path / "few.root"  # a TTree of 1500 branches takes uproot half a minute
    with uproot.open(source) as file, uproot.recreate(few) as copy:
        raw = file["Events"].arrays(branches)
        types = {name: raw[name].type.content for name in branches if name != "nMuon"}
        copy.mktree("Events", types, counter_name=lambda name: "nMuon")
        copy["Events"].extend({name: raw[name] for name in types})
    done = apply_file(muons, few, out, progress=False)
    counts = ak.to_numpy(ak.num(raw.Muon_pt))
    assert (done.events, done.transformed) == (40, int((counts > 0).sum()))
    before, after = nano(few), nano(out)
    assert sorted(after.fields) == sorted(before.fields)
    assert ak.array_equal(after.Muon.pt[:, 1:], before.Muon.pt[:, 1:])
    assert not ak.any(after.Muon.pt[:, :1] == before.Muon.pt[:, :1])
    assert ak.array_equal(after.Muon.charge, before.Muon.charge)
    assert ak.array_equal(muons.transform(before).Muon.pt, after.Muon.pt, same_content_types=False)


@pytest.mark.parametrize("mode", ["eager", "virtual"])
def test_photons_of_physlite(shared_data: Path, mode: str) -> None:
    columns = {"pt": momentum(20e3, 30e3), "eta": normal}
    model = fitted(hepgen.Features(["pt", "eta"]), columns)
    source = {str(shared_data / "PHYSLITE_example.root"): "CollectionTree"}
    events = nanoevents.NanoEventsFactory.from_root(source, schemaclass=nanoevents.PHYSLITESchema, mode=mode).events()
    moved = model(events.Photons)  # identity: run and event numbers of EventInfo
    assert str(moved.type) == str(events.Photons.type)
    assert ak.all(ak.num(moved) == ak.num(events.Photons))
    assert not ak.any(moved.pt == events.Photons.pt)
    keys = np.stack([ak.to_numpy(events.EventInfo[name]).astype(np.uint64) for name in ("runNumber", "eventNumber")], axis=1)
    assert ak.array_equal(model(events.Photons, identity=keys).pt, moved.pt)


def test_an_rntuple_with_its_file_and_entry_for_identity(shared_data: Path, muons: hepgen.SimToData, tmp_path: Path) -> None:
    muons.schema = "nanoaod"
    source = shared_data / "Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root"
    done = apply_file(muons, source, tmp_path / "out.root", progress=False, chunk_size=300)
    before, after = read(source, schema="nanoaod"), read(tmp_path / "out.root", schema="nanoaod")
    assert (done.events, done.transformed) == (1000, int(ak.sum(ak.num(before.Muon) > 0)))
    assert ak.array_equal(after.Muon.pt[:, 1:], before.Muon.pt[:, 1:], same_content_types=False)
    with uproot.open(source) as file:
        uuid = file.file.uuid.int
    keys = np.stack(
        [np.full(1000, part, dtype=np.uint64) for part in (uuid >> 64, uuid & (2**64 - 1))] + [np.arange(1000, dtype=np.uint64)], 1
    )
    moved = muons.transform(before, identity=keys)
    assert ak.array_equal(moved.Muon.pt, after.Muon.pt, same_content_types=False)
    assert not ak.any(after.Muon.pt[:, :1] == before.Muon.pt[:, :1])
