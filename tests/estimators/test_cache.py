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


class Loader:
    """Stands in for what makes a model of the content of a file."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, content: bytes, name: str) -> object:
        self.names.append(name)
        time.sleep(0.05)
        return object()


@pytest.fixture(autouse=True)
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    loader = Loader()
    monkeypatch.setattr(cache, "from_content", loader)
    cache.forget()
    yield loader
    cache.forget()


def test_a_model_is_known_by_its_content(tmp_path: Path, load: Loader) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    one.write_bytes(b"model")
    two.write_bytes(b"model")
    other.write_bytes(b"another")
    first = cache.cached(one)
    assert cache.cached(two) is first
    assert cache.cached(other) is not first
    assert load.names == [str(one), str(other)]
    digest = hashlib.sha256(b"model").hexdigest()
    assert cache.file_sha256(one) == digest
    assert (cache.loads(digest), cache.loads()) == (1, 2)


def test_a_loaded_model_needs_no_file(tmp_path: Path, load: Loader) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")
    digest = cache.file_sha256(path)
    model = cache.cached(path, digest)
    path.unlink()
    assert cache.cached(path, digest) is model
    with pytest.raises(InputError, match=r"there is no model file"):
        cache.cached(path)


def test_a_changed_file_is_refused(tmp_path: Path, load: Loader) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")
    digest = cache.file_sha256(path)
    path.write_bytes(b"changed")
    with pytest.raises(ModelFileError, match=rf"was changed: its sha256 starts with {cache.file_sha256(path)[:12]}, and {digest[:12]}"):
        cache.cached(path, digest)
    assert load.names == []


def test_a_failed_load_is_not_kept(tmp_path: Path, load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")

    def fails(content: bytes, name: str) -> object:
        raise ModelFileError(f"{name} is damaged")

    with monkeypatch.context() as broken:
        broken.setattr(cache, "from_content", fails)
        with pytest.raises(ModelFileError, match="is damaged"):
            cache.cached(path)
    assert cache.loads() == 0
    cache.cached(path)
    assert load.names == [str(path)]


def test_threads_share_one_load(tmp_path: Path, load: Loader) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")
    models, start = [], threading.Barrier(8)

    def work() -> None:
        start.wait()
        models.append(cache.cached(path))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 8
    assert len({id(model) for model in models}) == 1
    assert load.names == [str(path)]


FORK = """
import os, sys, threading, warnings
import numpy as np, torch
from hepgen.estimators import cache
from hepgen.kernels import dispatch, philox

torch.set_num_threads(2)
x = torch.randn(1500, 1500)
(x @ x).sum(), torch.exp(x).sum()
keys = np.arange(100_000, dtype=np.uint64)[:, None]
noise = philox.normal(keys, 2, seed=1)
cache.from_content = lambda content, name: object()
model = cache.cached(sys.argv[1])
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
    same = np.array_equal(philox.normal(keys, 2, seed=1), noise)
    os._exit(0 if found is model and cache.loads() == 0 and same and dispatch.thread_count() == 1 else 3)
done.set()
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux")
def test_a_forked_child_inherits_the_model_and_does_not_hang(tmp_path: Path, load: Loader) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"model")
    result = subprocess.run([sys.executable, "-c", FORK, str(path)], capture_output=True, text=True, check=False, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")


def test_bytes_are_a_model_too(load: Loader) -> None:
    digest = hashlib.sha256(b"model").hexdigest()
    model = cache.cached_content(b"model", digest)
    assert cache.cached_content(b"never looked at", digest) is model
    assert load.names == [f"the model {digest[:12]}"]
    with pytest.raises(ModelFileError, match="was changed"):
        cache.cached_content(b"another", hashlib.sha256(b"a third").hexdigest())


def test_one_model_is_forgotten(tmp_path: Path, load: Loader) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(path.name.encode())
    first, second = map(cache.cached, paths)
    cache.forget(first)
    assert cache.cached(paths[1]) is second
    assert cache.cached(paths[0]) is not first
    assert len(load.names) == 3
