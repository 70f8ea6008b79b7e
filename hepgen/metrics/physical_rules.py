"""Rules that every physical event obeys, and how often events of a generator break them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import UsageError
from hepgen.metrics.checks import Float, checked_matrix, checked_weights, effective_entries

if TYPE_CHECKING:
    from hepgen.events.selections import Selection

Bools = NDArray[np.bool_]

_COLUMN = re.compile(r"^(?P<object>.+?)[._](?P<quantity>pt|eta|phi|mass|m|E|energy|px|py|pz)(?P<index>\[\d+\])?$")
_SAME = {"m": "mass", "energy": "E"}
_NUMBERED = re.compile(r"^(?P<name>.*?)\[?(?P<number>\d+)\]?$")


class Physicality(NamedTuple):
    """The weighted `fraction` of events that break any rule, its error, how many `events` that is, and each rule.

    `rules` holds (label, fraction, error, events) of each; `skipped` the cuts that the columns do not allow to compute.
    """

    fraction: float
    error: float
    events: int
    rules: tuple[tuple[str, float, float, int], ...]
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, of types that JSON has; rules by their label."""
        rules = {label: {"fraction": fraction, "error": error, "events": events} for label, fraction, error, events in self.rules}
        return {"fraction": self.fraction, "error": self.error, "events": self.events, "rules": rules, "skipped": list(self.skipped)}


def physicality(
    matrix: ArrayLike,
    names: Sequence[str],
    weights: ArrayLike | None = None,
    *,
    selection: Selection | None = None,
    tolerance: float = 1e-4,
) -> Physicality:
    """Return how many events break the rules that the columns allow to check.

    - ``Jet[0].E >= p``: E^2 >= p^2, from (pt, eta) or (px, py, pz), where the object has no mass column; E >= 0
    - ``Jet[0] on shell``: E^2 = p^2 + m^2 (paper D, eq. 2), where it has
    - ``Jet[0].pt >= 0``, ``Jet[0].mass >= 0``, ``Jet[0].phi in [-pi, pi]``
    - ``Jet[0].pt >= Jet[1].pt``: objects of one name stand in the order of their numbers
    - each cut of the selection, by its label. A cut on an object all of whose columns are zero, which stands for an absent one, is met.

    Parameters
    ----------
    matrix : (n, d) events, GeV and rad
    names : d column names such as "Jet[0].E", "Lepton_pt[1]", "jet1.pt", "MET.phi"
    weights : (n,) event weights of either sign
    selection : cuts that the events should pass, on the columns by name; these must be paths, then
    tolerance : E and p may differ by this fraction of E, E^2 and p^2 + m^2 by this fraction of E^2

    Returns
    -------
    Physicality, with errors as in `fraction_outside`

    Raises
    ------
    InputError, UsageError
        Empty or not finite matrix, mismatched names or weights; columns that no rule speaks of.
    """
    x = checked_matrix(matrix, "the matrix", names)
    w = checked_weights(weights, len(x), "the matrix")
    if not 0 <= tolerance < 1:
        raise UsageError(f"tolerance is {tolerance!r}, expected a number of at least 0 and below 1")
    objects = _objects(names)
    broken: dict[str, Bools] = {}
    for owner, columns in objects.items():
        broken.update(_of_object(owner, {quantity: x[:, column] for quantity, column in columns.items()}, tolerance))
    broken.update(_of_order(objects, x))
    skipped: tuple[str, ...] = ()
    if selection is not None:
        cuts, skipped = _of_cuts(selection, objects, names, x)
        broken.update(cuts)
    if not broken:
        raise UsageError(f"no rule speaks of the columns {', '.join(names)}: name them after objects, as Jet[0].pt, or give a selection")
    every = np.logical_or.reduce(list(broken.values()))
    rules = tuple((label, *_fraction(events, w), int(events.sum())) for label, events in broken.items())
    return Physicality(*_fraction(every, w), int(every.sum()), rules, skipped)


def _objects(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return object -> quantity -> column number."""
    found: dict[str, dict[str, int]] = {}
    for column, name in enumerate(names):
        if match := _COLUMN.match(name):
            quantity = _SAME.get(match["quantity"], match["quantity"])
            found.setdefault(match["object"] + (match["index"] or ""), {})[quantity] = column
    return found


def _of_object(owner: str, columns: Mapping[str, Float], tolerance: float) -> Iterator[tuple[str, Bools]]:
    for quantity in ("pt", "mass"):
        if quantity in columns:
            yield f"{owner}.{quantity} >= 0", columns[quantity] < 0
    if "phi" in columns:
        # single precision has a pi of its own
        yield f"{owner}.phi in [-pi, pi]", np.abs(columns["phi"]) > np.pi * (1 + 1e-6)
    p = _momentum(columns)
    if p is None or "E" not in columns:
        return
    energy = columns["E"]
    if "mass" in columns:
        yield f"{owner} on shell", np.abs(energy**2 - p**2 - columns["mass"] ** 2) > tolerance * energy**2
    else:
        yield f"{owner}.E >= p", p * (1 - tolerance) > energy


def _momentum(columns: Mapping[str, Float]) -> Float | None:
    """Return abs(p) [GeV], (n,), or None where the columns do not give it; eta of any size is allowed."""
    import vector

    cartesian = {name: columns[name] for name in ("px", "py", "pz") if name in columns}
    if len(cartesian) == 3:
        momentum: Any = vector.array(cartesian)
        return np.asarray(momentum.mag, dtype=np.float64)
    if {"pt", "eta"} <= columns.keys():
        with np.errstate(over="ignore", invalid="ignore"):
            momentum = vector.array({"pt": columns["pt"], "phi": np.zeros_like(columns["pt"]), "eta": columns["eta"]})
            return np.nan_to_num(np.asarray(momentum.mag, dtype=np.float64), nan=0.0)
    return None


def _of_order(objects: Mapping[str, Mapping[str, int]], x: Float) -> Iterator[tuple[str, Bools]]:
    numbered: dict[str, list[tuple[int, str]]] = {}
    for owner, columns in objects.items():
        if "pt" in columns and (match := _NUMBERED.match(owner)):
            numbered.setdefault(match["name"], []).append((int(match["number"]), owner))
    for entries in numbered.values():
        for (_, first), (_, second) in pairwise(sorted(entries)):
            yield f"{first}.pt >= {second}.pt", x[:, objects[second]["pt"]] > x[:, objects[first]["pt"]]


def _of_cuts(
    selection: Selection, objects: Mapping[str, Mapping[str, int]], names: Sequence[str], x: Float
) -> tuple[dict[str, Bools], tuple[str, ...]]:
    from hepgen.events.features import Features

    features = Features(names)
    computed = selection.matrix_cuts(features)
    found = {}
    for cut in computed:
        absent = np.zeros(len(x), dtype=bool)
        for owner, columns in objects.items():
            if owner in cut.expression or any(names[column] in cut.expression for column in columns.values()):
                absent |= ~np.any(x[:, list(columns.values())], axis=1)
        found[cut.label] = ~type(selection)([cut]).matrix_mask(features, x) & ~absent
    return found, tuple(cut.label for cut in selection.cuts if cut not in computed)


def _fraction(events: Bools, w: Float) -> tuple[float, float]:
    fraction = float(w[events].sum() / w.sum())
    if events.all() or not events.any():
        return fraction, 1 / effective_entries(w)
    return fraction, float(np.sqrt((w**2 * (events - fraction) ** 2).sum()) / abs(w.sum()))
