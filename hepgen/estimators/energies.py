"""The energy of an object whose momentum was transformed: at constant mass, so that the four-vector stays one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from hepgen.events import Features
from hepgen.events.expressions import EventSource, NameSource, Path, parse
from hepgen.events.features import event_layout

NAMES = ("E", "e", "energy", "Energy")


def energy_columns(features: Features, available: Iterable[str]) -> set[str]:
    """Names of the columns (dotted or flat) that `follow_energies` reads and writes, of those available."""
    source = NameSource(available)
    needed: set[str] = set()
    for names in _objects(features, source.has):
        needed |= Features(names).columns(available)
    return needed


def follow_energies(features: Features, before: Any, after: Any) -> Any:
    """Set the energy of every transformed object that has one: ``E' = sqrt(m^2 + p'^2)`` with ``m^2 = max(E^2 - p^2, 0)``.

    Without it an object's mass, which vector computes from E, would be that of two different events. Objects that did not
    change keep every bit, and an energy that is itself among the outputs is left to them.

    Parameters
    ----------
    features
        What was transformed.
    before, after
        The events before and after, GeV.
    """
    source = EventSource(event_layout(before))
    for names in _objects(features, source.has):
        columns = features.of(names)
        (old, mask), (new, _) = (columns.to_matrix(events, invalid="nan") for events in (before, after))
        moved = ~((old == new) | (np.isnan(old) & np.isnan(new)))[:, :2].all(axis=1)
        mask[np.flatnonzero(mask)[~moved]] = False
        momentum, target = (matrix[moved, 0] * np.cosh(matrix[moved, 1]) for matrix in (old, new))
        mass_squared = np.maximum(old[moved, 2] ** 2 - momentum**2, 0)
        after = features.of(names[2:]).from_matrix(after, np.sqrt(mass_squared + target**2)[:, None], mask)
    return after


def _objects(features: Features, has: Callable[[Path], bool]) -> Iterator[list[str]]:
    """(pt, eta, energy) columns of every object of which pt or eta is transformed and which has an energy that is not."""
    seen = set()
    for output in features.outputs:
        path = parse(output)
        name = path.fields[-1] if isinstance(path, Path) else ""
        stem = next((name.removesuffix(last) for last in ("pt", "eta") if name == last or name.endswith(f"_{last}")), None)
        if not isinstance(path, Path) or stem is None:
            continue
        pt, eta, *energies = (_renamed(path, stem + last) for last in ("pt", "eta", *NAMES))
        energy = next((candidate for candidate in energies if has(candidate)), None)
        if energy is None or str(energy) in features.outputs or energy in seen or not (has(pt) and has(eta)):
            continue
        seen.add(energy)
        yield [str(pt), str(eta), str(energy)]


def _renamed(path: Path, name: str) -> Path:
    """The path with its last name replaced."""
    last = max(i for i, step in enumerate(path.steps) if isinstance(step, str))
    return Path((*path.steps[:last], name, *path.steps[last + 1 :]))
