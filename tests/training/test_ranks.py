from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hepgen import ranks
from hepgen.errors import UsageError

PROGRAM = Path(__file__).with_name("ranks_program.py")


def start(count: int, *arguments: object, program: Path = PROGRAM) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(program), *map(str, arguments)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


def finished(processes: list[subprocess.Popen[str]], timeout: float = 120) -> list[str]:
    try:
        outs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), outs[0][1][-2000:]
    return [out for out, _ in outs]


@pytest.mark.parametrize("count", [2, 4])
def test_losses_and_gradients_are_those_of_one_process(count: int, tmp_path: Path) -> None:
    found = json.loads(finished(start(count, "losses", tmp_path))[0])
    assert found.pop("ranks") == count
    assert len(found) == 11
    assert max(found.values()) < 1e-9, found


def test_every_rank_ends_with_the_same_weights_as_good_as_those_of_one(tmp_path: Path) -> None:
    together = json.loads(finished(start(2, "fits", tmp_path / "two", 4))[0])
    assert all(row["same"] for row in together.values()), together
    assert sorted(path.name for path in (tmp_path / "two").glob("[!.]*")) == ["mdmm-rmsprop", "nll-ecd", "nll-rmsprop", "ratio-ecd"]
    alone = json.loads(finished(start(1, "fits", tmp_path / "alone", 4))[0])
    for kind, row in alone.items():
        assert together[kind]["valid"] == pytest.approx(row["valid"], rel=0.2, abs=0.1), kind


def test_a_checkpoint_of_four_ranks_goes_on_with_two(tmp_path: Path) -> None:
    killed = start(4, "endless", tmp_path)
    wait_for((tmp_path / "fit").exists, killed)
    for process in killed:
        process.kill()
        process.communicate()
    state = torch.load(tmp_path / "fit", weights_only=True)
    assert state["epoch"] * 1000 + state["step"] > 0
    written = (tmp_path / "fit").stat().st_mtime_ns
    stopped = start(2, "endless", tmp_path)
    wait_for(lambda: (tmp_path / "fit").stat().st_mtime_ns > written, stopped)
    stopped[1].send_signal(signal.SIGTERM)  # one of them alone
    outs = [process.communicate(timeout=60) for process in stopped]
    for process in stopped:
        process.kill()
    assert all("stopped" in out for out, _ in outs), outs
    later = torch.load(tmp_path / "fit", weights_only=True)
    assert (later["epoch"], later["step"]) > (state["epoch"], state["step"])


def wait_for(happened: Callable[[], bool], processes: list[subprocess.Popen[str]], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "no checkpoint"
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.2)


def test_alone_nothing_changes() -> None:
    x = torch.rand(3, requires_grad=True)
    assert ranks.count() == 1
    assert ranks.number() == 0
    assert ranks.gathered(x) is ranks.total(x) is ranks.shared(x) is x
    assert ranks.split(7) == slice(0, 7)
    assert ranks.least([3, 4]) == [3, 4]
    assert ranks.objects("a") == ["a"]
    assert not ranks.launched()
    with ranks.joined():
        assert ranks.count() == 1


def test_ranks_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="start them by torchrun"), ranks.joined():
        pytest.fail("the block must not be entered")
