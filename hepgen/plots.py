"""Pictures that prove it: marginals and masses with ratio panels, correlation matrices, ROC curves, training histories.

Every function returns a `matplotlib.figure.Figure` of its own, which pyplot does not hold, so that nothing is left open, and writes a PNG
when a path is given.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hepgen import histograms
from hepgen.errors import InputError, MissingDependency, OutputError, UsageError
from hepgen.event_display import event_display as event_display  # noqa: PLC0414 - a picture like the others
from hepgen.metrics.checks import Float
from hepgen.ratio_panels import draw_ratio, sample_colour
from hepgen.whole_files import write_whole

if TYPE_CHECKING:
    import hist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hepgen.metrics import ClassifierAUC, CorrelationTable

DPI = 80


@contextmanager
def style(size: float = 20) -> Iterator[None]:
    """Set the drawing style, mplhep's CMS lines and ticks with fonts of `size` points, within the block only."""
    try:
        import matplotlib as mpl
        import mplhep
    except ImportError as error:
        raise MissingDependency(f"pictures need {error.name}: pip install 'hepgen[plot]'") from None
    fonts: Any = {
        "font.sans-serif": ["TeX Gyre Heros", "Helvetica", "Arial", "DejaVu Sans"],
        "mathtext.fontset": "dejavusans",
        "mathtext.default": "it",
        "font.size": size,
        "legend.fontsize": 0.8 * size,
        "xtick.major.size": 0.4 * size,
        "ytick.major.size": 0.4 * size,
        "xtick.minor.size": 0.2 * size,
        "ytick.minor.size": 0.2 * size,
        "axes.linewidth": 0.07 * size,
        "savefig.facecolor": "white",
        "figure.facecolor": "white",
    }
    with mpl.rc_context({**mplhep.style.CMS, **fonts}):
        yield


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file, the same for the same figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    # formulas are set when drawn, so the style is needed here once more
    with style():
        figure.set_canvas(FigureCanvasAgg(figure))
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _finish(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    if path is not None:
        target = Path(path)
        try:
            write_whole(target, png(figure))
        except OSError as error:
            raise OutputError(f"cannot write the picture {target} ({error.strerror}): choose another folder") from None
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI)


def _grid(figure: Figure, rows: int, columns: int) -> list[tuple[Axes, Axes]]:
    width, height = figure.get_size_inches()
    outer = figure.add_gridspec(
        rows, columns, left=1.5 / width, right=1 - 0.3 / width, top=1 - 0.7 / height, bottom=1.0 / height, wspace=0.3, hspace=0.3
    )
    cells = []
    for row in range(rows):
        for column in range(columns):
            inner = outer[row, column].subgridspec(2, 1, height_ratios=[2.6, 1], hspace=0.06)
            cells.append((figure.add_subplot(inner[0]), figure.add_subplot(inner[1])))
    return cells


def _title(axes: Axes, left: str = "hepgen", right: str = "") -> None:
    axes.text(0, 1.02, left, transform=axes.transAxes, fontweight="bold", ha="left", va="bottom")
    if right:
        axes.text(1, 1.02, right, transform=axes.transAxes, fontsize="small", ha="right", va="bottom")


def marginals(histogram: Mapping[str, hist.Hist[Any]], *, reference: str = "data", path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw every column's distribution with its ratio panel.

    Parameters
    ----------
    histogram : name -> hist.Hist with axes (dataset, name) and Weight storage, as `hepgen.histograms.from_matrices` makes them; a variation
        axis between them gives its hatched band
    reference : the sample drawn as points and divided by
    path : PNG file to write
    """
    if not histogram:
        raise UsageError("no histogram was given to draw")
    columns = min(3, len(histogram))
    rows = -(-len(histogram) // columns)
    with style(19):
        figure = _figure(1.2 + 7.4 * columns, 0.8 + 6.8 * rows)
        cells = _grid(figure, rows, columns)
        for (top, bottom), one in zip(cells, histogram.values(), strict=False):
            draw_ratio(top, bottom, one, reference=reference, legend=top is cells[0][0])
        for top, bottom in cells[len(histogram) :]:
            top.set_visible(False)
            bottom.set_visible(False)
        figure.text(1.5 / figure.get_size_inches()[0], 1 - 0.35 / figure.get_size_inches()[1], "hepgen", fontweight="bold", va="center")
        return _finish(figure, path)


def spectrum(spectra: Sequence[hist.Hist[Any]], *, reference: str = "data", path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw ranges of a spectrum side by side, each with its ratio panel (m_yy of paper A, Fig. 3 left: 60-300 and 100-160 GeV).

    Shapes are compared: every sample is scaled to the reference's content. `yields` draws the contents as they are.
    """
    if not spectra:
        raise UsageError("no spectrum was given to draw")
    with style(22):
        figure = _figure(1.2 + 9 * len(spectra), 9)
        for (top, bottom), one in zip(_grid(figure, 1, len(spectra)), spectra, strict=True):
            draw_ratio(top, bottom, one, reference=reference)
            _title(top)
        return _finish(figure, path)


def yields(
    histogram: hist.Hist[Any], *, stack: Sequence[str] = (), reference: str = "data", path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draw the contents of a histogram as they are, nothing scaled: points over a stack or lines, hatched uncertainties, a ratio panel.

    Parameters
    ----------
    histogram : axes (dataset, quantity) or (dataset, variation, quantity), Weight storage
    stack : samples to draw on top of each other, the first at the bottom; only their sum is in the ratio panel then. The others are lines
    reference : the sample drawn as points and divided by
    path : PNG file to write
    """
    with style(22):
        figure = _figure(10.2, 9)
        top, bottom = _grid(figure, 1, 1)[0]
        draw_ratio(top, bottom, histogram, reference=reference, stack=stack, normalise=False)
        _title(top)
        return _finish(figure, path)


def correlations(tables: Mapping[str, CorrelationTable], *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the correlation matrices of samples side by side, in per cent."""
    if not tables:
        raise UsageError("no correlation table was given to draw")
    with style(20):
        figure = _figure(8.2 * len(tables) + 2.2, 9.4)
        margins = {"left": 0.075, "right": 0.945, "top": 0.92, "bottom": 0.14, "wspace": 0.06}
        grid = figure.add_gridspec(1, len(tables) + 1, width_ratios=[*(1.0 for _ in tables), 0.04], **margins)
        for position, (sample, table) in enumerate(tables.items()):
            axes = figure.add_subplot(grid[0, position])
            image = axes.imshow(100 * table.matrix, cmap="RdBu_r", vmin=-100, vmax=100)
            labels = [histograms.label(name).split(" [", maxsplit=1)[0] for name in table.names]
            axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 30 else 0)
            axes.set_yticks(range(len(labels)), labels if position == 0 else [""] * len(labels))
            axes.tick_params(which="both", length=0)
            _numbers(axes, 100 * table.matrix)
            _title(axes, sample.capitalize())
        bar = figure.colorbar(image, cax=figure.add_subplot(grid[0, -1]))
        bar.set_label("Pearson correlation [%]")
        return _finish(figure, path)


def _numbers(axes: Axes, matrix: Float) -> None:
    if len(matrix) > 14:
        return
    for (row, column), value in np.ndenumerate(matrix):
        shown = f"{value:.1f}".replace("-0.0", "0.0")
        size = max(8.0, 125 / len(matrix))
        axes.text(column, row, shown, ha="center", va="center", fontsize=size, color="white" if abs(value) > 60 else "black")


def roc(curves: Mapping[str, ClassifierAUC], *, floor: ClassifierAUC | None = None, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the ROC curves of classifiers of data against each sample, with the shuffled-data floor: near the diagonal is good."""
    if not curves:
        raise UsageError("no ROC curve was given to draw")
    with style(22):
        figure = _figure(9.6, 9.2)
        axes = figure.add_axes((0.14, 0.11, 0.81, 0.81))
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1.5)
        for position, (sample, found) in enumerate(curves.items()):
            text = rf"{sample.capitalize()}: AUC = {found.auc:.4f} $\pm$ {found.error:.4f}"
            axes.plot(found.fpr, found.tpr, color=sample_colour(sample, position), linewidth=2.6, label=text)
        if floor is not None:
            text = rf"Shuffled data: AUC = {floor.auc:.4f} $\pm$ {floor.error:.4f}"
            axes.plot(floor.fpr, floor.tpr, color="black", linestyle="--", linewidth=2, label=text)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("Fraction of the sample taken for data")
        axes.set_ylabel("Fraction of data taken for data")
        axes.legend(loc="lower right")
        _title(axes, right="Classifier, held-out events")
        return _finish(figure, path)


def history(record: Mapping[str, Sequence[float | None]], *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw a training record: losses by epoch, and by step the multiplier with the two losses it balances (paper A, Fig. 2 right).

    Parameters
    ----------
    record : "epoch", "train", "valid" of equal length; optional per step "lambda", "l1", "l2" of equal length, which get their own panel
    path : PNG file to write
    """
    epochs = _series(record, ("epoch", "train", "valid"))
    steps = _series(record, ("lambda", "l1", "l2"))
    if "epoch" not in epochs or len(epochs) < 2:
        raise UsageError(f"the history holds {', '.join(record) or 'nothing'}: it needs epoch, and train or valid")
    panels = 2 if "lambda" in steps else 1
    with style(22):
        figure = _figure(1.2 + 9 * panels, 8)
        margins = {"left": 0.13 / panels, "right": 0.94, "bottom": 0.13, "top": 0.91, "wspace": 0.26}
        axes = figure.subplots(1, panels, squeeze=False, gridspec_kw=margins)[0]
        for name, colour, text in (("train", "#5790fc", "Training"), ("valid", "#e42536", "Validation")):
            if name in epochs:
                axes[0].plot(epochs["epoch"], epochs[name], color=colour, linewidth=2.4, label=text)
        axes[0].set_xlabel("Epoch")
        axes[0].set_ylabel("Loss")
        axes[0].legend(loc="upper right")
        _title(axes[0])
        if panels == 2:
            _steps(axes[1], steps)
        return _finish(figure, path)


def _series(record: Mapping[str, Sequence[float | None]], names: tuple[str, ...]) -> dict[str, Float]:
    # an epoch without validation is recorded as None
    found = {name: np.array([np.nan if value is None else value for value in record.get(name, ())], dtype=np.float64) for name in names}
    found = {name: values for name, values in found.items() if len(values) and not np.isnan(values).all()}
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the history's columns have different lengths: {lengths}")
    return found


def _steps(axes: Axes, steps: Mapping[str, Float]) -> None:
    count = np.arange(1, len(steps["lambda"]) + 1)
    handles = []
    for name, colour, text in (("l1", "#f89c20", r"$L_1$ (primary)"), ("l2", "#964a8b", r"$L_2$ (constrained)")):
        if name in steps:
            axes.plot(count, steps[name], color=colour, linewidth=0.8, alpha=0.25)
            handles += axes.plot(count, _smooth(steps[name]), color=colour, linewidth=2.4, label=text)
    axes.set_xlabel("Step")
    axes.set_ylabel("Loss")
    other = axes.twinx()
    handles += other.plot(count, steps["lambda"], color="black", linewidth=2.4, label=r"Multiplier $\lambda$")
    other.set_ylabel(r"Multiplier $\lambda$")
    axes.tick_params(axis="y", which="both", right=False)
    other.tick_params(axis="y", which="both", left=False)
    # above the frame, where no curve can run through it
    spacing = {"columnspacing": 1, "borderpad": 0.2, "handletextpad": 0.4}
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=3, **spacing)
    if all((steps[name] > 0).all() for name in ("l1", "l2") if name in steps):
        axes.set_yscale("log")


def _smooth(values: Float) -> Float:
    """Return the running mean over a fiftieth of the steps, so that the trend is seen through the batches."""
    half = max(len(values) // 100, 0)
    running = np.concatenate([[0.0], np.cumsum(values)])
    position = np.arange(len(values))
    low, high = np.maximum(position - half, 0), np.minimum(position + half + 1, len(values))
    return np.asarray((running[high] - running[low]) / (high - low), dtype=np.float64)


def scaling(found: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]], path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw an op's throughput against the number of rows, of features and of threads, one line for each case and backend.

    Parameters
    ----------
    found
        What ``hepgen.bench.scaling.scan`` returns: axis to pairs of position and measurement. An axis without points is left out.
    path
        Where to write a PNG file.

    Raises
    ------
    InputError
        If there is nothing to draw.
    """
    axes = {name: points for name, points in found.items() if points}
    if not axes:
        raise InputError("there are no measurements to draw")
    with style(14):
        figure = _figure(6 * len(axes), 5)
        for panel, (name, points) in zip(np.atleast_1d(figure.subplots(1, len(axes), sharey=True)), axes.items(), strict=True):
            lines: dict[str, list[tuple[int, float]]] = {}
            for position, row in points:
                lines.setdefault(f"{row['case']}, {row['backend']}", []).append((position, row["throughput"]))
            for label, line in lines.items():
                panel.loglog(*zip(*line, strict=True), marker="o", label=label)
            panel.set_xlabel(name, loc="center")
            panel.set_xticks(sorted({position for position, _ in points}), minor=False)
            panel.xaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
        first, (_, row) = figure.axes[0], next(iter(axes.values()))[0]
        first.set_ylabel(f"{row['op']} ({row['unit']})", loc="center")
        first.legend()
        figure.tight_layout()
    return _finish(figure, path)
