from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc" / "cuda"


def test_a_module_built_with_cuda_works_without_a_driver():
    """Where nvcc built it: it is imported, says why it cannot run, and another backend takes over."""
    pytest.importorskip("hepgen._cuda", reason="hepgen._cuda is not built")
    program = (
        "import torch\n"
        "from hepgen import kernels, _cuda\n"
        "assert not _cuda.emulated\n"
        "row = next(r for r in kernels.registry() if r[:2] == ('mmd2', 'cuda'))\n"
        "assert row[2] == torch.cuda.is_available(), row\n"
        "assert row[2] or row[3] == 'torch has no GPU here', row\n"
        "assert kernels.mmd2(torch.zeros(3, 2), torch.ones(4, 2), 1.0) > 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, env={"PATH": "/usr/bin:/bin", **_without_stand_ins()})


def _without_stand_ins() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in {"HEPGEN_EMULATED", "TRITON_INTERPRET", "HEPGEN_BACKEND"}}


def test_what_kernels_take_is_read_from_the_report(tmp_path):
    """A kernel that spills is found out."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the path")
    folder = tmp_path / "cuda"
    folder.mkdir()
    shutil.copy(CSRC / "resources.py", folder)
    (folder / "good.cu").write_text("__global__ void twice(float* x) { x[threadIdx.x] *= 2; }\n")
    done = subprocess.run([sys.executable, folder / "resources.py", "good"], capture_output=True, text=True, check=True)
    assert "twice" in done.stdout
    (folder / "spills.cu").write_text(
        "__global__ void __launch_bounds__(1024, 2) wide(const float* x, float* y) {\n"
        "  float a[64];\n#pragma unroll\n  for (int i = 0; i < 64; ++i) a[i] = x[i * 1024 + threadIdx.x];\n  __syncthreads();\n"
        "#pragma unroll\n  for (int i = 0; i < 64; ++i)\n#pragma unroll\n"
        "    for (int j = 0; j < 64; ++j) a[i] = a[i] * a[j] + a[(i + j) % 64];\n"
        "#pragma unroll\n  for (int i = 0; i < 64; ++i) y[i * 1024 + threadIdx.x] = a[i];\n}\n"
    )
    done = subprocess.run([sys.executable, folder / "resources.py", "spills"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "spill registers: wide" in done.stderr
    (folder / "warns.cu").write_text("__global__ void unused(float* x) { int a = 3; x[0] = 1; }\n")
    done = subprocess.run([sys.executable, folder / "resources.py", "warns"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nvcc failed" in done.stderr
