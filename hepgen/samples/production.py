"""Make a sample in fixed blocks, each with its own seed, on any number of processes, and write it with its provenance."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import hepgen
from hepgen.errors import HepgenError, OutputError, UsageError
from hepgen.kernels.dispatch import cores

Progress = Callable[[int, int], None]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file that was made, 64 hexadecimal digits, for its provenance."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Production:
    """What is to be made: `events` of each sample of `recipe`, a module such as `hepgen.samples.diphoton`."""

    name: str
    recipe: ModuleType
    events: int
    seed: int
    processes: int | None = None

    def __post_init__(self) -> None:
        if self.events < 1:
            raise UsageError(f"the number of events is {self.events}; ask for at least 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"the seed is {self.seed}; give a whole number from 0 to 2^63 - 1")
        if self.processes is not None and self.processes < 1:
            raise UsageError(f"the number of processes is {self.processes}; ask for at least 1")

    @property
    def workers(self) -> int:
        """How many processes generate."""
        return cores() if self.processes is None else self.processes

    def write(self, out: Path, progress: Progress | None) -> list[Path]:
        """Write ``out/<sample>.root`` for every sample and ``out/<name>.json``, all of them or none; return these paths."""
        finals = [*(out / f"{sample}.root" for sample in self.recipe.SAMPLES), out / f"{self.name}.json"]
        for path in finals:
            if path.exists():
                raise OutputError(f"{path} exists already; remove it or choose another folder")
        versions = self.recipe.versions()
        try:
            out.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".{self.name}.", suffix=".part", dir=out) as folder:
                parts = [Path(folder) / path.name for path in finals]
                record = {**self._provenance(versions), "counts": self._write_samples(parts, progress)}
                record["files"] = {part.name: {"bytes": part.stat().st_size, "sha256": file_sha256(part)} for part in parts[:-1]}
                parts[-1].write_text(json.dumps(record, indent=2) + "\n")
                for part, path in zip(parts, finals, strict=True):
                    part.replace(path)
        except OSError as error:
            raise OutputError(f"the samples cannot be written to {out}: {error}; choose a folder that can be written") from error
        return finals

    def _provenance(self, versions: dict[str, str]) -> dict[str, Any]:
        return {
            "sample": self.name,
            "command": f"hepgen samples make {self.name} --events {self.events} --seed {self.seed} --out DIR",
            "events": self.events,
            "seed": self.seed,
            "block": self.recipe.EVENTS_PER_BLOCK,
            "hepgen": hepgen.__version__,
            **versions,
            "settings": self.recipe.describe(),
        }

    def _write_samples(self, paths: list[Path], progress: Progress | None) -> dict[str, dict[str, int | float]]:
        import uproot

        from hepgen.events import Writer

        n_blocks = -(-self.events // self.recipe.EVENTS_PER_BLOCK)
        done, total = 0, self.events * len(self.recipe.SAMPLES)
        summary: dict[str, dict[str, int | float]] = {}
        with closing(self.blocks()) as blocks:
            for sample, path in zip(self.recipe.SAMPLES, paths, strict=False):
                tallies: Counter[str] = Counter()
                with Writer(path, tree=self.recipe.TREE, compression=uproot.ZSTD(9)) as writer:
                    for _ in range(n_blocks):
                        block, counts = next(blocks)
                        tallies.update(counts)
                        writer.extend(block)
                        done += len(block)
                        if progress is not None:
                            progress(done, total)
                summary[sample] = {key: value / n_blocks if key.startswith("cross_section") else value for key, value in tallies.items()}
                summary[sample]["written"] = self.events
        return summary

    def blocks(self) -> Generator[Any, None, None]:
        """Yield (events, counts) of every block of every sample in order; they do not depend on the number of processes."""
        size = self.recipe.EVENTS_PER_BLOCK
        sizes = [min(size, self.events - first) for first in range(0, self.events, size)]
        jobs = [(sample, self.seed, block, n) for sample in self.recipe.SAMPLES for block, n in enumerate(sizes)]
        workers = min(self.workers, len(jobs))
        if workers == 1:
            for job in jobs:
                yield self.recipe.generate_block(*job)
            return
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        try:
            yield from pool.map(self.recipe.generate_block, *zip(*jobs, strict=True))
        except BrokenProcessPool as error:
            hint = "ask for fewer processes, and in a script guard the call by if __name__ == '__main__'"
            raise HepgenError(f"a process that made events ended early: {hint}") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
