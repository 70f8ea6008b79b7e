"""Which backend runs an op: automatic choice falls back, an explicit choice raises where it cannot be kept.

No torch here: the compiled core works on numpy arrays.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from hepgen.errors import BackendError, UsageError
from hepgen.kernels import preferences

BACKENDS = ("reference", "cpp", "cuda", "triton")

_EVERYWHERE = ("cpp", "cuda", "triton", "reference")
# op -> the backends written for it, the preferred first; "reference" runs everywhere
OPS: dict[str, tuple[str, ...]] = {
    "broken_line": ("cpp", "reference"),
    "ecd_step": _EVERYWHERE,
    "mmd2": _EVERYWHERE,
    "kernel_mean": _EVERYWHERE,
    "gaussian_sums": _EVERYWHERE,
    "kde": _EVERYWHERE,
    "kde_divergence": _EVERYWHERE,
    "maf_forward": _EVERYWHERE,
    "maf_inverse": _EVERYWHERE,
    "maf_nll": _EVERYWHERE,
    "mlp": ("cpp", "reference"),
    "philox": ("cpp", "reference"),
}
_NATIVE = {"cpp": ("cpu",), "cuda": ("cuda",), "triton": ("cuda",), "reference": ("cpu", "cuda")}  # types of device

# op -> the function of hepgen._cuda that it cannot do without
_ENTRIES = {
    "ecd_step": "ecd_step",
    "mmd2": "mmd2",
    "kernel_mean": "mmd2",
    "gaussian_sums": "gaussian_sums",
    "kde": "kde",
    "kde_divergence": "kde",
    "maf_forward": "maf_apply",
    "maf_inverse": "maf_apply",
    "maf_nll": "maf_likelihood",
}

_chosen: ContextVar[str | None] = ContextVar("hepgen_backend", default=None)
_threads: ContextVar[int | None] = ContextVar("hepgen_threads", default=None)
_modules: dict[str, tuple[ModuleType | None, str]] = {}
_forked = False
_gpu_seen = False


def _after_fork() -> None:
    global _forked  # noqa: PLW0603 - a fact about the process
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def _module(name: str, folder: str = "") -> tuple[ModuleType | None, str]:
    """A compiled module of the package, or of a folder, and where it cannot be had why; looked for once per process."""
    if name not in _modules:
        try:
            _modules[name] = (_from_folder(name, folder) if folder else importlib.import_module(name)), ""
        except ImportError as error:
            _modules[name] = None, f"{name} cannot be imported ({error})"
    return _modules[name]


def _from_folder(name: str, folder: str) -> ModuleType:
    path = next(Path(folder).glob(name.rpartition(".")[2] + "*.so"), None)
    spec = None if path is None else importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"there is none in {folder}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def core() -> ModuleType | None:
    """Return the compiled module ``hepgen._core``, or None where it was not built (the reason is kept)."""
    return _module("hepgen._core")[0]


def cuda() -> ModuleType | None:
    """Return the compiled module ``hepgen._cuda``, or None where it was not built.

    With the environment variable ``HEPGEN_EMULATED`` its emulation on the CPU, ``hepgen._emulated``, for tests where there is no GPU:
    "1", or the folder that it was built in.
    """
    return _cuda()[0]


def _cuda() -> tuple[ModuleType | None, str]:
    emulated = os.environ.get("HEPGEN_EMULATED", "")
    return _module("hepgen._emulated", "" if emulated == "1" else emulated) if emulated else _module("hepgen._cuda")


def triton_interprets() -> bool:
    """Whether Triton's kernels run in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _has_gpu() -> bool:
    """Whether torch has a GPU: asked until it has."""
    global _gpu_seen  # noqa: PLW0603 - a fact about the process
    if not _gpu_seen:
        torch: Any = sys.modules.get("torch")
        _gpu_seen = torch is not None and bool(torch.cuda.is_available())
    return _gpu_seen


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _card() -> str:
    torch: Any = sys.modules["torch"]
    return str(torch.cuda.get_device_name())


def _reason_against(op: str, name: str) -> str:
    """Why a backend cannot run `op` here; empty where it can."""
    if name not in OPS[op]:
        return "not written for this op"
    if name == "cpp":
        return _module("hepgen._core")[1]
    if name == "cuda":
        return _reason_against_cuda(op)
    if name == "triton":
        return _reason_against_triton()
    return ""


@functools.cache
def triton_is_known() -> bool:
    """Whether the kernels were run with the triton that is installed: 3.6 to 3.9."""
    major, minor = importlib.metadata.version("triton").split(".")[:2]
    return (3, 6) <= (int(major), int(minor)) < (3, 10)


def _reason_against_triton() -> str:
    if not _has_triton():
        return "triton is not installed: pip install triton"
    if triton_interprets():
        return "" if triton_is_known() else "the kernels were not tried in the interpreter of this triton: pip install 'triton>=3.6,<3.10'"
    return "" if _has_gpu() else "torch has no GPU here, and TRITON_INTERPRET is not 1"


def _reason_against_cuda(op: str) -> str:
    module, reason = _cuda()
    if module is None:
        return reason
    if not hasattr(module, _ENTRIES[op]):
        return f"{module.__name__} was built without it"
    return "" if module.emulated or _has_gpu() else "torch has no GPU here"


def _availability(op: str, name: str) -> tuple[bool, str]:
    reason = _reason_against(op, name)
    return reason == "", reason


def _devices(name: str) -> tuple[str, ...]:
    """The types of device whose tensors a backend takes."""
    if name == "cuda":
        module = cuda()
        return ("cpu",) if module is not None and module.emulated else ("cuda",)
    if name == "triton":
        return ("cpu",) if triton_interprets() else ("cuda",)
    return _NATIVE[name]


def registry() -> list[tuple[str, str, bool, str]]:
    """List every op with every backend.

    Returns
    -------
    list of (op, backend, available, reason)
        ``reason`` says why a backend is not available and is empty where it is.
    """
    return [(op, name, *_availability(op, name)) for op in OPS for name in BACKENDS]


def available(op: str, device: str | None = None) -> list[str]:
    """Return the backends that can run `op` here, the preferred first.

    With a type of device those that take its tensors, without what stands in for a GPU on the CPU: that is slow, and for tests.
    """
    return list(_usable(op, device))


def _usable(op: str, device: str | None) -> Iterator[str]:
    names = [name for name in OPS[op] if device is None or device in _NATIVE[name]]
    if device == "cuda" and _has_gpu():
        best = preferences.fastest(_card()).get(op)
        names.sort(key=lambda name: name != best)
    return (name for name in names if _runs(op, name) and (device is None or device in _devices(name)))


def _runs(op: str, name: str) -> bool:
    return name in OPS[op] and _availability(op, name)[0]


def _check_name(name: str) -> None:
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Run every op inside the ``with`` block on one backend.

    The choice holds for the current thread or asyncio task. Without it the environment variable ``HEPGEN_BACKEND`` is
    asked, and where that is not set either the fastest backend available is taken: on a GPU the one that ``hepgen bench --device cuda``
    found there, if it ever ran.

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
    if not any(_runs(op, name) for op in OPS):
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
    if wanted is None:
        return next(_usable(op, device))
    _check_name(wanted)
    if _runs(op, wanted) and device in _devices(wanted):
        return wanted
    usable = [name for name in available(op) if device in _devices(name)]
    raise BackendError(f"{op} has no backend {wanted!r} for {device} tensors here: choose one of {', '.join(usable)}")


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
