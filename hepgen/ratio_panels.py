"""Samples of a histogram over a reference, with a ratio panel below: what `hepgen.plots` puts into its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hepgen import histograms
from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float
from hepgen.variations import SAMPLE_AXIS, VARIATION_AXIS, Band, band, uncertainties

if TYPE_CHECKING:
    import hist
    from matplotlib.axes import Axes

# colours that colour-blind readers tell apart (Petroff, arXiv:2107.02270)
COLOURS = {"data": "black", "simulation": "#5790fc", "transformed": "#e42536", "reweighted": "#f89c20"}
SPARE_COLOURS = ("#f89c20", "#964a8b", "#7a21dd", "#9c9ca1")
STACK_COLOUR = "black"


def sample_colour(sample: str, position: int) -> str:
    """Return the colour of a sample: its own, or a spare one by its position among those drawn."""
    return COLOURS.get(sample, SPARE_COLOURS[position % len(SPARE_COLOURS)])


@dataclass(frozen=True)
class _Curve:
    """What is drawn over the reference: the step of a sample, or the filled steps of a stack's samples, with the band of the whole."""

    colour: str
    band: Band
    hatched: bool
    steps: list[tuple[str, str, Float]]  # sample, colour, contents
    stacked: bool


def draw_ratio(
    top: Axes,
    bottom: Axes,
    histogram: hist.Hist[Any],
    *,
    reference: str = "data",
    stack: Sequence[str] = (),
    normalise: bool = True,
    legend: bool = True,
) -> None:
    """Draw samples over a reference with a ratio panel below.

    Points with statistical errors are the reference; steps the other samples, but for those of `stack`, which are filled on top of each
    other. Below, each step, or the sum of the stack where there is one, over the reference, with a band of its own statistical error, and
    the reference's error on the points at one; nothing where the reference is not above zero. The band of the variations, with the
    statistical error in quadrature (`hepgen.variations.Band`), is hatched in both panels; the stack has it without variations too. A
    sample with nothing within the axis is left out.

    Parameters
    ----------
    top, bottom : panels
    histogram : axes (dataset, quantity) or (dataset, variation, quantity), Weight storage
    reference : category on the sample axis
    stack : categories on the sample axis, the first at the bottom
    normalise : scale each step, and the stack as a whole, by its nominal content to the reference's content, so that shapes are compared; a
        peak far above the reference leaves the frame then. Else the contents are drawn as they are
    legend : draw one
    """
    _check(histogram, reference, stack)
    axis = histogram.axes[-1]
    edges = histograms.edges(axis)
    points = band(histogram, reference)
    if points.nominal.sum() <= 0:
        raise InputError(f"the {reference} sample has no positive content within the axis of {axis.name}: there is no shape to draw")
    curves = _curves(histogram, reference, stack, float(points.nominal.sum()) if normalise else None)
    for curve in curves:
        _draw_contents(top, edges, curve)
    # what is left of weights that cancel is no reference
    filled = points.nominal > 1e-12 * points.nominal.max()
    # a signal beside a stack of backgrounds is no prediction of the data on its own
    compared = [curve for curve in curves if curve.stacked] or curves
    ratios = [_draw_quotient(bottom, edges, curve, points.nominal, filled) for curve in compared]
    _draw_points(top, bottom, edges, points, filled, reference)
    highest = max([points.nominal.max(), *((c.band.nominal + c.hatched * c.band.total_up).max() for c in curves)])
    # a narrow peak of another shape may leave the frame rather than flatten the reference
    _dress(top, bottom, axis, edges, min(highest, 1.7 * points.nominal.max()) if normalise else highest)
    reach = _reach(points.nominal[filled], [np.abs(ratio[filled] - 1) for ratio in ratios])
    bottom.set_ylim(1 - reach, 1 + reach)
    bottom.set_ylabel(f"Ratio to {reference}", loc="center", fontsize="small")
    if legend:
        _legend(top, any(curve.hatched for curve in curves))


def _check(histogram: hist.Hist[Any], reference: str, stack: Sequence[str]) -> None:
    names = [axis.name for axis in histogram.axes]
    quantities = [name for name in names if name not in (SAMPLE_AXIS, VARIATION_AXIS)]
    if names[:1] != [SAMPLE_AXIS] or names[-1:] != quantities:
        raise UsageError(f"the histogram has axes {', '.join(names)}, expected {SAMPLE_AXIS} and one quantity, {VARIATION_AXIS} between")
    missing = [sample for sample in (reference, *stack) if sample not in histogram.axes[0]]
    if missing:
        raise UsageError(f"the histogram has no sample {missing[0]!r}: it has {', '.join(histogram.axes[0])}")
    if reference in stack:
        raise UsageError(f"{reference} is drawn as points and cannot be in the stack")


def _curves(histogram: hist.Hist[Any], reference: str, stack: Sequence[str], content: float | None) -> list[_Curve]:
    """Return the stack and the steps that have something to show, scaled to `content` where it is given."""
    singles = [sample for sample in histogram.axes[0] if sample not in (reference, *stack)]
    colours = {sample: sample_colour(sample, position) for position, sample in enumerate([*stack, *singles])}
    curves = []
    for group, stacked in [(list(stack), True), *(([sample], False) for sample in singles)]:
        nominal = {sample: band(histogram, sample).nominal for sample in group}
        shown = [sample for sample in group if nominal[sample].any()]
        total = sum(float(nominal[sample].sum()) for sample in shown)
        if not shown or (content is not None and total <= 0):
            continue
        scale = 1.0 if content is None else content / total
        curves.append(
            _Curve(
                band=band(histogram, group).scaled(scale),
                colour=STACK_COLOUR if stacked else colours[shown[0]],
                hatched=stacked or bool(uncertainties(histogram, shown[0])),
                stacked=stacked,
                steps=[(sample, colours[sample], scale * nominal[sample]) for sample in shown],
            )
        )
    return curves


def _draw_contents(top: Axes, edges: Float, curve: _Curve) -> None:
    import mplhep

    samples, colours, contents = (list(items) for items in zip(*curve.steps, strict=True))
    look: dict[str, Any] = {"histtype": "fill"} if curve.stacked else {"linewidth": 2.2, "edges": False, "yerr": False}
    labels = [sample.capitalize() if sample in COLOURS else sample for sample in samples]
    mplhep.histplot(contents, edges, ax=top, stack=curve.stacked, color=colours, label=labels, flow="none", **look)
    if curve.hatched:
        _hatch(top, edges, curve.band, curve.colour)


def _draw_quotient(bottom: Axes, edges: Float, curve: _Curve, reference: Float, filled: Any) -> Float:
    """Draw a curve over the reference and return the quotient, (bins,), NaN where there is no reference."""
    parts = (curve.band.nominal, curve.band.statistical, curve.band.up, curve.band.down)
    quotient = Band(*(np.divide(part, reference, out=np.full_like(part, np.nan), where=filled) for part in parts))
    ratio, error = quotient.nominal, quotient.statistical
    bottom.stairs(ratio, edges, baseline=None, color=curve.colour, linewidth=2.2)
    _between(bottom, edges, ratio - error, ratio + error, color=curve.colour, alpha=0.25)
    if curve.hatched:
        _hatch(bottom, edges, quotient, curve.colour)
    return ratio


def _hatch(axes: Axes, edges: Float, found: Band, edge: str) -> None:
    low, high = found.nominal - found.total_down, found.nominal + found.total_up
    _between(axes, edges, low, high, facecolor="none", edgecolor=edge, hatch="////", zorder=3)


def _between(axes: Axes, edges: Float, low: Float, high: Float, **look: Any) -> None:
    axes.fill_between(np.repeat(edges, 2)[1:-1], np.repeat(low, 2), np.repeat(high, 2), linewidth=0, **look)


def _draw_points(top: Axes, bottom: Axes, edges: Float, points: Band, filled: Any, reference: str) -> None:
    centres, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    look: dict[str, Any] = {"fmt": "o", "color": "black", "elinewidth": 1.3, "zorder": 5}
    top.errorbar(centres, points.nominal, points.statistical, widths / 2, label=reference.capitalize(), markersize=4.5, **look)
    relative = points.statistical[filled] / points.nominal[filled]
    bottom.errorbar(centres[filled], np.ones(filled.sum()), relative, markersize=3, **look)


def _reach(reference: Float, distances: list[Float]) -> float:
    """Return half the height of the ratio panel: enough for the bins with 95 % of the reference, whatever the thin tails do."""
    worst = np.max([np.zeros(len(reference)), *distances], axis=0)
    order = np.argsort(worst)
    share = np.cumsum(reference[order]) / reference.sum()
    spread = worst[order][np.searchsorted(share, 0.95)]
    return next((limit for limit in (0.095, 0.19, 0.48) if spread < 0.9 * limit), 0.98)


def _dress(top: Axes, bottom: Axes, axis: Any, edges: Float, highest: float) -> None:
    unit = histograms.unit(axis.name)
    width = edges[1] - edges[0]
    per = f"{width:.3g} {unit}".strip() if np.allclose(np.diff(edges), width) else "bin"
    top.set_ylabel(f"Events / {per}")
    top.set_ylim(0, 1.45 * highest)
    top.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
    for panel in (top, bottom):
        panel.set_xlim(edges[0], edges[-1])
        panel.tick_params(axis="x", which="both", pad=10)
        # on a wide panel it would leave the figure
        inches = float(np.diff(panel.figure.dpi_scale_trans.inverted().transform(panel.bbox.get_points())[:, 0])[0])
        panel.yaxis.set_label_coords(-min(0.145, 1.1 / inches), 1 if panel is top else 0.5)
    top.tick_params(labelbottom=False)
    bottom.axhline(1, color="grey", linewidth=1, linestyle="--", zorder=0)
    bottom.set_xlabel(axis.label or axis.name)


def _legend(top: Axes, hatched: bool) -> None:
    from matplotlib.patches import Patch

    handles, labels = top.get_legend_handles_labels()
    if hatched:
        handles.append(Patch(facecolor="none", edgecolor=STACK_COLOUR, hatch="////", linewidth=0))
        labels.append("Uncertainty")
    top.legend(handles, labels, loc="upper right")
