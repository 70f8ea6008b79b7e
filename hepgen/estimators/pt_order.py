"""Collections that are ordered by falling pt in the events learnt from, and so in the generated ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepgen.events import Features
from hepgen.events.expressions import Path, parse

Matrix = NDArray[np.float64]


class Ordered(NamedTuple):
    """A collection of K elements: the columns of their pt, (K,), and of all their fields, each (K,)."""

    pt: list[int]
    fields: list[list[int]]


def ordered_collections(features: Features, matrix: Matrix) -> list[Ordered]:
    """The collections whose elements have falling pt in every event (n, d), NaN where absent."""
    fields: dict[tuple[str, str], dict[int, int]] = {}
    for column, name in enumerate(features.names):
        path = parse(name)
        if isinstance(path, Path) and len(path.indices) == 1:
            collection, _, field = "_".join(path.fields).rpartition("_")
            fields.setdefault((collection, field), {})[int(str(path.indices[0]))] = column
    found = []
    for (collection, field), elements in fields.items():
        if field != "pt" or len(elements) < 2:
            continue
        own = [columns for (other, _), columns in fields.items() if other == collection]
        if all(columns.keys() == elements.keys() for columns in own):
            ordered = Ordered([elements[k] for k in sorted(elements)], [[columns[k] for k in sorted(columns)] for columns in own])
            if not _wrong(matrix[:, ordered.pt]).any():
                found.append(ordered)
    return found


def order_by_pt(matrix: Matrix, collections: list[Ordered]) -> Matrix:
    """Events (n, d) whose elements are put in order, in place; absent ones (NaN) are the last of their collection."""
    for pt, fields in collections:
        rows = np.flatnonzero(_wrong(matrix[:, pt]))
        momenta = matrix[rows[:, None], pt]
        order = np.argsort(-momenta, axis=1, kind="stable")  # NaN comes last, as the absent elements do
        for columns in fields:
            matrix[rows[:, None], columns] = np.take_along_axis(matrix[rows[:, None], columns], order, axis=1)
    return matrix


def _wrong(momenta: Matrix) -> NDArray[np.bool_]:
    """Which events have an element that is harder than the one before."""
    return np.asarray((momenta[:, 1:] > momenta[:, :-1]).any(axis=1))
