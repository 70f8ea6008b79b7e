"""What the tests of several kernels share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# without a GPU its kernels run on the CPU: Triton's in its interpreter, those in CUDA in the emulation, where that was built
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("HEPGEN_EMULATED", "1")

from _pytest.mark import ParameterSet

from hepgen import kernels
from hepgen.kernels import dispatch

CORE = dispatch.core()
ON_GPU = ("cuda", "triton")
OPS = [op for op, backends in dispatch.OPS.items() if "cuda" in backends]


def _parameters(names: tuple[str, ...]) -> list[ParameterSet]:
    """Backends, skipped with the reason where they are not available."""
    rows = {name: [(there, reason) for op, other, there, reason in dispatch.registry() if other == name and op in OPS] for name in names}
    skips = {name: [] if any(there for there, _ in found) else [pytest.mark.skip(reason=found[0][1])] for name, found in rows.items()}
    return [pytest.param(name, marks=marks) for name, marks in skips.items()]


@pytest.fixture(params=CORE.instruction_sets() if CORE is not None else [])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this machine, one after the other."""
    CORE.set_instruction_set(request.param)
    yield request.param
    CORE.set_instruction_set(os.environ.get("HEPGEN_ISA", "auto"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small work goes faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["reference", pytest.param("cpp", marks=pytest.mark.skipif(CORE is None, reason="hepgen._core is not built"))])
def cpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both backends of a CPU, for the ops that have no others."""
    with kernels.backend(request.param):
        yield request.param


@pytest.fixture(params=_parameters(dispatch.BACKENDS))
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every backend: those of a GPU on one where there is one, else on the CPU."""
    with kernels.backend(request.param):
        yield request.param


@pytest.fixture
def device(backend: str) -> torch.device:
    """Where the tensors of a test belong for its backend."""
    return torch.device("cuda" if backend in ON_GPU and torch.cuda.is_available() else "cpu")


@pytest.fixture(params=_parameters(ON_GPU))
def gpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backends of a GPU alone."""
    with kernels.backend(request.param):
        yield request.param
