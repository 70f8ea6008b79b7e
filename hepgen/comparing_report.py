"""A comparison of generators as a table, a JSON file and a page that needs nothing beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepgen import plots, report
from hepgen.histograms import book
from hepgen.variations import NOMINAL

if TYPE_CHECKING:
    from hist import Hist
    from rich.table import Table

COMPARISON_FILE, REPORT_FILE, PICTURE_FILE = "comparison.json", "report.html", "marginals.png"
HEAD = (
    "generator", "fit [s]", "events/s", "delta", "floor", "delta_OF eta", "delta_OF phi", "unphysical", "closer", "copies", "chi2/ndf",
)  # fmt: skip
_NONE = "-"
_CAPTION = (
    "delta: mean chi2 of all pairs of observables, with its statistical error and its floor, the mean for a perfect generator of as "
    "many events. delta_OF: difference in the fraction of empty cells of the two leading jets, its floor in brackets. Unphysical: "
    "share of events that break a rule or a cut. Closer: share nearer to a training than to a holdout event, 0.5 for independent "
    "events. Copies: share of copies of training events. chi2/ndf: of the observable with the lowest p-value. Bold: the lowest delta."
)


@dataclass(frozen=True)
class Comparison:
    """What `compare_study` found: `metrics` (what comparison.json holds), and a histogram of every observable."""

    title: str
    metrics: dict[str, Any]
    histograms: Mapping[str, Hist[Any]]

    @property
    def best(self) -> str | None:
        """The model with the lowest delta."""
        done = {label: row["delta"]["value"] for label, row in self.metrics["rows"].items() if row["kind"] == "model" and "delta" in row}
        return min(done, key=lambda label: done[label], default=None)

    @property
    def failures(self) -> dict[str, str]:
        """Why models failed, by label."""
        return {label: row["error"] for label, row in self.metrics["rows"].items() if row.get("error")}

    def rows(self) -> list[tuple[str, ...]]:
        """The figures as text, in the order of `HEAD`."""
        return [(label, *_cells(row)) for label, row in self.metrics["rows"].items()]

    def table(self) -> Table:
        """The figures as a `rich.table.Table`, ready to print."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        said = [f"{label} failed: {reason}" for label, reason in self.failures.items()]
        caption = Text("\n".join(said)) if said else None
        table = RichTable(title=self.title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), caption=caption, caption_justify="left")
        # heads and labels may hold what rich would read as markup
        for name in HEAD:
            table.add_column(Text(name), justify="left" if name == HEAD[0] else "right", no_wrap=name == HEAD[0])
        for row in self.rows():
            table.add_row(*(Text(cell) for cell in row), style="bold" if row[0] == self.best else None)
        return table

    def html(self, pictures: Mapping[str, bytes]) -> str:
        """The report with these pictures inside."""
        rows = self.rows()
        strong = [number for number, row in enumerate(rows) if row[0] == self.best]
        figures: list[report.Text | report.Table | report.Picture] = [report.Table(HEAD, rows, _CAPTION, strong)]
        figures += [report.Text(f"{label} failed: {reason}") for label, reason in self.failures.items()]
        found, events = self.metrics["observables"], self.metrics["events"]
        sections = [
            report.Section("Figures of merit", figures),
            report.Section("What is worst", [self._worst()]),
            report.Section("Samples", [_samples(events), report.Text(_ranges(found))]),
            report.Section("Models", [self._models()]),
        ]
        sections += [
            report.Section("Observables", [report.Picture(picture, f"{self.best} (steps, scaled) against the reference (points).")])
            for picture in pictures.values()
        ]
        footer = f"hepgen {self.metrics['hepgen']}, seed {self.metrics['seed']}. All numbers are in {COMPARISON_FILE} beside this page."
        subtitle = f"Generators of {', '.join(self.metrics['features'])}"
        return report.render(self.title, sections, subtitle=subtitle, footer=footer)

    def _worst(self) -> report.Table:
        rows = []
        for label, row in self._measured().items():
            pair, chi2, broken = row["delta"]["worst"], row["chi2"], (row["physicality"] or {}).get("rules", {})
            rule = max(broken, key=lambda name: broken[name]["fraction"], default=None)
            rule = None if rule is None or not broken[rule]["events"] else rule
            near = _NONE if row["copies"] is None else f"{100 * row['copies']['near']:.3f} % ({100 * row['copies']['near_holdout']:.3f} %)"
            rows.append(
                (label, f"{pair['columns'][0]} and {pair['columns'][1]}: {pair['chi2']:.4f}", chi2["worst"] or _NONE, rule or _NONE, near)
            )
        head = ("generator", "pair of observables: chi2 of delta", "observable by its chi2", "rule most often broken", "near copies")
        return report.Table(head, rows, "Near copies: of training events, and in brackets of holdout events, which only chance makes.")

    def _models(self) -> report.Table:
        models = {label: row for label, row in self.metrics["rows"].items() if row["kind"] == "model"}
        rows = [(label, row["model"], json.dumps(row["settings"])) for label, row in models.items()]
        return report.Table(("label", "model", "settings"), rows, "As the study gives them; all others are the model's own.")

    def _measured(self) -> dict[str, Any]:
        return {label: row for label, row in self.metrics["rows"].items() if "delta" in row}

    def pictures(self) -> dict[str, bytes]:
        """Draw the observables of the best model over the reference, name -> PNG; MissingDependency without matplotlib and mplhep."""
        if self.best is None:
            return {}
        shown = {name: _of_two(one, self.best) for name, one in self.histograms.items()}
        return {PICTURE_FILE: plots.png(plots.marginals(shown, reference="reference"))}

    def write(self, out: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write comparison.json, the picture and report.html into a folder, whole or not at all; see `hepgen.report.write_folder`."""
        pictures = self.pictures()
        contents = {
            **pictures,
            REPORT_FILE: self.html(pictures).encode(),
            COMPARISON_FILE: (json.dumps(self.metrics, indent=1, allow_nan=False) + "\n").encode(),
        }
        return report.write_folder(out, contents, overwrite=overwrite, stale=[PICTURE_FILE])


def _cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row behind its label."""
    times = [_fitted(row.get("fit")), f"{row['sampling']['events_per_second']:,.0f}" if "sampling" in row else _NONE]
    if "delta" not in row:
        return ["failed", *[_NONE] * (len(HEAD) - 2)]
    delta, copies, broken, chi2 = row["delta"], row["copies"], row["physicality"], row["chi2"]
    return [
        *times,
        f"{delta['value']:.4f} ± {delta['error']:.4f}",
        f"{delta['floor']:.4f}",
        *(_empty(row["delta_of"].get(quantity)) for quantity in ("eta", "phi")),
        _NONE if broken is None else f"{100 * broken['fraction']:.3f} %",
        _NONE if copies is None else f"{copies['closer']:.3f} ± {copies['error']:.3f}",
        _NONE if copies is None else f"{100 * copies['exact']:.2f} %",
        _NONE if chi2["worst"] is None else f"{chi2['columns'][chi2['worst']]['per_ndf']:.2f}",
    ]


def _fitted(fit: Mapping[str, Any] | None) -> str:
    # of a fit that was stopped the time before is not known
    return _NONE if fit is None else f"{'> ' if fit['resumed'] else ''}{fit['seconds']:.1f}"


def _empty(found: Mapping[str, float] | None) -> str:
    return _NONE if found is None else f"{found['value']:.2f} ({found['floor']:.2f})"


def _samples(events: Mapping[str, Any]) -> report.Table:
    rows: list[Sequence[str]] = [
        (name, f"{events[name]['events']:,}", f"{events[name]['sum_of_weights']:,.2f}", f"{events[name]['effective_events']:,.0f}")
        for name in ("training", "reference")
    ]
    rows.append(("generated, of each model", f"{events['generated']:,}", _NONE, _NONE))
    return report.Table(("sample", "events", "sum of weights", "effective events"), rows, f"{events['read']:,} events were read.")


def _ranges(found: Mapping[str, Any]) -> str:
    share = f"the central {100 * found['central']:g} % of the reference" if found["central"] < 1 else "all of the reference"
    left = f" Constant, and left out: {', '.join(found['left_out'])}." if found["left_out"] else ""
    many = len(found["names"])
    return f"{many} observables. The bins of delta span {share}; what is beyond is one bin more.{left} An absent object is 0."


def _of_two(histogram: Hist[Any], label: str) -> Hist[Any]:
    """The reference and one model alone, without the axis of variations."""
    shown = book(histogram.axes[2], samples=("reference", label))
    for sample in ("reference", label):
        one: Any = histogram[{0: sample, 1: NOMINAL}]
        shown[{0: sample}] = one.view(flow=True)
    return shown
