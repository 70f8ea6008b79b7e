"""Models loaded once per process, found again by the content of their file.

A worker that gets a processor with every chunk finds the model already there. Threads share it; a forked child inherits it.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from hepgen.errors import ModelFileError
from hepgen.estimators.model_file import from_content, read_content, sha256_of

_models: dict[str, Any] = {}
_loads: Counter[str] = Counter()
_lock = threading.RLock()


def _after_fork() -> None:
    # another thread of the parent may have held the lock while it forked
    global _lock  # noqa: PLW0603 - one lock a process
    _lock = threading.RLock()
    _loads.clear()


os.register_at_fork(after_in_child=_after_fork)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits.

    Raises
    ------
    InputError
        When there is no such file, or it cannot be read.
    """
    return sha256_of(read_content(path))


def cached(path: str | os.PathLike[str], sha256: str | None = None) -> Any:
    """Return the model of a file, loaded at most once in this process.

    Parameters
    ----------
    path
        A file written by ``model.save``. It is not looked at where a model of this `sha256` is loaded already.
    sha256
        What the file must hash to; by default it is hashed now and whatever it holds is taken.

    Raises
    ------
    InputError
        When there is no such file.
    ModelFileError
        When the file is not the one that `sha256` names, or is no whole hepgen model.
    """
    return _cached(lambda: read_content(path), sha256, os.fspath(path))


def cached_content(content: bytes, sha256: str) -> Any:
    """Return the model of a model file's bytes, whose sha256 this is, made at most once in this process."""
    return _cached(lambda: content, sha256, f"the model {sha256[:12]}")


def _cached(read: Callable[[], bytes], sha256: str | None, name: str) -> Any:
    with _lock:
        if sha256 is not None and sha256 in _models:
            return _models[sha256]
        content = read()
        found = sha256_of(content)
        if sha256 is not None and found != sha256:
            differ = f"its sha256 starts with {found[:12]}, and {sha256[:12]} was asked for"
            raise ModelFileError(f"{name} was changed: {differ}; restore it, or name the new model")
        if found not in _models:
            _models[found] = _load(content, name)
            _loads[found] += 1
        return _models[found]


def loads(sha256: str | None = None) -> int:
    """Return how many times this process loaded a model (of this `sha256`, or any); what a parent loaded before a fork is not counted."""
    with _lock:
        return sum(_loads.values()) if sha256 is None else _loads[sha256]


def forget(model: Any = None) -> None:
    """Drop one model of this process, or every one and the counts."""
    with _lock:
        for sha256 in [sha256 for sha256, held in _models.items() if model is None or held is model]:
            del _models[sha256]
        if model is None:
            _loads.clear()


def _load(content: bytes, name: str) -> Any:
    return from_content(content, name)
