"""Thrust in e+e- -> Z -> hadrons at 91.2 GeV: two tunes of Pythia 8 seen by two detectors, the stand-in for ALEPH's archived data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.samples import lep_detector, pythia
from hepgen.samples.event_shapes import thrust
from hepgen.samples.lep_detector import DATA, NEUTRAL_HADRON, PHOTON, SIMULATION, TRACK, Detector

Floats = NDArray[np.float64]

SAMPLES = ("sim", "data")
TREE = "events"
RUNS = {"sim": 1, "data": 1994}
BATCH = 500
EVENTS_PER_BLOCK = 5000
NOT_MEASURED = -999.0

COMMON = (
    "Beams:idA = 11",
    "Beams:idB = -11",
    "Beams:eCM = 91.2",
    "PDF:lepton = off",
    "WeakSingleBoson:ffbar2gmZ = on",
    "23:onMode = off",
    "23:onIfAny = 1 2 3 4 5",
    "ParticleDecays:limitTau0 = on",
    "ParticleDecays:tau0Max = 10.",
    "Print:quiet = on",
    "Print:verbosity = 1",
    "Check:event = off",
    "Random:setSeed = on",
)
TUNES = {
    "sim": ("Tune:ee = 7",),
    "data": ("Tune:ee = 3", "TimeShower:alphaSvalue = 0.128"),
}


def describe() -> dict[str, Any]:
    """Return every setting that the events depend on, JSON-able, for the provenance."""
    return {
        "pythia_settings": {"common": list(COMMON), **{name: list(lines) for name, lines in TUNES.items()}},
        "detector": {"sim": asdict(SIMULATION), "data": asdict(DATA)},
        "selection": {
            "tracks": lep_detector.MIN_TRACKS,
            "particles": lep_detector.MIN_PARTICLES,
            "sum_of_track_momenta_GeV": lep_detector.MIN_TRACK_MOMENTUM,
            "max_abs_cos_thrust_axis": lep_detector.MAX_AXIS_COS,
        },
        "weights": "1",
    }


def versions() -> dict[str, str]:
    """Return the versions of the programs that make the events; MissingDependency where one is missing."""
    return {"pythia": pythia.version(COMMON)}


def generate_block(sample: str, seed: int, block: int, n: int) -> tuple[ak.Array, dict[str, int | float]]:
    """Generate one block of a sample; it depends on nothing but its arguments.

    Parameters
    ----------
    sample : "sim" or "data".
    seed, block : the seed of the production and the index of this block in it.
    n : number of events, at most `EVENTS_PER_BLOCK`; none is left out, see the flags.

    Returns
    -------
    events : ak.Array
        The branches of the tree ``events``, (n,): see `docs/samples.md`.
    counts : dict
        Numbers of events generated, and of these passing at detector level; the cross section [pb] as Pythia estimates it.
    """
    seeds, rng = pythia.block_seeds(SAMPLES.index(sample), SAMPLES, seed, block)
    detector = SIMULATION if sample == "sim" else DATA
    generator = pythia.start((*COMMON, *TUNES[sample]), seeds[sample], "e+e- -> Z -> hadrons")
    parts: list[dict[str, NDArray[Any]]] = []
    for _ in range(-(-n // BATCH)):
        particles = pythia.visible(pythia.batch(generator, BATCH))
        columns = _measured(particles, _kinds(generator, particles), detector, rng)
        parts.append({**columns, **_true(particles)} if sample == "sim" else columns)
    columns = {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}
    counts: dict[str, int | float] = {
        "generated": n,
        "passed": int(columns["pass_reco"].sum()),
        "cross_section_pb": generator.infoPython().sigmaGen() * 1e9,
    }
    first = 1 + block * EVENTS_PER_BLOCK
    identity = {"runNumber": np.full(n, RUNS[sample], np.int32), "eventNumber": np.arange(first, first + n, dtype=np.int32)}
    return ak.Array({**identity, "weight": np.ones(n, np.float32), **columns}), counts


def _kinds(generator: Any, particles: ak.Array) -> NDArray[np.int64]:
    """Return the kind of every particle, flat."""
    numbers = ak.to_numpy(ak.flatten(particles.id))
    return np.select([pythia.charged(generator, numbers), numbers == 22], [TRACK, PHOTON], NEUTRAL_HADRON)


def _momenta(particles: ak.Array) -> tuple[Floats, NDArray[np.int64]]:
    """Return px, py, pz [GeV] of all particles, (k, 3), and how many there are in every event."""
    flat = ak.flatten(particles.p)
    return np.column_stack([ak.to_numpy(flat[name]) for name in ("px", "py", "pz")]), ak.to_numpy(ak.num(particles))


def _measured(particles: ak.Array, kind: NDArray[np.int64], detector: Detector, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return thrust and flag of the events of one batch at detector level."""
    true, sizes = _momenta(particles)
    momenta, found = detector.measure(kind, true, ak.to_numpy(ak.flatten(particles.p.e)), rng)
    momenta, event = momenta[found], np.repeat(np.arange(len(sizes)), sizes)[found]
    values, axes = thrust(momenta, np.bincount(event, minlength=len(sizes)))
    return {
        "thrust": np.where(np.isfinite(values), values, NOT_MEASURED).astype(np.float32),
        "pass_reco": lep_detector.selected(kind[found], momenta, event, axes[:, 2]),
    }


def _true(particles: ak.Array) -> dict[str, NDArray[Any]]:
    """Return thrust and flag of the events of one batch at particle level."""
    values, axes = thrust(*_momenta(particles))
    return {"thrust_truth": values.astype(np.float32), "pass_truth": np.abs(axes[:, 2]) < lep_detector.MAX_AXIS_COS}
