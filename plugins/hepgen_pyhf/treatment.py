"""What is done to negative and to empty bins of the templates of a channel before pyhf sees them; every bin treated is reported."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError, UsageError
from hepgen.variations import NOMINAL
from hepgen_pyhf.report import Change, Report, Yield
from hepgen_pyhf.templates import Float, Templates

STATERROR = "staterror"
_CHOICES = {"negative": ("raise", "clip"), "empty": ("raise", "floor", "keep"), "one_sided": ("raise", "symmetrise")}


@dataclass(frozen=True)
class Rules:
    """What to do with bins that a likelihood cannot take; see `hepgen_pyhf.build`."""

    negative: str = "raise"
    empty: str = "raise"
    floor: float = 1e-6
    one_sided: str = "raise"

    def __post_init__(self) -> None:
        for option, choices in _CHOICES.items():
            if getattr(self, option) not in choices:
                raise UsageError(f"{option}={getattr(self, option)!r} is not one of {', '.join(choices)}")
        if not 0 < self.floor < math.inf:
            raise UsageError(f"floor must be a positive number of events, not {self.floor}")


@dataclass(frozen=True)
class Contents:
    """The templates of a channel while they are treated, changed in place.

    Attributes
    ----------
    channel
    samples : sample -> its templates
    signal : samples that are signal
    staterror : samples whose MC statistics are in the model
    numbers : (bins,) numbers of the bins used, for the report
    """

    channel: str
    samples: dict[str, Templates]
    signal: Collection[str]
    staterror: Collection[str]
    numbers: NDArray[np.intp]

    @property
    def background(self) -> list[str]:
        """The samples that are left at a signal strength of zero; all where the channel has nothing but signal."""
        return [name for name in self.samples if name not in self.signal] or list(self.samples)

    @property
    def uncertain(self) -> list[str]:
        """The samples that share the factors of MC statistics; one without variances would be scaled by the errors of others."""
        return [name for name, found in self.samples.items() if name in self.staterror and found.variances.any()]

    def expected(self, variation: str, samples: Collection[str]) -> Float:
        """Return the sum of samples at a variation, (bins,), of the nominal template of those that do not have it."""
        found = [self.samples[name].values for name in samples]
        total: Float = np.sum([values.get(variation, values[NOMINAL]) for values in found], axis=0)
        return total


def treat(contents: Contents, rules: Rules, report: Report) -> None:
    """Treat negative bins, samples without events and empty bins of a channel, in this order.

    Raises
    ------
    InputError
        What the rules do not allow, and a template without a positive yield.
    """
    before = {(name, variation): float(v.sum()) for name, found in contents.samples.items() for variation, v in found.values.items()}
    known = len(report.changes)
    _negative(contents, rules, report)
    _absent(contents, rules, report)
    _positive_yields(contents)
    _empty(contents, rules, report)
    changed = {(c.sample, c.variation) for c in report.changes[known:] if c.after != c.before and c.variation != STATERROR}
    for (name, variation), total in before.items():
        if (name, variation) in changed:
            after = float(contents.samples[name].values[variation].sum()) if name in contents.samples else 0.0
            report.yields.append(Yield(contents.channel, name, variation, total, after))


def check_observed(contents: Contents, data: Float) -> None:
    """Raise InputError where events are observed in a bin in which nothing is expected: no parameter makes that likely."""
    impossible = np.flatnonzero((contents.expected(NOMINAL, list(contents.samples)) <= 0) & (data > 0))
    if len(impossible):
        raise InputError(
            f"channel '{contents.channel}' has {data[impossible[0]]:g} observed events in bin {contents.numbers[impossible[0]]}, where no "
            "sample has any: rebin, leave the bin out with bins=, or use empty='floor'"
        )


def _negative(contents: Contents, rules: Rules, report: Report) -> None:
    for sample, found in contents.samples.items():
        for variation, values in found.values.items():
            bad = np.flatnonzero(values < 0)
            if len(bad) and rules.negative == "raise":
                raise InputError(
                    f"'{sample}' at {variation} in channel '{contents.channel}' is {values[bad[0]]:g} in bin {contents.numbers[bad[0]]} "
                    f"({len(bad)} negative bins): rebin, or set them to zero with negative='clip'"
                )
            for place in bad:
                _change(contents, report, (sample, variation), place, values, 0.0, "negative")


def _absent(contents: Contents, rules: Rules, report: Report) -> None:
    """Take samples without any events out of the channel."""
    for sample, found in list(contents.samples.items()):
        if any(values.any() for values in found.values.values()):
            continue
        if rules.empty == "raise":
            raise InputError(
                f"'{sample}' has no events in the bins used of channel '{contents.channel}': leave it out of the channel, or use "
                "empty='floor' or 'keep', which do so"
            )
        del contents.samples[sample]
        report.absent.append((contents.channel, sample))
    if not contents.samples:
        raise InputError(f"channel '{contents.channel}' has no sample with events in the bins used: leave the channel out")


def _positive_yields(contents: Contents) -> None:
    """Raise where a ratio of yields would not be a positive number; asked before empty bins get a floor, which would hide it."""
    for sample, found in contents.samples.items():
        for variation, values in found.values.items():
            if not values.sum() > 0:
                raise InputError(
                    f"'{sample}' at {variation} in channel '{contents.channel}' has a yield of {values.sum():g}, so that its ratio to the "
                    f"{'variations' if variation == NOMINAL else 'nominal one'} is not a positive number: rebin, add the sample to another "
                    f"one, or leave its uncertainty out with drop={{'{sample}': [...]}}"
                )


def _empty(contents: Contents, rules: Rules, report: Report) -> None:
    bad = _empty_bins(contents)
    if bad and rules.empty == "raise":
        (sample, variation), places = next(iter(bad.items()))
        alone = not contents.expected(variation, contents.background)[places[0]]
        raise InputError(
            f"'{sample}' at {variation} in channel '{contents.channel}' is empty in bin {contents.numbers[places[0]]}, where "
            f"{'no background has events' if alone else 'its variations have events'}: rebin, leave the bin out with bins=, or use "
            "empty='floor' or 'keep'"
        )
    raised = np.zeros(len(contents.numbers), dtype=bool)
    for (sample, variation), places in bad.items():
        values = contents.samples[sample].values[variation]
        for place in places:
            _change(contents, report, (sample, variation), place, values, rules.floor if rules.empty == "floor" else 0.0, "empty")
        raised[places] |= variation == NOMINAL
    if rules.empty == "floor":
        _limit_errors(contents, raised, report)


def _empty_bins(contents: Contents) -> dict[tuple[str, str], NDArray[np.intp]]:
    """Return the empty bins that matter as (sample, variation) -> positions.

    These are bins of the background samples in which their sum is zero, at nominal or at a variation, since no events are possible there
    without signal; and bins in which a sample has none at nominal and some at a variation. A sample that is nowhere in a bin that others
    fill is no trouble.
    """
    every = dict.fromkeys(name for found in contents.samples.values() for name in found.values)
    void = {name: contents.expected(name, contents.background) == 0 for name in every}
    bad = {}
    for sample, found in contents.samples.items():
        of_background = sample in contents.background
        moved = np.any([values != 0 for values in found.values.values()], axis=0)
        at_nominal = (found.values[NOMINAL] == 0) & (moved | (of_background & void[NOMINAL]))
        for variation, values in found.values.items():
            chosen = (values == 0) & (at_nominal | (of_background & void[variation]))
            if chosen.any():
                bad[sample, variation] = np.flatnonzero(chosen)
    return bad


def _limit_errors(contents: Contents, raised: NDArray[np.bool_], report: Report) -> None:
    """Hold the MC error of bins that got a floor at their content, where the sum's would be more than 100 % of it.

    One weighted event that another cancels leaves an error of a million times the floor, which no scale factor between 0 and 10 can mean.
    """
    samples = contents.uncertain
    spread = np.sum([contents.samples[name].variances for name in samples], axis=0)
    for place in np.flatnonzero(raised & (spread > contents.expected(NOMINAL, samples) ** 2)):
        for sample in samples:
            found = contents.samples[sample]
            error, content = math.sqrt(found.variances[place]), found.values[NOMINAL][place]
            if error > content:
                found.variances[place] = content**2
                row = (contents.channel, sample, STATERROR, int(contents.numbers[place]), error, float(content), "empty")
                report.changes.append(Change(*row))


def _change(contents: Contents, report: Report, names: tuple[str, str], place: Any, values: Float, after: float, reason: str) -> None:
    report.changes.append(Change(contents.channel, *names, int(contents.numbers[place]), float(values[place]), after, reason))
    values[place] = after
