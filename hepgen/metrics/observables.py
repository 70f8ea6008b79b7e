"""What column names say: which object and quantity a column is, and the masses of pairs that follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hepgen.errors import InputError
from hepgen.metrics.checks import Float

QUANTITIES = ("pt", "eta", "phi", "mass", "m")
_DOTTED = re.compile(r"^(?P<object>.+)[._](?P<quantity>pt|eta|phi|mass|m)(?P<index>\[\d+\])?$")
_NUMBERED = re.compile(r"^(?P<quantity>pt|eta|phi)(?P<object>\d+)$")
_SHORT = {"photon": "y", "muon": "mu", "electron": "e", "jet": "j", "tau": "tau"}


def parse(name: str) -> tuple[str, str]:
    """Return (object, quantity) of a column name: "photon[0].pt" and "photon_pt[0]" give ("photon[0]", "pt"), others ("", name)."""
    if match := _DOTTED.match(name):
        return match["object"] + (match["index"] or ""), match["quantity"]
    if match := _NUMBERED.match(name):
        return match["object"], match["quantity"]
    return "", name


def momenta(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the objects that have pt, eta and phi among `names`, in order, with the column number of each quantity."""
    found: dict[str, dict[str, int]] = {}
    for column, name in enumerate(names):
        owner, quantity = parse(name)
        if owner and quantity in QUANTITIES:
            found.setdefault(owner, {})["mass" if quantity == "m" else quantity] = column
    return {owner: columns for owner, columns in found.items() if {"pt", "eta", "phi"} <= set(columns)}


def mass_name(first: str, second: str) -> str:
    """Return the name of a pair's mass: m_yy for two photons, m_mumu for two muons, m_12 for numbered objects."""
    short = [_SHORT.get(owner.split("[")[0].lower(), owner.split("[")[0]) for owner in (first, second)]
    return "m_" + "".join(short)


def pair_mass(matrix: Float, first: dict[str, int], second: dict[str, int]) -> Float:
    """Return the invariant mass of two objects, (n,) float64 in GeV, from columns in GeV and rad; massless where they have no mass."""
    import vector

    with np.errstate(over="ignore", invalid="ignore"):
        pair: list[Any] = [
            vector.array(
                {
                    "pt": matrix[:, columns["pt"]],
                    "eta": matrix[:, columns["eta"]],
                    "phi": matrix[:, columns["phi"]],
                    "mass": matrix[:, columns["mass"]] if "mass" in columns else np.zeros(len(matrix)),
                }
            )
            for columns in (first, second)
        ]
        mass = np.asarray((pair[0] + pair[1]).mass, dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(mass)))
    if bad:
        raise InputError(f"the mass of the pair is not finite for {bad} events: their pt or eta is out of any physical range")
    return mass


def pair_observables(names: Sequence[str], matrix: Float) -> dict[str, Float]:
    """Return the derived columns of a feature matrix: the mass of the pair when exactly two objects have pt, eta and phi.

    Parameters
    ----------
    names : column names, e.g. "photon[0].pt", "photon_eta[1]", "phi2"
    matrix : (n, d) float64, GeV and rad

    Returns
    -------
    dict of name -> (n,) float64 in GeV: {"m_yy": ...} for two photons, {} where there is no such pair.
    """
    found = momenta(names)
    if len(found) != 2:
        return {}
    (first, columns), (second, others) = found.items()
    return {mass_name(first, second): pair_mass(matrix, columns, others)}
