"""Make the files that ship with hepgen: ``python -m hepgen.samples.package DIR`` writes them and their provenance to DIR."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from hepgen.samples import make
from hepgen.samples.production import file_sha256

# file -> (events, seed, which of the samples made)
FILES = {
    "diphoton_sim.root": (30_000, 20, "sim.root"),
    "diphoton_data.root": (30_000, 20, "data.root"),
    "diphoton_sim_independent.root": (20_000, 21, "sim.root"),
}
PROVENANCE = "diphoton.json"


def package(out: Path, made: Path) -> None:
    """Recompress the productions found in, or else made in, ``made/<seed>``, and write the packaged files to `out`."""
    record: dict[str, dict[str, object]] = {"files": {}, "productions": {}}
    for name, (events, seed, source) in FILES.items():
        folder = made / str(seed)
        if not (folder / PROVENANCE).exists():
            make("diphoton", events, seed, folder)
        _recompress(folder / source, out / name)
        record["files"][name] = {"bytes": (out / name).stat().st_size, "sha256": file_sha256(out / name), "seed": seed, "made_as": source}
        production = json.loads((folder / PROVENANCE).read_text())
        record["productions"][str(seed)] = {key: value for key, value in production.items() if key != "files"}
    (out / PROVENANCE).write_text(json.dumps(record, indent=2) + "\n")


def _recompress(source: Path, target: Path) -> None:
    """Copy a tree to a small file: one basket a branch, the strongest compression; slow to write, and read once."""
    import uproot

    from hepgen.events import Writer, open_info
    from hepgen.events.reading import chunks

    with Writer(target, like=open_info(source), overwrite=True, compression=uproot.LZMA(9)) as writer:
        for chunk in chunks(source, chunk_size=10**9):
            writer.extend(chunk.raw)


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit("usage: python -m hepgen.samples.package DIR [DIR_WITH_PRODUCTIONS]")
    with TemporaryDirectory() as temporary:
        package(Path(sys.argv[1]), Path(sys.argv[-1] if len(sys.argv) == 3 else temporary))
