"""A simple detector for jets, electrons, muons and missing transverse momentum: isolation, and resolutions; directions are exact."""

from __future__ import annotations

from dataclasses import dataclass

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.samples import pythia
from hepgen.samples.photon_id import ELECTRON, MUON, all_pairs, coordinates, distance

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """The final particles of n events in the acceptance, neutrinos left out, event by event in flat arrays of k.

    Attributes
    ----------
    counts : (n,) how many there are in every event.
    four : (k, 4) px, py, pz, E [GeV].
    number : (k,) absolute PDG numbers.
    """

    counts: Integers
    four: Floats
    number: Integers

    @classmethod
    def of(cls, batch: ak.Array, max_eta: float) -> Seen:
        """Take what is visible within `max_eta` from a batch of Pythia."""
        seen = pythia.visible(batch)
        flat = ak.flatten(seen)
        four = np.column_stack([ak.to_numpy(flat.p[name]) for name in ("px", "py", "pz", "e")])
        # abs(sinh(eta)) = abs(pz) / pT
        inside = np.abs(four[:, 2]) < np.sinh(max_eta) * np.hypot(four[:, 0], four[:, 1])
        counts = ak.to_numpy(ak.num(seen))
        event = np.repeat(np.arange(len(counts)), counts)[inside]
        return cls(np.bincount(event, minlength=len(counts)), four[inside], np.abs(ak.to_numpy(flat.id))[inside])

    @property
    def event(self) -> Integers:
        """Index of the event of every particle, (k,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def where(self, keep: Flags) -> Seen:
        """Return the particles of `keep`, (k,), in all events."""
        return Seen(np.bincount(self.event[keep], minlength=len(self.counts)), self.four[keep], self.number[keep])

    def of_events(self, keep: Flags) -> Seen:
        """Return the events of `keep`, (n,)."""
        inside = np.repeat(keep, self.counts)
        return Seen(self.counts[keep], self.four[inside], self.number[inside])


@dataclass(frozen=True)
class Detector:
    """Resolutions, (+) being addition in quadrature, E and pT in GeV.

    Attributes
    ----------
    max_eta : particles are seen below this abs(eta).
    jet_stochastic, jet_constant : ``sigma / pT = stochastic / sqrt(pT) (+) constant`` of jets.
    electron_stochastic, electron_constant : ``sigma / E = stochastic / sqrt(E) (+) constant``.
    muon_constant, muon_rise : ``sigma / pT = constant (+) rise pT``.
    isolation_radius, isolation : the pT of all else within this radius is below this part of the pT of an isolated lepton.
    soft : sigma [GeV] that what is in no jet adds to each component of the missing transverse momentum.
    """

    max_eta: float
    jet_stochastic: float
    jet_constant: float
    electron_stochastic: float
    electron_constant: float
    muon_constant: float
    muon_rise: float
    isolation_radius: float
    isolation: float
    soft: float

    def jets(self, momenta: Floats, rng: np.random.Generator) -> Floats:
        """Return four-momenta of jets as measured, (j, 4), from the true ones px, py, pz, E [GeV]."""
        pt = np.hypot(momenta[:, 0], momenta[:, 1])
        return _scaled(momenta, np.sqrt(self.jet_stochastic**2 / pt + self.jet_constant**2), rng)

    def leptons(self, momenta: Floats, number: Integers, rng: np.random.Generator) -> Floats:
        """Return four-momenta of electrons and muons of absolute PDG `number` as measured, (j, 4), from the true ones."""
        pt = np.hypot(momenta[:, 0], momenta[:, 1])
        electron = np.sqrt(self.electron_stochastic**2 / momenta[:, 3] + self.electron_constant**2)
        muon = np.sqrt(self.muon_constant**2 + (self.muon_rise * pt) ** 2)
        return _scaled(momenta, np.where(number == ELECTRON, electron, muon), rng)

    def isolated(self, particles: Seen, min_pt: float, max_eta: float) -> Integers:
        """Return the indices of the isolated electrons and muons above `min_pt` [GeV] (true) within `max_eta`."""
        pt, eta, phi = coordinates(particles.four)
        candidates = np.flatnonzero(np.isin(particles.number, (ELECTRON, MUON)) & (pt > min_pt) & (np.abs(eta) < max_eta))
        lepton, other = all_pairs(particles.event[candidates], particles.counts)
        mine = candidates[lepton]
        near = (other != mine) & (distance(eta[other] - eta[mine], phi[other] - phi[mine]) < self.isolation_radius)
        around = np.bincount(lepton[near], weights=pt[other[near]], minlength=len(candidates))
        return candidates[around < self.isolation * pt[candidates]]


def _scaled(momenta: Floats, resolution: Floats, rng: np.random.Generator) -> Floats:
    """Multiply four-momenta by ``1 + resolution z``, not below 0, z normal."""
    return momenta * np.maximum(1.0 + resolution * rng.standard_normal(len(momenta)), 0.0)[:, None]


DETECTOR = Detector(
    max_eta=4.9,
    jet_stochastic=0.8,
    jet_constant=0.05,
    electron_stochastic=0.10,
    electron_constant=0.01,
    muon_constant=0.015,
    muon_rise=2e-4,
    isolation_radius=0.3,
    isolation=0.12,
    soft=6.0,
)
