"""What the tests of several kernels share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from hepgen import kernels
from hepgen.kernels import dispatch

CORE = dispatch.core()


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
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both backends of a CPU."""
    with kernels.backend(request.param):
        yield request.param
