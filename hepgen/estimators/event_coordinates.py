"""From the columns of whole events, some of them absent, to the coordinates that a generator learns, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import ModelFileError, UsageError
from hepgen.estimators.energies import NAMES
from hepgen.events import Angle, Chain, Features, MaxAbs, Quantile, Scaler, Standard
from hepgen.events.expressions import Path, parse
from hepgen.events.scaling_base import Scaling
from hepgen.events.scalings import wrap_angle

Matrix = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Scalings by name: quantiles to a standard normal or a uniform, mean 0 and standard deviation 1, or the largest absolute value 1.
SCALINGS: dict[str, Callable[[], Scaling]] = {
    "normal": Quantile,
    "uniform": lambda: Quantile(output="uniform"),
    "standard": Standard,
    "max-abs": MaxAbs,
}


class EventCoordinates:
    """Columns of events (n, d), NaN where absent, to scaled columns (n, k) of those that vary, 0 where absent; and back.

    Three maps one after the other: an energy becomes the mass of its object, so that E^2 >= p^2 wherever it holds in the events learnt
    from; angles become distances from recoiling against the first angle that all events have; every column is scaled, as it is
    distributed where it is present. A column that is the same in all events is no coordinate, and comes back as it was.

    Parameters
    ----------
    features
        The columns.
    scaler
        A `Scaler` for all columns, or one of the names of `SCALINGS`, which leaves to the scalings of the features their columns.
    relative_angles, masses
        Whether to make these two maps.
    """

    def __init__(self, features: Features, scaler: Scaler | str = "normal", *, relative_angles: bool = True, masses: bool = True) -> None:
        self.names, self.angles = features.names, features.periodic
        self.scaler = _named(features, scaler) if isinstance(scaler, str) else scaler
        if len(self.scaler) != len(features):
            raise UsageError(f"the scaler has {len(self.scaler)} scalings, and there are {len(features)} columns: give one for each")
        self.relative_angles, self.masses = relative_angles, masses
        self.objects = energy_objects(features) if masses else []
        self.reference: int | None = None
        self.constant: Matrix = np.full(len(features), np.nan)
        self.limits: Matrix = np.empty((len(features), 2))

    @property
    def varying(self) -> NDArray[np.int64]:
        """The columns that are coordinates, (k,)."""
        return np.flatnonzero(np.isnan(self.constant))

    def fit(self, matrix: Matrix, present: Bools, weights: Matrix | None = None) -> EventCoordinates:
        """Learn from events (n, d) with signed weights (n,).

        Raises
        ------
        InputError
            The weights of the events that have a column sum to nothing.
        UsageError
            No column varies, or one is absent from all events.
        """
        always = np.flatnonzero(self.angles & present.all(axis=0))
        self.reference = int(always[0]) if self.relative_angles and len(always) and self.angles.sum() > 1 else None
        moved = self._moved(matrix)
        for column, name in enumerate(self.names):
            there = present[:, column]
            values, own = moved[there, column], None if weights is None else weights[there]
            if not len(values):
                raise UsageError(f"no event has the column '{name}': leave it out of the features")
            self.limits[column] = values.min(), values.max()
            self.constant[column] = values[0] if values.min() == values.max() else np.nan
            if np.isnan(self.constant[column]):
                self.scaler.scalings[column].fit(values, own, column=f"column '{name}'")
        if not len(self.varying):
            raise UsageError("all columns are constant: there is nothing to learn")
        return self

    def forward(self, matrix: Matrix, present: Bools) -> Matrix:
        """(n, d) in GeV and rad -> (n, k) scaled, 0 where absent."""
        moved = self._moved(matrix)
        scaled = np.zeros((len(matrix), len(self.varying)))
        for k, column in enumerate(self.varying):
            there = present[:, column]
            scaled[there, k] = self.scaler.scalings[column].forward(moved[there, column])
        return scaled

    def inverse(self, scaled: Matrix, present: Bools) -> Matrix:
        """(n, k) scaled, whatever it is where absent -> (n, d) in GeV and rad, NaN where absent.

        Every column stays within the limits of the events learnt from, an energy within those of its mass.
        """
        matrix = np.full(present.shape, np.nan, order="F")  # goes by columns
        for k, column in enumerate(self.varying):
            values = self.scaler.scalings[column].inverse(np.ascontiguousarray(scaled[:, k]))
            matrix[:, column] = np.clip(values, *self.limits[column])
        fixed = np.flatnonzero(~np.isnan(self.constant))
        matrix[:, fixed] = self.constant[fixed]
        if self.reference is not None:
            others = self._others()
            matrix[:, others] = wrap_angle(matrix[:, others] + matrix[:, [self.reference]] + np.pi)
        for energy, momentum in self.objects:
            mass = matrix[:, energy]
            matrix[:, energy] = np.sqrt(np.maximum(_square(matrix, momentum) + mass * np.abs(mass), 0.0))
        matrix[~present] = np.nan
        return matrix

    def _others(self) -> NDArray[np.int64]:
        return np.array([column for column in np.flatnonzero(self.angles) if column != self.reference], dtype=np.int64)

    def _moved(self, matrix: Matrix) -> Matrix:
        moved = matrix.copy()
        for energy, momentum in self.objects:
            square = matrix[:, energy] ** 2 - _square(matrix, momentum)
            moved[:, energy] = np.sign(square) * np.sqrt(np.abs(square))
        if self.reference is not None:
            others = self._others()
            moved[:, others] = wrap_angle(matrix[:, others] - matrix[:, [self.reference]] - np.pi)
        return moved

    def to_dict(self) -> dict[str, Any]:
        """All that was learnt, of types that JSON has."""
        return {
            "scalings": {str(column): self.scaler.scalings[column].to_dict() for column in self.varying},
            "constant": {str(column): value for column, value in enumerate(self.constant.tolist()) if not math.isnan(value)},
            "limits": self.limits.tolist(),
            "reference": self.reference,
            "relative_angles": self.relative_angles,
            "masses": self.masses,
        }

    @classmethod
    def from_dict(cls, features: Features, content: Mapping[str, Any]) -> EventCoordinates:
        """The coordinates that `to_dict` wrote."""
        made = cls(features, relative_angles=content["relative_angles"], masses=content["masses"])
        for column, scaling in content["scalings"].items():
            made.scaler.scalings[int(column)] = Scaling.from_dict(scaling)
        for column, value in content["constant"].items():
            made.constant[int(column)] = value
        made.limits, made.reference = np.asarray(content["limits"], dtype=np.float64), content["reference"]
        if made.limits.shape != (len(features), 2) or len(content["scalings"]) + len(content["constant"]) != len(features):
            raise ModelFileError("the description of the coordinates is damaged: it has not the columns of the features")
        return made


def _named(features: Features, name: str) -> Scaler:
    if name not in SCALINGS:
        raise UsageError(f"scaler={name!r} is not known: give a Scaler, or one of {', '.join(SCALINGS)}")
    made = [
        deepcopy(features.scalings[column])
        if column in features.scalings
        else Chain([Angle(), SCALINGS[name]()])
        if angle
        else SCALINGS[name]()
        for column, angle in zip(features.names, features.periodic, strict=True)
    ]
    return Scaler(made, features.names)


def energy_objects(features: Features) -> list[tuple[int, tuple[int, ...]]]:
    """Columns of every energy whose momentum is among the columns: (energy, (pt, eta)) or (energy, (px, py, pz))."""
    paths = {path.key: column for column, name in enumerate(features.names) if isinstance(path := parse(name), Path)}
    found = []
    for (joined, indices), column in paths.items():
        stem, _, last = joined.rpartition("_")
        if last not in NAMES:
            continue
        for parts in (("pt", "eta"), ("px", "py", "pz")):
            momentum = [paths.get((f"{stem}_{part}" if stem else part, indices)) for part in parts]
            if None not in momentum:
                found.append((column, tuple(int(str(part)) for part in momentum)))
                break
    return found


def _square(matrix: Matrix, momentum: tuple[int, ...]) -> Matrix:
    """The squared momentum (n,) of (pt, eta) or (px, py, pz)."""
    if len(momentum) == 2:
        return np.asarray((matrix[:, momentum[0]] * np.cosh(matrix[:, momentum[1]])) ** 2)
    return np.asarray(np.square(matrix[:, list(momentum)]).sum(axis=1))
