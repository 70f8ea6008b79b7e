"""What this installation can do here: kernels by backend, versions, threads, instruction set."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = (
    "hepgen", "torch", "triton", "numpy", "awkward", "uproot", "hist", "boost-histogram", "vector", "scikit-learn", "scipy", "safetensors",
    "coffea", "pyhf", "pythia8mc", "mplhep", "pykeops", "KDEpy", "zuko", "nflows",
)  # fmt: skip


def collect() -> dict[str, Any]:
    """Everything `hepgen info` prints, as plain values.

    Returns
    -------
    dict
        ``kernels``: list of {op, backend, available, reason}; ``versions``: name to version or None; ``threads``: torch's number of
        threads and the cores; ``instruction_set``: the one picked at run time; ``platform``.
    """
    import torch

    from hepgen import kernels
    from hepgen.kernels.dispatch import cores

    return {
        "kernels": [dict(zip(("op", "backend", "available", "reason"), row, strict=True)) for row in kernels.registry()],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "threads": {"torch": torch.get_num_threads(), "cores": cores()},
        "instruction_set": kernels.instruction_set(),
        "platform": platform.platform(),
    }


def table(found: Mapping[str, Any]) -> Iterator[Table]:
    """The collected values as tables for a terminal."""
    from rich.table import Table

    ops = list(dict.fromkeys(row["op"] for row in found["kernels"]))
    backends = list(dict.fromkeys(row["backend"] for row in found["kernels"]))
    cells = {(row["op"], row["backend"]): "yes" if row["available"] else row["reason"] for row in found["kernels"]}
    kernels = Table("op", *backends, title="kernels by backend")
    for op in ops:
        kernels.add_row(op, *(cells.get((op, backend), "-") for backend in backends))
    yield kernels
    about = Table("", "", title="this machine", show_header=False)
    about.add_row("instruction set", found["instruction_set"])
    about.add_row("threads", f"{found['threads']['torch']} (torch) of {found['threads']['cores']} cores")
    about.add_row("platform", found["platform"])
    for name, version in found["versions"].items():
        about.add_row(name, version or "not installed")
    yield about


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
