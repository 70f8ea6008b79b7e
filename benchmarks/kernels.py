"""Write benchmarks/OP.md: an op in every instruction set of this machine, beside the peers that are installed.

Run it on an idle machine: python benchmarks/kernels.py mmd kde ecd maf mlp
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
from pathlib import Path

from hepgen import bench
from hepgen.kernels import dispatch

PEERS = ("torch", "pykeops", "KDEpy", "scipy", "scikit-learn", "zuko", "nflows")
HEADER = "| case | shape | instruction set | seconds | 10-90 % | throughput | of ceiling | peer | peer seconds | ratio |"


def line(row: dict) -> str:
    cells = [
        row["case"],
        " x ".join(str(n) for n in row["shape"]),
        row["isa"],
        f"{row['seconds']:.4g}",
        "{:.3g}-{:.3g}".format(row["quantiles"][0], row["quantiles"][2]),
        bench.throughput(row),
        f"{row['ceiling_share']:.0%}",
        *(["", "", ""] if row["peer"] is None else [row["peer"], f"{row['peer_seconds']:.4g}", f"{row['ratio']:.3g}"]),
    ]
    return "| " + " | ".join(cells) + " |"


def versions() -> str:
    found = []
    for name in PEERS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((text.split(":")[1].strip() for text in lines if text.startswith("model name")), platform.machine())


def write(op: str, options: argparse.Namespace) -> Path:
    core = dispatch.core()
    rows = []
    for isa in options.isas or [isa for isa in core.instruction_sets() if isa != "baseline"]:
        core.set_instruction_set(isa)
        rows += bench.run(op, backends=["cpp"], threads=options.threads, repeats=options.repeats)
    command = f"python benchmarks/kernels.py {op} --threads {options.threads} --repeats {options.repeats}"
    lines = [
        f"# {op}",
        "",
        f"{datetime.datetime.now(tz=datetime.UTC).date()}, {processor()}, {options.threads} threads, Python {platform.python_version()},",
        f"{versions()}; float32, median of {options.repeats}, everything timed in turn. Written by",
        "",
        f"    {command}",
        "",
        "The ceiling is the multiply-add peak or the memory bandwidth of this machine, measured in the same run: see docs/kernels.md.",
        "",
        HEADER,
        "|" + "---|" * HEADER.count(" |"),
        *map(line, rows),
    ]
    path = options.out / f"{op}.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", default=bench.OPS, help="all of them by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--isas", nargs="+", help="instruction sets; all but the baseline by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    if dispatch.core() is None:
        parser.error("hepgen._core is not built")
    for op in options.ops:
        print(write(op, options))


if __name__ == "__main__":
    main()
