"""How like data a transformed simulation is: every figure of merit, its pictures and one report."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

import hepgen
from hepgen import histograms, plots, report
from hepgen import metrics as merit
from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, checked_matrix, checked_weights, effective_entries

if TYPE_CHECKING:
    import hist
    from rich.table import Table

    from hepgen.events.features import Features
    from hepgen.events.selections import Selection

SCHEMA_VERSION = 1
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
# the ranges of paper A: its selection, and its signal region
M_YY_RANGE, M_YY_ZOOM = (60.0, 300.0), (100.0, 160.0)
_CAPTIONS = {
    "marginals": "Every feature: data as points, the other samples as steps scaled to the data's content; below, ratios to data with the "
    "statistical errors of both sides. Steps far above data leave the frame.",
    "mass": "The mass of the pair, which no model was given: it follows from all columns together.",
    "correlations": "Pearson correlations of features and derived columns.",
    "roc": "A small network told to tell data from each sample: on the diagonal it cannot. Dashed: the same on data with shuffled labels.",
    "history": "Training record: losses by epoch and, where two losses are balanced, both of them and the multiplier by step.",
}


@dataclass(frozen=True)
class _Sample:
    matrix: Float
    weights: Float
    derived: dict[str, Float]
    weighted: bool


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: `metrics` (what metrics.json holds), and what the pictures are drawn from.

    `out` is the folder written, or None.
    """

    title: str
    metrics: dict[str, Any]
    marginals: dict[str, hist.Hist[Any]]
    spectra: list[hist.Hist[Any]]
    correlations: dict[str, merit.CorrelationTable]
    curves: dict[str, merit.ClassifierAUC]
    floor: merit.ClassifierAUC
    history: Mapping[str, Sequence[float | None]] | None = None
    out: Path | None = None

    @property
    def samples(self) -> tuple[str, str, str]:
        """Names of data, simulation and what was made of it."""
        data, simulation, result = self.metrics["samples"]
        return data, simulation, result

    @property
    def models(self) -> tuple[str, str]:
        """Names of what is compared with data."""
        return self.samples[1:]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return the figures as text: (figure, data, simulation, what was made of it)."""
        return [*self._correlation_rows(), *self._chi2_rows(), *self._classifier_rows(), *self._outside_rows()]

    def _correlation_rows(self) -> list[tuple[str, str, str, str]]:
        found = self.metrics["correlations"]["table"]
        rows = []
        for pair in found["data"]:
            if found["data"][pair]["value"] is not None:
                text = [f"{found[sample][pair]['value']:.4f} ± {found[sample][pair]['error']:.4f}" for sample in self.samples]
                rows.append((f"corr {pair}" if pair != "others" else "mean |corr| of all others", text[0], text[1], text[2]))
        return rows

    def _chi2_rows(self) -> list[tuple[str, str, str, str]]:
        rows = []
        for name, entry in self.metrics["chi2"].items():
            simulation, result = (f"{entry[model]['per_ndf']:.2f} ({entry[model]['ndf']})" for model in self.models)
            rows.append((f"chi2/ndf (ndf) {name}", "", simulation, result))
        return rows

    def _classifier_rows(self) -> list[tuple[str, str, str, str]]:
        found = self.metrics["auc"]
        text = [f"{found[name]['value']:.4f} ± {found[name]['error']:.4f}" for name in ("floor", *self.models)]
        return [("classifier AUC (data: shuffled)", text[0], text[1], text[2])]

    def _outside_rows(self) -> list[tuple[str, str, str, str]]:
        found = self.metrics["outside_selection"]
        if found is None:
            return []
        text = {name: f"{100 * entry['fraction']:.3f} ± {100 * entry['error']:.3f} %" for name, entry in found.items()}
        data, simulation, result = (text[sample] for sample in self.samples)
        rows = [("outside the selection", data, simulation, result)]
        return [*rows, ("the same on the first draw", "", "", text["untreated"])] if "untreated" in text else rows

    def table(self) -> Table:
        """Return the figures as a `rich.table.Table`, ready to print on a console."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self.title)
        table.add_column("figure of merit", no_wrap=True)
        for sample in self.samples:
            table.add_column(sample, justify="right", no_wrap=True)
        for row in self.rows():
            # names hold brackets, which rich would read as markup
            table.add_row(*(Text(cell) for cell in row))
        return table

    def pictures(self) -> dict[str, bytes]:
        """Draw every picture and return name -> PNG; MissingDependency without matplotlib and mplhep."""
        figures = {"marginals": plots.marginals(self.marginals)}
        if self.spectra:
            figures["mass"] = plots.spectrum(self.spectra)
        figures["correlations"] = plots.correlations(self.correlations)
        figures["roc"] = plots.roc(self.curves, floor=self.floor)
        if self.history is not None:
            figures["history"] = plots.history(self.history)
        return {name: plots.png(figure) for name, figure in figures.items()}

    def html(self, pictures: Mapping[str, bytes]) -> str:
        """Return the report with these pictures inside."""
        samples = [
            (name, f"{entry['events']:,}", f"{entry['sum_of_weights']:,.2f}", f"{entry['effective_events']:,.0f}")
            for name, entry in self.metrics["samples"].items()
        ]
        figures = [row for row in self.rows() if not row[0].startswith("chi2")]
        sections = [
            report.Section("Samples", [report.Table(("sample", "events", "sum of weights", "effective events"), samples)]),
            report.Section(
                "Figures of merit",
                [
                    report.Table(("figure", *self.samples), figures, "Errors are statistical. Others: all pairs not listed."),
                    report.Table(
                        ("column", *(f"{model} {what}" for model in self.models for what in ("chi2 / ndf", "p"))),
                        self._chi2_cells(),
                        "Shapes against data, with the statistical errors of both sides; overflow in the outer bins.",
                    ),
                ],
            ),
            report.Section("Pictures", [report.Picture(picture, _CAPTIONS[name]) for name, picture in pictures.items()]),
        ]
        if self.metrics["outside_selection"] is not None:
            sections.insert(2, self._outside_section())
        footer = f"hepgen {self.metrics['hepgen']}, seed {self.metrics['seed']}. All numbers are in {METRICS_FILE} beside this page."
        subtitle = f"Simulation, as it is and {self.samples[2]}, against data: {', '.join(self.metrics['features'])}"
        return report.render(self.title, sections, subtitle=subtitle, footer=footer)

    def _chi2_cells(self) -> list[list[str]]:
        rows = []
        for name, entry in self.metrics["chi2"].items():
            cells = [(f"{one['chi2']:.1f} / {one['ndf']}", f"{one['p_value']:.3g}") for one in (entry[model] for model in self.models)]
            rows.append([name, *(text for pair in cells for text in pair)])
        return rows

    def _outside_section(self) -> report.Section:
        found = self.metrics["outside_selection"]
        rows = []
        for cut in found[self.samples[2]]["cuts"]:
            entries = [found[sample]["cuts"][cut] for sample in self.samples]
            rows.append([cut, *(f"{100 * entry['fraction']:.3f} ± {100 * entry['error']:.3f} %" for entry in entries)])
        skipped = found[self.samples[2]]["skipped"]
        note = f"Not computable from the columns: {', '.join(skipped)}." if skipped else ""
        return report.Section("Outside the selection", [report.Table(("cut", *self.samples), rows, note)])

    def write(self, out: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write metrics.json, the pictures and report.html into a folder and return their paths.

        Everything is made in a folder beside and moved in when whole. A folder that holds files is refused unless `overwrite`, which
        replaces files of an earlier evaluation and touches no others.
        """
        report.refuse_folder(out, overwrite=overwrite)
        pictures = self.pictures()
        contents = {f"{name}.png": picture for name, picture in pictures.items()}
        contents[REPORT_FILE] = self.html(pictures).encode()
        contents[METRICS_FILE] = (json.dumps(self.metrics, indent=1, allow_nan=False) + "\n").encode()
        return report.write_folder(out, contents, overwrite=overwrite, stale=[f"{name}.png" for name in _CAPTIONS])


def evaluate(
    features: Features | Sequence[str],
    sim: ArrayLike,
    data: ArrayLike,
    transformed: ArrayLike,
    *,
    sim_weights: ArrayLike | None = None,
    data_weights: ArrayLike | None = None,
    transformed_weights: ArrayLike | None = None,
    selection: Selection | None = None,
    untreated: ArrayLike | None = None,
    history: Mapping[str, Sequence[float | None]] | None = None,
    seed: int = 1,
    max_classifier_events: int | None = 100_000,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    title: str = "Simulation to data",
    result: str = "transformed",
) -> Evaluation:
    """Compare simulation and transformed simulation with data: correlations, chi2 of shapes, classifier, events outside the selection.

    Parameters
    ----------
    features : Features, whose output columns the matrices have, or plain column names
    sim, data, transformed : (n, d) float64 matrices, GeV and rad. Where two objects have pt, eta and phi, the mass of the pair (m_yy) is
        evaluated too
    sim_weights, data_weights : event weights of either sign
    transformed_weights : by default those of `sim`, whose rows `transformed` then has
    selection : also report what falls outside it; needs a Features object
    untreated : (n, d), the rows of `transformed` before those outside the selection were clipped or drawn again, to report their fraction
    history : training record for the last picture (see `hepgen.plots.history`); one without epochs draws none
    seed : of the classifier
    max_classifier_events : events of each sample the classifier uses (half to train, half to measure); None for all
    out : folder for metrics.json, PNG files and report.html; nothing is written (and matplotlib not needed) without it
    overwrite : allow `out` to hold files
    title : heading of table and report
    result : what the third sample is called

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        Empty, not finite or mismatched samples, weights that sum to zero, a constant column, too few events for a shape or a classifier.
    OutputError
        `out` holds files already, or cannot be written.
    """
    if out is not None:
        report.refuse_folder(out, overwrite=overwrite)
    outputs = getattr(features, "outputs", None)
    names = tuple(features) if outputs is None else tuple(outputs)
    if selection is not None and outputs is None:
        raise UsageError("a selection needs hepgen.Features, not plain names, to know its columns")
    samples = _samples(names, (data, data_weights), (sim, sim_weights), (transformed, transformed_weights), result)
    found = _marginals(names, samples)
    spectra = _spectra(samples)
    tables = {
        name: merit.correlation_table(sample.matrix, names, sample.derived, weights=sample.weights) for name, sample in samples.items()
    }
    curves, floor = _classify(samples, seed, max_classifier_events)
    numbers = {
        "schema": SCHEMA_VERSION,
        "hepgen": hepgen.__version__,
        "title": title,
        "seed": seed,
        "features": list(names),
        "derived": list(samples["data"].derived),
        "samples": {name: _counts(sample) for name, sample in samples.items()},
        "correlations": _correlation_numbers(tables),
        "chi2": _chi2_numbers(names, samples, found, spectra),
        "auc": {name: curve.to_dict() for name, curve in {**curves, "floor": floor}.items()},
        "outside_selection": None if selection is None else _outside_numbers(selection, features, samples, untreated),
    }
    evaluation = Evaluation(
        title,
        numbers,
        found,
        spectra,
        tables,
        curves,
        floor,
        history if history and len(history.get("epoch", ())) else None,
        None if out is None else Path(out),
    )
    if out is not None:
        evaluation.write(out, overwrite=overwrite)
    return evaluation


def _samples(names: Sequence[str], data: Any, sim: Any, transformed: Any, result: str) -> dict[str, _Sample]:
    if transformed[1] is None and sim[1] is not None:
        if np.shape(transformed[0])[:1] != np.shape(sim[0])[:1]:
            raise InputError("the transformed sample has other rows than the simulation, which has weights: give transformed_weights")
        transformed = (transformed[0], sim[1])
    found = {}
    for name, (matrix, weights) in zip((*histograms.SAMPLES[:2], result), (data, sim, transformed), strict=True):
        x = checked_matrix(matrix, f"the {name} sample", names)
        w = checked_weights(weights, len(x), f"the {name} sample")
        found[name] = _Sample(x, w, merit.pair_observables(names, x), weights is not None)
    return found


def _marginals(names: Sequence[str], samples: Mapping[str, _Sample]) -> dict[str, hist.Hist[Any]]:
    return histograms.from_matrices(
        names, {name: sample.matrix for name, sample in samples.items()}, {name: sample.weights for name, sample in samples.items()}
    )


def _spectra(samples: Mapping[str, _Sample]) -> list[hist.Hist[Any]]:
    """Return the histograms of each derived column: the whole range and, for m_yy, the signal region of paper A."""
    found = []
    for name, values in samples["data"].derived.items():
        inside = name == "m_yy" and M_YY_RANGE[0] <= values.min() and values.max() <= M_YY_RANGE[1]
        low, high = M_YY_RANGE if inside else (None, None)
        axes = [histograms.axis_for(name, values, low=low, high=high)]
        if name == "m_yy" and all(_fills_zoom(sample) for sample in samples.values()):
            axes.append(histograms.axis_for(name, values, bins=30, low=M_YY_ZOOM[0], high=M_YY_ZOOM[1]))
        for axis in axes:
            booked = histograms.book(axis)
            for label, sample in samples.items():
                histograms.fill(booked, {name: sample.derived[name]}, sample.weights, sample=label)
            found.append(booked)
    return found


def _fills_zoom(sample: _Sample) -> bool:
    """Whether the signal region holds enough to compare a shape in: 50 effective entries of positive sum."""
    _, w = _within(sample, "m_yy", np.array(M_YY_ZOOM))
    return bool(w.sum() > 0) and effective_entries(w) >= 50


def _classify(samples: Mapping[str, _Sample], seed: int, limit: int | None) -> tuple[dict[str, merit.ClassifierAUC], merit.ClassifierAUC]:
    data = samples["data"]
    curves = {}
    for name in list(samples)[1:]:
        x, w = samples[name].matrix, samples[name].weights
        curves[name] = merit.classifier_auc(x, data.matrix, a_weights=w, b_weights=data.weights, max_events=limit, floor=False, seed=seed)
    return curves, merit.classifier_floor(data.matrix, weights=data.weights, max_events=limit, seed=seed)


def _counts(sample: _Sample) -> dict[str, Any]:
    return {
        "events": len(sample.matrix),
        "weighted": sample.weighted,
        "sum_of_weights": float(sample.weights.sum()),
        "sum_of_squared_weights": float((sample.weights**2).sum()),
        "effective_events": effective_entries(sample.weights),
    }


def _correlation_numbers(tables: Mapping[str, merit.CorrelationTable]) -> dict[str, Any]:
    shown = {name: table.to_dict() for name, table in tables.items()}
    differences = {model: _differences(shown[model], shown["data"]) for model in list(shown)[1:]}
    return {
        "names": list(tables["data"].names),
        "matrix": {name: table.matrix.tolist() for name, table in tables.items()},
        "errors": {name: table.errors.tolist() for name, table in tables.items()},
        "table": shown,
        "difference_to_data": differences,
        "largest_difference": {
            model: max((abs(entry["value"]) for entry in found.values()), default=None) for model, found in differences.items()
        },
    }


def _differences(model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return model - data with its error for every column of the correlation table."""
    return {
        pair: {"value": model[pair]["value"] - entry["value"], "error": math.hypot(model[pair]["error"], entry["error"])}
        for pair, entry in data.items()
        if entry["value"] is not None
    }


def _chi2_numbers(
    names: Sequence[str], samples: Mapping[str, _Sample], marginals: Mapping[str, hist.Hist[Any]], spectra: Sequence[hist.Hist[Any]]
) -> dict[str, dict[str, Any]]:
    data = samples["data"]
    found: dict[str, dict[str, Any]] = {}
    edges = {name: histograms.edges(marginals[name].axes[1]) for name in names}
    for model in list(samples)[1:]:
        sample = samples[model]
        for name, entry in merit.marginal_chi2(
            sample.matrix, data.matrix, names, edges, a_weights=sample.weights, b_weights=data.weights
        ).items():
            found.setdefault(name, {})[model] = entry.to_dict()
    for number, spectrum in enumerate(spectra):
        axis = spectrum.axes[1]
        bins = histograms.edges(axis)
        # the first spectrum of a column holds everything, a second one is a range of its own
        zoom = number > 0 and spectra[number - 1].axes[1].name == axis.name
        label = f"{axis.name} in {bins[0]:g}-{bins[-1]:g}" if zoom else axis.name
        for model in list(samples)[1:]:
            (a, v), (b, w) = (_within(one, axis.name, bins if zoom else None) for one in (samples[model], data))
            found.setdefault(label, {})[model] = merit.chi2_ndf(a, b, bins, v, w, name=label).to_dict()
    return found


def _within(sample: _Sample, name: str, bins: Float | None) -> tuple[Float, Float]:
    values = sample.derived[name]
    if bins is None:
        return values, sample.weights
    inside = (values >= bins[0]) & (values < bins[-1])
    return values[inside], sample.weights[inside]


def _outside_numbers(selection: Selection, features: Any, samples: Mapping[str, _Sample], untreated: ArrayLike | None) -> dict[str, Any]:
    rows = {name: (sample.matrix, sample.weights) for name, sample in samples.items()}
    if untreated is not None:
        rows["untreated"] = checked_matrix(untreated, "the untreated sample", features.outputs), list(samples.values())[2].weights
    return {name: merit.fraction_outside(selection, features, *row).to_dict() for name, row in rows.items()}
