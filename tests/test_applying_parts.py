"""A model applied to many files on the workers of dask: parts, manifest, what is done again and what is not."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

from hepgen import Features, Reweighter, cli, load
from hepgen.applying import apply_file
from hepgen.applying_parts import MANIFEST, apply_parts
from hepgen.errors import OutputError, UsageError
from hepgen.events import read, write
from hepgen.whole_files import locked

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder of two files, and a saved model."""
    folder = tmp_path_factory.mktemp("job")
    numbers = np.random.default_rng(1)
    for name, n in (("a", 5000), ("b", 3000)):
        write(folder / f"{name}.root", {"x": numbers.normal(size=n), "event": np.arange(n) + 10_000 * (name == "b")})
    x = numbers.normal(size=2000)
    model = Reweighter(Features(["x"]), ensemble=1, hidden=(8,))
    model.fit(ak.Array({"x": x}), ak.Array({"x": x + 0.2}), epochs=1, progress=False)
    model.save(folder / "model.hepgen")
    return folder, load(folder / "model.hepgen")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found


def whole(folder: Path, model: Any, out: Path) -> Any:
    parts = []
    for name in ("a", "b"):
        apply_file(model, folder / f"{name}.root", out / f"{name}.root", progress=False)
        parts.append(read(out / f"{name}.root"))
    return ak.concatenate(parts)


def apply(job: tuple[Path, Any], out: Path, client: Any, **options: Any) -> Any:
    folder, model = job
    return apply_parts(model, [folder / "a.root", folder / "b.root"], out, scheduler=client, part_size=2000, progress=False, **options)


def test_parts_hold_what_whole_files_would_and_are_not_made_twice(job, client, tmp_path):
    done = apply(job, tmp_path / "out", client)
    assert (done.events, done.transformed, done.parts, done.skipped) == (8000, 8000, 5, 0)
    files = sorted((tmp_path / "out").glob("part-*"))
    assert [file.name for file in files] == [f"part-{i:05d}.root" for i in range(5)]
    (tmp_path / "whole").mkdir()
    want, got = whole(*job, tmp_path / "whole"), read(files)
    assert ak.to_list(got) == ak.to_list(want)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert [(row["entry_start"], row["entry_stop"], row["events"]) for row in manifest["parts"]] == [
        (0, 2000, 2000), (2000, 4000, 2000), (4000, 5000, 1000), (0, 2000, 2000), (2000, 3000, 1000),
    ]  # fmt: skip
    times = [file.stat().st_mtime_ns for file in files]
    files[3].unlink()  # lost
    (tmp_path / "out" / ".part-00001.root.77.abcd.part").write_bytes(b"half")  # of a worker that was killed
    again = apply(job, tmp_path / "out", client)
    assert (again.events, again.skipped) == (8000, 4)
    assert [file.stat().st_mtime_ns == before for file, before in zip(files, times, strict=True)] == [True, True, True, False, True]
    assert ak.to_list(read(files)) == ak.to_list(want)
    assert not list((tmp_path / "out").glob(".part-*.part"))


def test_another_job_is_refused(job, client, tmp_path):
    out = tmp_path / "out"
    apply(job, out, client)
    with pytest.raises(OutputError, match="holds parts of another model, other files or other options"):
        apply(job, out, client, seed=7)
    assert apply(job, out, client, seed=7, overwrite=True).skipped == 0
    (out / MANIFEST).write_text("{")
    with pytest.raises(OutputError, match="is damaged"):
        apply(job, out, client)
    (out / MANIFEST).unlink()
    with pytest.raises(OutputError, match="holds parts and no manifest"):
        apply(job, out, client)
    with locked(out / MANIFEST), pytest.raises(UsageError, match="another process is writing"):
        apply(job, out, client)


def test_a_killed_worker_costs_nothing(job, tmp_path):
    _, model = job
    big = tmp_path / "big.root"
    write(big, {"x": np.random.default_rng(3).normal(size=60_000), "event": np.arange(60_000)})
    out = tmp_path / "out"
    killed = []
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill() -> None:
            while len(list(out.glob("part-*"))) < 2:
                time.sleep(0.01)
            pid = next(iter(client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        done = apply_parts(model, big, out, scheduler=client, part_size=1500, progress=False)
        thread.join(30)
    assert killed
    assert (done.events, done.parts) == (60_000, 40)
    apply_file(model, big, tmp_path / "whole.root", progress=False)
    assert ak.to_list(read(sorted(out.glob("part-*")))) == ak.to_list(read(tmp_path / "whole.root"))


def test_the_command_line_and_a_scheduler_that_is_not_there(job, client, tmp_path, monkeypatch, capsys):
    folder, _ = job

    def call(*options: str) -> int:
        arguments = [str(folder / "model.hepgen"), str(folder / "*.root"), str(tmp_path / "out"), "--quiet", *options]
        monkeypatch.setattr(sys, "argv", ["hepgen", "apply", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    address = client.scheduler.address
    assert call("--executor", "dask", "--scheduler", address, "--part-size", "3000") == 0
    assert "8000 events in 3 parts, 0 of them there before" in capsys.readouterr().out
    assert call("--executor", "dask", "--scheduler", address, "--part-size", "3000") == 0
    assert "3 of them there before" in capsys.readouterr().out
    assert call("--executor", "spark") == 2
    assert call("--scheduler", address) == 2


def test_sizes_and_folders_that_make_no_sense(job, client, tmp_path):
    folder, model = job
    with pytest.raises(UsageError, match="part_size must be at least 1"):
        apply_parts(model, folder / "a.root", tmp_path / "out", scheduler=client, part_size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        apply_parts(model, folder / "a.root", tmp_path / "file" / "out", scheduler=client)
