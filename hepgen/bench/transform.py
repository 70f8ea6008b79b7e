"""The case of the transform benchmark: a saved flow of the sim-to-data paper's size applied from a ROOT file to a ROOT file.

Reading, selecting, scaling, the flow, redrawing outside the selection, energies and writing are all in the time. The flow is fitted for
one epoch: how good it is changes little of what it costs. The events are the packaged ones over and over.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import torch

from hepgen import samples
from hepgen.applying import apply_file
from hepgen.bench import Case
from hepgen.bench.maf import useful_flops
from hepgen.errors import UsageError
from hepgen.estimators import SimToData
from hepgen.events import Features, Selection, Writer, chunks, open_info, read
from hepgen.kernels import dispatch

STANDARD_SIZE = 400_000
SCAN = {"sizes": (10_000, 100_000, 400_000), "features": (), "size": 100_000}
PEERS: tuple[str, ...] = ()
PATHS = [f"photon[{i}].{coordinate}" for i in (0, 1) for coordinate in ("pt", "eta", "phi")]


def cases(sizes: Sequence[int] | None, peers: Sequence[str] | None, features: int | None = None, device: str = "cpu") -> list[Case]:
    """Return "root-to-root" for every number of events."""
    if peers:
        raise UsageError(f"no peer {peers[0]!r} for transform: there is none")
    if device != "cpu":
        raise UsageError("transform runs on a CPU only: leave the device out")
    if features is not None:
        raise UsageError("transform has the six columns of two photons: leave the features out")
    model = paper_model()
    source = samples.packaged("diphoton")["sim_independent"]
    return [_case(n, model, source) for n in sizes or [STANDARD_SIZE]]


def paper_model() -> SimToData:
    """A flow of the sim-to-data paper's size after one epoch on the packaged files."""
    files = samples.packaged("diphoton")
    cuts = {"selection": Selection.named("diphoton"), "fit_selection": Selection.named("diphoton-any-mass")}
    model = SimToData(Features(PATHS), "nll", outside="reject", schema="atlas-open-data", **cuts)
    return model.fit(read(files["sim"]), read(files["data"]), epochs=1, progress=False)


def _case(n: int, model: SimToData, source: Path) -> Case:
    folder = Path(tempfile.mkdtemp(prefix="hepgen-bench-"))
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    given = repeated(source, n, folder / "in.root")
    flow = model.flow
    return Case(
        op="maf_inverse",
        name="root-to-root",
        label="transform",
        shape=(n, len(PATHS)),
        work=float(n),
        unit="events/s",
        # of the flow alone, once for each event
        flops=0.0 if flow is None else useful_flops(flow.features, flow.context, flow.hidden, len(flow.blocks)) * n,
        ours=_run(model, given, folder),
        peers={},
        tolerance=1e-4,
    )


def repeated(source: Path, n: int, target: Path) -> Path:
    """The events of a file over and over, n in all, in a new file."""
    info = open_info(source)
    with Writer(target, like=info, format="ttree") as writer:
        left = n
        while left:
            for chunk in chunks(source, chunk_size=info.entries):
                part = chunk.raw[:left]
                writer.extend(part)
                left -= len(part)
    return target


def _run(model: SimToData, source: Path, folder: Path) -> Callable[[], list[Any]]:
    """The first call on each backend returns what it wrote, to be compared."""
    seen: set[str] = set()

    def run() -> list[Any]:
        backend = dispatch.choose("maf_inverse")
        out = folder / "out.root"
        apply_file(model, source, out, overwrite=True, progress=False, workers=torch.get_num_threads())
        if backend in seen:
            return []
        seen.add(backend)
        photons = read(out).photon
        return [ak.to_numpy(ak.flatten(photons[name])).astype(np.float64) for name in ("pt", "eta")]

    return run
