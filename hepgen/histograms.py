"""Histograms of samples beside each other: axes chosen from the data, physics labels, Weight storage, jagged columns and event weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, as_array, checked_matrix, checked_weights
from hepgen.metrics.observables import parse

if TYPE_CHECKING:
    import hist

SAMPLES = ("data", "simulation", "transformed")
# hist keeps the word "sample" for itself; "dataset" is what coffea calls it
SAMPLE_AXIS = "dataset"

_OBJECTS = {
    "photon": r"\gamma",
    "muon": r"\mu",
    "electron": "e",
    "tau": r"\tau",
    "jet": "j",
    "met": r"\mathrm{miss}",
    "y": r"\gamma",
    "mu": r"\mu",
}
_QUANTITIES = {"pt": "p_{T}", "eta": r"\eta", "phi": r"\phi", "mass": "m", "m": "m"}
_UNITS = {"pt": "GeV", "mass": "GeV", "m": "GeV", "phi": "rad", "deltaphi": "rad", "E": "GeV", "energy": "GeV"}
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def quantity(name: str) -> str:
    """Return what a column measures: "pt" for "photon[0].pt" or "pt(photon[0], photon[1])", "mass" for "m_yy", else the bare name."""
    if "(" in name:
        return name.split("(", 1)[0].strip()
    if name.startswith("m_"):
        return "mass"
    return parse(name)[1]


def unit(name: str) -> str:
    """Return the unit of a column, "GeV", "rad" or "" where it has none (or none is known)."""
    return _UNITS.get(quantity(name), "")


def label(name: str) -> str:
    r"""Return the axis label of a column in matplotlib's mathematics, with its unit: "photon[0].pt" gives "$p_{T}^{\gamma_{1}}$ [GeV]"."""
    if name.startswith("m_"):
        text = f"$m_{{{_pair(name[2:])}}}$"
    elif "(" in name or quantity(name) not in _QUANTITIES:
        text = name.replace("$", r"\$")
    else:
        owner, what = parse(name)
        text = f"${_QUANTITIES[what]}^{{{_object(owner)}}}$" if owner else f"${_QUANTITIES[what]}$"
    return f"{text} [{unit(name)}]" if unit(name) else text


def _object(owner: str) -> str:
    match = re.match(r"^(?P<base>.*?)(?:\[(?P<index>\d+)\])?$", owner)
    base, index = (match["base"], match["index"]) if match else (owner, None)
    if base.isdigit():
        return base
    text = _OBJECTS.get(base.lower(), rf"\mathrm{{{base.replace('_', ' ')}}}")
    return f"{text}_{{{int(index) + 1}}}" if index is not None else text


def _pair(short: str) -> str:
    for key in ("yy", "mumu", "ee", "jj"):
        if short == key:
            return 2 * _OBJECTS.get(key[: len(key) // 2], key[0])
    return short.replace("_", " ") if short.isdigit() else rf"\mathrm{{{short.replace('_', ' ')}}}"


def axis_for(name: str, values: ArrayLike, *, bins: int = 50, low: float | None = None, high: float | None = None) -> hist.axis.Regular:
    """Return an axis that suits a column: round edges, about `bins` bins, a label with the unit.

    Parameters
    ----------
    name : column name; a phi column gets a circular axis on [-pi, pi) whatever its values
    values : (n,) finite numbers of the reference sample, GeV and rad. The range holds all of them, but for a long upper tail (pt, mass),
        which is cut at the 99.5 % quantile where more than a quarter of the range lies beyond it; eta is made symmetric
    bins : the number aimed at; round edges make it between half and twice that
    low, high : fix an end of the range instead

    Returns
    -------
    hist.axis.Regular with name, label and flow bins (circular for phi)

    Raises
    ------
    InputError
        Empty or not finite values.
    """
    import hist

    if quantity(name) == "phi":
        return hist.axis.Regular(bins, -math.pi, math.pi, name=name, label=label(name), circular=True)
    column = as_array(values, f"column {name}").ravel()
    if not len(column) or not np.isfinite(column).all():
        raise InputError(f"column {name} is empty or not finite: an axis cannot be chosen from it")
    start, stop = float(column.min()), float(column.max())
    tail = float(np.quantile(column, 0.995))
    if unit(name) == "GeV" and stop - tail > 0.25 * (stop - start):
        stop = tail
    if quantity(name) == "eta":
        stop = max(abs(start), abs(stop))
        start = -stop
    start, stop = start if low is None else low, stop if high is None else high
    if not start < stop:
        start, stop = start - 0.5, stop + 0.5
    step = _round_step((stop - start) / bins)
    first, last = (math.floor(start / step + 1e-9), math.ceil(stop / step - 1e-9))
    # rounding to the step's own decimals: 24 * 0.1 is not quite 2.4
    decimals = max(0, 2 - math.floor(math.log10(step)))
    last = max(last, first + 2)
    return hist.axis.Regular(last - first, round(first * step, decimals), round(last * step, decimals), name=name, label=label(name))


def _round_step(step: float) -> float:
    scale = 10.0 ** math.floor(math.log10(step))
    return scale * min(_STEPS, key=lambda candidate: abs(math.log(candidate * scale / step)))


def edges(axis: Any) -> Float:
    """Return the bin edges of an axis, (bins + 1,) float64."""
    return np.asarray(axis.edges, dtype=np.float64)


def sample_axis(samples: Iterable[str] = SAMPLES) -> hist.axis.StrCategory:
    """Return the axis that keeps samples apart, growing so that histograms of different samples add up."""
    import hist

    return hist.axis.StrCategory(list(samples), name=SAMPLE_AXIS, label="Sample", growth=True)


def book(*axes: Any, samples: Iterable[str] | None = SAMPLES) -> hist.Hist[Any]:
    """Return an empty histogram with Weight storage over `axes`, after a sample axis unless `samples` is None."""
    import hist

    return hist.Hist(*([] if samples is None else [sample_axis(samples)]), *axes, storage=hist.storage.Weight())


def fill(
    histogram: hist.Hist[Any], columns: Mapping[str, Any], weights: ArrayLike | None = None, *, sample: str | None = None
) -> hist.Hist[Any]:
    """Fill a histogram from flat or jagged columns with one weight an event, and return it.

    Parameters
    ----------
    histogram : as `book` makes it
    columns : axis name -> (n,) numpy, or awkward column of n events, flat or jagged; None and lists that are missing are left out. Jagged
        columns of one fill must have the same lists; a flat column beside them is repeated along them
    weights : (n,) event weights of either sign, repeated along jagged columns
    sample : category on the sample axis

    Raises
    ------
    UsageError
        Columns that do not match the axes, or a sample for a histogram without a sample axis (or none for one with it).
    InputError
        Weights that are not finite (one would spoil its bin for good) or not one an event; NaN values.
    """
    import awkward as ak

    named = [axis.name for axis in histogram.axes if axis.name != SAMPLE_AXIS]
    if sorted(named) != sorted(columns):
        raise UsageError(f"the histogram has axes {', '.join(named)}, but columns {', '.join(columns)} were given")
    if (sample is None) == any(axis.name == SAMPLE_AXIS for axis in histogram.axes):
        raise UsageError("give sample= for a histogram that has a sample axis, and only for one that has it")
    arrays = {name: ak.Array(column) for name, column in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns have different numbers of events: {lengths}")
    n = next(iter(lengths.values()))
    w = None if weights is None else _event_weights(weights, n, named[0])
    for name, array in arrays.items():
        bad = int(ak.sum(np.isnan(ak.drop_none(ak.flatten(array, axis=None)))))
        if bad:
            raise InputError(f"column {name} holds {bad} NaN: a histogram would lose them silently, remove them first")
    if n:
        category: dict[str, Any] = {} if sample is None else {SAMPLE_AXIS: sample}
        try:
            histogram.fill_flattened(weight=w, **category, **arrays)
        except ValueError as error:
            raise InputError(f"the columns {', '.join(arrays)} do not have the same lists ({error})") from None
    return histogram


def _event_weights(weights: ArrayLike, n: int, name: str) -> Float:
    array = as_array(weights, f"the weights of {name}")
    if array.shape != (n,):
        raise InputError(f"the weights of {name} have shape {array.shape}, expected ({n},): one weight an event")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        first = bad[:5].tolist()
        raise InputError(f"the weights of {name} have {len(bad)} NaN or infinite entries (first at {first}): each would spoil its bin")
    return array


def from_matrices(
    names: Sequence[str],
    matrices: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike | None] | None = None,
    *,
    axes: Mapping[str, Any] | None = None,
    bins: int = 50,
) -> dict[str, hist.Hist[Any]]:
    """Return one histogram per column of feature matrices, with the samples side by side.

    Parameters
    ----------
    names : d column names
    matrices : sample name -> (n, d) float64; the first one chooses the axes (see `axis_for`)
    weights : sample name -> (n,) event weights of either sign, or None
    axes : name -> axis, where an axis is to be other than `axis_for` says
    bins : the number of bins aimed at

    Returns
    -------
    dict of name -> hist.Hist with axes (dataset, name) and Weight storage
    """
    if not matrices:
        raise UsageError("no sample was given to make histograms of")
    checked = {sample: checked_matrix(matrix, f"the {sample} sample", names) for sample, matrix in matrices.items()}
    given = {sample: (weights or {}).get(sample) for sample in checked}
    for sample, matrix in checked.items():
        checked_weights(given[sample], len(matrix), f"the {sample} sample")
    reference = next(iter(checked.values()))
    found: dict[str, hist.Hist[Any]] = {}
    for column, name in enumerate(names):
        axis = axes[name] if axes is not None and name in axes else axis_for(name, reference[:, column], bins=bins)
        found[name] = book(axis, samples=checked)
        for sample, matrix in checked.items():
            fill(found[name], {name: matrix[:, column]}, given[sample], sample=sample)
    return found
