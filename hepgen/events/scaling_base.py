"""The face of all scalings, and the checks of the columns they are fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from hepgen.errors import InputError, ModelFileError, UsageError

Floats = npt.NDArray[np.float64]


def wrap_angle(x: Any) -> Floats:
    """Angles [rad] wrapped into [-pi, pi); those already there keep every bit, and inf becomes NaN."""
    x = np.asarray(x, dtype=np.float64)
    wrapped: Floats = x
    outside = (x < -math.pi) | (x >= math.pi)
    if not outside.any():
        return wrapped
    wrapped = x.copy()
    with np.errstate(invalid="ignore"):
        turned = np.mod(x[outside] + math.pi, 2 * math.pi) - math.pi
    # a tiny negative number plus 2 pi rounds up to 2 pi itself
    wrapped[outside] = np.where(turned >= math.pi, -math.pi, turned)
    return wrapped


class Scaling:
    """Face of all scalings; `fit` learns from a column and returns self."""

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type[Scaling]]] = {}
    _settings: ClassVar[tuple[str, ...]] = ()
    _learned: ClassVar[tuple[str, ...]] = ()
    _arrays: ClassVar[tuple[str, ...]] = ()  # what of the learned is not one number

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__
        Scaling._kinds[cls.kind] = cls

    def fit(self, x: Any, weights: Any = None, *, column: str = "column") -> Self:
        """Learn from a column.

        Parameters
        ----------
        x : (n,) float
        weights : (n,) float, optional
            Signed event weights; one each by default.
        column : str
            Name for error messages.

        Raises
        ------
        InputError
            The column is empty, constant, holds NaN or inf, lies outside of the support, or its weights do not sum to a positive number.
        """
        x = np.asarray(x, dtype=np.float64)
        if weights is not None:
            weights = np.asarray(weights, dtype=np.float64)
        _check_column(x, weights, column)
        self._fit(x, weights, column)
        return self

    def forward(self, x: Any) -> Floats:
        """Scaled column (n,) float64."""
        self._check_fitted()
        return self._forward(np.asarray(x, dtype=np.float64))

    def inverse(self, y: Any) -> Floats:
        """The column that `forward` scaled to y, (n,) float64."""
        self._check_fitted()
        return self._inverse(np.asarray(y, dtype=np.float64))

    def supports(self, x: Any) -> npt.NDArray[np.bool_]:
        """Which of the values (n,) `forward` takes: all, but for a scaling that is defined on a part of the numbers."""
        return np.ones(np.shape(x), dtype=bool)

    def _fit(self, x: Floats, weights: Floats | None, column: str) -> None:
        """Nothing to learn, unless a scaling does."""

    def _forward(self, x: Floats) -> Floats:
        raise NotImplementedError

    def _inverse(self, y: Floats) -> Floats:
        raise NotImplementedError

    def _check_fitted(self) -> None:
        if any(getattr(self, name) is None for name in self._learned):
            raise UsageError(f"this {self.kind} scaling was not fitted yet: call fit first")

    def to_dict(self) -> dict[str, Any]:
        """Kind, settings and learned numbers, of types that JSON has; floats survive it exactly."""
        data: dict[str, Any] = {"kind": self.kind}
        for name in self._settings + self._learned:
            value = getattr(self, name)
            data[name] = value.tolist() if isinstance(value, np.ndarray) else value
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Scaling:
        """The scaling that `to_dict` described; ModelFileError when it is no such description."""
        kind = Scaling._kinds.get(data.get("kind", "")) if isinstance(data, Mapping) else None
        if kind is None:
            raise ModelFileError(f"the description of a scaling is damaged, or of a newer hepgen: {str(data)[:80]}")
        try:
            return kind._from_dict(data)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"the description of a {kind.kind} scaling is damaged ({error})") from error

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Scaling:
        scaling = cls(**{name: data[name] for name in cls._settings})
        for name in cls._learned:
            setattr(scaling, name, _numbers(data[name]) if name in cls._arrays else _number(data[name]))
        scaling._check_learned()
        return scaling

    def _check_learned(self) -> None:
        for name in self._learned:
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name} is not finite")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scaling) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._settings)})"


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _numbers(value: Any) -> Floats | None:
    return None if value is None else np.asarray(value, dtype=np.float64)


def _check_column(x: Floats, weights: Floats | None, column: str) -> None:
    if x.ndim != 1 or not len(x):
        raise InputError(f"{column} has shape {x.shape}: a scaling is fitted to at least one event")
    check_support(np.isfinite(x), x, f"{column} must be finite")
    kept = x
    if weights is not None:
        if weights.shape != x.shape:
            raise InputError(f"{column} has {len(x)} events and {weights.shape} weights: give one weight for each event")
        check_support(np.isfinite(weights), weights, f"the weights of {column} must be finite")
        # a sum that cancels to rounding is a zero sum
        if weights.sum() <= 1e-12 * np.abs(weights).sum():
            raise InputError(f"the weights of {column} sum to {weights.sum():g}: a fit needs a positive sum")
        kept = x[weights != 0]
    if kept.min() == kept.max():
        raise InputError(f"{column} is constant ({kept[0]:g} in all {len(kept)} events): remove it from the features")


def check_support(inside: npt.NDArray[np.bool_], x: Floats, sentence: str) -> None:
    """InputError that begins with `sentence` and tells how many of x (n,), and the first of them, are not `inside` (n,)."""
    if not inside.all():
        outside = np.flatnonzero(~inside)
        first = ", ".join(f"{x[entry]:g} at row {entry}" for entry in outside[:3])
        raise InputError(f"{sentence}: {len(outside)} of {len(x)} do not ({first})")
