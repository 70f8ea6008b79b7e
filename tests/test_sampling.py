"""New events in files: what stands in them, and that chunks, threads, formats and jobs change nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

import hepgen
from hepgen.errors import OutputError, UsageError
from hepgen.events import Features, identity, open_info, read, schema
from hepgen.sampling import sample_file

PATHS = ["Jet[0].pt", "Jet[0].phi", "Jet[1].pt", "Jet[1].phi", "MET.pt"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> hepgen.EventGenerator:
    """A generator of one or two jets and missing momentum, saved as m.hepgen."""
    rng, n = np.random.default_rng(1), 500
    counts = rng.choice([1, 2], n)
    pt = np.sort(25 + rng.exponential(30, (n, 2)), axis=1)[:, ::-1].astype(np.float32)
    phi = rng.uniform(-np.pi, np.pi, (n, 2)).astype(np.float32)
    jets = ak.zip({"pt": ak.from_regular(ak.Array(pt)), "phi": ak.from_regular(ak.Array(phi))})
    jets = jets[ak.local_index(jets.pt) < counts[:, None]]
    fields = {"nJet": counts.astype(np.int32), "Jet": jets, "MET": ak.zip({"pt": rng.exponential(20, n)})}
    fitted = hepgen.EventGenerator(Features(PATHS), "kde", bandwidth=0.1, schema="nanoaod").fit(ak.zip(fields, depth_limit=1), seed=7)
    fitted.save(tmp_path_factory.mktemp("model") / "m.hepgen")
    return fitted


def same(a: ak.Array, b: ak.Array) -> bool:
    return a.fields == b.fields and all(ak.array_equal(a[name], b[name]) for name in a.fields)


def test_a_file_holds_the_events_of_the_model(model: hepgen.EventGenerator, tmp_path: Path) -> None:
    done = sample_file(model, tmp_path / "x.root", 1000, chunk_size=300, progress=False)
    assert (done.path, done.events, done.seed) == (tmp_path / "x.root", 1000, 7)
    assert done.rate == 1000 / done.seconds
    info, wanted = open_info(tmp_path / "x.root"), schema("nanoaod").flatten(model.sample(1000))
    assert (info.tree, info.entries, info.schema) == ("Events", 1000, "nanoaod")
    with uproot.open(tmp_path / "x.root") as file:
        raw = file["Events"].arrays()
        assert file["Events"]["Jet_pt"].count_branch.name == "nJet"
    assert raw.fields[:3] == ["run", "luminosityBlock", "event"]
    assert {name: raw[name].type.content for name in wanted.fields} == {name: wanted[name].type.content for name in wanted.fields}
    assert all(ak.array_equal(raw[name], wanted[name]) for name in wanted.fields)
    assert np.array_equal(identity(read(tmp_path / "x.root")), np.stack([np.full(1000, 7), np.ones(1000), np.arange(1000)], axis=1))


@pytest.mark.parametrize(
    "options", [{"chunk_size": 64, "workers": 1}, {"chunk_size": 999, "workers": 3}, {"file_format": "rntuple"}, {"file_format": "parquet"}]
)
def test_neither_chunks_nor_threads_nor_formats_change_the_events(
    model: hepgen.EventGenerator, tmp_path: Path, options: dict[str, Any]
) -> None:
    name = "x.parquet" if options.get("file_format") == "parquet" else "x.root"
    sample_file(model, tmp_path / name, 1000, seed=3, progress=False, **options)
    events, new = read(tmp_path / name), model.sample(1000, seed=3)
    assert same(events[new.fields], new)
    assert set(events.run) == {3}


def test_parts_of_a_sample_are_made_apart(model: hepgen.EventGenerator, tmp_path: Path) -> None:
    sample_file(model, tmp_path / "all.root", 500, progress=False)
    for first, n in ((0, 200), (200, 300)):
        sample_file(model, tmp_path / f"{first}.root", n, first=first, chunk_size=128, progress=False)
    parts = ak.concatenate([read(tmp_path / "0.root"), read(tmp_path / "200.root")])
    assert same(parts, read(tmp_path / "all.root"))


def test_numbers_that_are_generated_stay(tmp_path: Path) -> None:
    events = ak.zip({"event": np.arange(100) % 5, "x": np.random.default_rng(2).normal(size=100)})
    model = hepgen.EventGenerator(Features(["event", "x"]), "smearing", smearing=0.0).fit(events)
    sample_file(model, tmp_path / "x.root", 200, progress=False)
    found = read(tmp_path / "x.root", schema="flat")
    assert found.fields == ["run", "luminosityBlock", "event", "x"]
    assert np.array_equal(found.event, model.sample(200).event)


def test_units_are_those_of_the_files(tmp_path: Path) -> None:
    """Fitted to records in GeV or to the branches of a file in MeV: written in MeV, once."""
    pt = np.sort(np.random.default_rng(3).uniform(30, 90, (300, 2)), axis=1)[:, ::-1]
    records = ak.zip({"photon": ak.zip({"pt": ak.from_regular(ak.Array(pt))})}, depth_limit=1)
    for name, events in (("records", records), ("branches", schema("atlas-open-data").flatten(records))):
        model = hepgen.EventGenerator(Features(["photon[0].pt", "photon[1].pt"]), "kde", bandwidth=0.1, schema="atlas-open-data")
        sample_file(model.fit(events), tmp_path / f"{name}.root", 50, progress=False)
        raw = uproot.open(tmp_path / f"{name}.root")["mini"].arrays()
        assert 30_000 <= ak.min(raw.photon_pt) < ak.max(raw.photon_pt) <= 90_000


def test_what_is_refused(model: hepgen.EventGenerator, tmp_path: Path) -> None:
    out = tmp_path / "x.root"
    with pytest.raises(UsageError, match="the model is a Reweighter, which makes no new events: use hepgen apply"):
        sample_file(hepgen.Reweighter(Features(["x"])), out, 10)  # type: ignore[arg-type]
    for options, message in (
        ({"events": 0}, "events must be at least 1, got 0"),
        ({"events": 1, "first": -1}, "first must be at least 0"),
        ({"events": 1, "chunk_size": 0}, "chunk_size must be at least 1"),
        ({"events": 1, "workers": 0}, "workers must be at least 1"),
        ({"events": 1, "file_format": "csv"}, "there is no output format 'csv'"),
        ({"events": 1, "seed": -1}, "seed"),
    ):
        with pytest.raises(UsageError, match=message):
            sample_file(model, out, **options, progress=False)
    assert not list(tmp_path.iterdir())
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        sample_file(model, out, 10, progress=False)
    assert out.read_bytes() == b"mine"
    assert sample_file(model, out, 10, overwrite=True, progress=False).events == 10


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_stop_leaves_nothing(
    model: hepgen.EventGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    drawn: list[int] = []
    sample = model.sample

    def stopped(n: int, *, seed: int | None = None, first: int = 0) -> ak.Array:
        drawn.append(first)
        if first == 300:
            raise error
        return sample(n, seed=seed, first=first)

    monkeypatch.setattr(model, "sample", stopped)
    with pytest.raises(error):
        sample_file(model, tmp_path / "x.root", 10_000, chunk_size=100, workers=2, progress=False)
    assert not list(tmp_path.iterdir())
    assert max(drawn) <= 600  # the rest was never begun


def test_no_torch_is_needed(model: hepgen.EventGenerator, tmp_path: Path) -> None:
    assert model._source is not None
    arguments = ["hepgen", "sample", model._source[0], "--events", "50", "--out", str(tmp_path / "x.root"), "-q"]
    heavy = ("torch", "scipy", "sklearn", "coffea", "matplotlib", "numba")
    script = (
        f"import sys; sys.argv = {arguments!r}\nfrom hepgen import cli\ntry: cli.main()\nexcept SystemExit: pass\n"
        f"print(sorted(set(sys.modules) & set({heavy})))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "50 events of seed 7" in said
    assert said.splitlines()[-1] == "[]"
