"""Models loaded once per process, found again by the content of their file.

A worker that gets a processor with every chunk finds the model already there. Threads share it; a forked child inherits it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hepgen.errors import InputError, ModelFileError

_models: dict[str, Any] = {}
_loads: Counter[str] = Counter()
_lock = threading.RLock()
_forked = False


def _after_fork() -> None:
    # another thread of the parent may have held the lock while it forked
    global _lock, _forked
    _lock, _forked = threading.RLock(), True
    _loads.clear()


os.register_at_fork(after_in_child=_after_fork)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits.

    Raises
    ------
    InputError
        When there is no such file, or it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"the model file {os.fspath(path)} cannot be read: {error.strerror}") from error


def cached(path: str | os.PathLike[str], sha256: str | None = None, *, load: Callable[[str], Any] | None = None) -> Any:
    """Return the model of a file, loaded at most once in this process.

    Parameters
    ----------
    path
        A file written by ``model.save``. It is not looked at where a model of this `sha256` is loaded already.
    sha256
        What the file must hash to; by default it is hashed now and whatever it holds is taken.
    load
        What makes a model of the path; `hepgen.load` by default.

    Raises
    ------
    InputError
        When there is no such file.
    ModelFileError
        When the file is not the one that `sha256` names, or is no whole hepgen model.

    Notes
    -----
    In a process made by fork, torch is held to one thread: the OpenMP threads of the parent do not exist there, and waiting for them
    would not end.
    """
    if _forked and "torch" in sys.modules:
        _single_thread(sys.modules["torch"])
    with _lock:
        if sha256 is not None and sha256 in _models:
            return _models[sha256]
        found = file_sha256(path)
        if sha256 is not None and found != sha256:
            differ = f"its sha256 starts with {found[:12]}, and {sha256[:12]} was asked for"
            raise ModelFileError(f"{os.fspath(path)} was changed: {differ}; restore it, or name the new model")
        if found not in _models:
            _models[found] = (load or _load)(os.fspath(path))
            _loads[found] += 1
        return _models[found]


def loads(sha256: str | None = None) -> int:
    """Return how many times this process loaded a model (of this `sha256`, or any); what a parent loaded before a fork is not counted."""
    with _lock:
        return sum(_loads.values()) if sha256 is None else _loads[sha256]


def forget() -> None:
    """Drop every model of this process, and the counts."""
    with _lock:
        _models.clear()
        _loads.clear()


def _load(path: str) -> Any:
    from hepgen.estimators.model_file import load

    return load(path)


def _single_thread(torch: Any) -> None:
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
