"""Photon candidates and a toy of their identification: clusters of what particles leave in a calorimeter, and a score.

Prompt photons and jets taken for photons go through the same formulas: what tells them apart is what Pythia puts in and around the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.samples import pythia, substructure

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

ACCEPTANCE = 2.5
BARREL, ENDCAP = 1.4442, 1.566
CLUSTER_RADIUS, HADRON_RADIUS, ISOLATION_RADIUS = 0.1, 0.15, 0.3
MIN_DEPOSIT = 0.3

PHOTON, ELECTRON, MUON = 22, 11, 13


@dataclass(frozen=True)
class Particles:
    """The visible final particles of n events, event by event in flat arrays of k.

    Attributes
    ----------
    counts : (n,) how many there are in every event.
    four : (k, 4) px, py, pz, E [GeV].
    number : (k,) absolute PDG numbers.
    charged : (k,)
    prompt : (n, 3) px, py, pz [GeV] of the photon of the hard process; NaN where there is none.
    """

    counts: Integers
    four: Floats
    number: Integers
    charged: Flags
    prompt: Floats

    @classmethod
    def visible(cls, batch: ak.Array, generator: Any) -> Particles:
        """Take what is visible from a batch that the Pythia `generator` made without radiation of photons."""
        seen = pythia.visible(batch)
        counts, flat = ak.to_numpy(ak.num(seen)), ak.flatten(seen)
        signed = ak.to_numpy(flat.id)
        four = np.column_stack([ak.to_numpy(flat.p[name]) for name in ("px", "py", "pz", "e")])
        # statuses from 80 on are of hadrons and their decays
        hard = (signed == PHOTON) & (ak.to_numpy(flat.status) < 80)
        prompt = np.full((len(counts), 3), np.nan)
        prompt[np.repeat(np.arange(len(counts)), counts)[hard]] = four[hard, :3]
        return cls(counts, four, np.abs(signed), pythia.charged(generator, signed), prompt)

    @property
    def electromagnetic(self) -> Flags:
        """Which are photons or electrons, (k,)."""
        return np.isin(self.number, (PHOTON, ELECTRON))

    @property
    def hadron(self) -> Flags:
        """Which are hadrons, (k,)."""
        return np.isin(self.number, (PHOTON, ELECTRON, MUON), invert=True)


@dataclass(frozen=True)
class Detector:
    """Response of the electromagnetic calorimeter, and pile-up.

    Attributes
    ----------
    hadron_showers : probability that a hadron showers in it; one that does not leaves nothing.
    hadron_alpha, hadron_beta : of the Beta distribution of the part of its energy that a showering hadron leaves.
    stochastic, constant, endcap_stochastic, endcap_constant : ``sigma / pT = sqrt(stochastic^2 / E + constant^2)`` of a cluster, E in GeV.
    vertices, vertices_shape : numbers of vertices are 1 and a Poisson number, whose mean has a Gamma distribution with this mean and shape.
    isolation_pileup, hadron_pileup : pT [GeV] that each vertex adds on average around a cluster and to the hadronic energy behind it.
    """

    hadron_showers: float
    hadron_alpha: float
    hadron_beta: float
    stochastic: float
    constant: float
    endcap_stochastic: float
    endcap_constant: float
    vertices: float
    vertices_shape: float
    isolation_pileup: float
    hadron_pileup: float

    def left(self, particles: Particles, rng: np.random.Generator) -> Floats:
        """Return the part of their energy that particles leave, (k,): photons and electrons all, muons nothing."""
        k = len(particles.number)
        part = rng.beta(self.hadron_alpha, self.hadron_beta, k) * (rng.random(k) < self.hadron_showers)
        return np.select([particles.electromagnetic, particles.hadron], [1.0, part], 0.0)

    def measured_pt(self, pt: Floats, eta: Floats, rng: np.random.Generator) -> Floats:
        """Return the measured transverse momenta [GeV], (k,), of clusters of true `pt` [GeV] and `eta`."""
        endcap = np.abs(eta) > BARREL
        stochastic = np.where(endcap, self.endcap_stochastic, self.stochastic)
        constant = np.where(endcap, self.endcap_constant, self.constant)
        resolution = np.sqrt(stochastic**2 / (pt * np.cosh(eta)) + constant**2)
        return np.asarray(pt * (1.0 + resolution * rng.standard_normal(len(pt))), dtype=np.float64)

    def vertex_numbers(self, n: int, rng: np.random.Generator) -> Integers:
        """Return the numbers of vertices of `n` events, at least 1."""
        return 1 + rng.poisson(rng.gamma(self.vertices_shape, self.vertices / self.vertices_shape, n))


@dataclass(frozen=True)
class Surroundings:
    """What is in and around k clusters, without pile-up, each (k,).

    Attributes
    ----------
    hadronic : pT [GeV] that hadrons within 0.15 carry on behind the electromagnetic calorimeter.
    charged : pT [GeV] of charged particles within 0.3, also of those that point to the cluster.
    neutral : pT [GeV] of deposits between 0.1 and 0.3.
    width : root mean square of the distances in eta and azimuth of the deposits in the cluster, weighted by pT.
    """

    hadronic: Floats
    charged: Floats
    neutral: Floats
    width: Floats


@dataclass(frozen=True)
class Identification:
    """A score in (-1, 1), near 1 for prompt photons.

    With pile-up added to the energies h behind and n around a cluster, c of charged particles, and w the part by which
    the measured width exceeds that of a single shower,

        score = tanh(offset + rise ln(pT / 40 GeV) + noise z - sum_x a_x ln(1 + x / x_0)),    x = h / pT, c, n, w,    z normal

    Attributes
    ----------
    offset, rise, noise : as above.
    hadronic, charged, neutral, shape : the a_x.
    hadronic_scale, charged_scale, neutral_scale, shape_scale : the x_0, that of c and n in GeV.
    shower, endcap_shower, resolution : width of a single shower, and the relative error of a measured width.
    conversions, conversions_slope : a cluster is that of a converted photon with probability
        ``conversions + conversions_slope abs(eta)``.
    conversion_excess : mean of the exponential distribution of what that adds to w.
    floor, cut : candidates are listed above `floor`, and pass above `cut`.
    """

    offset: float
    rise: float
    noise: float
    hadronic: float
    charged: float
    neutral: float
    shape: float
    hadronic_scale: float
    charged_scale: float
    neutral_scale: float
    shape_scale: float
    shower: float
    endcap_shower: float
    resolution: float
    conversions: float
    conversions_slope: float
    conversion_excess: float
    floor: float
    cut: float

    def excess(self, width: Floats, eta: Floats, rng: np.random.Generator) -> Floats:
        """Return by which part the measured width of clusters exceeds that of a single shower, (k,), not below 0."""
        single = np.where(np.abs(eta) > BARREL, self.endcap_shower, self.shower)
        converted = rng.random(len(eta)) < self.conversions + self.conversions_slope * np.abs(eta)
        true = np.sqrt(1.0 + (width / single) ** 2) + converted * rng.exponential(self.conversion_excess, len(eta))
        return np.maximum(true * (1.0 + self.resolution * rng.standard_normal(len(eta))) - 1.0, 0.0)

    def score(
        self, pt: Floats, eta: Floats, around: Surroundings, vertices: Integers, detector: Detector, rng: np.random.Generator
    ) -> Floats:
        """Return the score of clusters of `pt` [GeV] and `eta` in events with these numbers of `vertices`; all arrays (k,)."""
        hadronic = around.hadronic + rng.gamma(detector.hadron_pileup * vertices)
        neutral = around.neutral + rng.gamma(detector.isolation_pileup * vertices)
        value = self.offset + self.rise * np.log(pt / 40.0) + self.noise * rng.standard_normal(len(pt))
        value -= self.hadronic * np.log1p(hadronic / pt / self.hadronic_scale)
        value -= self.charged * np.log1p(around.charged / self.charged_scale)
        value -= self.neutral * np.log1p(neutral / self.neutral_scale)
        value -= self.shape * np.log1p(self.excess(around.width, eta, rng) / self.shape_scale)
        return np.tanh(value)


def candidates(
    particles: Particles, vertices: Integers, detector: Detector, identification: Identification, min_pt: float, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Find the photon candidates of n events that have two clusters or more; others are left out.

    Parameters
    ----------
    particles, vertices : of the n events; numbers of vertices (n,).
    detector, identification : the settings.
    min_pt : measured pT [GeV] above which candidates are listed.

    Returns
    -------
    dict
        Flat, sorted by event and falling pT: "event"; "pt" [GeV], "eta", "phi" and "mvaID" in single precision, as they are written and
        the selection sees them; "isPrompt", whether the photon of the hard process is within 0.1.
    """
    left = detector.left(particles, rng)
    event, true_pt, eta, phi = _clusters(particles, left, 0.8 * min_pt)
    pt = detector.measured_pt(true_pt, eta, rng)
    score = identification.score(pt, eta, _surroundings(particles, left, event, eta, phi), vertices[event], detector, rng)
    _, prompt_eta, prompt_phi = coordinates(particles.prompt)
    prompt = distance(eta - prompt_eta[event], phi - prompt_phi[event]) < CLUSTER_RADIUS
    keep = (pt > min_pt) & (score > identification.floor)
    order = np.lexsort((-pt[keep], event[keep]))
    columns: dict[str, NDArray[Any]] = {
        "event": event,
        **{name: column.astype(np.float32) for name, column in (("pt", pt), ("eta", eta), ("phi", phi), ("mvaID", score))},
        "isPrompt": prompt,
    }
    return {name: column[keep][order] for name, column in columns.items()}


def anti_kt(four: Floats, counts: Integers, radius: float, min_pt: float) -> tuple[Integers, Floats]:
    """Find jets, anti-kT with the E scheme, above `min_pt` [GeV], of n events that have `counts` of the particles `four`, (k, 4) [GeV].

    Returns
    -------
    event : (j,) index of the event of each jet.
    momenta : (j, 4) px, py, pz, E [GeV].
    """
    fastjet = substructure._fastjet()
    particles = ak.zip(dict(zip(("px", "py", "pz", "E"), four.T, strict=True)), with_name="Momentum4D")
    cluster = fastjet.ClusterSequence(ak.unflatten(particles, counts), fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    jets = cluster.inclusive_jets(min_pt=min_pt)
    flat = ak.flatten(jets)
    momenta = np.column_stack([ak.to_numpy(flat[name]) for name in ("px", "py", "pz", "E")])
    return np.repeat(np.arange(len(counts)), ak.to_numpy(ak.num(jets))), momenta


def all_pairs(event: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """Pair k objects of the events `event`, (k,), with all others of their events, of which there are `counts`, (n,).

    Returns the index of the object and the index of the other, both as long as there are pairs.
    """
    sizes = counts[event]
    one = np.repeat(np.arange(len(event)), sizes)
    within = np.arange(len(one)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return one, (np.cumsum(counts) - counts)[event][one] + within


def coordinates(momenta: Floats) -> tuple[Floats, Floats, Floats]:
    """Return pT [GeV], pseudorapidity and azimuth [rad], each (k,), of momenta px, py, pz (and E), (k, 3 or 4)."""
    px, py, pz = momenta.T[:3]
    pt = np.hypot(px, py)
    return pt, np.arcsinh(pz / pt), np.arctan2(py, px)


def distance(eta: Floats, phi: Floats) -> Floats:
    """Return the distances that belong to differences in `eta` and azimuth `phi` [rad]."""
    turn = np.abs(phi)
    return np.hypot(eta, np.minimum(turn, 2.0 * np.pi - turn))


def fiducial(eta: Floats) -> Flags:
    """Return which clusters are inside abs(eta) < 2.5 and outside the gap between barrel and endcaps."""
    absolute = np.abs(eta)
    return (absolute < ACCEPTANCE) & ~((absolute > BARREL) & (absolute < ENDCAP))


def _clusters(particles: Particles, left: Floats, min_pt: float) -> tuple[Integers, Floats, Floats, Floats]:
    """Return event, pT [GeV], eta and azimuth of the fiducial clusters of those events that have two."""
    n = len(particles.counts)
    deposits = particles.four * left[:, None]
    seen = np.hypot(deposits[:, 0], deposits[:, 1]) > MIN_DEPOSIT
    counts = np.bincount(np.repeat(np.arange(n), particles.counts)[seen], minlength=n)
    event, momenta = anti_kt(deposits[seen], counts, CLUSTER_RADIUS, min_pt)
    pt, eta, phi = coordinates(momenta)
    keep = fiducial(eta)
    keep &= (np.bincount(event[keep], minlength=n) > 1)[event]
    return event[keep], pt[keep], eta[keep], phi[keep]


def _surroundings(particles: Particles, left: Floats, event: Integers, eta: Floats, phi: Floats) -> Surroundings:
    """Return what is in and around clusters; `left` is the part of its energy that each particle leaves in the calorimeter."""
    cluster, particle = all_pairs(event, particles.counts)
    pt, particle_eta, particle_phi = coordinates(particles.four[particle])
    away = distance(particle_eta - eta[cluster], particle_phi - phi[cluster])
    deposit = pt * left[particle]

    def total(what: Floats, where: Flags) -> Floats:
        return np.bincount(cluster[where], weights=what[where], minlength=len(event)).astype(np.float64)

    core, cone = away < CLUSTER_RADIUS, away < ISOLATION_RADIUS
    return Surroundings(
        hadronic=total(pt - deposit, particles.hadron[particle] & (away < HADRON_RADIUS)),
        charged=total(pt, particles.charged[particle] & cone),
        neutral=total(deposit, cone & ~core),
        width=np.sqrt(total(deposit * away**2, core) / total(deposit, core)),
    )


DETECTOR = Detector(
    hadron_showers=0.67,
    hadron_alpha=1.5,
    hadron_beta=2.0,
    stochastic=0.03,
    constant=0.010,
    endcap_stochastic=0.05,
    endcap_constant=0.020,
    vertices=24.0,
    vertices_shape=8.0,
    isolation_pileup=0.20,
    hadron_pileup=0.015,
)

IDENTIFICATION = Identification(
    offset=2.4,
    rise=1.0,
    noise=0.30,
    hadronic=0.15,
    charged=0.20,
    neutral=0.80,
    shape=0.35,
    hadronic_scale=0.05,
    charged_scale=4.0,
    neutral_scale=4.0,
    shape_scale=0.1,
    shower=0.0095,
    endcap_shower=0.025,
    resolution=0.05,
    conversions=0.10,
    conversions_slope=0.10,
    conversion_excess=0.15,
    floor=-0.8,
    cut=0.0,
)
