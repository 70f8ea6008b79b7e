"""hepgen inside an analysis, beside what analyses do today: events per second, model loads, bytes read.

    python benchmarks/analysis.py --events 400000 --out benchmarks/analysis.md

Three comparisons, each in one run on one file, round after round in turn:

- applying a flow of the sim-to-data paper's size from a ROOT file to a ROOT file, and in a coffea processor;
- correcting every photon of NanoAOD-like events with a flow, beside a zuko network of the same size called as it is done in CMS
  today: flatten, torch, unflatten, the model rebuilt and read again for every chunk;
- weighting events with a ratio network, beside the same network as a correctionlib JSON read once per chunk and evaluated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import uproot
from analysis_processors import (
    CorrectionlibProcessor,
    FlowProcessor,
    PhotonProcessor,
    RatioProcessor,
    ZukoProcessor,
    photon_table,
    ratio_alone,
    zuko_flow,
)
from coffea.nanoevents import BaseSchema, NanoAODSchema
from coffea.processor import FuturesExecutor, IterativeExecutor, Runner

import hepgen
from hepgen import samples
from hepgen.applying import apply_file
from hepgen.bench.transform import paper_model, repeated
from hepgen.estimators import cache
from hepgen.kernels import instruction_set

CHUNK = 50_000
PAIR = "mass(massless(photon[0]), massless(photon[1]))"


def photons_file(path: Path, n: int) -> Path:
    """NanoAOD-like events with zero to three photons and what a correction of them needs."""
    rng = np.random.default_rng(1)
    with uproot.recreate(path) as file:
        names = ("pt", "eta", "phi", "r9", "sieie", "hoe")
        kinds = {f"Photon_{name}": "var * float32" for name in names}
        flat = {"run": "uint32", "luminosityBlock": "uint32", "event": "uint64", "fixedGridRhoFastjetAll": "float32"}
        file.mktree("Events", {**flat, **kinds}, counter_name=lambda _: "nPhoton")
        for start in range(0, n, 100_000):
            size = min(100_000, n - start)
            counts = rng.choice([0, 1, 2, 3], p=[0.2, 0.3, 0.4, 0.1], size=size)
            total = int(counts.sum())
            photon = {
                "pt": 20 + rng.exponential(30, total),
                "eta": rng.uniform(-2.5, 2.5, total),
                "phi": rng.uniform(-np.pi, np.pi, total),
                "r9": rng.beta(9, 1, total),
                "sieie": rng.gamma(9, 0.001, total),
                "hoe": rng.exponential(0.02, total),
            }
            file["Events"].extend(
                {
                    "run": np.ones(size, np.uint32),
                    "luminosityBlock": np.full(size, 1 + start // 100_000, np.uint32),
                    "event": np.arange(start, start + size, dtype=np.uint64),
                    "fixedGridRhoFastjetAll": rng.gamma(20, 1, size).astype(np.float32),
                    **{f"Photon_{name}": ak.unflatten(photon[name].astype(np.float32), counts) for name in names},
                }
            )
    return path


def executors(stack: ExitStack) -> dict[str, Any]:
    """One worker; two threads; two processes, which are started once."""
    processes = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    pools = {"2 threads": ThreadPoolExecutor(2), "2 processes": processes}
    found = {name: FuturesExecutor(pool=stack.enter_context(pool), status=False) for name, pool in pools.items()}
    return {"1 worker": IterativeExecutor(status=False), **found}


class Runs:
    """What is timed in turn, and what it gave."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self.about: dict[tuple[str, str], dict[str, Any]] = {}

    def time(self, work: str, how: str, function: Callable[[], dict[str, Any]]) -> None:
        """Run once."""
        begin = time.perf_counter()
        about = function()
        self.seconds.setdefault((work, how), []).append(time.perf_counter() - begin)
        self.about[work, how] = about

    def rows(self, events: int) -> list[str]:
        """Lines of a Markdown table; each work's first entry is what the ratios are to."""
        lines, first = [], dict[str, float]()
        for (work, how), seconds in self.seconds.items():
            median, about = statistics.median(seconds), self.about[work, how]
            rate = events / median
            ratio = rate / first.setdefault(work, rate)
            extra = [about.get(name, "") for name in ("chunks", "loads", "bytes")]
            extra[2] = f"{extra[2] / 1e6:.1f} MB" if extra[2] else ""
            lines.append(f"| {work} | {how} | {rate / 1e3:.0f} k/s | {ratio:.2f} | {' | '.join(map(str, extra))} |")
        return lines


def through(processor: Any, path: Path, tree: str, schema: Any, executor: Any) -> dict[str, Any]:
    """Run a processor over a file; chunks, model loads in this process or those of the processor, bytes read."""
    cache.forget()
    runner = Runner(executor=executor, schema=schema, chunksize=CHUNK, savemetrics=True)
    found, metrics = runner({"sim": {"files": {str(path): tree}}}, processor)
    loads = found["sim"].get("loads", "")
    if isinstance(loads, set):  # (process, loads so far)
        loads = sum(dict(sorted(loads)).values())
    return {"chunks": metrics["chunks"], "loads": loads, "bytes": metrics["bytesread"]}


def measure(events: int, rounds: int, folder: Path) -> Runs:
    """All comparisons."""
    runs = Runs()
    model = paper_model()
    model.save(folder / "diphoton.hepgen")
    source = repeated(samples.packaged("diphoton")["sim_independent"], events, folder / "diphoton.root")
    booked = {"pt1": ("photon[0].pt", hist.axis.Regular(43, 35, 250, name="pt1")), "mass": (PAIR, hist.axis.Regular(48, 60, 300, name="m"))}
    transform = FlowProcessor(folder / "diphoton.hepgen", booked, selection=model.selection)

    nano = photons_file(folder / "nano.root", events)
    sim, data = photon_table(nano, 20_000, 1.0), photon_table(nano, 20_000, 1.05)
    features = hepgen.Features(["pt", "eta", "phi", "r9", "sieie", "hoe"], computed=["rho"], periodic=[])
    flow = hepgen.SimToData(features, loss="nll").fit(sim, data, epochs=1, progress=False)
    flow.save(folder / "photon.hepgen")
    zuko_flow(folder / "photon.pt", sim, save=True)

    ratio = hepgen.Reweighter(
        hepgen.Features(["photon[0].pt", "photon[0].eta", "photon[1].pt", "photon[1].eta"]), hidden=(32, 32), ensemble=1
    )
    some = hepgen.events.read(samples.packaged("diphoton")["sim"]), hepgen.events.read(samples.packaged("diphoton")["data"])
    ratio.fit(*some, epochs=2, progress=False)
    ratio.save(folder / "ratio.hepgen")
    ratio.export("correctionlib", folder / "ratio.json")

    table = ratio.features.to_matrix(some[0])[0]
    matrix = np.resize(table, (events, table.shape[1]))
    with ExitStack() as stack:
        workers = executors(stack)
        for number in range(rounds + 1):
            if number == 1:  # the first round starts processes and fills caches
                runs = Runs()
            runs.time("flow, file to file", "hepgen apply, 2 workers", lambda: apply(model, source, folder / "out.root"))
            for name, executor in workers.items():
                runs.time("flow, file to file", f"coffea, {name}", lambda e=executor: through(transform, source, "mini", BaseSchema, e))
            for name, executor in workers.items():
                ours, theirs = PhotonProcessor(folder / "photon.hepgen"), ZukoProcessor(folder / "photon.pt")
                work = f"photon flow in coffea, {name}"
                runs.time(work, "zuko as in CMS", lambda p=theirs, e=executor: through(p, nano, "Events", NanoAODSchema, e))
                runs.time(work, "hepgen", lambda p=ours, e=executor: through(p, nano, "Events", NanoAODSchema, e))
            json = folder / "ratio.json"
            for how, processor in {
                "correctionlib": CorrectionlibProcessor(json),
                "hepgen": RatioProcessor(folder / "ratio.hepgen"),
            }.items():
                work = "ratio network in coffea, 1 worker"
                runs.time(work, how, lambda p=processor: through(p, source, "mini", BaseSchema, workers["1 worker"]))
            for how, function in ratio_alone(folder / "ratio.json", ratio, matrix).items():
                runs.time("ratio network on arrays, 1 thread", how, function)
    return runs


def apply(model: Any, source: Path, out: Path) -> dict[str, Any]:
    """`hepgen apply` without the start of Python."""
    done = apply_file(model, source, out, overwrite=True, progress=False)
    return {"shares": done.clock.shares()}


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((text.split(":")[1].strip() for text in lines if text.startswith("model name")), platform.machine())


def starts(folder: Path) -> dict[str, float]:
    """Seconds of `import hepgen` and of `hepgen apply` on a thousand events, the start of Python included."""
    few = repeated(samples.packaged("diphoton")["sim_independent"], 1000, folder / "few.root")
    files = [folder / "diphoton.hepgen", few, folder / "few-out.root"]
    commands = {
        "python -c 'import hepgen'": [sys.executable, "-c", "import hepgen"],
        "hepgen apply, 1000 events": [sys.executable, "-m", "hepgen.cli", "apply", *files, "--overwrite", "-q"],
    }
    found = {}
    for name, command in commands.items():
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begin)
        found[name] = statistics.median(seconds)
    return found


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hepgen-analysis-") as folder:
        runs = measure(given.events, given.rounds, Path(folder))
        begins = starts(Path(folder))
    shares = ", ".join(
        f"{name} {share:.0%}" for name, share in runs.about["flow, file to file", "hepgen apply, 2 workers"]["shares"].items()
    )
    lines = [
        "# hepgen inside an analysis",
        "",
        f"`python benchmarks/analysis.py --events {given.events} --rounds {given.rounds}`, {time.strftime('%Y-%m-%d')}, "
        f"Python {platform.python_version()}, {instruction_set()}, {processor()}.",
        "Medians of the rounds; the ratio is to the first row of the same work.",
        "",
        "| work | how | events/s | ratio | chunks | model loads | bytes read |",
        "|---|---|---|---|---|---|---|",
        *runs.rows(given.events),
        "",
        f"Share of the time of all threads in `hepgen apply`: {shares}. Starts, in seconds: "
        + ", ".join(f"`{name}` {seconds:.2f}" for name, seconds in begins.items())
        + ".",
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
