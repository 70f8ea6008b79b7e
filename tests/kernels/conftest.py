"""What the tests of several kernels share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

# without a GPU its kernels run on the CPU: Triton's in its interpreter, those in CUDA in the emulation, where that was built
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("HEPGEN_EMULATED", "1")

from _pytest.mark import ParameterSet

from hepgen import kernels
from hepgen.kernels import dispatch


def _hurry_interpreter() -> None:
    """Triton's interpreter without work of no effect, which is most of its time.

    At every call of a device function it lays its own functions over the language's, as it did when the kernel was launched; and it tells
    overflows of integers to an assertion that is off unless it debugs.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder, lay = interpreter.interpreter_builder, interpreter._patch_lang

    def lay_once(fn: Any) -> Any:
        languages = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        return lay(fn) if any(tl.core.is_builtin(language.load) for language in languages) else interpreter._LangPatchScope()

    interpreter._patch_lang = lay_once
    builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)


if dispatch.triton_interprets() and importlib.util.find_spec("triton") is not None and dispatch.triton_is_known():
    _hurry_interpreter()

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
