"""Stand-in samples, made with Pythia 8 or exact, the small ones that ship with the package, and readers of the originals.

``make("diphoton", 100_000, 1, "out")`` writes ``out/sim.root``, ``out/data.root`` and ``out/diphoton.json``; ``packaged("diphoton")``
names files that need neither Pythia nor a network; ``read_aleph``, ``read_jets`` and ``read_ttb`` give what was published with the thrust,
the jets and the tt study the columns of ours. `docs/samples.md` says what is generated and why.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepgen.errors import InputError, UsageError

if TYPE_CHECKING:
    from hepgen.samples.originals import read_aleph as read_aleph
    from hepgen.samples.originals import read_jets as read_jets
    from hepgen.samples.originals import read_ttb as read_ttb

_RECIPES = {name: f"hepgen.samples.{name}" for name in ("diphoton", "gamma_jet", "jets", "thrust", "ttbar", "two_body", "z_ll")}
_PACKAGED = {
    "diphoton": {"sim": "diphoton_sim.root", "data": "diphoton_data.root", "sim_independent": "diphoton_sim_independent.root"},
}

_LAZY = dict.fromkeys(("read_aleph", "read_jets", "read_ttb"), "hepgen.samples.originals")

__all__ = ["make", "names", "packaged", "read_aleph", "read_jets", "read_ttb"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hepgen.samples' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def names() -> tuple[str, ...]:
    """Return the names of the samples that can be made."""
    return tuple(sorted(_RECIPES))


def _known(name: str) -> str:
    if name not in _RECIPES:
        raise UsageError(f"there is no sample {name!r}; choose one of: {', '.join(names())}")
    return name


def make(
    name: str,
    events: int,
    seed: int,
    out: str | Path,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Make a sample, with Pythia 8 unless it is "two_body", and write it as ROOT files with its provenance.

    Events are generated in blocks of 5000 that have seeds of their own: they depend on `seed` alone, not on `processes`, and a longer
    production starts with the events of a shorter one.

    Parameters
    ----------
    name : one of `names`.
    events : number of events written to each file, after the preselection.
    seed : whole number from 0 to 2^63 - 1.
    out : folder for the files; made if absent. Existing files are never overwritten.
    processes : how many processes generate; by default one for every CPU this process may use. More than one are started by "spawn",
        so that a script must guard its own code by ``if __name__ == "__main__"``.
    progress : called as ``progress(done, total)`` with numbers of events over all files.

    Returns
    -------
    list of Path
        One ROOT file for each sample and the provenance: ``sim.root``, ``data.root`` (``sr.root``, ``cr.root``; ``events.root`` alone),
        ``<name>.json``.

    Raises
    ------
    UsageError
        For an unknown name, or a number of events, seed or processes out of range.
    OutputError
        Where a file exists or the folder cannot be written; nothing is left under the final names.
    MissingDependency
        Where Pythia, or fastjet for "jets", "gamma_jet" and "ttbar", is not installed; "two_body" needs neither.
    """
    recipe = importlib.import_module(_RECIPES[_known(name)])
    production = importlib.import_module("hepgen.samples.production")
    paths: list[Path] = production.Production(name, recipe, int(events), int(seed), processes).write(Path(out), progress)
    return paths


def packaged(name: str) -> dict[str, Path]:
    """Return the files of sample `name` that ship with hepgen.

    Returns
    -------
    dict
        "sim" and "data" to fit with, and "sim_independent", simulation of another seed to apply a model to.

    Raises
    ------
    UsageError
        For an unknown name, and for a sample of which no files ship.
    InputError
        Where the installation lacks the files.
    """
    if _known(name) not in _PACKAGED:
        raise UsageError(f"no files of the sample {name!r} ship with hepgen; make them: hepgen samples make {name}")
    folder = Path(__file__).resolve().parents[1] / "data"
    paths = {role: folder / file for role, file in _PACKAGED[name].items()}
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"the packaged sample {path} is missing; install hepgen again")
    return paths
