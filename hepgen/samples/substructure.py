"""Jets of particles and six observables of their substructure, by fastjet and its contributed tools."""

from __future__ import annotations

from functools import cache
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import HepgenError, MissingDependency

Floats = NDArray[np.float64]

RADIUS = 0.4
MIN_JET_PT = 10.0
Z_CUT = 0.1
# far above the size of a jet, so that reclustering leaves out nothing
WHOLE = 10.0


@cache
def _fastjet() -> Any:
    try:
        import fastjet
        from fastjet._swig import ClusterSequence
    except ImportError as error:
        raise MissingDependency("making jets needs fastjet: pip install 'hepgen[pythia]'") from error
    if not hasattr(fastjet._pyjet.AwkwardClusterSequence, "njettiness"):
        raise HepgenError("this fastjet has no N-subjettiness: pip install 'fastjet>=3.5'")
    ClusterSequence.set_fastjet_banner_stream(None)
    return fastjet


def fastjet_version() -> str:
    """Return the version of fastjet found; MissingDependency where there is none."""
    return str(_fastjet().__version__)


def leading_jets(particles: ak.Array) -> tuple[NDArray[np.bool_], ak.Array]:
    """Find the jet of highest pT of every event: anti-kT, R = 0.4, E scheme, above 10 GeV.

    Parameters
    ----------
    particles : ak.Array
        Jagged (n, var) with px, py, pz, E [GeV].

    Returns
    -------
    found : (n,) bool
        Which events have a jet.
    constituents : ak.Array
        Of the leading jets, jagged (found.sum(), var) with px, py, pz, E [GeV].
    """
    fastjet = _fastjet()
    cluster = fastjet.ClusterSequence(_named(particles), fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS))
    jets = cluster.inclusive_jets(min_pt=MIN_JET_PT)
    members = cluster.constituent_index(min_pt=MIN_JET_PT)
    pt2 = jets.px**2 + jets.py**2
    found = ak.to_numpy(ak.num(pt2)) > 0
    leading = ak.argmax(pt2[found], axis=1, keepdims=True)
    inside = ak.flatten(ak.drop_none(members[found][leading]), axis=1)
    return found, particles[found][inside]


def observables(constituents: ak.Array) -> dict[str, Floats]:
    """Return the observables of jets from their constituents.

    With z_i = pT_i / sum_j pT_j and dR in rapidity and azimuth,

    - ``m`` [GeV] and ``pt`` [GeV], of the sum of the constituents' four-momenta; ``y`` and ``phi`` [rad] too;
    - ``mult``, how many constituents there are;
    - ``width``, ``sum_i z_i dR(i, jet) / R``, R = 0.4;
    - ``ln_rho``, ``ln(m_g^2 / pt^2)`` with the mass m_g that soft drop leaves (Larkoski et al., JHEP 05 (2014) 146; beta = 0,
      z_cut = 0.1, on the Cambridge/Aachen history of the jet), and the pt of the whole jet; -inf where no mass is left;
    - ``tau21``, tau_2 / tau_1 (Thaler and Van Tilburg, JHEP 03 (2011) 015; beta = 1), ``tau_N = sum_i z_i min_k dR(i, axis k) / R``
      with the N exclusive-kT subjets as axes. One such axis is the jet's own: tau_1 is the width. 0 for fewer than three constituents.

    Soft drop and tau_2 are those of fastjet's contributed tools (RecursiveTools, Nsubjettiness).

    Parameters
    ----------
    constituents : ak.Array
        Jagged (n, var), at least one in each jet, with px, py, pz, E [GeV].

    Returns
    -------
    dict
        "m", "mult", "width", "ln_rho", "tau21", "pt", "y" and "phi", each (n,) float64.
    """
    fastjet = _fastjet()
    sizes = ak.to_numpy(ak.num(constituents))
    four = np.column_stack([ak.to_numpy(ak.flatten(constituents[name])) for name in ("px", "py", "pz", "E")]).astype(np.float64)
    jet = np.repeat(np.arange(len(sizes)), sizes)
    total = np.column_stack([np.bincount(jet, weights=column, minlength=len(sizes)) for column in four.T]).astype(np.float64)
    pt, y, phi = _coordinates(total)
    width = _width(four, jet, y, phi)

    again = fastjet.ClusterSequence(_named(constituents), fastjet.JetDefinition(fastjet.cambridge_algorithm, WHOLE))
    groomed = again.exclusive_jets_softdrop_grooming(njets=1, beta=0.0, symmetry_cut=Z_CUT, symmetry_measure="scalar_z", R0=RADIUS)
    tau = again.njettiness(measure_definition="NormalizedMeasure", axes_definition="KT_Axes", njets=[2], beta=1.0, R0=RADIUS)
    mass = np.maximum(_plain(groomed.msoftdrop), 0.0)
    tau2 = _plain(tau).reshape(len(sizes))
    with np.errstate(divide="ignore", invalid="ignore"):
        ln_rho = 2.0 * np.log(mass / pt)
        tau21 = np.where((sizes > 2) & (width > 0), tau2 / width, 0.0)
    m2 = total[:, 3] ** 2 - (total[:, :3] ** 2).sum(axis=1)
    return {
        "m": np.sqrt(np.maximum(m2, 0.0)),
        "mult": sizes.astype(np.float64),
        "width": width,
        "ln_rho": ln_rho,
        "tau21": tau21,
        "pt": pt,
        "y": y,
        "phi": phi,
    }


def _named(particles: ak.Array) -> ak.Array:
    return ak.zip({name: particles[name] for name in ("px", "py", "pz", "E")}, with_name="Momentum4D")


def _plain(values: ak.Array) -> Floats:
    return np.asarray(ak.to_numpy(ak.fill_none(values, 0.0)), dtype=np.float64)


def _coordinates(four: Floats) -> tuple[Floats, Floats, Floats]:
    """pT [GeV], rapidity and azimuth [rad] of four-momenta px, py, pz, E, (k, 4)."""
    px, py, pz, energy = four.T
    return np.hypot(px, py), 0.5 * np.log((energy + pz) / (energy - pz)), np.arctan2(py, px)


def _width(four: Floats, jet: NDArray[np.int64], y: Floats, phi: Floats) -> Floats:
    """``sum_i z_i dR_i / R`` of jets with axes at `y` and `phi`; `jet` says whose constituent each is."""
    pt, y_each, phi_each = _coordinates(four)
    turn = np.abs(phi_each - phi[jet])
    distance = np.hypot(y_each - y[jet], np.minimum(turn, 2.0 * np.pi - turn))
    return np.asarray(np.bincount(jet, weights=pt * distance, minlength=len(y)) / np.bincount(jet, weights=pt, minlength=len(y)) / RADIUS)
