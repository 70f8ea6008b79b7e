"""A particle at rest decays to two: the toy of paper D, exact, made without Pythia.

The masses, the polar and the azimuthal angle are uniform; everything else follows from conservation of energy and momentum.
"""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.samples import pythia
from hepgen.samples.nano import numbered

Floats = NDArray[np.float64]

SAMPLES = ("events",)
TREE = "Events"
RUN = 1
MASS = 100.0
# the largest for which every pair of masses is light enough
MAX_DAUGHTER_MASS = 0.5 * MASS
EVENTS_PER_BLOCK = 5000


def describe() -> dict[str, Any]:
    """Return every setting that the events depend on, JSON-able, for the provenance."""
    return {
        "mass_GeV": MASS,
        "uniform": {"masses_GeV": [0.0, MAX_DAUGHTER_MASS], "theta": "[0, pi)", "phi": "[-pi, pi)"},
        "weights": "1",
    }


def versions() -> dict[str, str]:
    """Return the versions of the programs that make the events."""
    return {"numpy": np.__version__}


def generate_block(sample: str, seed: int, block: int, n: int) -> tuple[ak.Array, dict[str, int | float]]:
    """Generate one block; it depends on nothing but its arguments.

    Parameters
    ----------
    sample : "events".
    seed, block : the seed of the production and the index of this block in it.
    n : number of events, at most `EVENTS_PER_BLOCK`.

    Returns
    -------
    events : ak.Array
        The branches of the tree ``Events`` (GeV), (n,): see `docs/samples.md`.
    counts : dict
        Number of events generated.
    """
    _, rng = pythia.block_seeds(SAMPLES.index(sample), SAMPLES, seed, block)
    # one row an event, so that a shorter block is the beginning of a longer one
    first_mass, second_mass, theta, phi = rng.random((n, 4)).T
    pair = decay(MAX_DAUGHTER_MASS * first_mass, MAX_DAUGHTER_MASS * second_mass, np.pi * theta, np.pi * (2.0 * phi - 1.0))
    two = np.full(n, 2)
    branches = {
        "nParticle": two.astype(np.int32),
        **{f"Particle_{name}": ak.unflatten(column.reshape(-1), two) for name, column in pair.items()},
    }
    return numbered(ak.zip(branches, depth_limit=1), RUN, 1 + block, 1 + block * EVENTS_PER_BLOCK), {"generated": n}


def decay(first_mass: Floats, second_mass: Floats, theta: Floats, phi: Floats) -> dict[str, Floats]:
    """Return E, px, py, pz and mass [GeV], (n, 2) each, of the products of `MASS` at rest; the first goes to `theta`, `phi` [rad]."""
    # p = sqrt((M^2 - (m1 + m2)^2) (M^2 - (m1 - m2)^2)) / 2M
    total, difference = first_mass + second_mass, first_mass - second_mass
    p = np.sqrt((MASS - total) * (MASS + total) * (MASS - difference) * (MASS + difference)) / (2.0 * MASS)
    unit = (np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta))
    momenta = {name: np.column_stack([p * part, -p * part]) for name, part in zip(("px", "py", "pz"), unit, strict=True)}
    mass = np.column_stack([first_mass, second_mass])
    return {"E": np.hypot(p[:, None], mass), **momenta, "mass": mass}
