"""The flow kernels beside zuko and plain torch: the same as ``hepgen bench maf``, in both instruction sets where there are two.

python benchmarks/bench_maf.py [--threads 2] [--sizes 1000 25600] [--json]
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from hepgen.bench import run, table
from hepgen.kernels import dispatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="*")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    core = dispatch.core()
    rows = []
    for isa in [name for name in core.instruction_sets() if name != "baseline"] if core else ["none"]:
        if core:
            core.set_instruction_set(isa)
        rows += run("maf", sizes=arguments.sizes, backends=["cpp"] if core else None, threads=arguments.threads, repeats=arguments.repeats)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        Console(width=140).print(table(rows))


if __name__ == "__main__":
    main()
