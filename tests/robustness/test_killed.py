"""SIGKILL at random moments: what goes on afterwards ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hepgen import Features, Reweighter
from hepgen.events import write

PROGRAM = Path(__file__).with_name("fit_program.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command: list[object]) -> tuple[str, float]:
    began = time.monotonic()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=300)
    return done.stdout, time.monotonic() - began


def killed(command: list[object], after: float) -> bool:
    """Start a command and kill it after so many seconds; whether it was still running."""
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        _, err = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0, err
    return False


@pytest.mark.parametrize("kind", ["nll", "mdmm", "ratio-ecd"])
def test_a_fit_that_is_killed_ends_with_the_same_weights(kind: str, tmp_path: Path, times: Callable, tried: Callable) -> None:
    if kind != "mdmm" and times(0, 1) == 0:
        pytest.skip("in the full run")
    expected, seconds = run([sys.executable, PROGRAM, tmp_path / "whole", kind])
    moments, kills, fits = random.Random(kind), 0, 0
    while kills < times(2, 25):
        folder = tmp_path / f"killed-{fits}"
        command = [sys.executable, PROGRAM, folder, kind]
        fits += 1
        for _ in range(8):
            if not killed(command, moments.uniform(0.4, 1.0) * seconds):
                break
            kills += 1
        assert run(command)[0] == expected
    tried(kills=kills, fits=fits, different=0)


def start_ranks(command: list[object], count: int) -> list[subprocess.Popen[str]]:
    """As torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**ENVIRONMENT, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [*map(str, command)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """What they print, once all have ended by themselves."""
    try:
        return [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()


def end_as_torchrun_does(processes: list[subprocess.Popen[str]]) -> bool:
    """Once one was killed: whether the others ended by themselves. Who still waits for ranks that never came is killed too."""
    alone = True
    for process in processes:
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            alone = False
    return alone


def test_a_rank_that_is_killed_again_and_again(tmp_path: Path, times: Callable, tried: Callable) -> None:
    def command(folder: str) -> list[object]:
        return [sys.executable, PROGRAM, tmp_path / folder, "nll"]

    def whole(folder: str) -> tuple[list[str], float]:
        began = time.monotonic()
        return [out for out, _ in ended(start_ranks(command(folder), 2))], time.monotonic() - began

    expected, seconds = whole("whole")
    assert len(set(expected)) == 1
    assert expected[0].strip()
    moments, kills, fits, waiting = random.Random(7), 0, 0, 0
    while kills < times(1, 20):
        fits += 1
        for _ in range(times(1, 8)):
            processes = start_ranks(command(f"killed-{fits}"), 2)
            time.sleep(moments.uniform(0.4, 1.0) * seconds)
            one = moments.randrange(2)
            alive = processes[one].poll() is None
            processes[one].kill()
            alone = end_as_torchrun_does(processes)
            if not alive:
                seconds *= 0.8  # the machine has become faster
                break
            kills += 1
            waiting += not alone
        assert whole(f"killed-{fits}")[0] == expected
    tried(kills=kills, fits=fits, different=0, the_other_waited=waiting)


def test_an_apply_that_is_killed_leaves_nothing_half_and_can_be_done_again(tmp_path: Path, times: Callable, tried: Callable) -> None:
    numbers = np.random.default_rng(1)
    columns = {"x": numbers.normal(size=400_000).astype(np.float32), "event": np.arange(400_000)}
    write(tmp_path / "in.parquet", columns)
    model = Reweighter(Features(["x"]), ensemble=1, hidden=(8,))
    model.fit({"x": columns["x"][:2000]}, {"x": columns["x"][:2000] + 0.1}, epochs=1, progress=False)
    model.save(tmp_path / "model.hepgen")

    def command(out: str) -> list[object]:
        options = ["--overwrite", "--quiet", "--chunk-size", 5000]
        return [sys.executable, "-m", "hepgen", "apply", tmp_path / "model.hepgen", tmp_path / "in.parquet", tmp_path / out, *options]

    _, seconds = run(command("whole.parquet"))
    expected = (tmp_path / "whole.parquet").read_bytes()
    moments, kills = random.Random(5), 0
    (tmp_path / "again.parquet").write_bytes(b"what was there before")
    while kills < times(2, 50):
        if killed(command("again.parquet"), moments.uniform(0.3, 1.0) * seconds):
            kills += 1
            assert (tmp_path / "again.parquet").read_bytes() in {b"what was there before", expected}
            (tmp_path / "again.parquet").write_bytes(b"what was there before")
    run(command("again.parquet"))
    assert (tmp_path / "again.parquet").read_bytes() == expected
    tried(kills=kills, different=0)
