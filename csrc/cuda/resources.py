"""What every CUDA kernel takes of a multiprocessor: registers, shared memory, spills. Fails where a kernel spills or nvcc warns.

python csrc/cuda/resources.py [mmd kde ecd maf] [--arch 90]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Werror", "all-warnings", "-Xptxas", "-v"]


def compiled(source: Path, arch: str) -> str:
    """What ptxas says of the kernels of a file."""
    with tempfile.TemporaryDirectory() as folder:
        target = ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "-I", str(SOURCES.parent / "include")]
        command = ["nvcc", *FLAGS, *target, "-c", str(source), "-o", f"{folder}/kernels.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{source.name}: nvcc failed\n{done.stderr}")
    return done.stderr


def readable(names: list[str]) -> list[str]:
    """Names as written in the source."""
    filters = [tool for tool in ("cu++filt", "c++filt") if shutil.which(tool)]
    if not filters:
        return names
    text = subprocess.run([filters[0]], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    plain = [re.sub(r"hepgen::cuda::|\(anonymous namespace\)::|^void ", "", line) for line in text.splitlines()]
    return [line.partition("(")[0] for line in plain]


def kernels(report: str) -> list[tuple[str, int, int, int]]:
    """Name, registers, bytes of static shared memory and of spills of each kernel."""
    found = []
    for part in re.split(r"Compiling entry function '", report)[1:]:
        name = part.split("'", 1)[0]
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part.split("Function properties", 1)[-1].split("Used", 1)[0]))
        registers = int(re.search(r"Used (\d+) registers", part).group(1))  # type: ignore[union-attr]
        shared = re.search(r"(\d+) bytes smem", part)
        found.append((name, registers, int(shared.group(1)) if shared else 0, spills))
    return found


def main() -> None:
    """Print a line per kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", help="beginnings of files in this folder; all by default")
    parser.add_argument("--arch", default="90", help="compute capability, as nvcc writes it (90)")
    options = parser.parse_args()
    sources = [path for path in sorted(SOURCES.glob("*.cu")) if not options.ops or path.name.startswith(tuple(options.ops))]
    spilled = []
    print(f"{'file':16} {'registers':>9} {'shared':>7} {'spills':>6}  kernel")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(lambda source: compiled(source, options.arch), sources))
    for source, report in zip(sources, reports, strict=True):
        rows = kernels(report)
        for name, (_, registers, shared, spills) in zip(readable([row[0] for row in rows]), rows, strict=True):
            print(f"{source.name:16} {registers:9} {shared:7} {spills:6}  {name}")
            if spills:
                spilled.append(name)
    if spilled:
        sys.exit(f"these kernels spill registers: {'; '.join(spilled)}")


if __name__ == "__main__":
    main()
