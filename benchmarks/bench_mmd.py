"""Write benchmarks/mmd.md: the MMD kernel in every instruction set of this machine, beside pykeops and plain torch.

Run it on an idle machine: python benchmarks/bench_mmd.py
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
from pathlib import Path

from hepgen import bench
from hepgen.kernels import dispatch

HEADER = "| case | n x m x d | backend | threads | seconds | Gpairs/s | of multiply-add peak | peer | peer seconds | ratio |"


def line(row: dict) -> str:
    peer = ["", "", ""] if row["peer"] is None else [row["peer"], f"{row['peer_seconds']:.4g}", f"{row['ratio']:.1f}"]
    share = "" if row["ceiling_share"] is None else f"{row['ceiling_share']:.0%}"
    cells = [
        row["case"],
        " x ".join(str(n) for n in row["shape"]),
        f"{row['backend']} {row['isa'] or ''}".strip(),
        str(row["threads"]),
        f"{row['seconds']:.4g}",
        f"{row['throughput'] / 1e9:.3g}",
        share,
        *peer,
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 16000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("mmd.md"))
    options = parser.parse_args()
    core = dispatch.core()
    if core is None:
        parser.error("hepgen._core is not built")
    rows = []
    for isa in reversed(core.instruction_sets()):
        core.set_instruction_set(isa)
        rows += bench.run("mmd", sizes=options.sizes, backends=["cpp"], threads=options.threads, repeats=options.repeats)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pykeops") if _installed(name))
    lines = [
        "# MMD",
        "",
        f"{datetime.datetime.now(tz=datetime.UTC).date()}, {platform.machine()}, Python {platform.python_version()}, {versions}; float32,",
        f"median of {options.repeats}, everything timed in turn. Gpairs/s counts all pairs of x-x, y-y and x-y. Written by",
        "",
        f"    python benchmarks/bench_mmd.py --sizes {' '.join(map(str, options.sizes))} --threads {options.threads}"
        f" --repeats {options.repeats}",
        "",
        HEADER,
        "|" + "---|" * HEADER.count(" |"),
        *map(line, rows),
    ]
    options.out.write_text("\n".join(lines) + "\n")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
