"""Fits to files that are gone through in parts, beside fits to the same events in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hepgen
from hepgen.errors import InputError, UsageError
from hepgen.estimators import Reweighter, SimToData, fit_rows
from hepgen.estimators.fit_rows import rows_to_fit
from hepgen.events import Cut, EventStream, Selection, read, write

FEATURES = hepgen.Features(["MET.pt", "MET.phi"], computed=["HT"])
ORDER = ["MET_pt", "MET_phi", "HT"]


def sample(folder: Path, name: str, n: int, *, files: int = 3, softer: float = 1.0, weights: bool = True) -> list[str]:
    rng = np.random.default_rng(len(name))
    paths = []
    for number, part in enumerate(np.array_split(np.arange(n), files)):
        pt = 30 + rng.exponential(40 * softer, len(part))
        columns: dict[str, Any] = {
            "MET_pt": pt,
            "MET_phi": rng.uniform(-np.pi, np.pi, len(part)),
            "HT": 2 * pt + rng.normal(0, 20, len(part)),
        }
        columns |= {"run": np.full(len(part), 1), "luminosityBlock": np.full(len(part), number), "event": part}
        if weights:
            columns["genWeight"] = rng.choice([1.0, 2.0, -0.5], len(part))
        paths.append(str(folder / f"{name}{number}.root"))
        write(paths[-1], columns, tree="Events")
    return paths


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[str]]:
    return {"sim": sample(tmp_path, "sim", 6000), "data": sample(tmp_path, "data_", 5000, softer=0.6, weights=False)}


def test_a_stream_gives_all_events_of_its_share_in_parts(files: dict[str, list[str]]) -> None:
    stream = EventStream(files["sim"], chunk_size=700)
    assert len(stream) == 6000
    whole = read(files["sim"])
    shares = [stream.share(number, 3) for number in range(3)]
    assert sum(map(len, shares)) == 6000
    parts = [part for share in shares for part in share.parts(FEATURES.columns)]
    assert max(len(part.events) for part in parts) <= 700
    assert np.array_equal(np.concatenate([FEATURES.to_matrix(part.events)[0] for part in parts]), FEATURES.to_matrix(whole)[0])
    assert np.array_equal(np.concatenate([part.weights for part in parts]), np.asarray(whole["genWeight"]))


def test_rows_on_disk_are_those_in_memory_in_another_order(files: dict[str, list[str]]) -> None:
    cuts = Selection([Cut("MET.pt", 40.0)])
    whole = read(files["sim"])
    memory = rows_to_fit(FEATURES, whole, np.asarray(whole["genWeight"]), "sim", cuts)
    disk = rows_to_fit(FEATURES, EventStream(files["sim"], chunk_size=999), None, "sim", cuts)
    assert disk.on_disk
    assert not memory.on_disk
    assert memory.weights is not None
    assert disk.weights is not None
    rows = [np.column_stack([found.matrix, found.weights]) for found in (memory, disk)]
    assert not np.array_equal(*rows)
    assert np.array_equal(*(found[np.lexsort(found.T)] for found in rows))
    assert np.array_equal(memory.limits(), disk.limits())
    assert disk.mean_weight() == pytest.approx(memory.mean_weight(), rel=1e-12)


def test_a_streamed_fit_learns_what_one_in_memory_learns(files: dict[str, list[str]], tmp_path: Path) -> None:
    sim, data = (read(paths) for paths in files.values())
    options: dict[str, Any] = {"epochs": 10, "batch_size": 256, "seed": 3, "learning_rate": (5e-3, 1e-4)}
    memory = SimToData(FEATURES, loss="nll", blocks=1, hidden=(16,)).fit(sim, data, np.asarray(sim["genWeight"]), **options)
    streams = [EventStream(paths, chunk_size=800) for paths in files.values()]
    disk = SimToData(FEATURES, loss="nll", blocks=1, hidden=(16,)).fit(*streams, checkpoint=tmp_path / "fit", **options)
    assert disk.record["events"] == memory.record["events"] == {"sim": 6000, "data": 5000}
    # all rows are learnt from where there are fewer than a million: the same scaling and limits
    assert np.array_equal(disk.limits, memory.limits)
    assert disk.coordinates.scaler.scalings[0].forward([50.0]) == pytest.approx(memory.coordinates.scaler.scalings[0].forward([50.0]))
    best = [min(row["valid"] for row in model.record["stages"][0]["epochs"]) for model in (memory, disk)]
    assert best[1] == pytest.approx(best[0], abs=0.1)
    moved = [FEATURES.to_matrix(model.transform(sim))[0][:, 0] for model in (memory, disk)]
    target = FEATURES.to_matrix(data)[0][:, 0]
    before = abs(np.average(FEATURES.to_matrix(sim)[0][:, 0]) - target.mean())
    assert all(abs(np.average(x, weights=np.asarray(sim["genWeight"])) - target.mean()) < 0.25 * before for x in moved)
    # a fit that begins again is the same, bit for bit, and only its checkpoint is left
    again = SimToData(FEATURES, loss="nll", blocks=1, hidden=(16,)).fit(*streams, **options)
    assert all(np.array_equal(again.tensors()[name], tensor) for name, tensor in disk.tensors().items())
    assert {path.name for path in (tmp_path / "fit").iterdir() if not path.name.startswith(".")} == {"nll.checkpoint"}
    # and its rows are the ones that the checkpoint was for, whose seconds are in the record
    resumed = SimToData(FEATURES, loss="nll", blocks=1, hidden=(16,)).fit(*streams, checkpoint=tmp_path / "fit", **options)
    assert resumed.record == disk.record
    with pytest.raises(UsageError, match="checkpoint"):
        SimToData(FEATURES, loss="nll", blocks=1, hidden=(16,)).fit(*streams[::-1], checkpoint=tmp_path / "fit", **options)


@pytest.mark.parametrize("calibration", [None, "isotonic"])
def test_a_streamed_reweighter_gives_the_weights_of_one_in_memory(files: dict[str, list[str]], calibration: Any) -> None:
    sim, data = (read(paths) for paths in files.values())
    options: dict[str, Any] = {"epochs": 15, "seed": 3, "batch_size": 500}
    made = [Reweighter(FEATURES, ensemble=2, hidden=(16, 16), calibration=calibration, normalise="data") for _ in range(2)]
    made[0].fit(sim, data, np.asarray(sim["genWeight"]), **options)
    made[1].fit(*(EventStream(paths, chunk_size=800) for paths in files.values()), **options)
    own = np.asarray(sim["genWeight"])
    for model in made:
        assert float((own * model.weights(sim)).sum()) == pytest.approx(5000, rel=1e-6)
    one, two = (model.weights(sim) for model in made)
    assert np.corrcoef(np.log(one), np.log(two))[0, 1] > 0.97
    assert made[1].record["sums"]["sim"] == pytest.approx(made[0].record["sums"]["sim"])
    assert made[1].record["ess"]["sim"] == pytest.approx(made[0].record["ess"]["sim"])
    assert made[1].record["ess"]["reweighted"] == pytest.approx(made[0].record["ess"]["reweighted"], rel=0.1)


def test_only_the_first_rows_are_learnt_from_and_all_are_fitted(files: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_rows, "LEARNT", 1000)
    streams = [EventStream(paths) for paths in files.values()]
    rows = rows_to_fit(FEATURES, streams[0], None, "sim")
    assert (len(rows), len(rows.learnt())) == (6000, 1000)
    model = SimToData(FEATURES, loss="mdmm", blocks=2, hidden=(16,), warm_start=1).fit(*streams, epochs=2, batch_size=512)
    assert model.record["events"] == {"sim": 6000, "data": 5000}
    # quantiles of a thousand of five thousand events
    target = FEATURES.to_matrix(read(files["data"]))[0][:, 0]
    assert model.coordinates.scaler.scalings[0].inverse([0.0])[0] == pytest.approx(np.median(target), rel=0.1)
    assert model.limits[0] == pytest.approx([target.min(), target.max()])


def test_what_a_stream_cannot_be(files: dict[str, list[str]], tmp_path: Path) -> None:
    streams = [EventStream(paths) for paths in files.values()]
    with pytest.raises(UsageError, match="reads its weights itself"):
        Reweighter(FEATURES).fit(*streams, sim_weights=np.ones(6000))
    with pytest.raises(UsageError, match=r"a stream is for the fit of SimToData and Reweighter"):
        hepgen.EventGenerator(FEATURES.of(FEATURES.outputs), "maf").fit(streams[0])
    with pytest.raises(InputError, match="does not exist"):
        EventStream(tmp_path / "none.root")
    with pytest.raises(UsageError, match="give none below 0"):
        EventStream(files["sim"], entry_start=-5)
    with pytest.raises(InputError, match="no event of sim has the objects and passes"):
        SimToData(FEATURES, selection=Selection([Cut("MET.pt", 1e6)])).fit(*streams)
    write(tmp_path / "nan.root", {"MET_pt": np.array([40.0, np.nan]), "MET_phi": np.zeros(2), "HT": np.ones(2)}, tree="Events")
    with pytest.raises(InputError, match=r"nan.root: .*MET.pt"):
        rows_to_fit(FEATURES, EventStream([files["sim"][0], tmp_path / "nan.root"], weights="none"), None, "sim")


MEMORY = """
import re, sys
import hepgen
from hepgen.events import EventStream, read
from pathlib import Path

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

features = hepgen.Features(["MET.pt", "MET.phi"], computed=["HT"])
n, kind = int(sys.argv[1]), sys.argv[2]
paths = [sys.argv[3]] * n
if kind == "stream":
    # all that does not grow is small here, so that what grows would be seen
    from hepgen.estimators import disk_rows, fit_rows
    from hepgen.training import orders, samples
    fit_rows.LEARNT, disk_rows.BUCKET_BYTES, disk_rows.PART_BYTES = 20_000, 1 << 20, 1 << 20
    orders.BLOCK, samples.HELD_ON_DISK = 1 << 9, 10_000
    sim, data = (EventStream(paths, chunk_size=50_000) for _ in range(2))
else:
    sim, data = read(paths), read(paths)
peak = 0.0
import threading
stop = threading.Event()
def watch():
    global peak
    while not stop.wait(0.005):
        peak = max(peak, anonymous())
import torch
torch.set_num_threads(1)
from hepgen.training import train
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
hepgen.SimToData(features, loss="nll", blocks=1, hidden=(8,)).fit(sim, data, epochs=1, batch_size=20_000, progress=False)
stop.set()
thread.join()
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_memory_of_a_streamed_fit_does_not_grow_with_the_sample(tmp_path: Path) -> None:
    (path,) = sample(tmp_path, "sim", 40_000, files=1)
    found = {}
    for kind, times in (("stream", 4), ("stream", 12), ("memory", 12)):
        command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(times), kind, path]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found[kind, times] = float(done.stdout.split()[-1])
    # 640 thousand rows more, of 36 bytes at least in memory
    assert found["stream", 12] - found["stream", 4] < 8, json.dumps({str(k): v for k, v in found.items()})
    assert found["memory", 12] > found["stream", 12] + 20
