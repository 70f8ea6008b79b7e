"""A real model on the packaged files, through coffea's executors and out to ROOT."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
import uproot

import hepgen
from hepgen import samples
from hepgen.estimators import cache
from hepgen.events import Features, Selection, read, write_histograms

coffea = pytest.importorskip("coffea", reason="coffea is not installed")

COLUMNS = [f"photon[{i}].{name}" for i in (0, 1) for name in ("pt", "eta", "phi")]
PAIR = "mass(massless(photon[0]), massless(photon[1]))"
HISTOGRAMS: dict[str, tuple[Any, Any]] = {
    "pt1": ("photon[0].pt", hist.axis.Regular(43, 35, 250, name="pt1", label="leading pT [GeV]")),
    "mass": (PAIR, hist.axis.Regular(48, 60, 300, name="mass", label="m [GeV]")),
}
FILES = samples.packaged("diphoton")
CHUNK = 6000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow after one epoch: not good, but as deterministic as a good one."""
    fitted = hepgen.SimToData(
        Features(COLUMNS), loss="nll", schema="atlas-open-data", selection=Selection.named("diphoton"), blocks=2, hidden=(16, 16)
    )
    sim, data = (read(FILES[role], entry_stop=2000) for role in ("sim", "data"))
    fitted.fit(sim, data, epochs=1, batch_size=500, seed=3, progress=False)
    return Path(fitted.save(tmp_path_factory.mktemp("model") / "small.hepgen"))


def run(model: Path, executor: Any, chunksize: int = CHUNK) -> dict[str, Any]:
    from coffea.nanoevents import BaseSchema
    from coffea.processor import Runner
    from hepgen_coffea import TransformProcessor

    processor = TransformProcessor(model, HISTOGRAMS, selection=Selection.named("diphoton"), data={"data"})
    fileset = {"sim": {"files": {str(FILES["sim_independent"]): "mini"}}, "data": {"files": {str(FILES["data"]): "mini"}}}
    result: dict[str, Any] = Runner(executor=executor, schema=BaseSchema, chunksize=chunksize)(fileset, processor)
    return result


@pytest.fixture(scope="module")
def iterative(model: Path) -> dict[str, Any]:
    from coffea.processor import IterativeExecutor

    cache.forget()
    result = run(model, IterativeExecutor(status=False))
    assert cache.loads(cache.file_sha256(model)) == 1
    return result


def equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    for dataset in ("sim", "data"):
        for key in ("events", "transformed", "untouched"):
            assert a[dataset][key] == b[dataset][key]
        for name in HISTOGRAMS:
            one, two = (out[dataset]["hists"][name] for out in (a, b))
            assert one.axes == two.axes
            # bins agree event by event; the order in which chunks are added moves the last digit of a sum of weights
            np.testing.assert_allclose(one.view(flow=True)["value"], two.view(flow=True)["value"], rtol=1e-12, atol=1e-11)
            np.testing.assert_allclose(one.view(flow=True)["variance"], two.view(flow=True)["variance"], rtol=1e-12, atol=1e-11)


def test_processes_fill_what_one_fills(model: Path, iterative: dict[str, Any]) -> None:
    from coffea.processor import FuturesExecutor

    equal(run(model, FuturesExecutor(workers=2, status=False)), iterative)


def test_chunks_do_not_matter_to_a_real_model(model: Path, iterative: dict[str, Any]) -> None:
    from coffea.processor import IterativeExecutor

    equal(run(model, IterativeExecutor(status=False), chunksize=50_000), iterative)


def test_the_processor_does_what_transform_does(model: Path, iterative: dict[str, Any]) -> None:
    fitted, selection = hepgen.load(model), Selection.named("diphoton")
    events = read(FILES["sim_independent"])
    with uproot.open(FILES["sim_independent"]) as file:
        raw = file["mini"].arrays(["mcWeight", "scaleFactor_PILEUP", "scaleFactor_PHOTON"])
    weights = np.prod([ak.to_numpy(raw[name]).astype(float) for name in raw.fields], axis=0)
    counts = ak.to_numpy(ak.num(events.photon.pt))
    out = iterative["sim"]
    assert (out["events"], out["transformed"], out["untouched"]) == (20_000, int((counts >= 2).sum()), int((counts < 2).sum()))
    for category, array in (("simulation", events), ("transformed", fitted.transform(events))):
        passed = selection.mask(array)
        pt = ak.to_numpy(array.photon.pt[passed][:, 0]).astype(float)
        found = out["hists"]["pt1"][category, :]
        np.testing.assert_allclose(found.values(), np.histogram(pt, found.axes[0].edges, weights=weights[passed])[0], rtol=1e-9, atol=1e-9)
    assert out["hists"]["mass"]["simulation", 120j:130j:sum].value > 0.9 * out["hists"]["mass"]["simulation", :].sum().value
    assert list(iterative["data"]["hists"]["mass"].axes[0]) == ["data"]


def test_histograms_go_to_root(iterative: dict[str, Any], tmp_path: Path) -> None:
    together = iterative["sim"]["hists"]["mass"] + iterative["data"]["hists"]["mass"]
    split = {f"mass/{sample}": together[sample, :] for sample in together.axes[0]}
    write_histograms(tmp_path / "histograms.root", split)
    with uproot.open(tmp_path / "histograms.root") as file:
        assert sorted(file.keys(cycle=False, recursive=True)) == ["mass", "mass/data", "mass/simulation", "mass/transformed"]
        for name, histogram in split.items():
            assert file[name].classname == "TH1D"
            np.testing.assert_array_equal(file[name].values(flow=True), histogram.values(flow=True))
            np.testing.assert_array_equal(file[name].variances(flow=True), histogram.variances(flow=True))
            np.testing.assert_array_equal(file[name].axis().edges(), histogram.axes[0].edges)


# --- every executor, event by event ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 150 events of a packaged file."""
    from hepgen.events import Writer, chunks, open_info

    path = tmp_path_factory.mktemp("few") / "few.root"
    source = FILES["sim_independent"]
    with Writer(path, like=open_info(source)) as out:
        out.extend(next(chunks(source, chunk_size=150)).raw)
    return path


def record(model: Path, path: Path, executor: Any, chunksize: int) -> dict[str, Any]:
    from coffea.nanoevents import BaseSchema
    from coffea.processor import Runner
    from worker_processors import Recorder

    cache.forget()
    fileset = {"sim": {"files": {str(path): "mini"}}}
    found: dict[str, Any] = Runner(executor=executor, schema=BaseSchema, chunksize=chunksize)(fileset, Recorder(model, {}))
    return found["sim"]


@pytest.fixture(scope="module")
def wanted(model: Path, few: Path) -> set[Any]:
    """Every event as the model alone makes it of the whole file."""
    moved = hepgen.load(model).transform(read(few))
    return {(int(number), (ak.to_numpy(event.pt).tobytes().hex(),)) for number, event in zip(moved.eventNumber, moved.photon, strict=True)}


@pytest.mark.parametrize("chunksize", [1, 3, 7, 1000])
@pytest.mark.parametrize("count", [1, 2])
def test_chunks_of_any_size_give_the_same_bits(model: Path, few: Path, wanted: set[Any], chunksize: int, count: int) -> None:
    from coffea.processor import IterativeExecutor

    from hepgen.kernels import threads

    with threads(count):
        found = record(model, few, IterativeExecutor(status=False), chunksize)
    assert found["moved"] == wanted
    assert found["chunks"] >= 150 // (chunksize + 1)  # coffea makes them of about one size
    assert {loads for _, loads, _ in found["processes"]} == {1}


@pytest.mark.parametrize("kind", ["processes", "threads", "dask"])
def test_fifty_chunks_load_the_model_once_in_each_process(model: Path, few: Path, wanted: set[Any], kind: str) -> None:
    with workers(kind) as executor:
        found = record(model, few, executor, 3)
        others = [record(model, few, executor, chunksize) for chunksize in (1, 7, 1000)]
    assert (found["chunks"], found["transformed"] + found["untouched"]) == (50, 150)
    processes = {process for process, _, _ in found["processes"]}
    assert len(processes) == (1 if kind == "threads" else 2)
    for each in (found, *others):
        assert each["moved"] == wanted
        assert {loads for _, loads, _ in each["processes"]} == {1}
        assert kind == "threads" or not any(torch for _, _, torch in each["processes"])


@contextmanager
def workers(kind: str) -> Iterator[Any]:
    """An executor of coffea with two workers of a kind; processes are fresh ones, which have imported nothing."""
    from coffea.processor import DaskExecutor, FuturesExecutor

    if kind == "threads":
        with ThreadPoolExecutor(2) as pool:
            yield FuturesExecutor(pool=pool, status=False)
    elif kind == "processes":
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield FuturesExecutor(pool=pool, status=False)
    else:
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield DaskExecutor(client=client, status=False)
