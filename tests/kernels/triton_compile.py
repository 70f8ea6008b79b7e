"""Compile every kernel of a Triton module for a card that need not be there, and say what the assembler made of it.

python tests/kernels/triton_compile.py [--first] mmd [density ...]

--first: one case of each kernel.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

CAPABILITY = 90
SHARED_LIMIT = 227 << 10


class Compiled(NamedTuple):
    kernel: str
    constants: str
    registers: int
    spilled: int  # bytes stored
    shared: int
    pairs: int  # operations on pairs of 16-bit integers, whose constants ptxas 12.8 can lose
    seconds: float
    spills_allowed: bool


def compile_case(kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, Any]) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget

    while not isinstance(kernel, triton.runtime.jit.JITFunction):
        kernel = kernel.fn
    options = dict(options)
    spills_allowed = options.pop("spills", False)
    begin = time.perf_counter()
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}  # as torch's memory is
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
    registers, spilled = assemble(binary.asm["ptx"])
    shown = ", ".join(f"{name}={value}" for name, value in constants.items())
    pairs = len(re.findall(r"\.[su]16x2\b", binary.asm["ptx"]))
    return Compiled(kernel.__name__, shown, registers, spilled, binary.metadata.shared, pairs, time.perf_counter() - begin, spills_allowed)


def assemble(ptx: str) -> tuple[int, int]:
    """Registers of a thread and bytes spilled, as Triton's own assembler reports them."""
    from triton.backends.nvidia.compiler import get_ptxas

    assembler = get_ptxas(CAPABILITY).path
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [assembler, "-v", f"-arch=sm_{CAPABILITY}a", source, "-o", Path(folder) / "kernel.cubin"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.findall(r"Used (\d+) registers", report)[-1]), int(re.findall(r"(\d+) bytes spill stores", report)[-1])


def main(modules: list[str], *, first: bool) -> int:
    os.environ.pop("TRITON_INTERPRET", None)
    failed = 0
    for module in modules:
        cases = importlib.import_module(f"hepgen.kernels.triton.{module}").compile_cases()
        for case in {id(case[0]): case for case in reversed(cases)}.values() if first else cases:
            c = compile_case(*case)
            bad = c.shared > SHARED_LIMIT or (c.spilled > 0 and not c.spills_allowed) or c.pairs > 0
            failed += bad
            figures = f"{c.registers} registers, {c.spilled} bytes spilled, {c.shared} bytes shared, {c.pairs} pairs, {c.seconds:.1f} s"
            print(f"{'FAILED ' if bad else ''}{module}.{c.kernel}({c.constants}): {figures}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main([name for name in sys.argv[1:] if name != "--first"], first="--first" in sys.argv) > 0)
