"""e+e- -> Z -> e+e- or mu+mu- at 91 GeV, the stand-in for paper D's events of MadGraph.

Pythia 8 makes the matrix element alone: the leptons are massless and radiate nothing.
"""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np

from hepgen.samples import pythia
from hepgen.samples.nano import numbered

SAMPLES = ("events",)
TREE = "Events"
RUN = 1
BATCH = 1000
EVENTS_PER_BLOCK = 5000
FLAVOURS = {"Electron": 11, "Muon": 13}

SETTINGS = (
    "Beams:idA = 11",
    "Beams:idB = -11",
    "Beams:eCM = 91.",
    "PDF:lepton = off",
    "WeakSingleBoson:ffbar2gmZ = on",
    "WeakZ0:gmZmode = 2",
    "23:onMode = off",
    "23:onIfAny = 11 13",
    "11:m0 = 0.",
    "13:m0 = 0.",
    "PartonLevel:MPI = off",
    "PartonLevel:ISR = off",
    "PartonLevel:FSR = off",
    "HadronLevel:all = off",
    "Print:quiet = on",
    "Print:verbosity = 1",
    "Check:event = off",
    "Random:setSeed = on",
)


def describe() -> dict[str, Any]:
    """Return every setting that the events depend on, JSON-able, for the provenance."""
    return {"pythia_settings": list(SETTINGS), "weights": "1"}


def versions() -> dict[str, str]:
    """Return the versions of the programs that make the events; MissingDependency where one is missing."""
    return {"pythia": pythia.version(SETTINGS)}


def generate_block(sample: str, seed: int, block: int, n: int) -> tuple[ak.Array, dict[str, int | float]]:
    """Generate one block; it depends on nothing but its arguments.

    Parameters
    ----------
    sample : "events".
    seed, block : the seed of the production and the index of this block in it.
    n : number of events, at most `EVENTS_PER_BLOCK`.

    Returns
    -------
    events : ak.Array
        The branches of the tree ``Events`` (GeV), (n,): see `docs/samples.md`.
    counts : dict
        Number of events generated; the cross section [pb] as Pythia estimates it.
    """
    seeds, _ = pythia.block_seeds(SAMPLES.index(sample), SAMPLES, seed, block)
    generator = pythia.start(SETTINGS, seeds[sample], "e+e- -> Z -> leptons")
    events = ak.concatenate([_leptons(pythia.batch(generator, BATCH)) for _ in range(-(-n // BATCH))])[:n]
    counts: dict[str, int | float] = {"generated": n, "cross_section_pb": generator.infoPython().sigmaGen() * 1e9}
    return numbered(events, RUN, 1 + block, 1 + block * EVENTS_PER_BLOCK), counts


def _leptons(particles: ak.Array) -> ak.Array:
    """Arrange the final leptons of one batch as branches, those of negative charge first."""
    final = particles[particles.status > 0]
    final = final[ak.argsort(final.id, axis=1, ascending=False)]
    branches: dict[str, ak.Array] = {}
    for name, number in FLAVOURS.items():
        chosen = final[abs(final.id) == number]
        branches[f"n{name}"] = ak.values_astype(ak.num(chosen), np.int32)
        branches |= {f"{name}_{to}": chosen.p[of] for to, of in (("E", "e"), ("px", "px"), ("py", "py"), ("pz", "pz"))}
        branches[f"{name}_charge"] = ak.values_astype(-np.sign(chosen.id), np.int32)
    return ak.zip(branches, depth_limit=1)
