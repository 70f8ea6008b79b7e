"""What the processes do that `scaling.py` measures: make inputs, fit, apply on workers, profile."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]

PHOTONS = [f"photon[{i}].{coordinate}" for i in (0, 1) for coordinate in ("pt", "eta", "phi")]


def make_events(out: str, events: int, first: int = 0, kind: str = "ttree") -> None:
    """The packaged simulation over and over, with event numbers from `first` on."""
    import awkward as ak
    import numpy as np

    from hepgen import samples
    from hepgen.events import Writer, chunks, open_info

    source = samples.packaged("diphoton")["sim"]
    (raw,) = (chunk.raw for chunk in chunks(source))
    with Writer(out, like=open_info(source), format=kind, overwrite=True) as writer:
        for start in range(0, events, len(raw)):
            part = raw[: events - start]
            writer.extend(ak.with_field(part, np.arange(start, start + len(part), dtype=np.int32) + first, "eventNumber"))


def read_events(file: str) -> Result:
    """Every branch, in the chunks that apply reads."""
    from hepgen.events import chunks

    return {"events": sum(map(len, chunks(file, chunk_size=50_000)))}


def make_models(folder: str) -> None:
    """Small fits: neither speed nor memory of what applies them depends on how good they are."""
    import hepgen
    from hepgen import samples

    files = samples.packaged("diphoton")
    sim, data = (hepgen.events.read(files[name]) for name in ("sim", "data"))
    photons, cuts = hepgen.Features(PHOTONS), hepgen.Selection.named("diphoton")
    hepgen.SimToData(photons, loss="nll", selection=cuts).fit(sim, data, epochs=3, progress=False).save(f"{folder}/transform.hepgen")
    hepgen.Reweighter(photons, ensemble=10).fit(sim, data, epochs=1, progress=False).save(f"{folder}/weigh.hepgen")
    for kind in ("maf", "bvae"):
        generator(kind, f"{folder}/two_body/events.root", 20_000, epochs=3).save(f"{folder}/{kind}.hepgen")


def generator(model: str, file: str, events: int, epochs: int) -> Any:
    """Fitted to that many two-body decays."""
    import hepgen

    columns = [f"Particle[{i}].{x}" for i in (0, 1) for x in ("E", "px", "py", "pz", "mass")]
    known = hepgen.events.read(file, entry_stop=events)
    return hepgen.EventGenerator(hepgen.Features(columns), model).fit(known, epochs=epochs, progress=False)


def fit(name: str, file: str, events: int) -> None:
    """One epoch over so many events of a file, and as many again for the other sample where there are two."""
    import hepgen

    if name == "EventGenerator":
        generator("maf", file, events, epochs=1)
        return
    sim, data = (hepgen.events.read(file, entry_stop=events, columns=PHOTONS) for _ in range(2))
    photons = hepgen.Features(PHOTONS)
    model = hepgen.SimToData(photons, loss="nll") if name == "SimToData" else hepgen.Reweighter(photons, ensemble=1)
    model.fit(sim, data, epochs=1, progress=False)


def on_workers(workers: int, model: str, sources: Sequence[str], out: str, warm: str) -> Result:
    """Seconds of apply_parts, and CPU seconds of it and of the workers: they have started, and have loaded the model for a smaller file."""
    import hepgen
    from hepgen.applying_parts import apply_parts, local_client

    fitted = hepgen.load(model)
    with local_client(workers) as client:

        def used() -> float:
            return time.process_time() + float(sum(client.run(time.process_time).values()))

        apply_parts(fitted, [warm] * workers, f"{out}-warm", scheduler=client, overwrite=True, progress=False)
        began, before = time.perf_counter(), used()
        done = apply_parts(fitted, sources, out, scheduler=client, overwrite=True, progress=False)
        return {"events": done.events, "alone": time.perf_counter() - began, "working": used() - before}


def profile(model: str, source: str, out: str) -> Result:
    """CPU seconds of the thread that reads and writes, and of those that transform; and of the first by function, in another run."""
    import cProfile
    import pstats

    import hepgen
    from hepgen.applying import apply_file

    fitted = hepgen.load(model)
    clocks = (time.perf_counter, time.thread_time, time.process_time)
    took = {}
    for workers in (1, 2):
        began = [clock() for clock in clocks]
        done = apply_file(fitted, source, out, workers=workers, overwrite=True, progress=False)
        wall, own, every = (clock() - start for clock, start in zip(clocks, began, strict=True))
        took[workers] = {"wall": wall, "own": own, "others": every - own, "stages": done.clock.seconds}
    with cProfile.Profile(time.thread_time) as found:
        apply_file(fitted, source, out, workers=1, overwrite=True, progress=False)
    rows = [
        (name if file == "~" else f"{Path(file).parent.name}/{Path(file).name}:{name}", own)
        for (file, _, name), (_, _, own, _, _) in pstats.Stats(found).stats.items()  # type: ignore[attr-defined]
    ]
    return {"events": done.events, "workers": took, "functions": sorted(rows, key=lambda row: -row[1])[:25]}


JOBS: dict[str, Callable[..., Any]] = {job.__name__: job for job in (make_events, read_events, make_models, fit, on_workers, profile)}

if __name__ == "__main__":
    name, *arguments = json.loads(sys.argv[1])
    print(json.dumps(JOBS[name](*arguments)))
