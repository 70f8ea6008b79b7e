"""A toy of a detector at LEP: which particles are measured, with which momentum, and which events are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

TRACK, PHOTON, NEUTRAL_HADRON = 0, 1, 2

MIN_TRACKS = 5
MIN_PARTICLES = 13
MIN_TRACK_MOMENTUM = 15.0
MAX_AXIS_COS = 0.82


@dataclass(frozen=True)
class Detector:
    """Acceptance, efficiency and resolution for the particles of e+e- -> hadrons.

    Attributes
    ----------
    max_abs_cos : particles with a larger abs(cos theta) are lost.
    min_momentum : [GeV]; particles measured below it are lost.
    track_efficiency, slow_loss, slow_momentum : a track of momentum p is found with probability
        ``track_efficiency (1 - slow_loss exp(-p / slow_momentum))``, p and slow_momentum in GeV.
    track_curvature, track_constant : ``sigma(p) / p = sqrt((track_curvature pT)^2 + track_constant^2)``, track_curvature in 1/GeV.
    neutral_efficiency : of photons and neutral hadrons.
    photon_stochastic, hadron_stochastic, neutral_constant : ``sigma(p) / p = sqrt(stochastic^2 / E + neutral_constant^2)``, E in GeV.
    photon_scale, hadron_scale : response to neutrals.
    """

    max_abs_cos: float
    min_momentum: float
    track_efficiency: float
    slow_loss: float
    slow_momentum: float
    track_curvature: float
    track_constant: float
    neutral_efficiency: float
    photon_stochastic: float
    hadron_stochastic: float
    neutral_constant: float
    photon_scale: float
    hadron_scale: float

    def efficiency(self, kind: Integers, p: Floats) -> Floats:
        """Return the probability that particles of true momentum `p` [GeV] inside the acceptance are found; all arrays (k,)."""
        tracks = self.track_efficiency * (1.0 - self.slow_loss * np.exp(-p / self.slow_momentum))
        return np.where(kind == TRACK, tracks, self.neutral_efficiency)

    def resolution(self, kind: Integers, pt: Floats, energy: Floats) -> Floats:
        """Return ``sigma(p) / p`` of particles of true transverse momentum and energy [GeV]; all arrays (k,)."""
        stochastic = np.where(kind == PHOTON, self.photon_stochastic, self.hadron_stochastic)
        neutral = np.hypot(stochastic / np.sqrt(energy), self.neutral_constant)
        return np.where(kind == TRACK, np.hypot(self.track_curvature * pt, self.track_constant), neutral)

    def measure(self, kind: Integers, momenta: Floats, energy: Floats, rng: np.random.Generator) -> tuple[Floats, Flags]:
        """Return measured momenta (k, 3) [GeV], along the true ones, and which particles were found, (k,).

        Parameters
        ----------
        kind : (k,) `TRACK`, `PHOTON` or `NEUTRAL_HADRON`.
        momenta : (k, 3) px, py, pz [GeV].
        energy : (k,) [GeV].
        rng : two numbers are drawn for every particle, whether or not it is found.
        """
        pt, p = np.hypot(momenta[:, 0], momenta[:, 1]), np.sqrt((momenta**2).sum(axis=1))
        drawn, noise = rng.random(len(p)), rng.standard_normal(len(p))
        scale = np.select([kind == PHOTON, kind == NEUTRAL_HADRON], [self.photon_scale, self.hadron_scale], 1.0)
        response = np.maximum(scale * (1.0 + noise * self.resolution(kind, pt, energy)), 0.0)
        found = drawn < self.efficiency(kind, p)
        found &= np.abs(momenta[:, 2]) < self.max_abs_cos * p
        found &= p * response > self.min_momentum
        return momenta * response[:, None], found


def selected(kind: Integers, momenta: Floats, event: Integers, axis_z: Floats) -> Flags:
    """Return which events are hadronic and contained.

    At least 5 tracks whose momenta add up to 15 GeV, 13 particles, and a thrust axis with abs(cos theta) below 0.82.

    Parameters
    ----------
    kind, momenta, event : kind (k,), momentum (k, 3) [GeV] and event index (k,) of the measured particles.
    axis_z : (n,) cos theta of the thrust axes; NaN fails.
    """
    n = len(axis_z)
    track = kind == TRACK
    tracks = np.bincount(event[track], minlength=n)
    charged = np.bincount(event[track], weights=np.sqrt((momenta[track] ** 2).sum(axis=1)), minlength=n)
    enough = (tracks >= MIN_TRACKS) & (charged >= MIN_TRACK_MOMENTUM) & (np.bincount(event, minlength=n) >= MIN_PARTICLES)
    return np.asarray(enough & (np.abs(axis_z) < MAX_AXIS_COS), dtype=bool)


SIMULATION = Detector(
    max_abs_cos=0.94,
    min_momentum=0.2,
    track_efficiency=0.985,
    slow_loss=0.30,
    slow_momentum=0.25,
    track_curvature=8e-4,
    track_constant=5e-3,
    neutral_efficiency=0.95,
    photon_stochastic=0.18,
    hadron_stochastic=0.85,
    neutral_constant=0.01,
    photon_scale=1.0,
    hadron_scale=1.0,
)

DATA = Detector(
    max_abs_cos=0.93,
    min_momentum=0.2,
    track_efficiency=0.96,
    slow_loss=0.45,
    slow_momentum=0.25,
    track_curvature=1.2e-3,
    track_constant=8e-3,
    neutral_efficiency=0.90,
    photon_stochastic=0.22,
    hadron_stochastic=1.0,
    neutral_constant=0.02,
    photon_scale=0.99,
    hadron_scale=1.05,
)
