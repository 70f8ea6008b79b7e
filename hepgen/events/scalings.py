"""Bijective scalings of columns: forward to numbers a network likes, inverse back, fitted with signed event weights.

Every scaling has one face: ``fit(x, weights)``, ``forward(x)``, ``inverse(y)`` on float64 columns (n,), ``to_dict()`` and
``Scaling.from_dict``.  `Scaler` holds one scaling for each column of a feature matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events.quantiles import landmarks
from hepgen.events.scaling_base import Floats, Scaling, check_support, wrap_angle
from hepgen.kernels.broken_line import broken_line

if TYPE_CHECKING:
    from hepgen.events.features import Features

__all__ = ["Angle", "Chain", "Identity", "Log", "LogitRange", "MaxAbs", "Quantile", "Scaler", "Scaling", "Standard", "wrap_angle"]


class Identity(Scaling):
    """y = x."""

    def _forward(self, x: Floats) -> Floats:
        return x.copy()

    def _inverse(self, y: Floats) -> Floats:
        return y.copy()


class Standard(Scaling):
    """y = (x - mean) / std, both taken with the event weights: var = sum w (x - mean)^2 / sum w."""

    _learned = ("mean", "std")

    def __init__(self) -> None:
        self.mean: float | None = None
        self.std: float | None = None

    def _fit(self, x: Floats, weights: Floats | None, column: str) -> None:
        mean = float(np.average(x, weights=weights))
        variance = float(np.average((x - mean) ** 2, weights=weights))
        if not variance > 0:
            raise InputError(f"{column} has a weighted variance of {variance:g}: its negative weights leave no width to scale by")
        self.mean, self.std = mean, math.sqrt(variance)

    def _check_learned(self) -> None:
        super()._check_learned()
        if self.std is not None and not self.std > 0:
            raise ValueError("std is not positive")

    def _forward(self, x: Floats) -> Floats:
        return (x - self.mean) / self.std  # type: ignore[operator]

    def _inverse(self, y: Floats) -> Floats:
        return y * self.std + self.mean  # type: ignore[operator]


class MaxAbs(Scaling):
    """y = x / max abs(x), over the events of nonzero weight (PAPERS: B-VAE event generation)."""

    _learned = ("scale",)

    def __init__(self) -> None:
        self.scale: float | None = None

    def _fit(self, x: Floats, weights: Floats | None, column: str) -> None:  # noqa: ARG002
        self.scale = float(np.abs(x if weights is None else x[weights != 0]).max())

    def _check_learned(self) -> None:
        super()._check_learned()
        if self.scale is not None and not self.scale > 0:
            raise ValueError("scale is not positive")

    def _forward(self, x: Floats) -> Floats:
        return x / self.scale  # type: ignore[operator]

    def _inverse(self, y: Floats) -> Floats:
        return y * self.scale  # type: ignore[operator]


class Log(Scaling):
    """y = ln(x + shift), for x > -shift."""

    _settings = ("shift",)

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = float(shift)

    def supports(self, x: Any) -> npt.NDArray[np.bool_]:
        """Which of the values lie above -shift."""
        return np.asarray(np.asarray(x) > -self.shift)

    def _fit(self, x: Floats, weights: Floats | None, column: str) -> None:  # noqa: ARG002
        check_support(self.supports(x), x, f"{column} must lie above {0.0 - self.shift:g} for Log(shift={self.shift:g})")

    def _forward(self, x: Floats) -> Floats:
        check_support(self.supports(x) | np.isnan(x), x, f"values must lie above {0.0 - self.shift:g} for Log(shift={self.shift:g})")
        return np.log(x + self.shift)

    def _inverse(self, y: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.exp(y) - self.shift


class LogitRange(Scaling):
    """y = ln((x - low) / (high - x)), for low < x < high: the inverse never leaves the range."""

    _settings = ("low", "high")

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = float(low), float(high)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"LogitRange(low={low}, high={high}) needs low < high")

    def _fit(self, x: Floats, weights: Floats | None, column: str) -> None:  # noqa: ARG002
        self._check(x, column)

    def supports(self, x: Any) -> npt.NDArray[np.bool_]:
        """Which of the values lie inside the range."""
        return np.asarray((np.asarray(x) > self.low) & (np.asarray(x) < self.high))

    def _check(self, x: Floats, what: str) -> None:
        check_support(self.supports(x) | np.isnan(x), x, f"{what} must lie strictly between {self.low:g} and {self.high:g} for {self!r}")

    def _forward(self, x: Floats) -> Floats:
        self._check(x, "values")
        return np.log((x - self.low) / (self.high - x))

    def _inverse(self, y: Floats) -> Floats:
        # measured from the nearer end, so that values close to either end keep their digits
        tail = np.exp(-np.abs(y))
        part = (self.high - self.low) * (tail / (1.0 + tail))
        x = np.where(y < 0, self.low + part, self.high - part)
        return np.clip(x, np.nextafter(self.low, self.high), np.nextafter(self.high, self.low))


class Angle(Scaling):
    """An angle [rad] wrapped into [-pi, pi), both ways."""

    def _forward(self, x: Floats) -> Floats:
        return wrap_angle(x).copy()

    def _inverse(self, y: Floats) -> Floats:
        return wrap_angle(y).copy()


class Quantile(Scaling):
    """To a normal or uniform distribution through the column's own (weighted) cumulative distribution.

    A strictly monotone piecewise line through landmarks (x_k, y_k), y_k = Phi^-1(F(x_k)) or F(x_k), with linear tails: invertible
    everywhere, also outside of the fitted range.  A gap in the column stays one, and a spike of equal values becomes an interval that is
    1e-9 of the range wide: see `hepgen.events.quantiles`.

    Parameters
    ----------
    n_quantiles : int
        Landmarks at equal steps of probability; more are set in the tails and at gaps and spikes.
    output : {"normal", "uniform"}
    """

    _settings = ("n_quantiles", "output")
    _learned = ("x", "y", "tails")
    _arrays = _learned

    def __init__(self, n_quantiles: int = 1000, output: str = "normal") -> None:
        if output not in {"normal", "uniform"}:
            raise UsageError(f"Quantile(output='{output}') is neither 'normal' nor 'uniform'")
        if isinstance(n_quantiles, bool) or not isinstance(n_quantiles, int) or n_quantiles < 2:
            raise UsageError(f"Quantile(n_quantiles={n_quantiles}) needs an integer of 2 or more")
        self.n_quantiles, self.output = n_quantiles, output
        self.x: Floats | None = None
        self.y: Floats | None = None
        self.tails: Floats | None = None

    def _fit(self, x: Floats, weights: Floats | None, column: str) -> None:
        self.x, self.y, self.tails = landmarks(x, weights, self.n_quantiles, normal=self.output == "normal", column=column)

    def _check_learned(self) -> None:
        super()._check_learned()
        if self.x is None or self.y is None or self.tails is None:
            return
        if self.x.shape != self.y.shape or len(self.x) < 2 or (np.diff(self.x) <= 0).any() or (np.diff(self.y) <= 0).any():
            raise ValueError("the landmarks do not rise")
        if self.tails.shape != (2,) or (self.tails <= 0).any():
            raise ValueError("the tails do not rise")

    def _forward(self, x: Floats) -> Floats:
        return broken_line(x, self.x, self.y, (self.tails[0], self.tails[1]))  # type: ignore[arg-type,index]

    def _inverse(self, y: Floats) -> Floats:
        return broken_line(y, self.y, self.x, (1.0 / self.tails[0], 1.0 / self.tails[1]))  # type: ignore[arg-type,index]


class Chain(Scaling):
    """Scalings one after the other: the first is applied first going forward, last going back."""

    def __init__(self, scalings: Iterable[Scaling]) -> None:
        self.scalings = list(scalings)

    def _fit(self, x: Floats, weights: Floats | None, column: str) -> None:
        for scaling in self.scalings:
            x = scaling.fit(x, weights, column=column).forward(x)

    def supports(self, x: Any) -> npt.NDArray[np.bool_]:
        """Which of the values every scaling takes from the one before."""
        values, supported = np.asarray(x, dtype=np.float64), np.ones(np.shape(x), dtype=bool)
        for scaling in self.scalings:
            supported &= scaling.supports(values)
            values = scaling.forward(np.where(supported, values, np.nan))
        return supported

    def _check_fitted(self) -> None:
        for scaling in self.scalings:
            scaling._check_fitted()

    def _forward(self, x: Floats) -> Floats:
        for scaling in self.scalings:
            x = scaling.forward(x)
        return x.copy() if not self.scalings else x

    def _inverse(self, y: Floats) -> Floats:
        for scaling in reversed(self.scalings):
            y = scaling.inverse(y)
        return y.copy() if not self.scalings else y

    def to_dict(self) -> dict[str, Any]:
        """The scalings of the chain in order."""
        return {"kind": self.kind, "scalings": [scaling.to_dict() for scaling in self.scalings]}

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Scaling:
        return cls([Scaling.from_dict(scaling) for scaling in data["scalings"]])

    def __repr__(self) -> str:
        return f"Chain({self.scalings})"


class Scaler:
    """One scaling for each column of a matrix (n, d).

    Parameters
    ----------
    scalings : sequence of Scaling, one for each column
    names : sequence of str, optional
        Column names for error messages.
    """

    def __init__(self, scalings: Sequence[Scaling], names: Sequence[str] | None = None) -> None:
        self.scalings = list(scalings)
        self.names = list(names) if names is not None else [f"column {column}" for column in range(len(self.scalings))]
        if len(self.names) != len(self.scalings):
            raise UsageError(f"{len(self.scalings)} scalings cannot have {len(self.names)} names: give one for each column")

    @classmethod
    def default(cls, features: Features) -> Scaler:
        """Quantile to a normal for every column, after Angle for periodic ones; the features' own scalings come first.  Unfitted."""
        scalings = [
            deepcopy(features.scalings[name]) if name in features.scalings else Chain([Angle(), Quantile()]) if angle else Quantile()
            for name, angle in zip(features.names, features.periodic, strict=True)
        ]
        return cls(scalings, features.names)

    def fit(self, matrix: Any, weights: Any = None) -> Scaler:
        """Fit every column of a matrix (n, d) with signed weights (n,); errors are those of `Scaling.fit` and name the column."""
        matrix = self._checked(matrix)
        for column, (scaling, name) in enumerate(zip(self.scalings, self.names, strict=True)):
            scaling.fit(matrix[:, column], weights, column=f"column '{name}'")
        return self

    def forward(self, matrix: Any) -> Floats:
        """Scaled matrix (n, d) float64."""
        return self._apply(matrix, [scaling.forward for scaling in self.scalings])

    def inverse(self, matrix: Any) -> Floats:
        """The matrix (n, d) float64 that `forward` scaled."""
        return self._apply(matrix, [scaling.inverse for scaling in self.scalings])

    def supports(self, matrix: Any) -> npt.NDArray[np.bool_]:
        """Which entries (n, d) of a matrix the scaling of their column takes."""
        return np.stack([scaling.supports(column) for scaling, column in zip(self.scalings, self._checked(matrix).T, strict=True)], axis=1)

    def _apply(self, matrix: Any, functions: list[Callable[[Any], Floats]]) -> Floats:
        matrix = self._checked(matrix)
        result = np.empty(matrix.shape)
        for column, (function, name) in enumerate(zip(functions, self.names, strict=True)):
            try:
                result[:, column] = function(np.ascontiguousarray(matrix[:, column]))
            except InputError as error:
                raise InputError(f"column '{name}': {error}") from error
        return result

    def _checked(self, given: Any) -> Floats:
        matrix: Floats = np.asarray(given, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != len(self.scalings):
            raise InputError(f"the matrix has shape {matrix.shape}, but the scalings are for {len(self)} columns: {', '.join(self.names)}")
        return matrix

    def __len__(self) -> int:
        return len(self.scalings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scaler) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.names))

    def __repr__(self) -> str:
        return f"Scaler({self.scalings}, names={self.names})"

    def to_dict(self) -> dict[str, Any]:
        """Names and scalings, of types that JSON has; floats survive it exactly."""
        return {"names": list(self.names), "scalings": [scaling.to_dict() for scaling in self.scalings]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scaler:
        """The scaler that `to_dict` described; ModelFileError when it is no such description."""
        try:
            return cls([Scaling.from_dict(scaling) for scaling in data["scalings"]], data["names"])
        except (KeyError, TypeError, UsageError) as error:
            raise ModelFileError(f"the description of the scalings is damaged ({error})") from error
