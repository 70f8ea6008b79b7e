"""What all studies share: options that have a full and a quick size, results on disk, and lines of progress."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hepgen.errors import InputError

Result = dict[str, Any]
#: Options that are numbers: in full, with --quick, and what they are; None is "as many as there are".
Sizes = Mapping[str, tuple[int | None, int | None, str]]


def say(text: str) -> None:
    """Print a line of progress with the time of day."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def parsed(parser: argparse.ArgumentParser, sizes: Sizes, parts: Sequence[str], arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a study: those of `parser`, --only, --quick, --seed, --threads and the sizes.

    `given` is what is to be put on the command line for the sizes that are not those of a full study.
    """
    parser.add_argument("--only", default=",".join(parts), help="parts that may compute, by comma; none for the table of what there is")
    parser.add_argument("--quick", action="store_true", help="small numbers of everything")
    parser.add_argument("--table", type=Path, help="file of the table; figures go beside it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="threads; one is faster where the cores are busy")
    for name, (full, quick, what) in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{what} ({full}; quick {quick})")
    options = parser.parse_args(arguments)
    changed = []
    for name, (full, quick, _) in sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
        if getattr(options, name) != full:
            changed.append(f"--{name.replace('_', '-')} {getattr(options, name)}")
    options.given = " ".join(changed)
    options.only = () if options.only == "none" else tuple(options.only.split(","))
    unknown = set(options.only) - set(parts)
    if unknown:
        parser.error(f"--only knows {', '.join(parts)}, not {', '.join(sorted(unknown))}")
    return options


def table_file(options: argparse.Namespace, name: str) -> Path:
    """Where the table goes: to benchmarks/, with --quick to the output folder."""
    if options.table is not None:
        return Path(options.table)
    return Path(options.out) / name if options.quick else Path(__file__).parent.parent / name


class Store:
    """Results in a folder, one JSON file for each set of settings: what is there is not done again.

    `allowed` names the stages that may compute; those of others are read where they exist.
    """

    def __init__(self, folder: Path, allowed: Sequence[str]) -> None:
        self.folder, self.allowed = folder, tuple(allowed)
        self.computed = 0
        (folder / "results").mkdir(parents=True, exist_ok=True)

    def get(self, stage: str, name: str, settings: Result, compute: Callable[[Path], Result]) -> Result | None:
        """The result of these settings; `compute` is given a folder for checkpoints. None where the stage may not compute."""
        digest = hashlib.sha256(json.dumps([stage, settings], sort_keys=True).encode()).hexdigest()[:10]
        stem = re.sub(r"[^a-z0-9]+", "-", f"{stage} {name}".lower()).strip("-") + f"-{digest}"
        file = self.folder / "results" / f"{stem}.json"
        if file.exists():
            found: Result = json.loads(file.read_text(encoding="utf-8"))
            return found["result"]  # type: ignore[no-any-return]
        if stage not in self.allowed:
            return None
        result = compute(self.folder / "checkpoints" / stem)
        self.computed += 1
        written = file.with_suffix(".part")
        written.write_text(json.dumps({"stage": stage, "name": name, "settings": settings, "result": result}), encoding="utf-8")
        written.replace(file)
        return result

    def sample(self, name: str, identity: Result | None) -> Result:
        """The sample that this folder is about: the one given, which is remembered and must stay the same, or the one remembered."""
        file = self.folder / f"sample-{name}.json"
        remembered: Result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if identity is None:
            return remembered
        if remembered and remembered != identity:
            raise InputError(f"{self.folder} holds results of another {name} sample ({file}): give another --out")
        file.write_text(json.dumps(identity), encoding="utf-8")
        return identity
