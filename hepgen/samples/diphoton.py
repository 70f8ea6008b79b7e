"""Two photons at 13 TeV: H -> yy as the simulation, prompt yy and y + jet with a misidentified jet as the data.

Made with Pythia 8 at parton level: initial-state radiation gives the pair its transverse momentum; final-state radiation, multiple
interactions and hadronisation change no photon here and are off. The layout is that of the ATLAS Open Data at 13 TeV (tree ``mini``, MeV).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.samples import pythia
from hepgen.samples.detector import ACCEPTANCE, DATA, SIMULATION, Detector

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Photons = dict[str, Any]

SAMPLES = ("sim", "data")
TREE = "mini"
LEADING, SUBLEADING, CONTAINER = 32.0, 24.0, 15.0
CROSS_SECTIONS = {"gg->H->yy": 0.0592, "qq->Hqq->yyqq": 0.0082, "yy": 84.5, "yj": 88200.0}
FAKE_RATE = 1.5e-3
SIMULATION_RUN = 284500
DATA_RUNS = (276262, 279932, 282712, 298595, 302393, 304008, 307195, 311481)
CHANNELS = {"gluon fusion": 343981, "vector-boson fusion": 345041}
BATCH = 2000
EVENTS_PER_BLOCK = 5000

PHOTON, PARTON, FORCED = 0, 1, 2
GLUON_FUSION = 902

COMMON = (
    "Beams:eCM = 13000.",
    "PartonLevel:MPI = off",
    "PartonLevel:FSR = off",
    "HadronLevel:all = off",
    "Print:quiet = on",
    "Check:event = off",
    "Random:setSeed = on",
)
HARD_RADIATION = ("PhaseSpace:pTHatMin = 24.", "SpaceShower:pTmaxMatch = 2")
PROCESSES = {
    "H": (
        "HiggsSM:gg2H = on",
        "HiggsSM:ff2Hff(t:WW) = on",
        "HiggsSM:ff2Hff(t:ZZ) = on",
        "25:m0 = 125.",
        "25:onMode = off",
        "25:onIfMatch = 22 22",
    ),
    "yy": ("PromptPhoton:ffbar2gammagamma = on", "PromptPhoton:gg2gammagamma = on", *HARD_RADIATION),
    "yj": ("PromptPhoton:qg2qgamma = on", "PromptPhoton:qqbar2ggamma = on", *HARD_RADIATION),
}


def describe() -> dict[str, Any]:
    """Return every setting that the events depend on, JSON-able, for the provenance."""
    return {
        "pythia_settings": {"common": list(COMMON), **{name: list(lines) for name, lines in PROCESSES.items()}},
        "detector": {"sim": asdict(SIMULATION), "data": asdict(DATA)},
        "preselection": {"leading_pt_GeV": LEADING, "subleading_pt_GeV": SUBLEADING, "photon_pt_GeV": CONTAINER, "max_abs_eta": ACCEPTANCE},
        "nominal_cross_sections_pb": CROSS_SECTIONS,
        "fake_rate_at_20_GeV": FAKE_RATE,
        "weights": "sim: mcWeight = +1 or -1, a random share of 3 % growing to 7 % with the pT of the pair is negative; data: mcWeight = 0",
    }


def versions() -> dict[str, str]:
    """Return the versions of the programs that make the events; MissingDependency where one is missing."""
    return {"pythia": pythia.version(COMMON)}


class _Source:
    """One Pythia and the particles of its events, as flat arrays."""

    def __init__(self, process: str, seed: int) -> None:
        self.process = process
        self.pythia = pythia.start((*COMMON, *PROCESSES[process]), seed, process)

    def generate(self, n: int) -> tuple[Floats, Integers]:
        """Return candidates (k, 5) of event index, kind, pT [GeV], eta, phi, and the process codes (n,)."""
        rows: list[tuple[float, float, float, float, float]] = []
        codes = np.zeros(n, dtype=np.int64)
        for index in range(n):
            if not self.pythia.next():
                continue
            event = self.pythia.event
            codes[index] = self.pythia.infoPython().code()
            first = len(rows)
            for position in range(5, event.size()):
                particle = event[position]
                if not particle.isFinal():
                    continue
                pt, eta = particle.pT(), particle.eta()
                if pt > 0.6 * CONTAINER and abs(eta) < ACCEPTANCE:
                    rows.append((index, PHOTON if particle.id() == 22 else PARTON, pt, eta, particle.phi()))
            if self.process == "yj":
                self._force_hardest(rows, first)
        return np.array(rows, dtype=np.float64).reshape(-1, 5), codes

    @staticmethod
    def _force_hardest(rows: list[tuple[float, float, float, float, float]], first: int) -> None:
        partons = [position for position in range(first, len(rows)) if rows[position][1] == PARTON]
        if partons:
            hardest = max(partons, key=lambda position: rows[position][2])
            index, _, *momentum = rows[hardest]
            rows[hardest] = (index, FORCED, momentum[0], momentum[1], momentum[2])


def _detect(candidates: Floats, detector: Detector, rng: np.random.Generator) -> Photons:
    """Turn true candidates into measured photons, sorted by event and falling pT."""
    event, kind, pt, eta, phi = candidates.T
    fraction = np.where(kind == FORCED, rng.beta(4.0, 1.5, len(pt)), rng.beta(6.0, 1.5, len(pt)))
    pt = np.where(kind == PHOTON, pt, pt * fraction)
    faked = np.select([kind == PHOTON, kind == FORCED], [1.0, np.minimum(1.0, (20.0 / pt) ** 0.6)], detector.loose_fake_rate)
    found = rng.random(len(pt)) < faked * detector.efficiency(pt, eta)
    measured = detector.measured_pt(pt, eta, rng)
    tight = rng.random(len(pt)) < np.select([kind == PHOTON, kind == FORCED], [0.995, 0.97], 0.10)
    isolation = rng.exponential(np.where(kind == PHOTON, 0.6, 2.5)) * (rng.random(len(pt)) < np.where(kind == PHOTON, 0.6, 0.9))
    keep = found & (measured > CONTAINER)
    order = np.lexsort((-measured[keep], event[keep]))
    columns = {"event": event.astype(np.int64), "pt": measured, "eta": eta, "phi": phi, "tight": tight, "isolation": isolation}
    return {name: column[keep][order] for name, column in columns.items()}


def _preselect(photons: Photons, n: int) -> tuple[NDArray[np.bool_], Integers]:
    """Return which of the `n` events hold two photons above threshold, and the number of photons of every event."""
    counts = np.bincount(photons["event"], minlength=n)
    start = np.concatenate([[0], np.cumsum(counts)[:-1]])
    passed = counts >= 2
    pt = photons["pt"]
    passed[passed] = (pt[start[passed]] > LEADING) & (pt[start[passed] + 1] > SUBLEADING)
    return passed, counts


def _turn_on(pt: Floats, threshold: float, width: float) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-(pt - threshold) / width)), dtype=np.float64)


def _columns(sample: str, photons: Photons, counts: Integers, codes: Integers, rng: np.random.Generator) -> dict[str, Any]:
    """Arrange measured photons of preselected events as the branches of the open data, without the event number."""
    n = len(counts)
    start = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    pt, phi = photons["pt"], photons["phi"]
    pt1, pt2 = pt[start], pt[start + 1]
    pair_pt = np.sqrt(np.maximum(0.0, pt1**2 + pt2**2 + 2.0 * pt1 * pt2 * np.cos(phi[start] - phi[start + 1])))
    fired = rng.random(n) < 0.995 * _turn_on(pt1, 33.0, 0.4) * _turn_on(pt2, 24.0, 0.2)
    if sample == "sim":
        run = np.full(n, SIMULATION_RUN)
        channel = np.where(codes == GLUON_FUSION, CHANNELS["gluon fusion"], CHANNELS["vector-boson fusion"])
        weight = np.where(rng.random(n) < 0.03 + 0.04 * np.tanh(pair_pt / 200.0), -1.0, 1.0)
        pileup = np.exp(0.08 * rng.standard_normal(n))
        efficiency = 0.985 - 0.01 * (np.abs(photons["eta"][start]) > 1.37) + 0.004 * rng.standard_normal(n)
    else:
        run = channel = np.asarray(DATA_RUNS)[rng.integers(len(DATA_RUNS), size=n)]
        weight, pileup, efficiency = np.zeros(n), np.ones(n), np.ones(n)
    event_columns = {
        "runNumber": run.astype(np.int32),
        "channelNumber": channel.astype(np.int32),
        "mcWeight": weight.astype(np.float32),
        "scaleFactor_PILEUP": pileup.astype(np.float32),
        "scaleFactor_PHOTON": efficiency.astype(np.float32),
        "trigP": fired,
    }
    objects = {
        "pt": (1e3 * pt).astype(np.float32),
        "eta": photons["eta"].astype(np.float32),
        "phi": phi.astype(np.float32),
        "E": (1e3 * pt * np.cosh(photons["eta"])).astype(np.float32),
        "isTightID": photons["tight"],
        "ptcone30": (1e3 * photons["isolation"]).astype(np.float32),
    }
    return {"events": event_columns, "photons": objects, "counts": counts}


def _generate_batch(sample: str, sources: dict[str, _Source], rng: np.random.Generator) -> tuple[Floats, Integers]:
    """Generate `BATCH` events of the mixture that makes up `sample`, in random order."""
    if sample == "sim":
        return sources["H"].generate(BATCH)
    forced = CROSS_SECTIONS["yj"] * FAKE_RATE
    n_fake = int(rng.binomial(BATCH, forced / (forced + CROSS_SECTIONS["yy"])))
    prompt, prompt_codes = sources["yy"].generate(BATCH - n_fake)
    fake, fake_codes = sources["yj"].generate(n_fake)
    fake[:, 0] += BATCH - n_fake
    candidates, codes = np.concatenate([prompt, fake]), np.concatenate([prompt_codes, fake_codes])
    place = rng.permutation(BATCH)
    candidates[:, 0] = place[candidates[:, 0].astype(np.int64)]
    shuffled = np.empty_like(codes)
    shuffled[place] = codes
    return candidates, shuffled


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
        The branches of the tree ``mini`` (MeV), (n,).
    counts : dict
        Numbers of events generated, preselected and, of these, from y + jet; cross sections [pb] as Pythia estimates them.
    """
    seeds, rng = pythia.block_seeds(SAMPLES.index(sample), tuple(PROCESSES), seed, block)
    detector = SIMULATION if sample == "sim" else DATA
    sources = {name: _Source(name, seeds[name]) for name in (("H",) if sample == "sim" else ("yy", "yj"))}
    parts: list[dict[str, Any]] = []
    generated = passed_total = fakes = 0
    while passed_total < n:
        candidates, codes = _generate_batch(sample, sources, rng)
        photons = _detect(candidates, detector, rng)
        passed, counts = _preselect(photons, BATCH)
        keep = passed[photons["event"]]
        parts.append(_columns(sample, {name: column[keep] for name, column in photons.items()}, counts[passed], codes[passed], rng))
        generated += BATCH
        passed_total += int(passed.sum())
        fakes += int((passed & (codes > 200) & (codes < 204)).sum())
    tallies: dict[str, int | float] = {"generated": generated, "preselected": passed_total, "fakes": fakes}
    for name, source in sources.items():
        tallies[f"cross_section_pb_{name}"] = source.pythia.infoPython().sigmaGen() * 1e9
    return _assemble(parts, 1 + block * EVENTS_PER_BLOCK, n), tallies


def _assemble(parts: list[dict[str, Any]], first_event: int, n: int) -> ak.Array:
    """Join batches to the first `n` events, one field per branch, in the order of the open data."""
    counts = np.concatenate([part["counts"] for part in parts])
    events = {name: np.concatenate([part["events"][name] for part in parts])[:n] for name in parts[0]["events"]}
    photons = {f"photon_{name}": np.concatenate([part["photons"][name] for part in parts]) for name in parts[0]["photons"]}
    branches = {
        "runNumber": events.pop("runNumber"),
        "eventNumber": np.arange(first_event, first_event + n, dtype=np.int32),
        **events,
        "photon_n": counts[:n].astype(np.int32),
        **{name: ak.unflatten(column, counts)[:n] for name, column in photons.items()},
    }
    return ak.zip(branches, depth_limit=1)
