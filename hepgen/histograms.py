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
from hepgen.variations import NOMINAL, pair, paired, uncertainty_of
from hepgen.variations import SAMPLE_AXIS as SAMPLE_AXIS  # noqa: PLC0414 - callers take it from here
from hepgen.variations import VARIATION_AXIS as VARIATION_AXIS  # noqa: PLC0414

if TYPE_CHECKING:
    import hist

SAMPLES = ("data", "simulation", "transformed")

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


def variation_axis(uncertainties: Iterable[str] = ()) -> hist.axis.StrCategory:
    """Return the axis that keeps variations apart: "nominal", both sides of each uncertainty named, and what fills add."""
    import hist

    if isinstance(uncertainties, str):
        raise UsageError(f"the uncertainties are {uncertainties!r}, expected a list of names")
    sides = [side for name in uncertainties for side in pair(name)]
    return hist.axis.StrCategory([NOMINAL, *sides], name=VARIATION_AXIS, label="Variation", growth=True)


def book(*axes: Any, samples: Iterable[str] | None = SAMPLES, variations: bool | Iterable[str] = False) -> hist.Hist[Any]:
    """Return an empty histogram with Weight storage.

    Parameters
    ----------
    axes : the quantities' axes, each with a name of its own
    samples : categories of the sample axis, which comes first and grows; None for a histogram without one
    variations : True, or the names of uncertainties, for a variation axis behind the sample axis: it has "nominal", "<name>Up" and
        "<name>Down", and grows. Naming them books them as zeros; it need not be done

    Raises
    ------
    UsageError
        An axis with a name that is taken, or a name that is none of an uncertainty.
    """
    import hist

    categories = [] if samples is None else [sample_axis(samples)]
    if variations is not False:
        categories.append(variation_axis(() if variations is True else variations))
    for axis in axes:
        # hist takes these words as arguments of its fill
        if axis.name in {"sample", "weight", "threads", *(category.name for category in categories)}:
            raise UsageError(f"an axis has the name {axis.name!r}, which is taken: name it otherwise")
    return hist.Hist(*categories, *axes, storage=hist.storage.Weight())


def fill(
    histogram: hist.Hist[Any],
    columns: Mapping[str, Any],
    weights: ArrayLike | Mapping[str, ArrayLike | None] | None = None,
    *,
    sample: str | None = None,
    variation: str | None = None,
) -> hist.Hist[Any]:
    """Fill a histogram from flat or jagged columns with one weight an event, or one an event and variation, and return it.

    Everything is checked first: a fill that raises has filled nothing.

    Parameters
    ----------
    histogram : as `book` makes it
    columns : axis name -> (n,) numpy, or awkward column of n events, flat or jagged; None and lists that are missing are left out. Jagged
        columns of one fill must have the same lists; a flat column beside them is repeated along them
    weights : (n,) event weights of either sign, repeated along jagged columns, None for one each; or variation -> such weights, with
        "nominal" and both sides of every uncertainty, which fills all of them. From coffea's Weights w:
        ``{"nominal": w.weight(), **{name: w.weight(name) for name in w.variations}}``
    sample : category on the sample axis
    variation : category on the variation axis that these columns are for, such as "scaleUp" where they are what that uncertainty makes of
        them; "nominal" by default

    Raises
    ------
    UsageError
        Columns that do not match the axes; a sample for a histogram without a sample axis (or none for one with it); a variation for one
        without a variation axis; variations without nominal or without the other side; both a mapping and a variation.
    InputError
        Weights that are not finite (one would spoil its bin for good) or not one an event; NaN values.
    """
    named = [axis.name for axis in histogram.axes if axis.name not in (SAMPLE_AXIS, VARIATION_AXIS)]
    if sorted(named) != sorted(columns):
        raise UsageError(f"the histogram has axes {', '.join(named)}, but columns {', '.join(columns)} were given")
    if (sample is None) == any(axis.name == SAMPLE_AXIS for axis in histogram.axes):
        raise UsageError("give sample= for a histogram that has a sample axis, and only for one that has it")
    by_variation = _by_variation(histogram, weights, variation)
    _check_categories(histogram, {SAMPLE_AXIS: [sample], VARIATION_AXIS: by_variation})
    arrays = _checked_columns(columns)
    n = len(next(iter(arrays.values())))
    checked = {name: None if given is None else _event_weights(given, n, named[0], name) for name, given in by_variation.items()}
    if not n:
        return histogram
    entries, flat = _flattened(arrays, n)
    categories: dict[str, Any] = {} if sample is None else {SAMPLE_AXIS: sample}
    for name, w in checked.items():
        if name is not None:
            categories[VARIATION_AXIS] = name
        histogram.fill(weight=None if w is None else w[entries], **categories, **flat)
    return histogram


def _by_variation(histogram: hist.Hist[Any], weights: Any, variation: str | None) -> dict[str | None, Any]:
    """Return the weights of each category to fill on the variation axis; None is the category of a histogram without one."""
    mapping = isinstance(weights, Mapping)
    if not any(axis.name == VARIATION_AXIS for axis in histogram.axes):
        if mapping or variation is not None:
            raise UsageError("the histogram has no variation axis: book it with variations=True, or fill one array of weights")
        return {None: weights}
    if not mapping:
        variation = NOMINAL if variation is None else variation
        uncertainty_of(variation)
        return {variation: weights}
    if variation is not None:
        raise UsageError(f"give the weights by variation or variation={variation!r}, not both")
    paired(weights)
    return dict(weights)


def _check_categories(histogram: hist.Hist[Any], categories: Mapping[str, Iterable[str | None]]) -> None:
    for axis in histogram.axes:
        if axis.name in categories and not axis.traits.growth:
            lost = [name for name in categories[axis.name] if name not in axis]
            if lost:
                raise UsageError(f"the {axis.name} axis has no category {lost[0]!r} and does not grow: book it with growth=True")


def _checked_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    import awkward as ak

    # a regular (n, k) column would be lined up with the events from its last axis, as numpy does it
    arrays = {name: ak.from_regular(ak.Array(column), axis=None) for name, column in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns have different numbers of events: {lengths}")
    for name, array in arrays.items():
        bad = int(ak.sum(np.isnan(ak.drop_none(ak.flatten(array, axis=None)))))
        if bad:
            raise InputError(f"column {name} holds {bad} NaN: a histogram would lose them silently, remove them first")
    return arrays


def _flattened(arrays: Mapping[str, Any], n: int) -> tuple[Any, dict[str, Any]]:
    """Return the event of each entry, (entries,), and the flat columns, as hist's `fill_flattened` makes them of jagged ones.

    That takes longer than a fill, so it is done once for all variations.
    """
    import awkward as ak
    from hist.interop import broadcast_and_flatten

    try:
        entries, *flat = broadcast_and_flatten((ak.Array(np.arange(n)), *arrays.values()))
    except ValueError as error:
        raise InputError(f"the columns {', '.join(arrays)} do not have the same lists ({error})") from None
    return entries, dict(zip(arrays, flat, strict=True))


def _event_weights(weights: ArrayLike, n: int, name: str, variation: str | None) -> Float:
    what = f"the weights of {name}" if variation in (None, NOMINAL) else f"the {variation} weights of {name}"
    array = as_array(weights, what)
    if array.shape != (n,):
        raise InputError(f"{what} have shape {array.shape}, expected ({n},): one weight an event")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise InputError(f"{what} have {len(bad)} NaN or infinite entries (first at {bad[:5].tolist()}): each would spoil its bin")
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
