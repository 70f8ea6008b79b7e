"""Memory of apply and sample does not grow with the number of events: four times as many need no more than a few chunks of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import hepgen
from hepgen.applying_parts import local_client
from hepgen.events import Features, Writer

if not sys.platform.startswith("linux"):
    pytest.skip("needs /proc", allow_module_level=True)

FEW, MANY, COLUMNS = 100_000, 400_000, 24
HELD = (MANY - FEW) * 8 * COLUMNS  # what all events more would take
PATHS = [f"x{k}" for k in range(COLUMNS)]

# the most memory of the process after the first run and after the second: the kernel's mark only rises
PROGRAM = """
import json, sys
from pathlib import Path
import hepgen
from hepgen.applying import apply_file
from hepgen.sampling import sample_file

def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

what, few, many, folder, suffix = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
model, marks = hepgen.load(folder / f"{what}.hepgen"), []
options = {"chunk_size": 5000, "workers": 2, "overwrite": True, "progress": False}
for n in (few, many):
    if what == "sample":
        sample_file(model, folder / f"out{suffix}", n, **options)
    else:
        apply_file(model, folder / f"{n}{suffix}", folder / f"out{suffix}", **options)
    marks.append(most())
print(json.dumps(marks))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of few and of many events, apply.hepgen, and sample.hepgen."""
    made = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(1)

    def events(n: int) -> ak.Array:
        return ak.Array(dict(zip(PATHS, rng.normal(size=(COLUMNS, n)), strict=True)))

    for n in (FEW, MANY):
        with Writer(made / f"{n}.root") as tree, Writer(made / f"{n}.parquet") as table:
            for _ in range(n // 50_000):
                part = events(50_000)
                tree.extend(part)
                table.extend(part)
    learnt, other = events(500), events(500)
    ratio = hepgen.Reweighter(Features(PATHS[:2]), ensemble=1, hidden=(8,))
    ratio.fit(learnt, other, epochs=1, progress=False).save(made / "apply.hepgen")
    hepgen.EventGenerator(Features(PATHS), "smearing").fit(learnt, progress=False).save(made / "sample.hepgen")
    return made


@pytest.mark.parametrize(("what", "suffix"), [("apply", ".root"), ("apply", ".parquet"), ("sample", ".root")])
def test_four_times_as_many_events_need_no_more_memory(folder: Path, what: str, suffix: str) -> None:
    command = [sys.executable, "-c", PROGRAM, what, str(FEW), str(MANY), str(folder), suffix]
    few, many = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert many - few < HELD / 3, f"{(many - few) / 1e6:.1f} MB more for events that are {HELD / 1e6:.1f} MB"


def test_workers_of_this_machine_keep_memory_for_the_next_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    name = "distributed.nanny.pre-spawn-environ"
    monkeypatch.setattr(distributed, "Client", lambda **options: (options["n_workers"], dict(dask.config.get(name))))
    workers, environment = local_client(3)
    assert workers == 3
    assert environment["MALLOC_TRIM_THRESHOLD_"] is None
    assert dask.config.get(name)["MALLOC_TRIM_THRESHOLD_"] is not None  # of others it is left as it was
