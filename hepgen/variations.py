"""The variation axis of a histogram, nominal and every uncertainty up and down: its names, its templates, its band, scaling and mirroring.

A *variation* is a category on the axis: "nominal", or the name of an *uncertainty* with "Up" or "Down" behind it, as coffea's Weights and
combine spell it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError

if TYPE_CHECKING:
    import hist

# hist keeps the word "sample" for itself; "dataset" is what coffea calls it
SAMPLE_AXIS = "dataset"
VARIATION_AXIS = "variation"
NOMINAL = "nominal"
SIDES = ("Up", "Down")


def pair(uncertainty: str) -> tuple[str, str]:
    """Return the two variations of an uncertainty, ("reweighterUp", "reweighterDown") for "reweighter"."""
    if not isinstance(uncertainty, str) or not uncertainty or uncertainty.endswith(SIDES):
        raise UsageError(f"{uncertainty!r} is no name of an uncertainty: give a word without the Up or Down that is put behind it")
    return uncertainty + SIDES[0], uncertainty + SIDES[1]


def uncertainty_of(variation: str) -> str | None:
    """Return the uncertainty that a variation belongs to, None for "nominal"; UsageError for a name that is neither."""
    if variation == NOMINAL:
        return None
    name = next((variation.removesuffix(side) for side in SIDES if str(variation).endswith(side)), "")
    if not name:
        raise UsageError(f"{variation!r} is no variation: it is {NOMINAL}, or an uncertainty's name with Up or Down behind it")
    return name


def paired(variations: Iterable[str]) -> list[str]:
    """Return the uncertainties of a set of variations, sorted, after checking that it has nominal and both sides of each.

    Raises
    ------
    UsageError
        Without nominal, with one side of an uncertainty only, or with a name that is no variation.
    """
    given = list(variations)
    if NOMINAL not in given:
        raise UsageError(f"the variations {', '.join(given) or '(none)'} lack {NOMINAL}: give it too")
    names = sorted({name for name in map(uncertainty_of, given) if name is not None})
    for name in names:
        for one, other in (pair(name), pair(name)[::-1]):
            if one not in given:
                raise UsageError(f"there is {other} but not {one}: give both sides of every uncertainty")
    return names


def uncertainties(histogram: hist.Hist[Any], sample: str | None = None) -> list[str]:
    """Return the names of a histogram's uncertainties, sorted; those of one sample where `sample` is given.

    A sample has an uncertainty where either of its sides was filled with anything but zeros: on one axis with the simulation, data keeps
    the empty categories of variations that it does not have. A histogram without a variation axis has no uncertainties.
    """
    if VARIATION_AXIS not in [axis.name for axis in histogram.axes]:
        return []
    names = paired(histogram.axes[VARIATION_AXIS])
    if sample is None:
        return names
    of_sample = _select(histogram, {SAMPLE_AXIS: sample})
    return [name for name in names if any(filled(_select(of_sample, {VARIATION_AXIS: side})) for side in pair(name))]


def templates(histogram: hist.Hist[Any], sample: str | None = None) -> dict[str, Any]:
    """Return the histograms of one sample by variation: "nominal" first, then both sides of each uncertainty it has.

    Parameters
    ----------
    histogram : with a variation axis, or without one, which gives "nominal" alone
    sample : category on the sample axis; None for a histogram without one

    Returns
    -------
    dict of variation -> hist.Hist over the remaining axes, of the same storage, flow bins included

    Raises
    ------
    UsageError
        A sample that the histogram does not have, or a name on the variation axis that is no variation or has no other side.
    """
    names = [axis.name for axis in histogram.axes]
    if (sample is None) == (SAMPLE_AXIS in names):
        raise UsageError("name a sample for a histogram that has a sample axis, and only for one that has it")
    if sample is not None and sample not in histogram.axes[SAMPLE_AXIS]:
        raise UsageError(f"the histogram has no sample {sample!r}: it has {', '.join(histogram.axes[SAMPLE_AXIS]) or 'none yet'}")
    found = uncertainties(histogram, sample)
    of_sample = histogram if sample is None else _select(histogram, {SAMPLE_AXIS: sample})
    if VARIATION_AXIS not in names:
        return {NOMINAL: of_sample}
    return {side: _select(of_sample, {VARIATION_AXIS: side}) for side in (NOMINAL, *(side for name in found for side in pair(name)))}


def split(histogram: hist.Hist[Any]) -> dict[str, Any]:
    """Return the templates of every sample as "sample/variation" -> histogram, "bkg/nominal" being one; see `templates`."""
    return {
        f"{sample}/{variation}": template
        for sample in histogram.axes[SAMPLE_AXIS]
        for variation, template in templates(histogram, sample).items()
    }


@dataclass(frozen=True)
class Band:
    """What a histogram says and how far it may be off, bin by bin without flow bins; all arrays have the shape of the bins, in events.

    Attributes
    ----------
    nominal
        Contents.
    statistical
        The root of the variances, those of the nominal fill.
    up, down
        How far all uncertainties together may lift and lower the content, both >= 0, without the statistical error. With u and d what the
        two sides of an uncertainty add to the nominal content,

            up^2 = sum max(u, d, 0)^2,      down^2 = sum max(-u, -d, 0)^2

        over uncertainties: two sides that go the same way count once, by the larger of them.
    """

    nominal: NDArray[np.float64]
    statistical: NDArray[np.float64]
    up: NDArray[np.float64]
    down: NDArray[np.float64]

    @property
    def total_up(self) -> NDArray[np.float64]:
        """`up` and the statistical error in quadrature."""
        return np.hypot(self.up, self.statistical)

    @property
    def total_down(self) -> NDArray[np.float64]:
        """`down` and the statistical error in quadrature."""
        return np.hypot(self.down, self.statistical)

    def scaled(self, factor: float) -> Band:
        """Contents and errors times a factor >= 0."""
        return Band(factor * self.nominal, factor * self.statistical, factor * self.up, factor * self.down)


def band(histogram: hist.Hist[Any], sample: str | Iterable[str] | None = None) -> Band:
    """Return the nominal contents with their statistical error and the band of the uncertainties.

    Parameters
    ----------
    histogram : Weight storage, with a variation axis or without, which gives a band of statistical errors alone
    sample : category on the sample axis, None where there is none; or several, which are added. An uncertainty moves all samples that have
        it together: its shifts add up with their signs, then the uncertainties in quadrature; variances add up

    Raises
    ------
    UsageError
        Another storage than Weight, or what `templates` refuses.
    """
    _weighted(histogram)
    samples = [sample] if sample is None or isinstance(sample, str) else list(sample)
    if not samples:
        raise UsageError("no sample was named to make a band of")
    found = [templates(histogram, name) for name in samples]
    nominal = np.sum([one[NOMINAL].values() for one in found], axis=0)
    up, down = np.zeros_like(nominal), np.zeros_like(nominal)
    for name in paired({variation for one in found for variation in one}):
        u, d = (sum((one[side].values() - one[NOMINAL].values() for one in found if side in one), 0 * nominal) for side in pair(name))
        up += np.maximum(np.maximum(u, d), 0) ** 2
        down += np.maximum(np.maximum(-u, -d), 0) ** 2
    variances = np.sum([one[NOMINAL].view().variance for one in found], axis=0)
    return Band(nominal, np.sqrt(variances), np.sqrt(up), np.sqrt(down))


def scaled(histogram: hist.Hist[Any], factors: Mapping[str, float]) -> hist.Hist[Any]:
    """Return the histogram with samples multiplied by factors, in every variation: contents by f and variances by f^2.

    Raises
    ------
    UsageError
        A sample that the histogram does not have, or another storage than Weight.
    """
    found = _weighted(histogram).copy()
    names = list(found.axes[SAMPLE_AXIS])
    for sample, factor in factors.items():
        if sample not in names:
            raise UsageError(f"the histogram has no sample {sample!r}: it has {', '.join(names) or 'none yet'}")
        view: Any = np.moveaxis(found.view(flow=True), _axis(found, SAMPLE_AXIS), 0)[names.index(sample)]
        view["value"] *= factor
        view["variance"] *= factor**2
    return found


def mirrored(histogram: hist.Hist[Any], uncertainty: str) -> hist.Hist[Any]:
    """Return the histogram with the other side of an uncertainty that has one: 2 n - u in every bin, with the variances of u.

    Samples that do not have the uncertainty (all zeros) do not get its other side either.

    Raises
    ------
    UsageError
        The histogram has no side of the uncertainty, or both; or another storage than Weight.
    """
    import hist

    place = _axis(_weighted(histogram), VARIATION_AXIS)
    names = list(histogram.axes[place])
    there = [side for side in pair(uncertainty) if side in names]
    if len(there) != 1 or NOMINAL not in names:
        raise UsageError(f"an uncertainty is mirrored from one side: of {uncertainty} there is {' and '.join(there) or 'none'}")
    missing = next(side for side in pair(uncertainty) if side not in names)
    axes = list(histogram.axes)
    axes[place] = hist.axis.StrCategory([*names, missing], name=VARIATION_AXIS, label=axes[place].label, growth=True)
    found: hist.Hist[Any] = hist.Hist(*axes, storage=hist.storage.Weight())
    old, new = (np.moveaxis(one.view(flow=True), place, 0) for one in (histogram, found))
    new[: len(names)] = old[: len(names)]
    nominal, side, other = old[names.index(NOMINAL)], old[names.index(there[0])], new[len(names)]
    for sample in range(len(histogram.axes[0])) if histogram.axes[0].name == SAMPLE_AXIS else [...]:
        if any(np.any(side[field][sample]) for field in ("value", "variance")):
            other["value"][sample] = 2 * nominal["value"][sample] - side["value"][sample]
            other["variance"][sample] = side["variance"][sample]
    return found


def _weighted(histogram: hist.Hist[Any]) -> hist.Hist[Any]:
    import hist

    if histogram.storage_type is not hist.storage.Weight:
        raise UsageError(f"the histogram has {histogram.storage_type.__name__} storage, which keeps no variances: use Weight storage")
    return histogram


def _axis(histogram: hist.Hist[Any], name: str) -> int:
    names = [axis.name for axis in histogram.axes]
    if name not in names:
        raise UsageError(f"the histogram has axes {', '.join(names)} and none that is called {name}")
    return names.index(name)


def filled(histogram: Any) -> bool:
    """Return whether a histogram has anything but zeros, in contents, variances and flow bins."""
    view = histogram.view(flow=True)
    fields = view.dtype.names
    return bool(np.any(view) if fields is None else any(np.any(view[field]) for field in fields))


def _select(histogram: Any, categories: dict[str, str]) -> Any:
    import hist

    # loc, since hist reads some strings as positions
    return histogram[{axis: hist.loc(category) for axis, category in categories.items()}]
