"""Histograms of given numbers, for workspaces."""

from __future__ import annotations

from typing import Any

import hist


def template(values: list[float], variances: Any = None, flow: dict[str, tuple[float, float]] | None = None, **sides: Any) -> Any:
    """A histogram with a variation axis whose contents are the numbers given; flow is variation -> (underflow, overflow)."""
    contents = {"nominal": values, **sides}
    axis = hist.axis.Regular(len(values), 0, len(values), name="x")
    found = hist.Hist(hist.axis.StrCategory(list(contents), name="variation"), axis, storage=hist.storage.Weight())
    for number, (name, bins) in enumerate(contents.items()):
        low, high = (flow or {}).get(name, (0.0, 0.0))
        found.view(flow=True).value[number] = [low, *bins, high]
    found.view().variance[0] = 0.0 if variances is None else variances
    return found


def counts(values: list[float], flow: tuple[float, float] = (0.0, 0.0), storage: Any = None) -> Any:
    """A histogram of counts; an empty one of another storage."""
    found = hist.Hist(hist.axis.Regular(len(values), 0, len(values), name="x"), storage=storage or hist.storage.Double())
    if storage is None:
        found.view(flow=True)[:] = [flow[0], *values, flow[1]]
    return found
