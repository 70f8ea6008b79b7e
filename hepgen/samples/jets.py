"""Jets beside a Z at 14 TeV: two showers of Pythia 8, the stand-in for the Z + jet samples that paper B's flows were trained on."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.samples import pythia, substructure

Floats = NDArray[np.float64]

SAMPLES = ("sim", "data")
TREE = "events"
RUNS = {"sim": 1, "data": 2}
MIN_Z_PT = 200.0
MIN_LN_RHO = -20.0
BATCH = 200
EVENTS_PER_BLOCK = 5000
Z = 23

COMMON = (
    "Beams:eCM = 14000.",
    "WeakBosonAndParton:qqbar2gmZg = on",
    "WeakBosonAndParton:qg2gmZq = on",
    "WeakZ0:gmZmode = 2",
    "23:mayDecay = off",
    "PhaseSpace:pTHatMin = 150.",
    "PartonLevel:MPI = off",
    "ParticleDecays:limitTau0 = on",
    "ParticleDecays:tau0Max = 10.",
    "Print:quiet = on",
    "Print:verbosity = 1",
    "Check:event = off",
    "Random:setSeed = on",
)
SHOWERS = {
    "sim": ("PartonShowers:model = 1",),
    "data": (
        "PartonShowers:model = 2",
        "Vincia:tune = 0",
        "Vincia:sectorShower = off",
        "Vincia:EWmode = 0",
        "Vincia:alphaSvalue = 0.113",
        "StringZ:bLund = 1.4",
    ),
}


def describe() -> dict[str, Any]:
    """Return every setting that the events depend on, JSON-able, for the provenance."""
    return {
        "pythia_settings": {"common": list(COMMON), **{name: list(lines) for name, lines in SHOWERS.items()}},
        "jets": {"algorithm": "anti-kT, E scheme, the leading one", "radius": substructure.RADIUS, "min_pt_GeV": substructure.MIN_JET_PT},
        "soft_drop": {"beta": 0, "z_cut": substructure.Z_CUT},
        "preselection": {"min_Z_pt_GeV": MIN_Z_PT, "min_ln_rho": MIN_LN_RHO},
        "weights": "1",
    }


def versions() -> dict[str, str]:
    """Return the versions of the programs that make the events; MissingDependency where one is missing."""
    return {"pythia": pythia.version(COMMON), "fastjet": substructure.fastjet_version()}


def generate_block(sample: str, seed: int, block: int, n: int) -> tuple[ak.Array, dict[str, int | float]]:
    """Generate one block of a sample; it depends on nothing but its arguments.

    Parameters
    ----------
    sample : "sim" or "data".
    seed, block : the seed of the production and the index of this block in it.
    n : number of events wanted after the preselection, at most `EVENTS_PER_BLOCK`.

    Returns
    -------
    events : ak.Array
        The branches of the tree ``events``, (n,): see `docs/samples.md`.
    counts : dict
        Numbers of events generated, with a Z above 200 GeV, and of these left out for want of a groomed mass; the cross section
        [pb] as Pythia estimates it.
    """
    seeds, _ = pythia.block_seeds(SAMPLES.index(sample), SAMPLES, seed, block)
    generator = pythia.start((*COMMON, *SHOWERS[sample]), seeds[sample], "Z + jet")
    parts: list[dict[str, Floats]] = []
    generated = hard = passed = 0
    while passed < n:
        z_pt, particles = _hard_events(pythia.batch(generator, BATCH))
        generated += BATCH
        hard += len(z_pt)
        if len(z_pt) == 0:
            continue
        parts.append(_columns(z_pt, particles))
        passed += len(parts[-1]["jet_pt"])
    columns = {name: np.concatenate([part[name] for part in parts])[:n].astype(np.float32) for name in parts[0]}
    first = 1 + block * EVENTS_PER_BLOCK
    identity = {"runNumber": np.full(n, RUNS[sample], np.int32), "eventNumber": np.arange(first, first + n, dtype=np.int32)}
    counts: dict[str, int | float] = {
        "generated": generated,
        "hard": hard,
        "ungroomed": hard - passed,
        "cross_section_pb": generator.infoPython().sigmaGen() * 1e9,
    }
    return ak.Array({**identity, "weight": np.ones(n, np.float32), **columns}), counts


def _hard_events(particles: ak.Array) -> tuple[Floats, ak.Array]:
    """Return the pT [GeV] of the Z, (k,), and the other visible particles, jagged, of the events with a Z above `MIN_Z_PT`."""
    boson = particles[(particles.id == Z) & (particles.status > 0)]
    pt = ak.to_numpy(ak.flatten(np.hypot(boson.p.px, boson.p.py)))
    rest = pythia.visible(particles[pt > MIN_Z_PT], hidden=(Z,)).p
    return pt[pt > MIN_Z_PT], ak.zip({"px": rest.px, "py": rest.py, "pz": rest.pz, "E": rest.e})


def _columns(z_pt: Floats, particles: ak.Array) -> dict[str, Floats]:
    """Return the columns of the events that have a jet with a groomed mass."""
    found, constituents = substructure.leading_jets(particles)
    values = substructure.observables(constituents)
    keep = values["ln_rho"] > MIN_LN_RHO
    return {**{f"jet_{name}": column[keep] for name, column in values.items()}, "Z_pt": z_pt[found][keep]}
