"""Seconds and memory of apply, sample and fit against the number of events, and of apply against the number of workers.

    python benchmarks/scaling.py --work FOLDER [--only inputs,apply] [--quick]

Every figure is that of a command of its own: the seconds and the CPU seconds of all of it, start and imports included, and the most memory
it ever held, by the kernel's own mark (VmHWM) and without pages of files (RssAnon, looked at every 20 ms). The shortest of the rounds
counts. What is in FOLDER is not measured again; the table and the picture are made of all there is.

The events to apply to are those of the packaged H -> yy simulation, again and again with new event numbers, which the noise follows; the
generator learns the decay to two bodies.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from scaling_report import picture, table

Result = dict[str, Any]

PARTS = ("inputs", "files", "apply", "sample", "workers", "profile", "fit")
SIZES = {False: (10_000, 100_000, 1_000_000, 10_000_000), True: (1_000, 10_000, 40_000)}
ROWS = {False: (100_000, 300_000, 1_000_000), True: (2_000, 10_000)}
WEAK = {False: 1_000_000, True: 20_000}  # events of a worker
WORKER_ROUNDS = 3
MODELS = {"transform": "SimToData", "weigh": "Reweighter"}
GENERATORS = ("maf", "bvae")
FITS = ("SimToData", "Reweighter", "EventGenerator")
FORMATS = {"ttree": "root", "rntuple": "root", "parquet": "parquet"}
JOBS = Path(__file__).with_name("scaling_jobs.py")
LOOK = 0.02  # seconds between looks at a process


def status(process: int | str) -> dict[str, int]:
    """Bytes of VmHWM and RssAnon of a process that runs, nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    rows = (line.split() for line in lines)
    return {row[0].rstrip(":"): 1024 * int(row[1]) for row in rows if row[0] in ("VmHWM:", "RssAnon:")}


def run(*command: str, threads: int) -> Result:
    """Seconds, CPU seconds and most memory of a command."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path[1:]))}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    most = {"VmHWM": 0, "RssAnon": 0}
    while True:
        ended, code, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        most |= {name: max(most[name], held) for name, held in status(process.pid).items()}
        time.sleep(LOOK)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(code)
    assert process.stdout is not None
    said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {said}")
    return {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak": most["VmHWM"], "anonymous": most["RssAnon"], "said": said}


def hepgen_command(*arguments: Any, threads: int) -> Result:
    """`run` of a command line of hepgen."""
    return run(sys.executable, "-m", "hepgen", *map(str, arguments), "--quiet", "--overwrite", threads=threads)


def child(name: str, *arguments: Any, threads: int) -> Result:
    """`run` of a function of this file, and what it returned."""
    found = run(sys.executable, str(JOBS), json.dumps([name, *arguments]), threads=threads)
    return found | (json.loads(found.pop("said").strip().splitlines()[-1]) or {})


def together(commands: Sequence[Sequence[Any]], threads: int) -> Result:
    """Seconds until the last of several command lines of hepgen, begun at once, has ended; CPU seconds of all of them."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(commands)) as pool:
        found = list(pool.map(lambda command: hepgen_command(*command, threads=threads), commands))
    return {"seconds": time.perf_counter() - began, "cpu": sum(each["cpu"] for each in found)}


def busy() -> float:
    """CPU seconds that all processes of the machine have used."""
    ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


class Store:
    """Figures in a folder, a JSON file for each: what is there is not measured again."""

    def __init__(self, folder: Path, only: Sequence[str]) -> None:
        self.folder, self.only = folder, only
        folder.mkdir(parents=True, exist_ok=True)

    def measure(self, part: str, name: str, rounds: int, how: Callable[[], Result], **about: Any) -> None:
        """The rounds of a measurement and, of each, how many cores other processes took meanwhile."""
        file = self.folder / f"{part}-{name}.json"
        if part not in self.only or file.exists():
            return
        found: list[Result] = []
        for _ in range(rounds):
            before, began = busy(), time.perf_counter()
            found.append(how())
            took = time.perf_counter() - began
            if "cpu" in found[-1]:
                found[-1]["others"] = max(busy() - before - found[-1]["cpu"], 0.0) / took
        said = {"part": part, "name": name, "date": f"{datetime.now(UTC):%Y-%m-%d}", **about, "rounds": found}
        file.write_text(json.dumps(said, indent=1), encoding="utf-8")
        best = min(found, key=lambda each: each["seconds"])
        print(f"{part} {name}: {best['seconds']:.2f} s, {best.get('anonymous', 0) / 1e6:.0f} MB", flush=True)

    def of(self, part: str) -> list[Result]:
        """All figures of a part: of the rounds the least seconds and the most memory."""
        return [summary(json.loads(file.read_text(encoding="utf-8"))) for file in sorted(self.folder.glob(f"{part}-*.json"))]


def summary(found: Result) -> Result:
    """One row of the rounds."""
    rounds = found.pop("rounds")
    best = dict(min(rounds, key=lambda each: each.get("alone", each["seconds"])))
    best |= {name: max(each[name] for each in rounds) for name in ("peak", "anonymous", "others") if name in best}
    best |= {name: min(each[name] for each in rounds) for name in ("cpu", "working") if name in best}
    return {**found, **best, "count": len(rounds)}


def rounds_of(events: int) -> int:
    """Fewer for what takes long."""
    return 3 if events <= 1_000_000 else 1


class Inputs:
    """Names of the files in a folder that is worked in."""

    def __init__(self, work: Path, quick: bool) -> None:
        self.work, self.sizes, self.rows, self.weak = work, SIZES[quick], ROWS[quick], WEAK[quick]
        self.out, self.second, self.bodies = work / "out.root", str(work / "second.root"), work / "two_body"

    def events(self, n: int) -> str:
        """The file of so many."""
        return str(self.work / f"events-{n}.root")

    def model(self, kind: str) -> str:
        """A saved model."""
        return str(self.work / f"{kind}.hepgen")


def measure(store: Store, at: Inputs, threads: int) -> None:
    """All that is not there yet."""
    begin = partial(child, threads=threads)
    command = partial(hepgen_command, threads=threads)
    made = ("samples", "make", "two_body", "--events", str(at.rows[-1]), "--seed", "1", "--out", str(at.bodies))
    store.measure("inputs", "two_body", 1, lambda: run(sys.executable, "-m", "hepgen", *made, threads=1), events=at.rows[-1])
    store.measure("inputs", "models", 1, lambda: begin("make_models", str(at.work)))
    for n in sorted({*at.sizes, at.rows[-1], at.weak}):
        store.measure("inputs", f"{n}", 1, partial(begin, "make_events", at.events(n), n), events=n)
    store.measure("inputs", "second", 1, lambda: begin("make_events", at.second, at.weak, at.weak))
    for n in at.sizes[-2:]:
        for kind, suffix in FORMATS.items():
            file, about = str(at.work / f"written-{kind}-{n}.{suffix}"), {"events": n, "kind": kind}
            store.measure("files", f"write-{kind}-{n}", 1, partial(begin, "make_events", file, n, 0, kind), what="write", **about)
            store.measure("files", f"read-{kind}-{n}", 1, partial(begin, "read_events", file), what="read", **about)
    for n in at.sizes:
        for kind, shown in MODELS.items():
            line = ("apply", at.model(kind), at.events(n), at.out)
            store.measure("apply", f"{kind}-{n}", rounds_of(n), partial(command, *line), events=n, model=shown)
    for n in at.sizes:
        for kind in GENERATORS:
            line = ("sample", at.model(kind), "--events", n, "--out", at.out)
            store.measure("sample", f"{kind}-{n}", rounds_of(n), partial(command, *line), events=n, model=kind)
    measure_workers(store, at, begin, threads)
    store.measure("profile", "transform", 1, lambda: begin("profile", at.model("transform"), at.events(at.weak), str(at.out)))
    for name in FITS:
        file, samples = (str(at.bodies / "events.root"), 1) if name == "EventGenerator" else (at.events(at.rows[-1]), 2)
        for n in at.rows:
            store.measure("fit", f"{name}-{n}", 1, partial(begin, "fit", name, file, n), events=samples * n, model=name)
    for n in at.sizes[1:3]:
        line = ("weights", at.model("weigh"), at.events(n), "--out", at.work / "weights.parquet")
        store.measure("fit", f"weights-{n}", 1, partial(command, *line), events=n, model="hepgen weights")


def measure_workers(store: Store, at: Inputs, begin: Callable[..., Result], threads: int) -> None:
    """As many events again with every worker: of dask, and as processes that know nothing of each other; in turn."""
    model, files = at.model("transform"), [at.events(at.weak), at.second]
    jobs: dict[str, Callable[[], Result]] = {}
    for workers in (1, 2):
        mine = files[:workers]
        jobs[f"dask-{workers}"] = partial(begin, "on_workers", workers, model, mine, str(at.work / "parts"), at.events(at.sizes[0]))
        lines = [("apply", model, file, at.work / f"alone-{i}.root", "--workers", 1) for i, file in enumerate(mine)]
        jobs[f"processes-{workers}"] = partial(together, lines, threads)
    for turn in range(WORKER_ROUNDS):
        for name, job in jobs.items():
            kind, workers = name.split("-")
            store.measure("workers", f"{name}-round{turn}", 1, job, workers=int(workers), kind=kind, each=at.weak)


def main() -> None:
    """Measure what is asked for, and write the table and the picture of all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the inputs and of the figures; about 3 GB")
    parser.add_argument("--only", default=",".join(PARTS), help="parts that may be measured, by comma; none for the table of what there is")
    parser.add_argument("--quick", action="store_true", help="few events; the table goes to FOLDER")
    parser.add_argument("--threads", type=int, default=1, help="threads of the numerical libraries of a process (1)")
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    store = Store(work / "results", options.only.split(","))
    measure(store, Inputs(work, options.quick), options.threads)
    folder = work if options.quick else Path(__file__).parent
    text = table({part: store.of(part) for part in PARTS})
    print(text)
    (folder / "scaling.md").write_text(text, encoding="utf-8")
    picture(folder / "scaling.png", {part: store.of(part) for part in PARTS})


if __name__ == "__main__":
    main()
