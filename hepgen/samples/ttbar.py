"""Top pairs at 13 TeV with four jets and one or two leptons, the stand-in for paper D's events of MadGraph, Pythia 8 and Delphes.

Made with Pythia 8 at hadron level, without multiple interactions, and seen by a simple detector (`hepgen.samples.smearing`). The layout is
that of NanoAOD (tree ``Events``, GeV); `hepgen.samples.read_ttb` gives the published events the same.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import HepgenError
from hepgen.samples import pythia, substructure
from hepgen.samples.nano import numbered
from hepgen.samples.photon_id import anti_kt, coordinates
from hepgen.samples.smearing import DETECTOR, Seen

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SAMPLES = ("events",)
TREE = "Events"
RUN, ORIGINAL_RUN = 1, 2
JETS, MAX_LEPTONS = 4, 2
JET_RADIUS, MIN_JET_PT, MAX_JET_ETA = 0.4, 20.0, 2.5
# jets below this are part of the soft term of the missing momentum
MIN_CLUSTERED_PT = 10.0
MIN_LEPTON_PT, MAX_LEPTON_ETA = 10.0, 2.5
LEPTONS = (11, 13)
COORDINATES = ("E", "pt", "eta", "phi")
BATCH = 500
EVENTS_PER_BLOCK = 5000

SETTINGS = (
    "Beams:eCM = 13000.",
    "Top:gg2ttbar = on",
    "Top:qqbar2ttbar = on",
    "PartonLevel:MPI = off",
    "TimeShower:QEDshowerByQ = off",
    "TimeShower:QEDshowerByL = off",
    "TimeShower:QEDshowerByGamma = off",
    "SpaceShower:QEDshowerByQ = off",
    "111:mayDecay = off",
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
        "pythia_settings": list(SETTINGS),
        "decays": "at least one W decays to an electron or a muon",
        "detector": asdict(DETECTOR),
        "jets": {
            "algorithm": "anti-kT, E scheme, without the isolated leptons",
            "radius": JET_RADIUS,
            "min_pt_GeV": MIN_JET_PT,
            "max_abs_eta": MAX_JET_ETA,
            "at_least": JETS,
            "written": JETS,
        },
        "leptons": {"min_pt_GeV": MIN_LEPTON_PT, "max_abs_eta": MAX_LEPTON_ETA, "number": [1, MAX_LEPTONS]},
        "missing_momentum": {"min_pt_of_smeared_jets_GeV": MIN_CLUSTERED_PT},
        "weights": "1",
    }


def versions() -> dict[str, str]:
    """Return the versions of the programs that make the events; MissingDependency where one is missing."""
    return {"pythia": pythia.version(SETTINGS), "fastjet": substructure.fastjet_version()}


def generate_block(sample: str, seed: int, block: int, n: int) -> tuple[ak.Array, dict[str, int | float]]:
    """Generate one block; it depends on nothing but its arguments.

    Parameters
    ----------
    sample : "events".
    seed, block : the seed of the production and the index of this block in it.
    n : number of events wanted after the selection, at most `EVENTS_PER_BLOCK`.

    Returns
    -------
    events : ak.Array
        The branches of the tree ``Events`` (GeV), (n,): see `docs/samples.md`.
    counts : dict
        Numbers of events generated, with one or two leptons, and of these with four jets. The cross section [pb] as Pythia estimates it.
    """
    seeds, rng = pythia.block_seeds(SAMPLES.index(sample), SAMPLES, seed, block)
    # the hook has to live as long as the generator
    generator, _hook = _leptonic(seeds[sample])
    parts: list[ak.Array] = []
    generated = leptonic = passed = 0
    while passed < n:
        chosen, with_leptons = _chosen(Seen.of(pythia.batch(generator, BATCH), DETECTOR.max_eta), rng)
        parts.append(chosen)
        generated += BATCH
        leptonic += with_leptons
        passed += len(chosen)
    counts: dict[str, int | float] = {
        "generated": generated,
        "with_leptons": leptonic,
        "selected": passed,
        "cross_section_pb": generator.infoPython().sigmaGen() * 1e9,
    }
    return numbered(ak.concatenate(parts)[:n], RUN, 1 + block, 1 + block * EVENTS_PER_BLOCK), counts


def branches(met: Floats, jets: Floats, jet_counts: Integers, leptons: Floats, lepton_counts: Integers) -> ak.Array:
    """Arrange n events as branches, without run and event numbers.

    Parameters
    ----------
    met : (n, 2) pT [GeV] and azimuth [rad] of the missing momentum.
    jets, leptons : (j, 4) E, pT [GeV], eta and azimuth [rad], event by event.
    jet_counts, lepton_counts : (n,) how many each event has.
    """
    columns: dict[str, Any] = {f"MET_{name}": met[:, k].astype(np.float32) for k, name in enumerate(("pt", "phi"))}
    for collection, values, sizes in (("Jet", jets, jet_counts), ("Lepton", leptons, lepton_counts)):
        columns[f"n{collection}"] = sizes.astype(np.int32)
        for k, name in enumerate(COORDINATES):
            columns[f"{collection}_{name}"] = ak.unflatten(values[:, k].astype(np.float32), sizes)
    return ak.zip(columns, depth_limit=1)


def _leptonic(seed: int) -> tuple[Any, Any]:
    """Start a Pythia that showers only pairs of which a W decays to an electron or muon, and return it with the hook that tells it."""
    generator = pythia.new(SETTINGS, seed)
    import pythia8mc

    class Leptonic(pythia8mc.UserHooks):  # type: ignore[misc]
        def canVetoProcessLevel(self) -> bool:  # noqa: N802
            return True

        def doVetoProcessLevel(self, process: Any) -> bool:  # noqa: N802
            # 5 and 6 leave the hard process; their decays follow
            return not any(process[k].idAbs() in LEPTONS for k in range(7, process.size()))

    hook = Leptonic()
    if not (generator.setUserHooksPtr(hook) and generator.init()):
        raise HepgenError("Pythia could not be initialised for the process 'top pairs'")
    return generator, hook


def _chosen(particles: Seen, rng: np.random.Generator) -> tuple[ak.Array, int]:
    """Return the selected events of one batch as branches, and how many there are with one or two leptons."""
    chosen, leptons = _leptons(particles, rng)
    lepton_event = particles.event[chosen]
    lepton_counts = np.bincount(lepton_event, minlength=len(particles.counts))
    wanted = (lepton_counts > 0) & (lepton_counts <= MAX_LEPTONS)
    n = int(wanted.sum())

    others = np.ones(len(particles.number), bool)
    others[chosen] = False
    rest = particles.where(others).of_events(wanted)
    event, true = anti_kt(rest.four, rest.counts, JET_RADIUS, MIN_CLUSTERED_PT)
    jets = DETECTOR.jets(true, rng)
    # minus all that is seen, as it is measured
    seen = _sums(particles.four, particles.event, len(wanted)) + _sums(leptons - particles.four[chosen], lepton_event, len(wanted))
    met = -seen[wanted] - _sums(jets - true, event, n) + DETECTOR.soft * rng.standard_normal((n, 2))

    jets, event = _leading(jets, event)
    full = np.bincount(event, minlength=n) == JETS
    listed = wanted[lepton_event]
    leptons, lepton_event = _sorted(leptons[listed], (np.cumsum(wanted) - 1)[lepton_event[listed]])
    met = np.column_stack([np.hypot(met[:, 0], met[:, 1]), np.arctan2(met[:, 1], met[:, 0])])[full]
    counts = lepton_counts[wanted][full]
    return branches(met, _polar(jets[full[event]]), np.full(len(counts), JETS), _polar(leptons[full[lepton_event]]), counts), n


def _leptons(particles: Seen, rng: np.random.Generator) -> tuple[Integers, Floats]:
    """Return the indices of the leptons that pass, and their four-momenta as measured, (j, 4)."""
    isolated = DETECTOR.isolated(particles, 0.5 * MIN_LEPTON_PT, MAX_LEPTON_ETA)
    measured = DETECTOR.leptons(particles.four[isolated], particles.number[isolated], rng)
    # the cut is that of single precision, as it is written
    hard = np.hypot(measured[:, 0], measured[:, 1]).astype(np.float32) > MIN_LEPTON_PT
    return isolated[hard], measured[hard]


def _sums(momenta: Floats, event: Integers, n: int) -> Floats:
    """Return the sums of px and py over each of `n` events, (n, 2)."""
    return np.column_stack([np.bincount(event, weights=momenta[:, k], minlength=n) for k in range(2)])


def _sorted(momenta: Floats, event: Integers) -> tuple[Floats, Integers]:
    """Sort by event and falling pT."""
    order = np.lexsort((-np.hypot(momenta[:, 0], momenta[:, 1]), event))
    return momenta[order], event[order]


def _leading(jets: Floats, event: Integers) -> tuple[Floats, Integers]:
    """Return the jets that pass, at most the `JETS` hardest of each event, sorted by event and falling pT."""
    pt, eta, _ = coordinates(jets)
    # the cut and the order are those of single precision, as it is written
    keep = (pt.astype(np.float32) > MIN_JET_PT) & (np.abs(eta) < MAX_JET_ETA)
    jets, event = _sorted(jets[keep], event[keep])
    first = np.searchsorted(event, event)
    front = np.arange(len(event)) - first < JETS
    return jets[front], event[front]


def _polar(momenta: Floats) -> Floats:
    """Return E, pT [GeV], eta and azimuth [rad] of four-momenta px, py, pz, E, (j, 4)."""
    return np.column_stack([momenta[:, 3], *coordinates(momenta)])
