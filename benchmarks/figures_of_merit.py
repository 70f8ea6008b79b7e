"""Write benchmarks/figures_of_merit.md: what the figures of merit of paper D cost at its size, beside plain numpy.

Run it on an idle machine: python benchmarks/figures_of_merit.py --threads 2

Each thread count is measured in a process of its own, as numba reads it once. numpy's loop is timed on some of the pairs and grids, and the
time of all follows from their number; the values must agree before anything is timed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np

OBSERVABLES, PAIRS, GRIDS = 33, 528, 1000
SOME_PAIRS = list(combinations(range(OBSERVABLES), 2))[::44]
SOME_GRIDS = range(50, GRIDS + 1, 95)


def samples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of one distribution, correlated, with tails like energies in the first ten columns; eta and phi in the last four."""
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(OBSERVABLES, OBSERVABLES)) / np.sqrt(OBSERVABLES)
    found = []
    for _ in range(2):
        x = rng.normal(size=(n, OBSERVABLES)) @ mix
        x[:, :10] = 50 * np.exp(0.6 * x[:, :10])
        x[:, 29:31] = np.arctan(x[:, 29:31]) * 1.6
        x[:, 31:] = rng.uniform(-np.pi, np.pi, (n, 2))
        found.append(x)
    return found[0], found[1]


def timed(function: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def tt_columns(x: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """26 columns of six objects and MET, for physicality: pT, eta and E as the first columns are, without meaning."""
    names, columns = [], []
    for number, owner in enumerate([f"Jet[{k}]" for k in range(4)] + [f"Lepton[{k}]" for k in range(2)]):
        pt, eta = x[:, number], x[:, 10 + number]
        columns += [pt * np.cosh(eta) * 1.01, pt, eta, x[:, 31]]
        names += [f"{owner}.{quantity}" for quantity in ("E", "pt", "eta", "phi")]
    return np.column_stack([*columns, x[:, 7], x[:, 32]]), (*names, "MET.pt", "MET.phi")


def measure(n: int) -> None:
    """Print the times of hepgen in this process, as JSON."""
    from hepgen.metrics import delta, delta_of, physicality

    x, y = samples(n)
    w = np.random.default_rng(2).uniform(0.5, 1.5, n)
    tt, names = tt_columns(y)
    eta, phi, pi = slice(29, 31), slice(31, 33), (-np.pi, np.pi)
    work: dict[str, Callable[[], object]] = {
        "delta": lambda: delta(x, y, uncertainty=False),
        "delta with error": lambda: delta(x, y),
        "delta with weights and error": lambda: delta(x, y, reference_weights=w, generated_weights=w),
        "delta_OF of eta": lambda: delta_of(x[:, eta], y[:, eta], uncertainty=False),
        "delta_OF of eta with error": lambda: delta_of(x[:, eta], y[:, eta]),
        "delta_OF of phi with error": lambda: delta_of(x[:, phi], y[:, phi], limits=pi),
        "physicality": lambda: physicality(tt, names),
    }
    for function in (delta, delta_of):  # compiles
        function(*((x[:1000], y[:1000]) if function is delta else (x[:1000, eta], y[:1000, eta])))
    delta(x[:1000], y[:1000], reference_weights=w[:1000])
    print(json.dumps({name: timed(function) for name, function in work.items()}))


def in_process(n: int, threads: int) -> dict[str, tuple[float, float]]:
    environment = os.environ | {"NUMBA_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", "--events", str(n)]
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return {name: tuple(times) for name, times in json.loads(text).items()}


def numpy_pairs(x: np.ndarray, y: np.ndarray) -> float:
    ranges = np.column_stack([x.min(axis=0), x.max(axis=0)])
    found = []
    for i, j in SOME_PAIRS:
        p, q = (np.histogram2d(one[:, i], one[:, j], 25, ranges[[i, j]])[0].ravel() / len(one) for one in (x, y))
        used = p + q > 0
        found.append(((p - q)[used] ** 2 / (p + q)[used]).sum() + 1 - q.sum())
    return float(np.mean(found))


def numpy_grids(x: np.ndarray, y: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return np.array([[np.mean(np.histogram2d(*one.T, side, [limits] * 2)[0] == 0) for one in (x, y)] for side in SOME_GRIDS])


def peers(n: int) -> dict[str, tuple[float, float]]:
    """Return the times of numpy, scaled to all pairs and grids, after checking that the answers are those of hepgen."""
    from hepgen.metrics import delta, delta_of

    x, y = samples(min(n, 100_000))
    chi2 = delta(x, y, uncertainty=False).chi2
    assert np.isclose(np.mean([chi2[pair] for pair in SOME_PAIRS]), numpy_pairs(x, y), rtol=1e-10)
    found = delta_of(x[:, 29:31], y[:, 29:31], uncertainty=False)
    expected = numpy_grids(x[:, 29:31], y[:, 29:31], (-2.5, 2.5))
    assert np.allclose(np.column_stack([found.empty_reference, found.empty])[np.array(SOME_GRIDS) - 1], expected, atol=1e-12)
    x, y = samples(n)
    work = {
        "delta": (lambda: numpy_pairs(x, y), PAIRS / len(SOME_PAIRS)),
        "delta_OF of eta": (lambda: numpy_grids(x[:, 29:31], y[:, 29:31], (-2.5, 2.5)), GRIDS / len(SOME_GRIDS)),
    }
    return {name: tuple(seconds * scale for seconds in timed(function)) for name, (function, scale) in work.items()}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((text.split(":")[1].strip() for text in lines if text.startswith("model name")), platform.machine())


def write(options: argparse.Namespace) -> Path:
    load = os.getloadavg()[0]
    counts = sorted({1, options.threads})
    ours = {threads: in_process(options.events, threads) for threads in counts}
    theirs = peers(options.events)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "numba"))
    whole = ("delta with error", "delta_OF of eta with error", "delta_OF of phi with error", "physicality")
    events = f"{options.events:,}".replace(",", " ")
    heads = " | ".join(f"seconds, {t} thread{'s'[: t > 1]} | CPU" for t in counts)
    lines = [
        "# Figures of merit at the size of paper D",
        "",
        f"{datetime.datetime.now(tz=datetime.UTC).date()}, {processor()}, {os.cpu_count()} cores, Python {platform.python_version()},",
        f"{versions}; {events} against {events} random events, {OBSERVABLES} columns, {PAIRS} pairs of 25 x 25 bins, grids up to",
        f"{GRIDS} x {GRIDS}; one run each, compiled before; load of the machine before: {load:.1f}. Written by",
        "",
        f"    python benchmarks/figures_of_merit.py --threads {options.threads} --events {options.events}",
        "",
        f"numpy is `histogram2d` in a loop on one thread, timed on {len(SOME_PAIRS)} pairs and {len(SOME_GRIDS)} grids spread evenly and",
        "multiplied up to all of them, without errors. CPU is processor time of all threads, which other programs change less.",
        "",
        *(["Other programs were running: the seconds do not tell how it scales with threads.", ""] if load > 0.2 else []),
        f"| figure | {heads} | numpy, all pairs or grids | CPU | ratio of CPU |",
        "|---" * (2 * len(counts) + 4) + "|",
    ]
    for name in ours[1]:
        cells = [f"{number:.3g}" for threads in counts for number in ours[threads][name]]
        peer = theirs.get(name)
        cells += [f"{peer[0]:.0f}", f"{peer[1]:.0f}", f"{peer[1] / ours[1][name][1]:.0f}"] if peer else ["", "", ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sums = [f"{sum(ours[threads][name][which] for name in whole):.3g}" for threads in counts for which in (0, 1)]
    lines += [
        f"| **whole evaluation** | {' | '.join(sums)} | | | |",
        "",
        f"The whole evaluation is {', '.join(whole)}.",
        "",
    ]
    path = Path(options.out)
    path.write_text("\n".join(lines))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.events)
    else:
        print(write(given))
