"""The table and the picture of `scaling.py`."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hepgen import __version__
from hepgen.kernels.dispatch import cores

Result = dict[str, Any]
Found = dict[str, list[Result]]

PACKAGES = ("awkward", "uproot", "numpy", "pyarrow", "distributed", "torch")
COLUMNS = {"EventGenerator": 10}  # of a fit; 6 elsewhere
HOW = """Seconds and CPU seconds (all threads, system included) are those of whole commands, start and imports with them, and the least of
the rounds; where the cores are busy seconds are upper bounds. "us an event more": CPU microseconds, the difference to the size before by
the events between. Memory is the most at any time in any round: VmHWM, and without pages of files. "Others": cores taken by other work."""


def table(found: Found) -> str:
    """All figures as Markdown."""
    every = [row for part, rows in found.items() if part != "inputs" for row in rows]
    dates = sorted({row["date"] for row in every})
    others = [row["others"] for row in every if "others" in row]
    known = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        "# scaling",
        "",
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, hepgen {__version__}, Python {platform.python_version()}, {known}. "
        f"{cores()} cores, of which other work took {statistics.median(others):.1f} (median; at most {max(others):.1f}). Written by",
        "",
        "    python benchmarks/scaling.py --work FOLDER",
        "",
        HOW,
    ]
    lines += _events("`hepgen apply`, ROOT to ROOT", found["apply"], "model")
    lines += _events("`hepgen sample` to ROOT", found["sample"], "model")
    lines += _events("Writing and reading alone, all 14 branches", found["files"], "what", "kind")
    lines += _workers(found["workers"]) + _profile(found["profile"]) + _fits(found["fit"])
    return "\n".join([*lines, ""])


def _head(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def series(rows: Iterable[Result], *names: str) -> dict[str, list[Result]]:
    """Rows by what they are of, each by rising number of events."""
    kept: dict[str, list[Result]] = {}
    for row in sorted(rows, key=lambda row: int(row["events"])):
        kept.setdefault(" ".join(str(row[name]) for name in names), []).append(row)
    return kept


def _events(title: str, found: list[Result], *names: str) -> list[str]:
    if not found:
        return []
    lines = ["", f"## {title}", ""]
    lines += _head("", "events", "s", "CPU s", "us an event more", "events/s", "MB, VmHWM", "MB without files", "others")
    for name, rows in series(found, *names).items():
        more = [1e6 * (b["cpu"] - a["cpu"]) / (b["events"] - a["events"]) for a, b in pairwise(rows)]
        for row, cost in zip(rows, ["", *(f"{step:.2f}" for step in more)], strict=True):
            rate, memory = row["events"] / row["seconds"], f"{row['peak'] / 1e6:.0f} | {row['anonymous'] / 1e6:.0f}"
            lines.append(
                f"| {name} | {row['events']:,} | {row['seconds']:.1f} | {row['cpu']:.1f} | {cost} | {rate:,.0f} | {memory} "
                f"| {row['others']:.1f} |"
            )
    return lines


def weak(found: list[Result], kind: str) -> dict[str, tuple[float, float]]:
    """Of one and of two workers the least seconds of the rounds, and the least CPU seconds a worker."""
    rows = {workers: [row for row in found if row["kind"] == kind and row["workers"] == workers] for workers in (1, 2)}
    one, two = (min(row.get("alone", row["seconds"]) for row in rows[workers]) for workers in (1, 2))
    own, both = (min(row.get("working", row["cpu"]) for row in rows[workers]) / workers for workers in (1, 2))
    return {"seconds": (one, two), "cpu": (own, both)}


def _workers(found: list[Result]) -> list[str]:
    if not found:
        return []
    rounds = len(found) // 4
    lines = [
        "",
        "## apply on workers",
        "",
        f"SimToData, {found[0]['each']:,} events for every worker (one thread); least of {rounds} rounds. Efficiency: one worker by two.",
        "",
    ]
    lines += _head("", "s, 1 worker", "s, 2", "efficiency", "CPU s a worker, 1", "2", "efficiency by CPU", "others, median")
    names = {"dask": "`--executor dask`, workers started before", "processes": "processes of `hepgen apply --workers 1`, begun at once"}
    for kind, shown in names.items():
        values = weak(found, kind).values()
        others = statistics.median(row["others"] for row in found if row["kind"] == kind)
        lines.append(f"| {shown} | " + " | ".join(f"{a:.2f} | {b:.2f} | {a / b:.2f}" for a, b in values) + f" | {others:.1f} |")
    return lines


def _profile(found: list[Result]) -> list[str]:
    if not found:
        return []
    row = found[0]
    n = row["events"]
    lines = ["", "## Where the time of apply goes", "", f"SimToData, {n:,} events; CPU microseconds an event.", ""]
    lines += _head("threads that transform", "the thread that reads and writes", "those that transform", "s", "s by stage, with waiting")
    for workers, took in row["workers"].items():
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(took["stages"].items(), key=lambda item: -item[1]))
        own, others = (1e6 * took[name] / n for name in ("own", "others"))
        lines.append(f"| {workers} | {own:.2f} | {others:.2f} | {took['wall']:.1f} | {stages} |")
    shown = ", ".join(f"`{name.strip('<>')}` {1e6 * seconds / n:.3f}" for name, seconds in row["functions"][:8])
    return [*lines, "", f"The thread that reads and writes under cProfile, which adds its own: {shown} microseconds an event."]


def bytes_an_event(rows: Sequence[Result]) -> float:
    """Slope of the most memory without files against events, by least squares."""
    return float(np.polyfit([row["events"] for row in rows], [row["anonymous"] for row in rows], 1)[0])


def _fits(found: list[Result]) -> list[str]:
    if not found:
        return []
    lines = [
        "",
        "## What needs memory for every event",
        "",
        "Fits of one epoch to arrays in memory; events of both samples.",
        "",
    ]
    lines += _head("", "columns", "events", "s", "CPU s", "MB, VmHWM", "MB without files", "bytes an event (slope without files)")
    for name, rows in series(found, "model").items():
        for row in rows:
            slope = f"{bytes_an_event(rows):.0f}" if row is rows[-1] else ""
            memory = f"{row['peak'] / 1e6:.0f} | {row['anonymous'] / 1e6:.0f}"
            size = f"{COLUMNS.get(name, 6)} | {row['events']:,}"
            lines.append(f"| {name} | {size} | {row['seconds']:.0f} | {row['cpu']:.0f} | {memory} | {slope} |")
    return lines


def picture(file: Path, found: Found) -> None:
    """Cost of an event, memory, and weak scaling."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    figure, (cost, memory, bars) = plt.subplots(1, 3, figsize=(16, 4.8), width_ratios=(3, 3, 2), layout="constrained")
    commands = {f"{part} {name}": rows for part in ("apply", "sample") for name, rows in series(found[part], "model").items()}
    fits = {name if "hepgen" in name else f"fit {name}": rows for name, rows in series(found["fit"], "model").items()}
    for number, (name, rows) in enumerate({**commands, **fits}.items()):
        events, style = [row["events"] for row in rows], "o-" if name in commands else "s--"
        memory.plot(events, [row["anonymous"] / 1e6 for row in rows], style, ms=4, color=f"C{number}", label=name)
        if name in commands:
            cost.plot(events, [1e6 * row["cpu"] / row["events"] for row in rows], style, ms=4, color=f"C{number}", label=name)
    cost.set(xscale="log", yscale="log", xlabel="events", ylabel="CPU of the command / events [microseconds]")
    memory.set(xscale="log", yscale="log", xlabel="events (of a fit: of both samples)", ylabel="most memory without files [MB]")
    for axis in (cost, memory):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    if found["workers"]:
        _bars(bars, found["workers"])
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _bars(axis: Any, found: list[Result]) -> None:
    """CPU seconds a worker, which other work on the cores does not lengthen."""
    shown = {"dask": "--executor dask", "processes": "processes alone"}
    for number, kind in enumerate(shown):
        one, two = weak(found, kind)["cpu"]
        drawn = axis.bar([number - 0.2, number + 0.2], [one, two], 0.36, color=["C0", "C1"])
        axis.bar_label(drawn, [f"{one:.2f} s", f"{two:.2f} s\n({one / two:.0%})"])
    axis.set_xticks([0, 1], list(shown.values()))
    axis.set(ylabel=f"CPU seconds of a worker for its {found[0]['each']:,} events")
    axis.margins(y=0.2)
    axis.legend(drawn, ["1 worker", "2 workers"], fontsize="small", loc="upper center", ncols=2)
