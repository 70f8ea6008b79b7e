"""A pyhf workspace from histograms: channels, samples, their uncertainties, the parameter of interest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepgen.errors import UsageError
from hepgen.variations import NOMINAL
from hepgen_pyhf.modifiers import Settings, sample_modifiers
from hepgen_pyhf.report import Report
from hepgen_pyhf.templates import DATA, Float, Templates, binning, observed, sample_templates
from hepgen_pyhf.treatment import Contents, Rules, check_observed, treat
from hepgen_pyhf.workspace import Workspace, checked


@dataclass(frozen=True)
class Channel:
    """A region that is fitted: the histograms of its samples, its data, its bins.

    Attributes
    ----------
    samples
        Name -> hist.Hist with Weight storage: one axis of the quantity, and, or not, an axis "variation" with "nominal" and "<name>Up" and
        "<name>Down" of each uncertainty, and an axis "dataset", of which the category with the sample's name is taken (so that one
        histogram may stand for many samples). An uncertainty that is all zeros for a sample is one that the sample does not have.
    data
        The observed events, hist.Hist of any storage of counts with the same axis; of a "dataset" axis "data" is taken. None for the
        expectation ("Asimov").
    bins
        Those to use, a slice or numbers from 0; all by default.
    flow
        Add flow bins to the bins at the edges. Otherwise they are left out, and reported where there are events in them.
    flatten
        Allow several axes, made one row by row, the last axis running fastest.
    """

    samples: Mapping[str, Any]
    data: Any = None
    bins: slice | Sequence[int] | None = None
    flow: bool = False
    flatten: bool = False


def build(
    channels: Mapping[str, Channel],
    *,
    signal: str | Sequence[str],
    poi: str = "mu",
    normfactors: Mapping[str, str | Sequence[str]] | None = None,
    normsys: Mapping[str, Mapping[str, float | tuple[float, float]]] | None = None,
    lumi: float | None = None,
    lumi_samples: Sequence[str] | None = None,
    staterror: bool | Sequence[str] = True,
    drop: Mapping[str, Sequence[str]] | None = None,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    measurement: str = "measurement",
    asimov: float = 1.0,
    negative: str = "raise",
    empty: str = "raise",
    floor: float = 1e-6,
    one_sided: str = "raise",
) -> Workspace:
    r"""Make a pyhf workspace of histograms with variations.

    With n, u, d the nominal, up and down templates of an uncertainty and N, U, D their sums over the bins used, the uncertainty becomes a
    `histosys` with the templates u N/U and d N/D and a `normsys` with the factors U/N and D/N, under one name: one nuisance parameter
    :math:`\alpha`. At :math:`\alpha = \pm 1` the expectation of the sample is u and d. In a channel of one bin the `histosys` would do
    nothing and is left out. Uncertainties of one name are one parameter in all samples and channels.

    MC statistics are a `staterror` "staterror_<channel>" with the roots of the nominal variances, which pyhf adds in quadrature over the
    samples of the channel: one scale factor a bin. A sample without variances has none.

    Parameters
    ----------
    channels
        Name -> `Channel`.
    signal
        The samples that the parameter of interest scales.
    poi
        Its name.
    normfactors
        Name of a further free factor -> samples that it scales.
    normsys
        Name -> sample -> relative change of its yield up and down, (0.06, -0.04), or one number for both, 0.05. In all channels.
    lumi
        Relative uncertainty of the luminosity, 0.017; of `lumi_samples`, by default all.
    staterror
        Whether samples have MC statistics, or the names of those that do.
    drop
        Sample -> uncertainties of its histograms to leave out.
    parameters
        Name of a parameter -> what pyhf lets a measurement say of it: ``{"mu": {"bounds": [[0, 50]], "inits": [1.0]}}``. pyhf's own
        bounds of a free factor are 0 to 10.
    measurement
        Name of the measurement.
    asimov
        Signal strength in the expectation that stands for data of channels without.
    negative
        "raise" refuses a negative bin of any template, "clip" sets it to zero.
    empty
        What to do with an empty bin that matters: one where no background sample has events, at nominal or a variation, or where a sample
        has none at nominal and some at a variation. "raise" refuses it, "floor" gives it `floor` events, "keep" leaves it. A sample
        without any events in a channel is refused, or left out of it with "floor" and "keep".
    floor
        Events.
    one_sided
        "raise" refuses an uncertainty with one side, "symmetrise" puts the other at 2 n - u, bin by bin.

    Returns
    -------
    Workspace
        Its `report` holds every bin treated and what that does to the yields, events outside the bins, and what was left out.

    Raises
    ------
    UsageError
        Histograms without Weight storage, with other bins than the first of the channel, without nominal, or with one side; an option
        that names a sample, an uncertainty or a parameter that does not exist; names that are taken twice; what pyhf's schema refuses.
    InputError
        NaN or infinite contents, negative variances or data, a yield that is not positive, data where nothing is expected; negative and
        empty bins unless they are treated.
    """
    if not 0 <= asimov < math.inf:
        raise UsageError(f"asimov is a signal strength of at least 0, not {asimov}")
    rules = Rules(negative, empty, floor, one_sided)
    for name, channel in channels.items():
        if not isinstance(channel, Channel):
            raise UsageError(f"channel '{name}' is a {type(channel).__name__}: make it with hepgen_pyhf.Channel(samples, data)")
    names = {sample for channel in channels.values() for sample in channel.samples}
    settings = Settings.of(names, signal, poi, normfactors or {}, normsys or {}, lumi, lumi_samples, staterror)
    _check_drop(drop or {}, names)
    report = Report()
    contents, observations = [], []
    for name, channel in channels.items():
        found, data = _channel(name, channel, settings, rules, drop or {}, report)
        contents.append(found)
        observations.append(data if data is not None else _asimov(found, asimov, report))
        check_observed(found, observations[-1])
    _check_dropped(drop or {}, report)
    return checked(
        {
            "channels": [_channel_spec(found, settings) for found in contents],
            "observations": [{"name": f.channel, "data": d.tolist()} for f, d in zip(contents, observations, strict=True)],
            "measurements": [{"name": measurement, "config": {"poi": poi, "parameters": settings.parameters(contents, parameters or {})}}],
            "version": "1.0.0",
        },
        report,
    )


def _channel(
    name: str, channel: Channel, settings: Settings, rules: Rules, drop: Mapping[str, Sequence[str]], report: Report
) -> tuple[Contents, Float | None]:
    """Return the treated templates of a channel and its data."""
    if not channel.samples:
        raise UsageError(f"channel '{name}' has no samples: give it histograms, or leave it out")
    if DATA in channel.samples:
        raise UsageError(f"channel '{name}' has a sample '{DATA}': give the observed events as Channel(data=)")
    bins = binning(name, next(iter(channel.samples.values())), channel.bins, channel.flow, channel.flatten)
    samples: dict[str, Templates] = {}
    for sample, histogram in channel.samples.items():
        dropped = drop.get(sample, ())
        samples[sample] = sample_templates(name, sample, histogram, bins, report, drop=dropped, one_sided=rules.one_sided)
    contents = Contents(name, samples, settings.signal, settings.staterror, bins.numbers)
    treat(contents, rules, report)
    return contents, None if channel.data is None else observed(name, channel.data, bins, report)


def _asimov(contents: Contents, strength: float, report: Report) -> Float:
    """Return the expected events of a channel, (bins,), with its signal scaled."""
    report.asimov.append(contents.channel)
    scale = {sample: strength if sample in contents.signal else 1.0 for sample in contents.samples}
    total: Float = np.sum([scale[sample] * found.values[NOMINAL] for sample, found in contents.samples.items()], axis=0)
    return total


def _channel_spec(contents: Contents, settings: Settings) -> dict[str, Any]:
    return {
        "name": contents.channel,
        "samples": [
            {
                "name": sample,
                "data": found.values[NOMINAL].tolist(),
                "modifiers": sample_modifiers(contents, sample, settings),
            }
            for sample, found in contents.samples.items()
        ],
    }


def _check_drop(drop: Mapping[str, Sequence[str]], names: set[str]) -> None:
    for sample, uncertainties in drop.items():
        if sample not in names:
            raise UsageError(f"drop names the sample '{sample}', which no channel has: it has {', '.join(sorted(names))}")
        if isinstance(uncertainties, str):
            raise UsageError(f"drop={{'{sample}': {uncertainties!r}}}: give a list of names")


def _check_dropped(drop: Mapping[str, Sequence[str]], report: Report) -> None:
    found = {(sample, name) for _, sample, name in report.dropped}
    for sample, uncertainties in drop.items():
        for name in uncertainties:
            if (sample, name) not in found:
                raise UsageError(f"'{sample}' has no uncertainty '{name}' to drop: name one on the variation axis of its histogram")
