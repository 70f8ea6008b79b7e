"""A toy calorimeter: which photons are found, and with which momentum.

Two settings of the same formulas are used: a smooth one for the simulation and one with modules, gaps and a miscalibration for the data, so
that simulation has to be transformed before it describes data, in the shape of every column and not by one number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ACCEPTANCE = 2.37
CRACK = (1.37, 1.52)


@dataclass(frozen=True)
class Detector:
    """Efficiency and response of a photon as functions of its true pT [GeV] and eta.

    Attributes
    ----------
    plateau : efficiency far above threshold.
    threshold, width : turn-on in pT [GeV], ``1 / (1 + exp(-(pT - threshold) / width))``.
    crack : factor on the efficiency in 1.37 < abs(eta) < 1.52.
    gaps : (abs(eta), Gaussian width, depth) of the losses between modules.
    ripple, period : relative amplitude and period in eta of the losses inside a module.
    stochastic, constant, endcap_constant : ``sigma / pT = sqrt(stochastic^2 / E + constant^2)``, E in GeV; the last from the crack on.
    scale, endcap_scale, tilt : response in the barrel and past the crack, and its change per unit of eta.
    nonlinearity : change of the response per unit of ``ln(pT / 60 GeV)``.
    loose_fake_rate : probability that a parton is listed as one more (mostly not tight) photon.
    """

    plateau: float
    threshold: float
    width: float
    crack: float
    gaps: tuple[tuple[float, float, float], ...]
    ripple: float
    period: float
    stochastic: float
    constant: float
    endcap_constant: float
    scale: float
    endcap_scale: float
    tilt: float
    nonlinearity: float
    loose_fake_rate: float

    def efficiency(self, pt: Floats, eta: Floats) -> Floats:
        """Return the probability in [0, 1] that a photon of true `pt` [GeV] and `eta`, both (n,), is found."""
        absolute = np.abs(eta)
        found = self.plateau / (1.0 + np.exp(-(pt - self.threshold) / self.width))
        found *= 1.0 - self.ripple * (1.0 + np.cos(2.0 * np.pi * eta / self.period)) / 2.0
        for centre, width, depth in self.gaps:
            found *= 1.0 - depth * np.exp(-0.5 * ((absolute - centre) / width) ** 2)
        found = np.where((absolute > CRACK[0]) & (absolute < CRACK[1]), self.crack * found, found)
        return np.asarray(np.where(absolute < ACCEPTANCE, found, 0.0), dtype=np.float64)

    def measured_pt(self, pt: Floats, eta: Floats, rng: np.random.Generator) -> Floats:
        """Return the measured transverse momenta [GeV], (n,), of photons of true `pt` [GeV] and `eta`."""
        endcap = np.abs(eta) > CRACK[0]
        constant = np.where(endcap, self.endcap_constant, self.constant)
        scale = np.where(endcap, self.endcap_scale, self.scale) + self.tilt * eta + self.nonlinearity * np.log(pt / 60.0)
        resolution = np.sqrt(self.stochastic**2 / (pt * np.cosh(eta)) + constant**2)
        return np.asarray(pt * scale * (1.0 + resolution * rng.standard_normal(len(pt))), dtype=np.float64)


SIMULATION = Detector(
    plateau=0.92,
    threshold=18.0,
    width=3.0,
    crack=0.60,
    gaps=(),
    ripple=0.0,
    period=1.0,
    stochastic=0.10,
    constant=0.010,
    endcap_constant=0.014,
    scale=1.0,
    endcap_scale=1.0,
    tilt=0.0,
    nonlinearity=0.020,
    loose_fake_rate=0.02,
)

DATA = Detector(
    plateau=0.90,
    threshold=22.0,
    width=4.0,
    crack=0.15,
    gaps=((0.0, 0.04, 0.30), (0.8, 0.05, 0.35), (2.0, 0.06, 0.25)),
    ripple=0.15,
    period=0.4,
    stochastic=0.14,
    constant=0.018,
    endcap_constant=0.030,
    scale=1.004,
    endcap_scale=0.982,
    tilt=0.003,
    nonlinearity=0.0,
    loose_fake_rate=0.03,
)
