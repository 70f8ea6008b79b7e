"""How often the truth lies within the quoted error, for every uncertainty that hepgen prints: pull tests in toy experiments.

    python benchmarks/pulls.py --out benchmarks/pulls.md

`--only NAME` takes the cases whose figure or situation has the name in it, and with `--out` their rows alone are written anew; `--toys N`
takes another number of toys for all, `--quick` a quarter of them. What the errors mean and what was found is in docs/uncertainties.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shlex
import sys
import time
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from hepgen import __version__

sys.path.insert(0, str(Path(__file__).parent))
from pulls_toys import CASES, Case

#: A share that the right one gives less often than this is called another one: of the 55 cases that are right one in nine runs has one.
RARE = 0.002


@dataclass(frozen=True)
class Coverage:
    """What the toys of a case gave: their pulls (toys,), and the seconds they took."""

    case: Case
    pulls: NDArray[np.float64]
    seconds: float

    @property
    def toys(self) -> int:
        """How many."""
        return len(self.pulls)

    @property
    def inside(self) -> int:
        """Toys whose error reaches to the truth."""
        return int(np.count_nonzero(np.abs(self.pulls) <= 1 + 1e-12))

    @property
    def share(self) -> float:
        """Their share."""
        return self.inside / self.toys

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share (Clopper and Pearson)."""
        found = binomtest(self.inside, self.toys).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)

    @property
    def chance(self) -> float:
        """How often the right share gives as unlikely a number of toys as this."""
        return float(binomtest(self.inside, self.toys, self.case.expected).pvalue)

    def scaled(self, factor: float) -> Coverage:
        """The same with all errors times a factor."""
        return replace(self, pulls=self.pulls / factor)


def covered(case: Case, toys: int | None = None) -> Coverage:
    """Run the toys of a case, each with a seed of its own."""
    n, start = case.toys if toys is None else toys, time.monotonic()
    name = zlib.crc32(f"{case.figure}, {case.name}".encode())
    found = [case.toy(np.random.default_rng([name, number])) for number in range(n)]
    value, error = (np.array([float(one[k]) for one in found]) for k in (0, 1))
    return Coverage(case, (value - _truth(case, found, value)) / error, time.monotonic() - start)


def _truth(case: Case, found: list[tuple[float, ...]], value: NDArray[np.float64]) -> NDArray[np.float64] | float:
    if len(found[0]) == 3:
        return np.array([float(one[2]) for one in found])
    return float(value.mean()) if case.truth is None else case.truth


def row(found: Coverage) -> str:
    """A line of the table."""
    case, (low, high) = found.case, found.interval
    right = "" if found.chance >= RARE else f"no, {100 * case.expected:.1f} %" if not case.known else f"no: {case.known}"
    truth = "own" if case.truth is None else f"{case.truth:.4g}"
    return (
        f"| {case.figure} | {case.name} | {truth} | {found.toys} | {100 * found.share:.1f} ({100 * low:.0f} to {100 * high:.0f}) "
        f"| {100 * case.expected:.1f} | {found.pulls.mean():+.2f} | {found.pulls.std(ddof=1):.2f} | {right or 'yes'} |"
    )


def report(rows: list[Coverage], command: str, seconds: float) -> str:
    """The page."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "torch"))
    made_by = (
        f"{datetime.now(UTC):%Y-%m-%d}, hepgen {__version__}, Python {platform.python_version()}, {versions}, one thread, {seconds:.0f} s"
    )
    lines = [
        "# Coverage of the uncertainties",
        "",
        f"{made_by}. Written by",
        "",
        f"    {command}",
        "",
        "Of so many toy experiments the share in % whose error reaches from the value to the truth, with its binomial 95 % interval; mean",
        'and width of the pull (value - truth) / error. Truth "own" is the mean of all toys, or one computed anew for each. `right` says',
        f"whether the share expected gives such a number of toys in more than {100 * RARE:.1f} % of cases. See docs/uncertainties.md.",
        "",
        "| figure | situation | truth | toys | within the error | expected | pull | width | right |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(found) for found in rows),
        "",
    ]
    return "\n".join(lines)


def updated(page: str, rows: list[Coverage], command: str) -> str:
    """A page with the rows of some cases anew, and those that it has of no case any more left out."""
    kept = {_name(line): line for line in page.splitlines() if line.startswith("| ")}
    kept |= {_name(line): line for line in map(row, rows)}
    head = page[: page.index("|---")].splitlines()
    if f"    {command}" not in head:
        head.insert(max(number for number, line in enumerate(head) if line.startswith("    ")) + 1, f"    {command}")
    order = [_name(f"| {case.figure} | {case.name} | ") for case in CASES]
    return "\n".join([*head, "|---|---|---|---|---|---|---|---|---|", *(kept[name] for name in order if name in kept), ""])


def _name(line: str) -> tuple[str, ...]:
    return tuple(line.split(" | ")[:2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, help="toys of every case")
    parser.add_argument("--only", default="", help="cases that have this in their name")
    parser.add_argument("--quick", action="store_true", help="a quarter of the toys")
    parser.add_argument("--out", type=Path, help="file of the table; standard output where it is left out")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only.lower() in f"{case.figure}, {case.name}".lower()]
    if not cases:
        parser.error(f"no case has {options.only!r} in its name")
    start, rows = time.monotonic(), []
    for case in cases:
        toys = options.toys or (max(case.toys // 4, 50) if options.quick else case.toys)
        rows.append(covered(case, toys))
        print(f"{rows[-1].seconds:6.1f} s  {row(rows[-1])}", file=sys.stderr, flush=True)
    command = shlex.join(["python", "benchmarks/pulls.py", *sys.argv[1:]])
    text = report(rows, command, time.monotonic() - start)
    if options.out is None:
        print(text)
    elif options.only and options.out.exists():
        options.out.write_text(updated(options.out.read_text(encoding="utf-8"), rows, command), encoding="utf-8")
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
