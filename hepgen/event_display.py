"""Event displays: the objects of events as discs in the plane of eta and phi, and the missing momentum as an arrow."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# colours that colour-blind readers tell apart (Petroff, arXiv:2107.02270)
COLOURS = ("#5790fc", "#e42536", "#f89c20", "#7a21dd", "#964a8b", "#9c9ca1")
MISSING_COLOUR = "#2b8a3e"
LARGEST = 0.7  # radius of the largest disc, in eta and rad
SIZES = {"pt": ("pt", "PT", "et"), "energy": ("E", "e", "energy", "Energy")}


class Objects(NamedTuple):
    """The objects of one collection in all events: lists of eta, phi and size; or no eta, and a number an event, of missing momentum."""

    eta: Any
    phi: Any
    size: Any


def event_display(
    events: Any,
    *,
    size: str = "pt",
    collections: Sequence[str] | None = None,
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    largest: float | None = None,
    max_eta: float = 3.0,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw events side by side, objects as discs in the plane of eta and phi, of an area that goes with their pt or energy.

    Discs that reach over abs(phi) = pi go on at the other side. What has a phi and no eta, as missing momentum, is an arrow at its phi,
    which spans half of the picture where it is as large as the largest object. All events share one scale.

    Parameters
    ----------
    events : n events
        Collections and single objects are records with eta, phi and pt or energy (``Jet.pt``), or flat branches (``Jet_pt``).
    size : {"pt", "energy"}
        What the area of a disc is; the missing momentum is its pt always.
    collections
        Which to draw, in the order of their colours; all where None.
    columns
        Of the grid of events; a square one where None.
    titles
        One for each event.
    largest
        The pt or energy of the largest disc [GeV]; that of the largest object drawn where None.
    max_eta
        End of the axis of eta.
    path
        PNG file to write.

    Raises
    ------
    InputError
        There is no event, or nothing in them that can be drawn.
    UsageError
        A collection that was asked for is not there, or there are not as many titles as events.
    """
    from hepgen import plots

    found = _chosen(find_objects(events, size), collections)
    n = len(next(iter(found.values())).phi)
    if not n:
        raise InputError("there is no event to draw")
    if titles is not None and len(titles) != n:
        raise UsageError(f"there are {len(titles)} titles for {n} events: give one for each")
    columns = columns or math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    largest = largest or _largest(found)
    with plots.style(14):
        figure = plots._figure(3.2 * columns + 1.2, 3.4 * rows + 1.2)
        cells = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for number, axes in enumerate(cells.flat):
            if number >= n:
                axes.set_visible(False)
                continue
            draw_event(axes, found, number, largest, max_eta)
            if titles is not None:
                axes.set_title(titles[number], fontsize=13)
        _labels(figure, cells, found)
        return plots._finish(figure, path)


def draw_event(axes: Axes, found: Mapping[str, Objects], number: int, largest: float, max_eta: float = 3.0) -> None:
    """Draw one event of some collections into axes; `largest` [GeV] is the pt or energy of a disc of radius 0.7."""
    from matplotlib.patches import Circle

    for name, colour in _colours(found).items():
        eta, phi, size = (_numbers(part, number) for part in found[name])
        if found[name].eta is None:
            for angle, length in zip(phi, size, strict=True):
                end = (min(max_eta * length / largest, 1.98 * max_eta) - max_eta, angle)
                style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
                axes.annotate("", xy=end, xytext=(-max_eta, angle), arrowprops=style)
            continue
        for x, y, value in zip(eta, phi, size, strict=True):
            radius = LARGEST * math.sqrt(max(value, 0.0) / largest)
            for turn in (0.0, 2 * math.pi, -2 * math.pi):
                if abs(y + turn) < math.pi + radius:
                    axes.add_patch(Circle((x, y + turn), radius, facecolor=colour, edgecolor=colour, alpha=0.6))
    axes.set_xlim(-max_eta, max_eta)
    axes.set_ylim(-math.pi, math.pi)
    axes.set_aspect("equal")


def find_objects(events: Any, size: str = "pt") -> dict[str, Objects]:
    """Collections, single objects and missing momenta of events, by name: what has a phi, and a pt or energy.

    Raises
    ------
    InputError
        There are none.
    UsageError
        `size` is not known.
    """
    if size not in SIZES:
        raise UsageError(f"size={size!r} is not known: choose one of {', '.join(SIZES)}")
    found = {}
    for name, parts in _parts(events).items():
        wanted = SIZES[size] if "eta" in parts else SIZES["pt"]
        key = next((key for key in wanted if key in parts), None)
        if "phi" in parts and key is not None:
            found[name] = Objects(parts.get("eta"), parts["phi"], parts[key])
    if not found:
        raise InputError(f"nothing in the events has a phi and {size}: give records as Jet.eta, or branches as Jet_eta")
    return found


def _parts(events: Any) -> dict[str, dict[str, Any]]:
    """The fields of every object: of records, and of branches by what is before their last underscore."""
    parts: dict[str, dict[str, Any]] = {}
    for name in events.fields:
        if events[name].fields:
            parts[name] = {field: events[name][field] for field in events[name].fields}
        else:
            stem, _, field = name.rpartition("_")
            parts.setdefault(stem, {})[field] = events[name]
    return {name: fields for name, fields in parts.items() if name}


def _chosen(found: dict[str, Objects], collections: Sequence[str] | None) -> dict[str, Objects]:
    for name in collections or ():
        if name not in found:
            raise UsageError(f"there is no '{name}' to draw: the events have {', '.join(found)}")
    return found if collections is None else {name: found[name] for name in collections}


def _colours(found: Mapping[str, Objects]) -> dict[str, str]:
    discs = [name for name, objects in found.items() if objects.eta is not None]
    spare = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(discs)}
    return {name: spare.get(name, MISSING_COLOUR) for name in found}


def _numbers(part: Any, number: int) -> Float:
    """The numbers of one event, absent ones left out, (m,)."""
    if part is None:
        return np.empty(0)
    value = part[number]
    listed = value.tolist() if hasattr(value, "tolist") else value
    listed = listed if isinstance(listed, list) else [listed]
    return np.array([x for x in listed if x is not None], dtype=np.float64)


def _largest(found: Mapping[str, Objects]) -> float:
    import awkward as ak

    largest = [float(ak.max(objects.size, axis=None) or 0.0) for objects in found.values()]
    if not max(largest) > 0:
        raise InputError("no object is larger than 0: there is nothing to draw")
    return max(largest)


def _labels(figure: Figure, cells: Any, found: Mapping[str, Objects]) -> None:
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    figure.subplots_adjust(left=0.9 / width, right=1 - 0.2 / width, bottom=0.8 / height, top=1 - 0.7 / height, wspace=0.08, hspace=0.12)
    for axes in cells[-1]:
        axes.set_xlabel(r"$\eta$")
    for axes in cells[:, 0]:
        axes.set_ylabel(r"$\phi$ [rad]")
    handles = [
        Line2D([], [], color=colour, linestyle="-" if found[name].eta is None else "", marker="" if found[name].eta is None else "o")
        for name, colour in _colours(found).items()
    ]
    figure.legend(handles, list(found), loc="upper right", ncols=len(found), frameon=False, borderaxespad=0.2)
