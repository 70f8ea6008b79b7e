"""From a matrix of features in GeV and rad to the coordinates a network sees, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hepgen.events import Features, Scaler
from hepgen.events.scalings import wrap_angle

Matrix = NDArray[np.float64]


class Coordinates:
    """Bijection between feature matrices (n, d) and scaled ones: relative angles, then one scaling per column.

    Collisions look the same turned about the beam, and objects recoil against each other. With ``relative_angles`` every
    angle but the first output angle is therefore expressed as its distance from recoiling against that first one,
    ``wrap(phi_k - phi_1 - pi)``: a torus onto a torus, on which back-to-back objects are one peak and not two stripes.

    Parameters
    ----------
    features
        The columns; the periodic ones are the angles.
    scaler
        One scaling per column; quantiles of the reference sample to a standard normal by default.
    relative_angles
        Whether to use the relative angles.
    reference
        Which angle the others are relative to: the first "output" angle, or the first of the computed columns, the "condition", where
        those are given and the outputs are drawn.
    """

    def __init__(
        self,
        features: Features,
        scaler: Scaler | None = None,
        *,
        relative_angles: bool = True,
        reference: Literal["output", "condition"] = "output",
    ) -> None:
        self.scaler = scaler if scaler is not None else Scaler.default(features)
        angles = np.flatnonzero(features.periodic)
        outputs = len(features.outputs)
        wanted = angles[angles < outputs] if reference == "output" else angles[angles >= outputs]
        self.first: int | None = int(wanted[0]) if relative_angles and len(angles) > 1 and len(wanted) else None
        self.others = angles[angles != self.first] if self.first is not None else angles[:0]

    def fit(self, matrix: Matrix, weights: Matrix | None = None) -> Coordinates:
        """Fit the scalings to a reference sample (n, d) with signed weights (n,)."""
        self.scaler.fit(self._relative(matrix), weights)
        return self

    def forward(self, matrix: Matrix) -> Matrix:
        """(n, d) in GeV and rad -> (n, d) scaled."""
        return self.scaler.forward(self._relative(matrix))

    def supports(self, matrix: Matrix) -> NDArray[np.bool_]:
        """Which entries (n, d) `forward` takes."""
        return self.scaler.supports(self._relative(matrix))

    def inverse(self, scaled: Matrix) -> Matrix:
        """(n, d) scaled -> (n, d) in GeV and rad."""
        matrix = self.scaler.inverse(scaled)
        if self.first is not None:
            matrix[:, self.others] = wrap_angle(matrix[:, self.others] + matrix[:, [self.first]] + np.pi)
        return matrix

    def _relative(self, matrix: Matrix) -> Matrix:
        if self.first is None:
            return matrix
        matrix = matrix.copy()
        matrix[:, self.others] = wrap_angle(matrix[:, self.others] - matrix[:, [self.first]] - np.pi)
        return matrix

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return {"scaler": self.scaler.to_dict(), "relative_angles": self.first is not None}

    @classmethod
    def from_dict(
        cls, features: Features, content: Mapping[str, Any], *, reference: Literal["output", "condition"] = "output"
    ) -> Coordinates:
        """The coordinates that `to_dict` wrote."""
        return cls(features, Scaler.from_dict(content["scaler"]), relative_angles=content["relative_angles"], reference=reference)
