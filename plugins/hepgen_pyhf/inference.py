"""Fits, CLs and upper limits of a workspace, as pyhf makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyhf
from numpy.typing import NDArray

from hepgen.errors import HepgenError, MissingDependency, UsageError
from hepgen_pyhf.workspace import Workspace

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Maximum of the likelihood.

    Attributes
    ----------
    names : names of the p parameters, those of bins with their number, "staterror_SR[0]"
    values, uncertainties : (p,) the second from the Hessian; 0 for a fixed parameter
    correlations : (p, p) zero for a fixed parameter
    twice_nll : -2 ln L at the maximum
    poi : name of the parameter of interest
    at_bound : names of free parameters that stand at a bound, where the uncertainty means little
    """

    names: tuple[str, ...]
    values: Float
    uncertainties: Float
    correlations: Float
    twice_nll: float
    poi: str
    at_bound: tuple[str, ...]

    def __getitem__(self, name: str) -> tuple[float, float]:
        """Value and uncertainty of a parameter; KeyError where there is none of that name."""
        if name not in self.names:
            raise KeyError(name)
        index = self.names.index(name)
        return float(self.values[index]), float(self.uncertainties[index])

    def __str__(self) -> str:
        """One line for each parameter."""
        return "\n".join(f"{name}: {self[name][0]:.4g} +- {self[name][1]:.2g}" for name in self.names)


@dataclass(frozen=True)
class CLs:
    """CLs of a signal strength.

    Attributes
    ----------
    mu : the strength tested
    observed : CLs of the data
    expected : (5,) without signal, at -2, -1, 0, 1 and 2 standard deviations
    """

    mu: float
    observed: float
    expected: tuple[float, ...]


@dataclass(frozen=True)
class UpperLimit:
    """Signal strength above which CLs is smaller than `level`.

    Attributes
    ----------
    level : 0.05 for a limit at 95 % confidence
    observed : limit of the data
    expected : (5,) without signal, at -2, -1, 0, 1 and 2 standard deviations
    """

    level: float
    observed: float
    expected: tuple[float, ...]


def fit(workspace: Workspace, data: Sequence[float] | None = None) -> Fit:
    """Fit all parameters with MINUIT, through `pyhf.infer.mle.fit`, and take uncertainties from the Hessian.

    MINUIT takes the Hessian in a variable that bounds bend: an uncertainty is off by percents where its bounds are not wide beside it
    (0.80 +- 0.76 comes out 1.3 % small with pyhf's bounds of 0 to 10, and 0.1 % with 0 to 100).

    Parameters
    ----------
    workspace
        From `build` or `read`.
    data
        Observations in the order of the model's channels and the auxiliary data behind them; the workspace's by default.

    Raises
    ------
    MissingDependency
        Without iminuit.
    HepgenError
        A fit that does not converge.
    """
    model = workspace.model()
    numbers = _data(workspace, model, data)
    with _minuit(), _failures("the fit"):
        result, correlations, twice_nll = pyhf.infer.mle.fit(
            numbers, model, return_uncertainties=True, return_correlations=True, return_fitted_val=True
        )
    values, uncertainties = np.asarray(result, dtype=np.float64).T
    _check_finite("the fit", values, uncertainties, twice_nll)
    names, free = tuple(model.config.par_names), ~np.asarray(model.config.suggested_fixed(), dtype=bool)
    bounds = np.asarray(model.config.suggested_bounds(), dtype=np.float64)
    near = np.abs(values[:, None] - bounds).min(axis=1) <= 1e-6 * (bounds[:, 1] - bounds[:, 0])
    at_bound = tuple(name for name, here in zip(names, free & near, strict=True) if here)
    return Fit(names, values, uncertainties, np.asarray(correlations, dtype=np.float64), float(twice_nll), workspace.poi, at_bound)


def cls(workspace: Workspace, mu: float, data: Sequence[float] | None = None) -> CLs:
    """Return the asymptotic CLs of a signal strength with the test statistic q~, from `pyhf.infer.hypotest`.

    Source: Cowan, Cranmer, Gross and Vitells, arXiv:1007.1727, Eqs. 16 and 62 to 65. The minimiser is that of ``pyhf.set_backend``.

    Parameters
    ----------
    workspace, data
        See `fit`.
    mu
        Strength to test, in units of the signal histogram.

    Raises
    ------
    UsageError
        A strength outside the bounds of the parameter of interest, or bounds that do not start at 0.
    HepgenError
        A fit that does not converge, or a CLs that is not a number, as without any signal.
    """
    model = workspace.model()
    low, high = _poi_bounds(model)
    if not low <= mu <= high:
        raise UsageError(f"{model.config.poi_name}={mu} is outside its bounds, {low:g} to {high:g}: set them with parameters= of build")
    numbers = _data(workspace, model, data)
    with _failures("CLs"):
        observed, expected = pyhf.infer.hypotest(mu, numbers, model, test_stat="qtilde", return_expected_set=True)
    _check_finite("CLs", observed, *expected)
    return CLs(float(mu), float(observed), tuple(map(float, expected)))


def upper_limit(
    workspace: Workspace, level: float = 0.05, scan: Sequence[float] | None = None, data: Sequence[float] | None = None
) -> UpperLimit:
    """Return the upper limit of the signal strength with q~, from `pyhf.infer.intervals.upper_limits`.

    Parameters
    ----------
    workspace, data
        See `fit`.
    level
        CLs at the limit.
    scan
        Strengths between which CLs is interpolated; by default it is solved for between the bounds of the parameter of interest.

    Raises
    ------
    UsageError
        A level that is not between 0 and 1, or bounds that do not start at 0.
    HepgenError
        A fit that does not converge, or a limit outside the bounds or the scan.
    """
    if not 0 < level < 1:
        raise UsageError(f"level is a CLs between 0 and 1, such as 0.05, not {level}")
    model = workspace.model()
    bounds, numbers = _poi_bounds(model), _data(workspace, model, data)
    limits = pyhf.infer.intervals.upper_limits
    with _failures("the upper limit"):
        # not limits.upper_limit, which solves for 0.05 whatever the level (pyhf 0.7.6)
        if scan is None:
            observed, expected = limits.toms748_scan(numbers, model, *bounds, level=level, test_stat="qtilde")
        else:
            observed, expected = limits.linear_grid_scan(numbers, model, np.asarray(scan, np.float64), level=level, test_stat="qtilde")
    _check_finite("the upper limit", observed, *expected)
    # an interpolation beyond the last point is that point
    if scan is not None and not all(min(scan) < found < max(scan) for found in (observed, *expected)):
        raise HepgenError(f"a limit is outside the scan from {min(scan):g} to {max(scan):g}: widen it")
    return UpperLimit(level, float(observed), tuple(map(float, expected)))


def _data(workspace: Workspace, model: Any, data: Sequence[float] | None) -> list[float]:
    found = workspace.data(model) if data is None else [float(number) for number in data]
    expected = len(model.config.auxdata) + sum(model.config.channel_nbins.values())
    if len(found) != expected:
        raise UsageError(f"the data have {len(found)} numbers, expected {expected}: bins of all channels, then auxiliary data")
    return found


def _poi_bounds(model: Any) -> tuple[float, float]:
    """Bounds of the parameter of interest; UsageError unless they start at 0, which q~ is made for."""
    name = model.config.poi_name
    if name is None:
        raise UsageError("the workspace has no parameter of interest: name one in its measurement")
    low, high = model.config.suggested_bounds()[model.config.poi_index]
    if low != 0:
        raise UsageError(f"the bounds of {name} start at {low:g}, and q~ is made for signals >= 0: let them start at 0")
    return float(low), float(high)


@contextmanager
def _minuit() -> Iterator[None]:
    """Let pyhf minimise with MINUIT, the one of its minimisers that gives uncertainties, and give it back its own afterwards."""
    tensors, optimizer = pyhf.get_backend()
    try:
        # 0.1, the default, stops where parameters are off by up to a percent of their uncertainty
        minuit = pyhf.optimize.minuit_optimizer(tolerance=1e-3)
    except (ImportError, pyhf.exceptions.ImportBackendError) as error:
        raise MissingDependency("uncertainties of a fit need iminuit: pip install iminuit") from error
    pyhf.set_backend(tensors, minuit)
    try:
        yield
    finally:
        pyhf.set_backend(tensors, optimizer)


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn what pyhf and its minimisers raise into one sentence."""
    try:
        yield
    except pyhf.exceptions.FailedMinimization as error:
        said = str(error).strip().rstrip(".")
        raise HepgenError(
            f"{what} did not converge ({said}): look for bins without background and for bounds that are too narrow"
        ) from error
    except ValueError as error:
        raise HepgenError(f"{what} cannot be found ({str(error).splitlines()[0]}): widen the bounds with parameters= of build") from error


def _check_finite(what: str, *numbers: Any) -> None:
    if not all(np.isfinite(np.asarray(number, dtype=np.float64)).all() for number in numbers):
        raise HepgenError(f"{what} is not a number: look for a channel without signal and for bins without background")
