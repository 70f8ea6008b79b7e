"""Templates of one sample in one channel, taken from a histogram: categories, flow bins, the bins used, both sides of uncertainties."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError, UsageError
from hepgen.variations import NOMINAL, SAMPLE_AXIS, SIDES, VARIATION_AXIS
from hepgen_pyhf.report import Outside, Report

Float = NDArray[np.float64]

DATA = "data"
_COUNTS = ("Weight", "Double", "Int64", "AtomicInt64", "Unlimited")


@dataclass(frozen=True)
class Binning:
    """The bins of a channel.

    Attributes
    ----------
    axes : of the first sample's histogram
    numbers : (bins,) numbers of the bins used, row by row over all bins of the axes but flow bins
    flow : whether flow bins are added to the bins at the edges
    """

    axes: tuple[Any, ...]
    numbers: NDArray[np.intp]
    flow: bool


@dataclass(frozen=True)
class Templates:
    """Templates of one sample in one channel.

    Attributes
    ----------
    values : variation -> (bins,) contents in events, "nominal" first, then both sides of each uncertainty
    variances : (bins,) of the nominal template
    """

    values: dict[str, Float]
    variances: Float

    @property
    def uncertainties(self) -> list[str]:
        """Names of the uncertainties."""
        return [name.removesuffix(SIDES[0]) for name in self.values if name.endswith(SIDES[0])]


def binning(channel: str, histogram: Any, bins: slice | Sequence[int] | None, flow: bool, flatten: bool) -> Binning:
    """Return the bins of a channel from the histogram of its first sample; UsageError for bins or axes that cannot be used."""
    axes = _axes(f"channel '{channel}'", histogram)
    if not axes or (len(axes) > 1 and not flatten):
        raise UsageError(
            f"the histograms of channel '{channel}' have {len(axes)} axes beside {SAMPLE_AXIS} and {VARIATION_AXIS}: "
            "give them one, or flatten more with flatten=True"
        )
    everything = np.arange(int(np.prod([axis.size for axis in axes])))
    try:
        numbers = everything if bins is None else everything[bins if isinstance(bins, slice) else [operator.index(one) for one in bins]]
    except (IndexError, TypeError):
        numbers = everything[:0]
    if not len(numbers) or len(np.unique(numbers)) < len(numbers):
        raise UsageError(f"bins={bins} of channel '{channel}' are not different bins from 0 to {len(everything) - 1}: name those to use")
    return Binning(axes, numbers, flow)


def sample_templates(
    channel: str, sample: str, histogram: Any, bins: Binning, report: Report, *, drop: Sequence[str] = (), one_sided: str = "raise"
) -> Templates:
    """Return the templates of a sample, as the histogram has them; what was left out goes to the report.

    Raises
    ------
    UsageError
        No Weight storage, other axes than the channel's, no nominal, a category that is no variation, one side of an uncertainty alone
        (with ``one_sided="raise"``).
    InputError
        NaN or infinite contents, negative variances.
    """
    what = f"the histogram of '{sample}' in channel '{channel}'"
    place = _place(what, histogram, bins)
    if histogram.storage_type.__name__ != "Weight":
        raise UsageError(f"{what} has {histogram.storage_type.__name__} storage, which has no variances: use Weight storage")
    contents = _by_variation(what, histogram, sample, histogram.values(flow=True))
    spreads = _by_variation(what, histogram, sample, histogram.variances(flow=True))
    sides = _filled(contents, spreads, what)
    dropped = [name for name in sides if name in drop]
    report.dropped += [(channel, sample, name) for name in dropped]
    report.unfilled += [(channel, sample, name) for name in sides if not sides[name] and name not in dropped]
    sides = {name: sides[name] for name in sorted(sides) if sides[name] and name not in dropped}
    values = {}
    for variation in [NOMINAL, *(name + side for name, filled in sides.items() for side in filled)]:
        values[variation] = place.used(f"'{sample}' at {variation} in channel '{channel}'", contents[variation])
        place.count_outside((channel, sample, variation), contents[variation], report)
    if (spreads[NOMINAL] < 0).any():
        raise InputError(f"{what} has negative variances: fill it with event weights, or add histograms rather than subtract them")
    variances = place.used(f"the variance of '{sample}' in channel '{channel}'", spreads[NOMINAL])
    for name, filled in sides.items():
        if len(filled) == 1:
            other = name + SIDES[1 - SIDES.index(filled[0])]
            if one_sided == "raise":
                raise UsageError(f"{what} has {name}{filled[0]} but not {other}: fill it, or mirror it with one_sided='symmetrise'")
            values[other] = 2 * values[NOMINAL] - values[name + filled[0]]
            report.symmetrised.append((channel, sample, other))
    return Templates({name: values[name] for name in [NOMINAL, *(name + side for name in sides for side in SIDES)]}, variances)


def observed(channel: str, histogram: Any, bins: Binning, report: Report) -> Float:
    """Return the observed events, (bins,); of a histogram with a sample axis those of "data", with a variation axis those of "nominal".

    Raises
    ------
    UsageError, InputError
        As `sample_templates`, but that any storage of counts will do; negative contents.
    """
    what = f"the data of channel '{channel}'"
    place = _place(what, histogram, bins)
    if histogram.storage_type.__name__ not in _COUNTS:
        raise UsageError(f"{what} have {histogram.storage_type.__name__} storage, which does not count events: use Weight storage")
    full = _by_variation(what, histogram, DATA, histogram.values(flow=True)).get(NOMINAL)
    if full is None:
        raise UsageError(f"the {VARIATION_AXIS} axis of {what} has no {NOMINAL}: fill it")
    values = place.used(what, full)
    if (values < 0).any():
        first = int(np.flatnonzero(values < 0)[0])
        raise InputError(f"{what} have {values[first]:g} events in bin {bins.numbers[first]}: observed events cannot be negative")
    place.count_outside((channel, DATA, NOMINAL), full, report)
    return values


@dataclass(frozen=True)
class _Place:
    """Where the bins of one histogram go.

    Attributes
    ----------
    axes : of the histogram
    numbers : (bins,) numbers of the bins used
    target : (all bins with flow bins, row by row) number of the bin that each goes to, -1 for none
    in_flow : of the same shape, whether each is a flow bin
    """

    axes: tuple[Any, ...]
    numbers: NDArray[np.intp]
    target: NDArray[np.intp]
    in_flow: NDArray[np.bool_]

    def used(self, what: str, full: Float) -> Float:
        """Return the (bins,) contents of the bins used from those of all bins, (extent, ...); InputError where any is not finite."""
        bad = np.argwhere(~np.isfinite(full))
        if len(bad):
            number, name = full[tuple(bad[0])], _bin_name(bad[0], self.axes)
            raise InputError(f"{what} is {number:g} in bin {name}: a weight that is not finite was filled, find it and fill again")
        inside = self.target >= 0
        size = int(np.prod([axis.size for axis in self.axes]))
        contents = np.bincount(self.target[inside], weights=full.ravel()[inside], minlength=size)
        return np.asarray(contents[self.numbers], dtype=np.float64)

    def count_outside(self, names: tuple[str, str, str], full: Float, report: Report) -> None:
        """Report the events that are not in the bins used, or are there from flow bins."""
        events, inside = full.ravel(), self.target >= 0
        unused = inside & ~np.isin(self.target, self.numbers)
        counts = [float(events[chosen].sum()) for chosen in (~inside, inside & ~unused & self.in_flow, unused)]
        if any(counts):
            report.outside.append(Outside(*names, *counts))


def _place(what: str, histogram: Any, bins: Binning) -> _Place:
    """Return where the bins of a histogram go; UsageError where its axes are not those of the channel."""
    axes = _axes(what, histogram)
    if [_edges(axis) for axis in axes] != [_edges(axis) for axis in bins.axes]:
        raise UsageError(f"{what} has other bins than the first sample of the channel: fill all with the same axes")
    positions, in_flow = [], []
    for axis in axes:
        # the overflow of a circular axis holds NaN, that of a category axis unknown categories: neither belongs to the last bin
        fold = bins.flow and axis.traits.ordered and not axis.traits.circular
        low, high = [0 if fold else -1] * axis.traits.underflow, [axis.size - 1 if fold else -1] * axis.traits.overflow
        positions.append(np.array([*low, *range(axis.size), *high]))
        in_flow.append(np.array([True] * len(low) + [False] * axis.size + [True] * len(high)))
    grid = np.meshgrid(*positions, indexing="ij")
    lost = np.any([one < 0 for one in grid], axis=0)
    numbers = np.ravel_multi_index([np.maximum(one, 0) for one in grid], [axis.size for axis in axes])
    flow = np.any(np.meshgrid(*in_flow, indexing="ij"), axis=0)
    return _Place(axes, bins.numbers, np.where(lost, -1, numbers).ravel(), flow.ravel())


def _bin_name(index: Any, axes: Sequence[Any]) -> str:
    names = []
    for position, axis in zip(index, axes, strict=True):
        number = int(position) - axis.traits.underflow
        names.append("underflow" if number < 0 else "overflow" if number >= axis.size else str(number))
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def _axes(what: str, histogram: Any) -> tuple[Any, ...]:
    """The axes of a histogram but those of samples and variations."""
    if not hasattr(histogram, "storage_type") or not all(hasattr(axis, "name") for axis in histogram.axes):
        raise UsageError(f"{what} is a {type(histogram).__name__}, expected a hist.Hist")
    return tuple(axis for axis in histogram.axes if axis.name not in (SAMPLE_AXIS, VARIATION_AXIS))


def _edges(axis: Any) -> list[Any]:
    if not axis.traits.ordered:
        return list(axis)
    return [float(edge) for edge in axis.edges]


def _by_variation(what: str, histogram: Any, sample: str, full: Any) -> dict[str, Float]:
    """Contents by variation, each (extent, ...), of the sample's category; "nominal" alone without a variation axis."""
    array, names = np.asarray(full, dtype=np.float64), [axis.name for axis in histogram.axes]
    if SAMPLE_AXIS in names:
        position = names.index(SAMPLE_AXIS)
        categories = list(histogram.axes[position])
        if sample not in categories:
            raise UsageError(f"{what} has no {SAMPLE_AXIS} '{sample}': it has {', '.join(categories) or 'none'}")
        array = np.take(array, categories.index(sample), axis=position)
        names.pop(position)
    if VARIATION_AXIS not in names:
        return {NOMINAL: array}
    categories = list(histogram.axes[VARIATION_AXIS])
    return {category: np.take(array, number, axis=names.index(VARIATION_AXIS)) for number, category in enumerate(categories)}


def _filled(contents: dict[str, Float], spreads: dict[str, Float], what: str) -> dict[str, tuple[str, ...]]:
    """Which sides of each uncertainty hold anything: () for an uncertainty that the sample does not have."""
    if NOMINAL not in contents:
        raise UsageError(f"the {VARIATION_AXIS} axis of {what} has no {NOMINAL}: fill it")
    found: dict[str, tuple[str, ...]] = {}
    for category, values in contents.items():
        if category == NOMINAL:
            continue
        side = next((side for side in SIDES if category.endswith(side) and category != side), None)
        if side is None:
            raise UsageError(f"the {VARIATION_AXIS} '{category}' of {what} is no name of a variation: end it with Up or Down")
        name = category.removesuffix(side)
        found.setdefault(name, ())
        if np.any(values) or np.any(spreads[category]):
            found[name] += (side,)
    return found
