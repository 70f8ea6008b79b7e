"""Pythia 8 as every sample uses it: set up line by line, run in batches, and seeded block by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import HepgenError, MissingDependency

NEUTRINOS = (12, 14, 16)


def new(lines: Iterable[str], seed: int) -> Any:
    """Return a Pythia with the settings of `lines`, not yet initialised.

    Parameters
    ----------
    lines : settings as Pythia reads them, such as ``"Beams:eCM = 13000."``.
    seed : 1 to 900 000 000.

    Raises
    ------
    MissingDependency
        Where Pythia is not installed.
    HepgenError
        For a setting that this Pythia does not know.
    """
    try:
        import pythia8mc
    except ImportError as error:
        raise MissingDependency("making samples needs Pythia 8: pip install 'hepgen[pythia]'") from error
    pythia = pythia8mc.Pythia("", False)
    for line in (*lines, f"Random:seed = {seed}"):
        if not pythia.readString(line):
            raise HepgenError(f"this Pythia does not know the setting {line!r}; hepgen was written for Pythia 8.317")
    return pythia


def start(lines: Iterable[str], seed: int, process: str) -> Any:
    """Return an initialised Pythia with the settings of `lines`; errors as in `new`, and `process` is named where it does not start."""
    pythia = new(lines, seed)
    if not pythia.init():
        raise HepgenError(f"Pythia could not be initialised for the process {process!r}")
    return pythia


def version(lines: Iterable[str]) -> str:
    """Return the version of Pythia found; MissingDependency where there is none."""
    return f"{new(lines, 1).parm('Pythia:versionNumber'):.3f}"


def batch(pythia: Any, n: int) -> ak.Array:
    """Generate `n` events and return their particles, jagged (n, var): id, status, p.px, p.py, p.pz, p.e [GeV] and more.

    An event that Pythia gives up is made again.

    Raises
    ------
    HepgenError
        Where more than nine events in ten fail, or Pythia is older than 8.314, which cannot hand out batches.
    """
    if not hasattr(pythia, "nextBatch"):
        raise HepgenError("this Pythia cannot generate in batches: pip install 'pythia8mc>=8.314'")
    try:
        return pythia.nextBatch(n, 10.0).prt
    except RuntimeError as error:
        raise HepgenError(f"Pythia gave up most of {n} events: {error}; look at the settings of the sample") from error


def visible(particles: ak.Array, *, hidden: Sequence[int] = ()) -> ak.Array:
    """Return the final particles, jagged, without neutrinos and without those whose absolute PDG number is in `hidden`."""
    keep = particles.status > 0
    number = abs(particles.id)
    for gone in (*NEUTRINOS, *hidden):
        keep = keep & (number != gone)
    return particles[keep]


def charged(pythia: Any, numbers: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which particles of PDG `numbers`, (k,), are charged."""
    kinds, where = np.unique(numbers, return_inverse=True)
    table = np.array([pythia.particleData.chargeType(int(kind)) != 0 for kind in kinds], dtype=bool)
    return np.asarray(table[where] if len(kinds) else np.zeros(0, dtype=bool))


def block_seeds(sample: int, processes: Sequence[str], seed: int, block: int) -> tuple[dict[str, int], np.random.Generator]:
    """Return a seed of Pythia for every process and a generator for the detector: functions of their arguments and nothing else.

    Parameters
    ----------
    sample : index of the sample in its recipe.
    processes : names of the Pythias that the recipe may start.
    seed, block : the seed of the production and the index of the block in it.
    """
    sequence = np.random.SeedSequence((seed, sample, block))
    words = sequence.generate_state(len(processes))
    # Pythia takes seeds from 1 to 900 000 000
    seeds = {name: 1 + int(word) % 900_000_000 for name, word in zip(processes, words, strict=True)}
    return seeds, np.random.default_rng(sequence.spawn(1)[0])
