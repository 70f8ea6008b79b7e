"""A photon and jets at 13 TeV, one jet taken for a photon: signal region and control region, the stand-in for CMS's y + jet simulation.

Made with Pythia 8 at hadron level, without multiple interactions. The prompt photon and the jet are clusters in a toy of a calorimeter,
which a toy of a score identifies (`hepgen.samples.photon_id`): in the signal region both pass, in the control region the jet fails. The
layout is that of CMS's NanoAOD (tree ``Events``, GeV).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import HepgenError
from hepgen.samples import photon_id, pythia, substructure
from hepgen.samples.photon_id import DETECTOR, IDENTIFICATION, Particles, all_pairs, anti_kt, coordinates, distance

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]

SAMPLES = ("sr", "cr")
TREE = "Events"
RUNS = {"sr": 1, "cr": 2}
MIN_PHOTON_PT = 20.0
MASSES = (100.0, 180.0)
LEADING, SUBLEADING = 1.0 / 3.0, 1.0 / 4.0
JET_RADIUS, MIN_JET_PT, MAX_JET_ETA = 0.4, 15.0, 4.7
JET_STOCHASTIC, JET_CONSTANT = 0.8, 0.05
MAX_HARD_ETA = 2.7
BATCH = 1000
EVENTS_PER_BLOCK = 5000

COMMON = (
    "Beams:eCM = 13000.",
    "PromptPhoton:qg2qgamma = on",
    "PromptPhoton:qqbar2ggamma = on",
    "PhaseSpace:pTHatMin = 40.",
    "PhaseSpace:mHatMin = 110.",
    "PartonLevel:MPI = off",
    "TimeShower:QEDshowerByQ = off",
    "TimeShower:QEDshowerByGamma = off",
    "SpaceShower:QEDshowerByQ = off",
    "ParticleDecays:limitTau0 = on",
    "ParticleDecays:tau0Max = 10.",
    "Print:quiet = on",
    "Print:verbosity = 1",
    "Check:event = off",
    "Random:setSeed = on",
)


def describe() -> dict[str, Any]:
    """Return every setting that the events depend on, JSON-able, for the provenance."""
    return {
        "pythia_settings": list(COMMON),
        "max_abs_eta_of_the_hard_process": MAX_HARD_ETA,
        "detector": asdict(DETECTOR),
        "identification": asdict(IDENTIFICATION),
        "clusters": {
            "algorithm": "anti-kT, E scheme",
            "radius": photon_id.CLUSTER_RADIUS,
            "min_deposit_GeV": photon_id.MIN_DEPOSIT,
            "max_abs_eta": photon_id.ACCEPTANCE,
            "gap": [photon_id.BARREL, photon_id.ENDCAP],
        },
        "selection": {
            "photon_pt_GeV": MIN_PHOTON_PT,
            "mass_GeV": list(MASSES),
            "leading_pt_over_mass": LEADING,
            "subleading_pt_over_mass": SUBLEADING,
        },
        "jets": {
            "algorithm": "anti-kT, E scheme",
            "radius": JET_RADIUS,
            "min_pt_GeV": MIN_JET_PT,
            "max_abs_eta": MAX_JET_ETA,
            "stochastic": JET_STOCHASTIC,
            "constant": JET_CONSTANT,
        },
        "weights": "1",
    }


def versions() -> dict[str, str]:
    """Return the versions of the programs that make the events; MissingDependency where one is missing."""
    return {"pythia": pythia.version(COMMON), "fastjet": substructure.fastjet_version()}


def generate_block(sample: str, seed: int, block: int, n: int) -> tuple[ak.Array, dict[str, int | float]]:
    """Generate one block of a sample; it depends on nothing but its arguments.

    Parameters
    ----------
    sample : "sr" or "cr".
    seed, block : the seed of the production and the index of this block in it.
    n : number of events wanted after the selection, at most `EVENTS_PER_BLOCK`.

    Returns
    -------
    events : ak.Array
        The branches of the tree ``Events`` (GeV), (n,): see `docs/samples.md`.
    counts : dict
        Numbers of events generated; of these selected, in both regions together; of these in the region asked for. The cross section
        [pb] as Pythia estimates it.
    """
    seeds, rng = pythia.block_seeds(SAMPLES.index(sample), SAMPLES, seed, block)
    # the hook has to live as long as the generator
    generator, _hook = _central(seeds[sample])
    parts: list[ak.Array] = []
    generated = selected = passed = 0
    while passed < n:
        particles = Particles.visible(pythia.batch(generator, BATCH), generator)
        vertices = DETECTOR.vertex_numbers(BATCH, rng)
        photons = photon_id.candidates(particles, vertices, DETECTOR, IDENTIFICATION, MIN_PHOTON_PT, rng)
        signal, control = _regions(photons, BATCH)
        chosen = signal if sample == "sr" else control
        parts.append(_events(particles, photons, vertices, chosen, rng))
        generated += BATCH
        selected += int((signal | control).sum())
        passed += int(chosen.sum())
    events = ak.concatenate(parts)[:n]
    first = 1 + block * EVENTS_PER_BLOCK
    identity = {
        "run": np.full(n, RUNS[sample], np.uint32),
        "luminosityBlock": np.full(n, 1 + block, np.uint32),
        "event": np.arange(first, first + n, dtype=np.uint64),
        "genWeight": np.ones(n, np.float32),
    }
    counts: dict[str, int | float] = {
        "generated": generated,
        "selected": selected,
        "in_region": passed,
        "cross_section_pb": generator.infoPython().sigmaGen() * 1e9,
    }
    return ak.zip({**identity, **{name: events[name] for name in events.fields}}, depth_limit=1), counts


def _central(seed: int) -> tuple[Any, Any]:
    """Start a Pythia that showers only hard processes near the acceptance, and return it with the hook that tells it which."""
    generator = pythia.new(COMMON, seed)
    import pythia8mc

    class Central(pythia8mc.UserHooks):  # type: ignore[misc]
        def canVetoProcessLevel(self) -> bool:  # noqa: N802
            return True

        def doVetoProcessLevel(self, process: Any) -> bool:  # noqa: N802
            # 5 and 6 leave the hard process; radiation seldom brings them back into the acceptance
            return bool(max(abs(process[5].eta()), abs(process[6].eta())) > MAX_HARD_ETA)

    hook = Central()
    if not (generator.setUserHooksPtr(hook) and generator.init()):
        raise HepgenError("Pythia could not be initialised for the process 'photon + jet'")
    return generator, hook


def _regions(photons: Columns, n: int) -> tuple[Flags, Flags]:
    """Return which of `n` events are in the signal and in the control region.

    The two hardest candidates are one prompt photon, which passes, and one jet, which passes in the signal region and fails in the other.
    """
    counts = np.bincount(photons["event"], minlength=n)
    two = np.flatnonzero(counts > 1)
    first = (np.cumsum(counts) - counts)[two]
    second = first + 1
    pt, eta, phi = (photons[name].astype(np.float64) for name in ("pt", "eta", "phi"))
    # m^2 = 2 pT1 pT2 (cosh(eta1 - eta2) - cos(phi1 - phi2))
    mass = np.sqrt(2.0 * pt[first] * pt[second] * (np.cosh(eta[first] - eta[second]) - np.cos(phi[first] - phi[second])))
    good = (mass > MASSES[0]) & (mass < MASSES[1]) & (pt[first] > LEADING * mass) & (pt[second] > SUBLEADING * mass)
    prompt, passes = photons["isPrompt"], photons["mvaID"] > IDENTIFICATION.cut
    good &= prompt[first] != prompt[second]
    good &= np.where(prompt[first], passes[first], passes[second])
    signal, control = np.zeros(n, bool), np.zeros(n, bool)
    signal[two] = good & passes[first] & passes[second]
    control[two] = good & ~signal[two]
    return signal, control


def _events(particles: Particles, photons: Columns, vertices: Integers, chosen: Flags, rng: np.random.Generator) -> ak.Array:
    """Arrange the chosen events of one batch as branches, without run and event numbers."""
    photon_counts = np.bincount(photons["event"], minlength=len(chosen))[chosen]
    listed = {name: column[chosen[photons["event"]]] for name, column in photons.items()}
    jet_counts, jets = _jets(particles, listed, photon_counts, chosen, rng)
    columns = {name: listed[name] for name in ("pt", "eta", "phi")}
    columns |= {"mass": np.zeros(len(listed["pt"]), np.float32), "mvaID": listed["mvaID"], "isPrompt": listed["isPrompt"]}
    branches = {
        "PV_npvs": vertices[chosen].astype(np.int32),
        "nPhoton": photon_counts.astype(np.int32),
        **{f"Photon_{name}": ak.unflatten(column, photon_counts) for name, column in columns.items()},
        "nJet": jet_counts.astype(np.int32),
        **{f"Jet_{name}": ak.unflatten(column, jet_counts) for name, column in jets.items()},
    }
    return ak.zip(branches, depth_limit=1)


def _jets(
    particles: Particles, photons: Columns, photon_counts: Integers, chosen: Flags, rng: np.random.Generator
) -> tuple[Integers, Columns]:
    """Return how many jets away from the `photons` the chosen events have, and the jets, flat, sorted by event and falling pT."""
    four = particles.four[np.repeat(chosen, particles.counts)]
    event, momenta = anti_kt(four, particles.counts[chosen], JET_RADIUS, 0.5 * MIN_JET_PT)
    true_pt, eta, phi = coordinates(momenta)
    mass = np.sqrt(np.maximum(momenta[:, 3] ** 2 - (momenta[:, :3] ** 2).sum(axis=1), 0.0))
    resolution = np.sqrt(JET_STOCHASTIC**2 / true_pt + JET_CONSTANT**2)
    response = np.maximum(1.0 + resolution * rng.standard_normal(len(true_pt)), 0.0)
    pt = response * true_pt
    keep = (pt > MIN_JET_PT) & (np.abs(eta) < MAX_JET_ETA)
    jet, photon = all_pairs(event, photon_counts)
    keep[jet[distance(eta[jet] - photons["eta"][photon], phi[jet] - photons["phi"][photon]) < JET_RADIUS]] = False
    order = np.lexsort((-pt[keep], event[keep]))
    columns = {"pt": pt, "eta": eta, "phi": phi, "mass": response * mass}
    flat = {name: column[keep][order].astype(np.float32) for name, column in columns.items()}
    return np.bincount(event[keep], minlength=len(photon_counts)), flat
