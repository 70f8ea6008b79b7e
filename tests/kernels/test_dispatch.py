from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hepgen import kernels
from hepgen.errors import BackendError, UsageError
from hepgen.kernels import dispatch


def test_registry_names_every_op_and_backend():
    rows = kernels.registry()
    assert {(op, name) for op, name, _, _ in rows} == {(op, name) for op in dispatch.OPS for name in dispatch.BACKENDS}
    assert all(ok for _, name, ok, _ in rows if name == "reference")
    assert all(ok == (reason == "") for _, _, ok, reason in rows)


def test_choice_of_a_block_ends_with_it(monkeypatch):
    monkeypatch.delenv("HEPGEN_BACKEND", raising=False)
    automatic = dispatch.choose("mmd2")
    with kernels.backend("reference"):
        assert dispatch.choose("mmd2") == "reference"
    assert dispatch.choose("mmd2") == automatic == dispatch.available("mmd2", "cpu")[0]


def test_choice_belongs_to_the_thread(monkeypatch):
    monkeypatch.delenv("HEPGEN_BACKEND", raising=False)
    with kernels.backend("reference"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(dispatch.choose, "mmd2").result() == dispatch.available("mmd2", "cpu")[0]


def test_environment(monkeypatch):
    monkeypatch.setenv("HEPGEN_BACKEND", "reference")
    assert dispatch.choose("mmd2") == "reference"
    monkeypatch.setenv("HEPGEN_BACKEND", "fortran")
    with pytest.raises(UsageError, match="unknown backend 'fortran'"):
        dispatch.choose("mmd2")


def test_explicit_but_unavailable(monkeypatch):
    monkeypatch.setattr(dispatch, "OPS", {"mmd2": ("cpp", "reference"), "kde": ("reference",)})
    with pytest.raises(BackendError, match="'cuda' is not available here.*reference"), kernels.backend("cuda"):
        pytest.fail("the block must not be entered")
    monkeypatch.setenv("HEPGEN_BACKEND", "triton")
    with pytest.raises(BackendError, match="kde has no backend 'triton'.*choose one of reference"):
        kernels.kde(torch.zeros(3, 1), torch.linspace(0, 1, 5), 0.1)


def test_threads_follow_torch_unless_told():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert dispatch.thread_count() == 3
        with kernels.threads(2):
            assert dispatch.thread_count() == 2
            with ThreadPoolExecutor(1) as pool:  # the choice belongs to the thread
                assert pool.submit(dispatch.thread_count).result() != 2
        assert dispatch.thread_count() == 3
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"), kernels.threads(0):
        pytest.fail("the block must not be entered")


def test_one_thread_where_torch_is_not_loaded():
    program = "import sys; from hepgen.kernels import dispatch; print(dispatch.thread_count(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_unknown_name():
    with pytest.raises(UsageError, match="choose one of reference, cpp, cuda, triton"), kernels.backend("opencl"):
        pytest.fail("the block must not be entered")


def test_without_the_compiled_core(monkeypatch):
    monkeypatch.setattr(dispatch, "_modules", {})
    monkeypatch.setitem(sys.modules, "hepgen._core", None)
    assert dispatch.choose("mmd2") == "reference"
    assert "cpp" not in dispatch.available("mmd2", "cpu")
    assert kernels.instruction_set() == "none"
    reasons = {name: reason for op, name, _, reason in kernels.registry() if op == "mmd2"}
    assert "hepgen._core cannot be imported" in reasons["cpp"]
    with pytest.raises(BackendError, match="hepgen._core cannot be imported"), kernels.backend("cpp"):
        pytest.fail("the block must not be entered")
    x = torch.zeros(2, 1)
    assert kernels.mmd2(x, x + 1, 1.0) > 0


def test_public_names_and_light_import():
    assert {"backend", "gaussian_sums", "instruction_set", "kde", "kernel_mean", "mmd2", "philox", "registry"} <= set(dir(kernels))
    program = (
        "import sys, hepgen.kernels.philox\n"
        "assert 'torch' not in sys.modules\n"
        "import hepgen.kernels.density, hepgen.kernels.mmd\n"
        "from hepgen.kernels import kde, philox\n"
        "assert callable(kde) and not callable(philox)\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
    with pytest.raises(AttributeError, match="no attribute 'fft'"):
        kernels.fft  # noqa: B018
