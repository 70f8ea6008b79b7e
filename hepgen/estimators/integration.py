"""Phase-space integrals by importance sampling: points are drawn from a generator that was fitted to events like the integrand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators.event_density import log_jacobian, without_limits
from hepgen.estimators.event_generator import BLOCK, EventGenerator
from hepgen.estimators.generator_models.base import event_numbers
from hepgen.estimators.proposals import Proposal, proposal
from hepgen.kernels import philox

Matrix = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Streams of the random numbers of one point, beside those of the models.
FLAT, PLACE = 8, 9


@dataclass(frozen=True)
class Integral:
    """An integral, and the weighted points that it is the mean of.

    Attributes
    ----------
    value, error : float
        The mean of the weights and its standard error.
    weights : (n,) float64
        f / q of every point: histograms of the points with weights / n are the differential integral.
    values : (n, d) float64
        The points as columns of the features, in GeV and rad.
    variance_reduction : float or None
        The variance of flat points between the limits over that of these points, both as estimated from these; None without limits.
    """

    value: float
    error: float
    weights: Matrix
    values: Matrix
    variance_reduction: float | None

    @property
    def effective(self) -> float:
        """The number of points of equal weight that would be as good: (sum w)^2 / sum w^2."""
        square = float(np.square(self.weights).sum())
        return float(self.weights.sum()) ** 2 / square if square else 0.0

    @property
    def efficiency(self) -> float:
        """The share of points that are kept where weights are made equal by rejection: mean over largest, of absolute values."""
        sizes = np.abs(self.weights)
        return float(sizes.mean() / sizes.max()) if sizes.any() else 0.0


def importance_weights(
    model: EventGenerator,
    f: Callable[[Any], ArrayLike],
    n: int,
    *,
    limits: ArrayLike | Mapping[str, tuple[float, float]] | None = None,
    flat: float = 0.0,
    seed: int | None = None,
    records: bool = False,
) -> Integral:
    """Integrate f over the columns of a model, as the mean of f / q over points drawn with the density q of the model.

    The integral is right whatever the model has learnt, as long as q > 0 where f is not 0; the better q follows f, the smaller is its
    error. The points are not put in order of pt, nor cut to the limits of the events learnt from, so that q is known: see `log_density`.

    A "bvae" has no q(x) in closed form, and where it has fewer latents than columns its decoder reaches no more than a surface. But the
    density of a point x together with the latents z that it was decoded from is known: p(z) N(x; decoder(z), s^2), where p is the prior
    and s^2 = columns B / 2 (1 - B) the variance of the scaled columns that the loss of a B-VAE stands for. As any r(z | x) integrates to
    one, the integral of f is that of f(x) r(z | x) over x and z, and the mean of f(x) r(z | x) / (p(z) N(x; decoder(z), s^2)) is the
    integral, without bias: see `hepgen.estimators.proposals.Decoded` for r. Give `flat` a share there. (Paper D says that weights can be
    had as in Klimek and Perelstein 2018, where they are the Jacobian of the network, and does not say how with other latents than columns.)

    Parameters
    ----------
    model
        Fitted, of "maf", "gmm", "kde", "flow-matching" (whose q is as exact as its Runge-Kutta steps), or "bvae" with the prior
        "buffer", "kde" or "normal". All events must have the same objects.
    f
        The integrand: takes points (m, d) as columns of the features, in GeV and rad, and gives (m,) numbers of either sign. A column
        that is constant in the events learnt from is not integrated over, and keeps its value.
    n
        Points, which f is called with in parts of 65 536 at most.
    limits
        The region: (d, 2), or name -> (low, high) of every column that varies, where angles left out are taken over a whole turn. f
        counts as 0 outside, and is not called. Everywhere where None.
    flat
        Share of the points that are drawn flat between the limits in place of from the model, at least 0 and at most 1. Some 0.1 bounds
        the weights, at the price of that share of the points, and so helps against places that the model has missed.
    seed
        Of the random numbers; that of the model's fit where None. A point depends on the seed and its number alone.
    records
        Call f with events of the layout of those learnt from, as `EventGenerator.sample` gives them, in place of a matrix.

    Raises
    ------
    InputError
        f gives numbers that are not finite, or not one for each point.
    UsageError
        The model has no density or knows of absent objects, or the limits, `flat` or n make no sense.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise UsageError(f"n={n!r} is no number of points: give 2 or more")
    drawn = proposal(model)
    region = None if limits is None else _Region.of(model, limits)
    if not 0 <= flat <= 1 or (flat > 0 and (region is None or not region.bounded)):
        raise UsageError(f"flat={flat} must be at least 0 and at most 1, and needs finite limits where it is not 0")
    seed = model.seed if seed is None else seed
    values, log_q, terms = np.empty((n, len(model.features))), np.empty(n), np.zeros(n)
    for start in range(0, n, BLOCK):
        own = slice(start, min(start + BLOCK, n))
        values[own], log_q[own], inside = _points(model, drawn, region, flat, event_numbers(own.stop - start, start), seed)
        terms[own][inside] = _called(f, values[own][inside], model if records else None)
    weights, own = np.zeros(n), terms != 0
    with np.errstate(over="ignore"):
        weights[own] = terms[own] * np.exp(-log_q[own])
    if not np.isfinite(weights).all():
        raise InputError(
            f"the density vanishes at {int((~np.isfinite(weights)).sum())} points where f does not: give flat a share of the points"
        )
    value, variance = float(weights.mean()), float(weights.var(ddof=1))
    reduction = None
    if region is not None and region.bounded:
        # of flat points in the volume V: V int f^2 - (int f)^2
        flat_variance = region.volume * float((weights * terms).mean()) - value**2
        reduction = flat_variance / variance if variance > 0 else math.inf
    return Integral(value, math.sqrt(variance / n), weights, values, reduction)


def _points(
    model: EventGenerator, drawn: Proposal, region: _Region | None, flat: float, keys: Ints, seed: int
) -> tuple[Matrix, Matrix, Bools]:
    """Points (n, d), the logarithm of their density (n,), and which of them are in the region (n,)."""
    coordinates = model.coordinates
    rows, hidden = drawn.draw(keys, seed)
    values, inside = without_limits(coordinates, rows)
    if region is not None and flat > 0:
        own = np.flatnonzero(philox.uniform(keys, 1, seed=seed, stream=FLAT)[:, 0] < flat)
        values[own] = region.points(keys[own], seed, values[own])
        inside[own] = True
        rows[own] = coordinates.forward(values[own], np.ones((len(own), values.shape[1]), dtype=bool))
        hidden[own] = drawn.hidden(rows[own], keys[own], seed)
    if region is not None:
        inside &= region.holds(values)
    kept = np.flatnonzero(inside)
    log_q = np.full(len(keys), -np.inf)
    present = np.ones((len(kept), values.shape[1]), dtype=bool)
    log_q[kept] = drawn.log_density(rows[kept], hidden[kept]) + log_jacobian(coordinates, values[kept], present)
    if region is not None and flat > 0:
        with np.errstate(divide="ignore"):
            log_q[kept] = np.logaddexp(np.log1p(-flat) + log_q[kept], np.log(flat / region.volume))
    return values, log_q, inside


def _called(f: Callable[[Any], ArrayLike], values: Matrix, model: EventGenerator | None) -> Matrix:
    """The integrand at points (m, d), of records where a model gives their layout."""
    if not len(values):
        return np.empty(0)
    points: Any = values
    if model is not None:
        points = model._fitted(model.assembly).build(
            values, np.ones((1, values.shape[1]), dtype=bool), model._behavior, index=np.zeros(len(values), dtype=np.int64)
        )
    found = np.asarray(f(points), dtype=np.float64)
    if found.shape != (len(values),):
        raise InputError(f"f gave {found.shape} for {len(values)} points: it must give one number for each")
    if not np.isfinite(found).all():
        raise InputError(f"f is not finite at {values[~np.isfinite(found)][0].tolist()}: it must be finite within the limits")
    return found


# -- the region -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Region:
    """A box of the columns that vary: (d, 2) limits, infinite for the others."""

    limits: Matrix
    varying: Ints

    @classmethod
    def of(cls, model: EventGenerator, limits: ArrayLike | Mapping[str, tuple[float, float]]) -> _Region:
        names, varying = model.features.names, model.coordinates.varying
        if isinstance(limits, Mapping):
            turn = {names[k]: (-math.pi, math.pi) for k in varying if model.features.periodic[k]}
            given = turn | {str(name): pair for name, pair in limits.items()}
            if set(given) - set(names) or {names[k] for k in varying} - set(given):
                wrong = sorted(set(given) - set(names)) or [names[k] for k in varying if names[k] not in given]
                raise UsageError(f"limits and columns do not match at '{wrong[0]}': give limits of {', '.join(names[k] for k in varying)}")
            limits = [given.get(name, (-math.inf, math.inf)) for name in names]
        box = np.array(limits, dtype=np.float64)
        if box.shape != (len(names), 2) or not (box[varying, 0] < box[varying, 1]).all():
            raise UsageError(f"limits have shape {box.shape}: give a low and a higher number for each of the {len(names)} columns")
        return cls(box, varying)

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.limits[self.varying]).all())

    @property
    def volume(self) -> float:
        return float(np.diff(self.limits[self.varying], axis=1).prod())

    def holds(self, values: Matrix) -> Bools:
        own = values[:, self.varying]
        return np.asarray(((own >= self.limits[self.varying, 0]) & (own <= self.limits[self.varying, 1])).all(axis=1))

    def points(self, keys: Ints, seed: int, values: Matrix) -> Matrix:
        """Flat points (n, d), which have the columns that do not vary from `values`."""
        low, high = self.limits[self.varying].T
        found = values.copy()
        found[:, self.varying] = low + (high - low) * philox.uniform(keys, len(self.varying), seed=seed, stream=PLACE)
        return found
