"""Every Triton kernel compiles for a card that need not be there: without spilling, within its shared memory, to code that is sound."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hepgen.kernels import dispatch

HERE = Path(__file__).parent
FIRST = [] if os.environ.get("HEPGEN_TRITON") == "full" else ["--first"]  # a case of each kernel; `make triton` has all of them


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(importlib.util.find_spec("triton") is not None and not dispatch.triton_is_known(), reason="this triton was not tried")
@pytest.mark.parametrize("module", ["mmd", "density", "ecd", "maf"])
def test_compiles(module, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, HERE / "triton_compile.py", *FIRST, module]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{module}." in run.stdout
