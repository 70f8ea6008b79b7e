"""How good the ratios of a Reweighter are, and their calibration; numbers in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import UsageError

if TYPE_CHECKING:
    from hepgen.metrics import Chi2

Floats = NDArray[np.float64]

#: Beyond its outer bins a calibration goes on with slope one for so far in the log ratio, and is constant from there.
TAIL = 30.0
#: Bins of a calibration: at least so many events of either sample in each, on average, and at most so many bins.
EVENTS_PER_BIN, MOST_BINS = 1000, 100


def ess(weights: ArrayLike) -> float:
    """Effective sample size, ``(sum w)^2 / sum w^2``: how many events of one weight have the same relative error; 0 without events."""
    w = np.asarray(weights, dtype=np.float64)
    squares = float((w**2).sum())
    return float(w.sum() ** 2 / squares) if squares else 0.0


@dataclass(frozen=True)
class Calibrator:
    """A rising broken line from log ratios to calibrated log ratios, through the points (x, y), constant beyond them.

    Attributes
    ----------
    x, y : (k,)
        Increasing, and not decreasing.
    """

    x: Floats
    y: Floats

    def __post_init__(self) -> None:
        fits = self.x.ndim == 1 and self.x.shape == self.y.shape and len(self.x) > 1
        if not fits or (np.diff(self.x) <= 0).any() or (np.diff(self.y) < 0).any():
            raise UsageError(f"the points of a calibration must rise, at least two of them, not {self.x.shape} and {self.y.shape}")

    def __call__(self, log_ratio: Floats) -> Floats:
        """Calibrated log ratios, of any shape."""
        return np.asarray(np.interp(log_ratio, self.x, self.y))


@dataclass(frozen=True)
class Reliability:
    """The ratio predicted and the ratio found, in bins of the predicted one; see `reliability`.

    Attributes
    ----------
    predicted : (k,)
        Mean ratio of the simulated events of a bin, over the mean of all.
    observed : (k,)
        Share of the data in the bin over the share of the simulation.
    error : (k,)
        Statistical error of `observed`.
    chi2 : Chi2
        Of the log ratio in data and in reweighted simulation, with the pull of each bin and its edges (log ratio, the outer ones open).
    """

    predicted: Floats
    observed: Floats
    error: Floats
    chi2: Chi2

    def to_dict(self) -> dict[str, Any]:
        """The numbers, of types that JSON has."""
        columns = {"predicted": self.predicted, "observed": self.observed, "error": self.error, "edges": self.chi2.edges}
        return {**self.chi2.to_dict(), **{name: column.tolist() for name, column in columns.items()}}


@dataclass(frozen=True)
class Closure:
    """How simulation compares with data before and after reweighting; see `Reweighter.closure`.

    Attributes
    ----------
    before, after : dict of column -> Chi2
        Shapes of every feature, with the statistical errors of both samples.
    sums : dict
        Sums of weights: "sim", "reweighted" and "data".
    ess : dict
        Effective sample sizes, likewise.
    """

    before: dict[str, Chi2]
    after: dict[str, Chi2]
    sums: dict[str, float]
    ess: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, of types that JSON has."""
        sides = {"before": self.before, "after": self.after}
        return {
            **{side: {name: found.to_dict() for name, found in columns.items()} for side, columns in sides.items()},
            "sums": self.sums,
            "ess": self.ess,
        }


def reliability(
    sim: Floats, data: Floats, sim_weights: Floats | None = None, data_weights: Floats | None = None, bins: int = 20
) -> Reliability:
    """Compare ratios with what data and simulation say, in bins of the ratio.

    Parameters
    ----------
    sim, data : (n,), (m,)
        Log ratios of the events of both samples.
    sim_weights, data_weights
        Signed event weights.
    bins
        Bins of equal shares of the events of both, merged where they are poor; see `hepgen.metrics.chi2_ndf`.
    """
    from hepgen.metrics import chi2_ndf

    ws, wd = _weights(sim, sim_weights), _weights(data, data_weights)
    ratios = np.exp(sim)
    found = chi2_ndf(sim, data, bins, ws * ratios, wd, name="the log ratio")
    (s, s2), (d, d2), (r, _) = (_sums(x, w, found.edges) for x, w in ((sim, ws), (data, wd), (sim, ws * ratios)))
    with np.errstate(divide="ignore", invalid="ignore"):  # a bin whose signed weights cancel has no ratio
        observed = (d / wd.sum()) / (s / ws.sum())
        error = np.abs(observed) * np.sqrt(_share_variance(d, d2) + _share_variance(s, s2))
        predicted = (r / (ws * ratios).sum()) / (s / ws.sum())
    return Reliability(predicted, observed, error, found)


def _share_variance(part: Floats, squares: Floats) -> Floats:
    """Relative variance of the share of the weight that each bin has, from the sums of weights and squared weights of all bins, (k,)."""
    p = part / part.sum()
    return np.asarray(((1 - p) ** 2 * squares + p**2 * (squares.sum() - squares)) / part**2)


def isotonic(sim: Floats, data: Floats, sim_weights: Floats | None = None, data_weights: Floats | None = None) -> Calibrator:
    """Fit a calibration: the ratio of data to simulation as a rising function of the log ratio.

    Events are gathered in bins of the log ratio, so that signed weights can cancel within a bin, and scikit-learn's isotonic regression
    runs over the shares p = D / (D + S) of data in the bins; log p / (1 - p) at the mean of each bin are the points of the calibration.

    Parameters
    ----------
    sim, data : (n,), (m,)
        Log ratios of events that took no part in the training.
    sim_weights, data_weights
        Signed event weights.

    Raises
    ------
    InputError
        Fewer than two bins with events of both samples.
    """
    from sklearn.isotonic import IsotonicRegression

    from hepgen.metrics import chi2_ndf

    ws, wd = _weights(sim, sim_weights), _weights(data, data_weights)
    both = np.concatenate([sim, data])
    bins = int(np.clip(min(len(sim), len(data)) // EVENTS_PER_BIN, 2, MOST_BINS))
    edges = chi2_ndf(sim, data, np.unique(np.quantile(both, np.linspace(0, 1, bins + 1))), ws, wd, name="the log ratio").edges
    d, s = _sums(data, wd, edges)[0] / wd.sum(), _sums(sim, ws, edges)[0] / ws.sum()
    size = np.abs(np.concatenate([ws / ws.sum(), wd / wd.sum()]))
    centre = _sums(both, size * both, edges)[0] / _sums(both, size, edges)[0]
    share = IsotonicRegression(y_min=0, y_max=1).fit(centre, d / (d + s), sample_weight=d + s).predict(centre)
    y = np.log(share) - np.log1p(-share)
    return Calibrator(*(np.concatenate([[points[0] - TAIL], points, [points[-1] + TAIL]]) for points in (centre, y)))


def _weights(values: Floats, weights: Floats | None) -> Floats:
    return np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)


def _sums(values: Floats, weights: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """Sums of w and of w^2 per bin, the outer bins open."""
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    w, w2 = (np.bincount(index, part, minlength=len(edges) - 1).astype(np.float64) for part in (weights, weights**2))
    return w, w2
