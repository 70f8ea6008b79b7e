"""Write gpu.md: every op on the GPU of this machine, CUDA C++ and Triton, beside plain and compiled torch.

Run it on an idle card: python benchmarks/gpu.py [mmd kde ecd maf] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from hepgen import bench
from hepgen.bench import gpu
from hepgen.errors import HepgenError

PACKAGES = ("torch", "triton", "zuko", "pykeops")
HEADER = "| case | shape | backend | seconds | 10-90 % | throughput | of ceiling | peer | peer seconds | ratio |"


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    peer = ["", "", ""] if row["peer"] is None else [row["peer"], f"{row['peer_seconds']:.4g}", f"{row['ratio']:.3g}"]
    cells = [
        f"{row['op']} {row['case']}",
        " x ".join(map(str, row["shape"])),
        row["backend"],
        f"{row['seconds']:.4g}",
        "{:.3g}-{:.3g}".format(row["quantiles"][0], row["quantiles"][2]),
        bench.throughput(row),
        f"{row['ceiling_share']:.0%}",
        *peer,
    ]
    return "| " + " | ".join(cells) + " |"


def versions() -> str:
    """What is installed, and what CUDA torch was built with."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, CUDA {torch.version.cuda}, " + ", ".join(found)


def main() -> None:
    """Measure and write the table; an op that cannot be measured is named and left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", default=list(bench.ON_GPU))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peers", nargs="*", help="of those of hepgen bench that each op has; all of them by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    left_out = []
    for op in options.ops:
        try:
            known = bench.module(op).PEERS
            peers = None if options.peers is None else [name for name in options.peers if name in known]
            found = bench.run(op, repeats=options.repeats, device="cuda", peers=peers)
        except (HepgenError, RuntimeError) as error:
            left_out.append(f"{op}: {error}")
            continue
        rows += found
        print("\n".join(map(line, found)), flush=True)
    text = [
        "# The kernels on a GPU",
        "",
        f"{datetime.datetime.now(tz=datetime.UTC).date()}, {torch.cuda.get_device_name()}, {versions()}; float32, median of",
        f"{options.repeats}, everything timed in turn. Written by",
        "",
        "    bash benchmarks/gpu.sh",
        "",
        f"The ceiling is the larger of two times: the bytes at {gpu.memory_bandwidth() / 1e12:.2f} TB/s, what a copy reads and writes,",
        f"and the multiplications and additions at {gpu.peak_flops() / 1e12:.1f} TFLOP/s, what a product of float32 matrices makes",
        "without the matrix units.",
        "Both were measured in the same run.",
        "",
        HEADER,
        "|" + "---|" * HEADER.count(" |"),
        *map(line, rows),
        "",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.md").write_text("\n".join(text))
    (options.out / "gpu.json").write_text(json.dumps(rows, indent=1) + "\n")
    if left_out:
        sys.exit("\n".join(left_out))


if __name__ == "__main__":
    main()
