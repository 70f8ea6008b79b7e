"""Which backend runs an op: automatic choice falls back, an explicit choice raises where it cannot be kept.

No torch here: the compiled core works on numpy arrays.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from hepgen.errors import BackendError, UsageError

BACKENDS = ("reference", "cpp", "cuda", "triton")

# op -> the backends written for it, the preferred first; "reference" runs everywhere
OPS: dict[str, tuple[str, ...]] = {
    "broken_line": ("cpp", "reference"),
    "ecd_step": ("cpp", "reference"),
    "mmd2": ("cpp", "reference"),
    "kernel_mean": ("cpp", "reference"),
    "gaussian_sums": ("cpp", "reference"),
    "kde": ("cpp", "reference"),
    "kde_divergence": ("cpp", "reference"),
    "maf_forward": ("cpp", "reference"),
    "maf_inverse": ("cpp", "reference"),
    "maf_nll": ("cpp", "reference"),
    "mlp": ("cpp", "reference"),
    "philox": ("cpp", "reference"),
}

_chosen: ContextVar[str | None] = ContextVar("hepgen_backend", default=None)
_threads: ContextVar[int | None] = ContextVar("hepgen_threads", default=None)
_core: ModuleType | None = None
_core_reason = ""
_forked = False


def _after_fork() -> None:
    global _forked  # noqa: PLW0603 - a fact about the process
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def core() -> ModuleType | None:
    """Return the compiled module ``hepgen._core``, or None where it was not built (the reason is kept)."""
    global _core, _core_reason  # noqa: PLW0603 - looked for once per process
    if _core is None and not _core_reason:
        try:
            _core = importlib.import_module("hepgen._core")
        except ImportError as error:
            _core_reason = f"hepgen._core cannot be imported ({error})"
    return _core


def _availability(op: str, name: str) -> tuple[bool, str]:
    if name not in OPS[op]:
        return False, "not written for this op"
    if name == "cpp" and core() is None:
        return False, _core_reason
    return True, ""


def registry() -> list[tuple[str, str, bool, str]]:
    """List every op with every backend.

    Returns
    -------
    list of (op, backend, available, reason)
        ``reason`` says why a backend is not available and is empty where it is.
    """
    return [(op, name, *_availability(op, name)) for op in OPS for name in BACKENDS]


def available(op: str) -> list[str]:
    """Return the backends that can run `op` here, the preferred first."""
    return [name for name in OPS[op] if _availability(op, name)[0]]


def _check_name(name: str) -> None:
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Run every op inside the ``with`` block on one backend.

    The choice holds for the current thread or asyncio task. Without it the environment variable ``HEPGEN_BACKEND`` is
    asked, and where that is not set either the fastest backend available is taken.

    Parameters
    ----------
    name : {"reference", "cpp", "cuda", "triton"}

    Raises
    ------
    UsageError
        If there is no backend of that name.
    BackendError
        If no op has that backend here, or, when it is called, if an op does not.
    """
    _check_name(name)
    if not any(name in available(op) for op in OPS):
        exist = sorted({b for op in OPS for b in available(op)})
        reasons = {_availability(op, name)[1] for op in OPS if name in OPS[op]}
        why = f" ({'; '.join(sorted(reasons))})" if reasons else ""
        raise BackendError(f"backend {name!r} is not available here{why}: choose one of {', '.join(exist)}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def choose(op: str, *, device: str = "cpu") -> str:
    """Return the backend to run `op` on, for tensors of a device type.

    Raises
    ------
    UsageError
        If ``HEPGEN_BACKEND`` names no backend.
    BackendError
        If the backend asked for cannot run `op` on that device.
    """
    wanted = _chosen.get() or os.environ.get("HEPGEN_BACKEND") or None
    usable = [name for name in available(op) if name == "reference" or device == "cpu"]
    if wanted is None:
        return usable[0]
    _check_name(wanted)
    if wanted not in usable:
        raise BackendError(f"{op} has no backend {wanted!r} for {device} tensors here: choose one of {', '.join(usable)}")
    return wanted


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run every compiled op inside the ``with`` block on so many threads.

    The choice holds for the current thread or asyncio task: for workers that share the cores among themselves. Without it an
    op takes as many threads as torch (``torch.set_num_threads``), and one where torch is not loaded or in a process made by fork,
    which is one of several workers.

    Parameters
    ----------
    count : int

    Raises
    ------
    UsageError
        If it is not at least 1.
    """
    if count < 1:
        raise UsageError(f"threads must be at least 1, got {count}")
    token = _threads.set(int(count))
    try:
        yield
    finally:
        _threads.reset(token)


def thread_count() -> int:
    """Return the number of threads that an op called now may use."""
    chosen = _threads.get()
    if chosen is not None:
        return chosen
    torch: Any = sys.modules.get("torch")
    return 1 if torch is None or _forked else int(torch.get_num_threads())


def cores() -> int:
    """Return the number of cores that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def instruction_set() -> str:
    """Return the instruction set that the compiled kernels use: ``"avx512"``, ``"avx2"``, ``"baseline"``, or ``"none"`` without them.

    It is picked at run time; the environment variable ``HEPGEN_ISA`` forces a lower one.

    Raises
    ------
    BackendError
        If ``HEPGEN_ISA`` names a set that this machine or build does not have.
    """
    module = core()
    if module is None:
        return "none"
    try:
        return str(module.instruction_set())
    except ValueError as error:
        raise BackendError(f"HEPGEN_ISA: {error}") from None
