"""How fast the kernels are on this machine: every backend, beside the peers that are installed and the machine's ceiling.

A figure in seconds belongs to one machine on one day; the ratio to a peer that was timed in turn with it is what counts.
Answers are compared before anything is timed.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hepgen.errors import BackendError, UsageError
from hepgen.kernels import dispatch, instruction_set, preferences

# each is a module here whose cases(sizes, peers, features) says what to run
OPS = ("ecd", "kde", "maf", "mlp", "mmd", "transform")
ON_GPU = ("ecd", "kde", "maf", "mmd")

KEYS = (
    "op", "case", "backend", "device", "dtype", "shape", "threads", "isa", "seconds", "throughput", "unit", "ceiling_share", "peer",
    "peer_seconds", "ratio", "quantiles",
)  # fmt: skip

_SLOW = 2.0  # seconds: what takes longer is run twice and no more
_SHORT = 0.01  # seconds: what takes less is run so often, one after the other and after one run that does not count, that it takes this


@dataclass
class Case:
    """One thing to time.

    Attributes
    ----------
    op, name : str
        The op of :mod:`hepgen.kernels` (as in the registry) and the case's name.
    label : str
        The op's name on the command line.
    shape : tuple of int
    work : float
        How many units one run gets through.
    unit : str
        Unit of the throughput, work / seconds.
    flops : float
        Floating-point operations that one run cannot do without.
    moved : float
        Bytes that one run cannot but read from and write to memory. The ceiling is the time that the machine takes
        for the flops at its multiply-add peak or for these bytes at its memory bandwidth, whichever is longer.
    ours : callable
        Runs the op on the backend in force and returns the answer as a list of arrays or tensors.
    peers : dict
        Name -> callable with the same answer.
    tolerance : float
        Largest difference between answers, relative to the largest number of the first.
    unlike : dict
        Name -> callable of peers that do work of the same size with another answer: timed, not compared.
    """

    op: str
    name: str
    label: str
    shape: tuple[int, ...]
    work: float
    unit: str
    flops: float
    ours: Callable[[], list[Any]]
    peers: dict[str, Callable[[], list[Any]]]
    tolerance: float
    moved: float = 0.0
    unlike: dict[str, Callable[[], Any]] = field(default_factory=dict)


def run(
    op: str = "mmd",
    *,
    sizes: Sequence[int] | None = None,
    backends: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
    threads: int | None = None,
    features: int | None = None,
    repeats: int = 7,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure an op.

    Parameters
    ----------
    op : str
        One of ``OPS``.
    sizes : sequence of int, optional
        Numbers of rows to measure at; the op's standard size by default.
    backends : sequence of str, optional
        All that are available by default.
    peers : sequence of str, optional
        All that are installed by default; an empty sequence for none.
    threads : int, optional
        torch's number of threads by default.
    features : int, optional
        Number of columns; the op's standard by default.
    repeats : int
        Rounds in which everything is timed in turn; the median is reported.
    device : {"cpu", "cuda"}
        Where the tensors are. On a GPU the host queues a run after the other and waits for the last; where all backends are measured
        the automatic choice follows from then on (:mod:`hepgen.kernels.preferences`).

    Returns
    -------
    list of dict
        One object per case, size, backend and peer, with the keys of ``KEYS``; ``seconds`` is the median, ``quantiles`` the
        10, 50 and 90 % ones, ``shape`` a list, ``throughput`` in ``unit``, ``ceiling_share`` the share of the machine's own
        limit as measured in the same run (None without the compiled core), ``ratio`` = peer_seconds / seconds; the peer's
        three are None where there is none.

    Raises
    ------
    UsageError
        If the op, a backend or a size cannot be measured.
    BackendError
        If a backend asked for is not available.
    HepgenError
        If the answers differ.
    """
    if op not in OPS:
        raise UsageError(f"no benchmark of {op!r}: choose one of {', '.join(OPS)}")
    if min(repeats, 1 if threads is None else threads, *(sizes or ()), 1 if features is None else features) < 1:
        raise UsageError("repeats, sizes, features and threads must be positive")
    import torch

    if device not in {"cpu", "cuda"} or (device == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"no benchmark on {device!r} here: choose cpu{', or cuda' if torch.cuda.is_available() else ''}")
    before = torch.get_num_threads()
    threads = threads or before
    # libgomp, which peers are built on, reads this when it is loaded
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    try:
        cases: list[Case] = module(op).cases(sizes, peers, features, device)
        rows = [row for case in cases for row in _measure(case, backends, threads, repeats, device)]
        if device != "cpu" and backends is None:
            preferences.keep(device_name(device), fastest(rows, {case.name: case.op for case in cases}))
        return rows
    finally:
        torch.set_num_threads(before)


def fastest(rows: Sequence[dict[str, Any]], ops: Mapping[str, str]) -> dict[str, str]:
    """Return the backend of each op of :mod:`hepgen.kernels` whose times, all of its cases together, have the smallest product."""
    logs: dict[str, dict[str, float]] = {}
    for name, op in ops.items():
        seconds = {(row["backend"], *row["shape"]): row["seconds"] for row in rows if row["case"] == name}
        for (backend, *_), taken in seconds.items():
            logs.setdefault(op, {}).setdefault(backend, 0.0)
            logs[op][backend] += math.log(taken)
    return {op: min(of_backend, key=of_backend.__getitem__) for op, of_backend in logs.items()}


def module(op: str) -> Any:
    """Return the module that holds an op's cases."""
    return importlib.import_module(f"hepgen.bench.{op}")


def _measure(case: Case, backends: Sequence[str] | None, threads: int, repeats: int, device: str = "cpu") -> list[dict[str, Any]]:
    # plain torch is a peer on a GPU, where its sizes allow
    there = [name for name in dispatch.available(case.op, device) if device == "cpu" or name != "reference"]
    names = there if backends is None else list(backends)
    if missing := [name for name in names if name not in there]:
        raise BackendError(f"{case.op} has no backend {missing[0]!r} here: choose one of {', '.join(there)}")
    alike = {("backend", name): _on_backend(name, case.ours) for name in names}
    alike |= {("peer", name): function for name, function in case.peers.items()}
    _compare(case, {f"{kind} {name}": function() for (kind, name), function in alike.items()})
    unlike = {("peer", name): function for name, function in case.unlike.items()}
    taken = _interleaved(alike | unlike, repeats, _waiting(device))
    floor = _floor(case, threads, device)
    card = device_name(device)
    rows = []
    for name in names:
        own = statistics.median(taken["backend", name])
        against: list[str | None] = [*case.peers, *case.unlike] or [None]
        for peer in against:
            theirs = None if peer is None else statistics.median(taken["peer", peer])
            rows.append(
                {
                    "op": case.label,
                    "case": case.name,
                    "backend": name,
                    "device": card,
                    "dtype": "float32",
                    "shape": list(case.shape),
                    "threads": threads,
                    "isa": instruction_set() if name == "cpp" else None,
                    "seconds": own,
                    "throughput": case.work / own,
                    "unit": case.unit,
                    "ceiling_share": None if floor is None else floor / own,
                    "peer": peer,
                    "peer_seconds": theirs,
                    "ratio": None if theirs is None else theirs / own,
                    "quantiles": _quantiles(taken["backend", name]),
                }
            )
    return rows


def device_name(device: str) -> str:
    """Return "cpu", or the name of the GPU."""
    if device == "cpu":
        return device
    import torch

    return str(torch.cuda.get_device_name())


def _waiting(device: str) -> Callable[[], None]:
    """Return what waits until all that was asked for is done."""
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def _floor(case: Case, threads: int, device: str) -> float | None:
    """Return the seconds that the machine itself needs, as measured here; None without the compiled core."""
    if device != "cpu":
        from hepgen.bench import gpu

        return max(case.flops / gpu.peak_flops(), case.moved / gpu.memory_bandwidth())
    core: Any = dispatch.core()
    if core is None:
        return None
    moving = case.moved / core.memory_bandwidth(threads) if case.moved else 0.0
    return float(max(case.flops / core.peak_flops(threads), moving))


def _quantiles(seconds: list[float]) -> list[float]:
    """Return the 10 %, 50 % and 90 % quantiles."""
    import numpy as np

    return [float(q) for q in np.quantile(seconds, [0.1, 0.5, 0.9])]


def _on_backend(name: str, function: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    def on_backend() -> list[Any]:
        with dispatch.backend(name):
            return function()

    return on_backend


def _compare(case: Case, answers: dict[str, list[Any]]) -> None:
    import numpy as np

    from hepgen.errors import HepgenError

    (first, wanted), *others = answers.items()
    for name, got in others:
        for a, b in zip(map(_array, wanted), map(_array, got), strict=True):
            scale = max(float(np.abs(a).max()), float(np.abs(b).max()), sys.float_info.min)
            if not np.allclose(a, b, rtol=0, atol=case.tolerance * scale):
                worst = float(np.abs(a - b).max()) / scale
                raise HepgenError(f"bench {case.label} {case.name}: {first} and {name} differ by {worst:.2g}, more than {case.tolerance:g}")


def _array(answer: Any) -> Any:
    return answer.detach().double().cpu().numpy() if hasattr(answer, "detach") else answer


def _interleaved(
    runners: dict[tuple[str, str], Callable[[], Any]], repeats: int, wait: Callable[[], None]
) -> dict[tuple[str, str], list[float]]:
    """Time everything in turn, round after round, so that whatever else the machine does falls on all alike."""
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runners}
    for _ in range(repeats + 1):  # the first round says how often to run what is over in no time, and does not count
        for key, function in runners.items():
            if len(taken[key]) >= 2 and taken[key][0] > _SLOW:
                continue
            times = 1 if not taken[key] else max(1, int(_SHORT / taken[key][0]))
            if times > 1:
                function()  # what was timed before may have emptied the caches
            wait()
            start = time.perf_counter()
            for _ in range(times):
                function()
            wait()
            taken[key].append((time.perf_counter() - start) / times)
    return {key: values[1:] or values for key, values in taken.items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what a peer and the compilers it starts print to standard error, so that standard output stays the result's."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the measurements as a :class:`rich.table.Table`."""
    from rich.table import Table

    out = Table(title="median seconds; a ratio above 1 is faster than the peer")
    for column in ("case", "shape", "backend", "threads"):
        out.add_column(column, no_wrap=True)
    for column in ("seconds", "10-90 %", "throughput", "of ceiling", "peer", "ratio"):
        out.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        share = row["ceiling_share"]
        out.add_row(
            f"{row['op']} {row['case']}",
            "x".join(str(n) for n in row["shape"]),
            row["backend"] + (f" {row['isa']}" if row["isa"] else ""),
            str(row["threads"]),
            f"{row['seconds']:.4g}",
            "{:.3g}-{:.3g}".format(row["quantiles"][0], row["quantiles"][2]),
            throughput(row),
            "" if share is None else f"{share:.0%}",
            "" if row["peer"] is None else f"{row['peer']} {row['peer_seconds']:.4g}",
            "" if row["peer"] is None else f"{row['ratio']:.3g}x",
        )
    return out


def throughput(row: dict[str, Any]) -> str:
    """Return a measurement's throughput with its unit, such as ``"10.2 Gpairs/s"``."""
    value = row["throughput"]
    for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{row['unit']}"
    return f"{value:.3g} {row['unit']}"
