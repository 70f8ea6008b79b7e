"""One load per process, by content, under threads and forks."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hepgen.errors import InputError, ModelFileError
from hepgen.estimators import cache


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    cache.forget()
    yield
    cache.forget()


class Loader:
    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, path: str) -> object:
        self.paths.append(path)
        time.sleep(0.05)
        return object()


def test_a_model_is_known_by_its_content(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    one.write_bytes(b"model")
    two.write_bytes(b"model")
    other.write_bytes(b"another")
    load = Loader()
    first = cache.cached(one, load=load)
    assert cache.cached(two, load=load) is first
    assert cache.cached(other, load=load) is not first
    assert load.paths == [str(one), str(other)]
    digest = hashlib.sha256(b"model").hexdigest()
    assert cache.file_sha256(one) == digest
    assert (cache.loads(digest), cache.loads()) == (1, 2)


def test_a_loaded_model_needs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")
    digest = cache.file_sha256(path)
    model = cache.cached(path, digest, load=Loader())
    path.unlink()
    assert cache.cached(path, digest) is model
    with pytest.raises(InputError, match=r"model cannot be read: No such file"):
        cache.cached(path)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")
    digest = cache.file_sha256(path)
    path.write_bytes(b"changed")
    load = Loader()
    with pytest.raises(ModelFileError, match=rf"was changed: its sha256 starts with {cache.file_sha256(path)[:12]}, and {digest[:12]}"):
        cache.cached(path, digest, load=load)
    assert load.paths == []


def test_a_failed_load_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")

    def fails(path: str) -> object:
        raise ModelFileError(f"{path} is damaged")

    with pytest.raises(ModelFileError, match="is damaged"):
        cache.cached(path, load=fails)
    assert cache.loads() == 0
    load = Loader()
    cache.cached(path, load=load)
    assert load.paths == [str(path)]


def test_threads_share_one_load(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")
    load, models, start = Loader(), [], threading.Barrier(8)

    def work() -> None:
        start.wait()
        models.append(cache.cached(path, load=load))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 8
    assert len({id(model) for model in models}) == 1
    assert load.paths == [str(path)]


FORK = """
import os, sys, threading, warnings
import torch
from hepgen.estimators import cache

torch.set_num_threads(2)
x = torch.randn(1500, 1500)
(x @ x).sum(), torch.exp(x).sum()
model = cache.cached(sys.argv[1], load=lambda path: object())
digest = cache.file_sha256(sys.argv[1])
held, done = threading.Event(), threading.Event()

def hold():
    with cache._lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    found = cache.cached(sys.argv[1], digest)
    (x @ x).sum(), torch.exp(x).sum()
    os._exit(0 if found is model and cache.loads() == 0 and torch.get_num_threads() == 1 else 3)
done.set()
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux")
def test_a_forked_child_inherits_the_model_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")
    result = subprocess.run([sys.executable, "-c", FORK, str(path)], capture_output=True, text=True, check=False, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
