"""Every generator of a study on one sample: fitted, drawn from, and measured against the same reference."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import hepgen
from hepgen.comparing_figures import CHI2_BINS, NEIGHBOURS, Benchmark, Observed, Sample, gathered
from hepgen.comparing_report import Comparison
from hepgen.errors import FitInterrupted, HepgenError, InputError, OutputError
from hepgen.estimators import EventGenerator, load
from hepgen.events import write_histograms
from hepgen.histograms import axis_for, book, fill
from hepgen.progress import Report, progress_bar
from hepgen.report import refuse_folder
from hepgen.sampling import CHUNK

if TYPE_CHECKING:
    from hist import Hist

    from hepgen.study import Study

SCHEMA_VERSION = 1
TRAINING, HALVES = "training events", "reference, halves"


def compare_study(study: Study, *, overwrite: bool = False, progress: bool | None = None) -> Comparison:
    """Fit every generator of a study, draw events from it, and measure them and the training events against the rest of the sample.

    The study's folder gets ``models/LABEL.hepgen``, ``histograms.root`` with every observable of the reference and of all models, and
    ``report/`` with ``comparison.json`` and ``report.html``. A fitted model is kept as soon as it is there, and a fit that was stopped has
    its checkpoints: the same call goes on from there. A model that fails gets its reason in its row, and the others go on.

    Parameters
    ----------
    study
        Of the task "compare".
    overwrite
        Replace the report, and models that were fitted with other settings or events.
    progress
        Show progress bars (default: on a terminal).

    Raises
    ------
    OutputError
        The report, or a model fitted otherwise, is there already, and `overwrite` is not set.
    UsageError, InputError
        The study or its sample cannot be used.
    FitInterrupted
        Stopped by Ctrl-C.
    """
    generators = study.generators()
    refuse_folder(study.out / "report", overwrite=overwrite)
    if (study.out / "histograms.root").exists() and not overwrite:
        raise OutputError(f"{study.out / 'histograms.root'} exists already: give the study another output, or pass --overwrite")
    bench, data = prepare(study)
    fits = {label: Fit(study, label, model, options, data.key) for label, (model, options) in generators.items()}
    for fit in fits.values():
        fit.refuse_other(overwrite)
    print(f"{data.read} events read: {len(bench.training)} to learn from, {len(bench.reference)} as reference")
    books = Books(bench)
    half = len(bench.reference) // 2
    rows = {
        TRAINING: {"kind": "events", **bench.measure(bench.training, copies=False)},
        HALVES: {"kind": "events", **bench.measure(bench.reference[:half], against=bench.reference[half:])},
    }
    for label, fit in fits.items():
        rows[label] = _row(fit, data, bench, books, progress)
    found = Comparison(study.out.name, numbers(study, data, bench, rows), books.booked)
    study.out.mkdir(parents=True, exist_ok=True)
    write_histograms(study.out / "histograms.root", books.booked, overwrite=overwrite)
    found.write(study.out / "report", overwrite=overwrite)
    return found


@dataclass(frozen=True)
class Training:
    """The events that every model learns, their weights, what observes generated ones, and a key of all that a fit depends on."""

    events: Any
    weights: Any
    observed: Observed
    key: str
    read: int


def prepare(study: Study) -> tuple[Benchmark, Training]:
    """Read the sample and divide it at random: events to learn from, and the reference.

    Raises
    ------
    InputError
        A file or column is not as it must be, or nothing is left for the reference.
    """
    import awkward as ak

    model, _ = next(iter(study.generators().values()))
    observed = Observed(model.features, study.generate.observables)
    loaded = study.load_whole(observed.needed)
    n, train = len(loaded.events), study.generate.train
    if n < train + 2:
        raise InputError(f"generate.train asks for {train} events of {n}: leave some for the reference")
    order = np.random.default_rng(study.seed).permutation(n)
    weights = None if np.all(loaded.weights == 1) else loaded.weights[order]
    events = ak.to_packed(loaded.events[order])
    whole = gathered((events[start : start + CHUNK] for start in range(0, n, CHUNK)), n, observed)
    whole = Sample(whole.columns, whole.observables, weights)
    learnt = ak.to_packed(events[:train]), None if weights is None else weights[:train]  # the others need not stay in memory
    bench = Benchmark.of(
        whole[train:], whole[:train], model.features, observed.names, central=study.generate.central, selection=study.cuts()
    )
    digest = hashlib.sha256(whole.columns[:train].tobytes())
    digest.update(b"" if weights is None else weights[:train].tobytes())
    return bench, Training(*learnt, observed, digest.hexdigest(), loaded.read)


class Fit:
    """The fit of one model: what it depends on, and the files it leaves."""

    def __init__(self, study: Study, label: str, model: EventGenerator, options: Mapping[str, Any], data: str) -> None:
        self.label, self.model, self.options, self.seed, self.events = label, model, options, study.seed, study.generate.events
        self.settings = study.models[label]
        said = [self.settings, study.features.paths, model.schema, study.seed, data]
        self.key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        folder = study.out / "models"
        self.path, self.about = folder / f"{label}.hepgen", folder / f"{label}.json"
        self.checkpoints = folder / "checkpoints" / f"{label}-{self.key[:12]}"

    def refuse_other(self, overwrite: bool) -> None:
        """Refuse a model file that another fit left, unless it may be replaced."""
        if self.path.exists() and not self._same() and not overwrite:
            raise OutputError(f"{self.path} was fitted with other settings or events: take another label or output, or pass --overwrite")

    def _same(self) -> bool:
        try:
            return self.path.exists() and bool(json.loads(self.about.read_text())["key"] == self.key)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def run(self, data: Training, progress: bool | None) -> tuple[EventGenerator, dict[str, Any]]:
        """The fitted model, and the seconds that took; read from its file where it was fitted before."""
        if self._same():
            return load(self.path), json.loads(self.about.read_text())["fit"]
        resumed, began = self.checkpoints.exists(), time.perf_counter()
        self.model.fit(data.events, data.weights, seed=self.seed, checkpoint=self.checkpoints, progress=progress, **self.options)
        took = {"seconds": time.perf_counter() - began, "resumed": resumed}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.about.unlink(missing_ok=True)  # so that no moment has the model of one fit and the key of another
        self.model.save(self.path, overwrite=True)
        self.about.write_text(json.dumps({"key": self.key, "fit": took}) + "\n")
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return self.model, took


def _row(fit: Fit, data: Training, bench: Benchmark, books: Books, progress: bool | None) -> dict[str, Any]:
    """Figures and times of one model, or the reason why there are none."""
    row: dict[str, Any] = {"kind": "model", "model": fit.model.model, "settings": fit.settings, "error": None}
    try:
        model, row["fit"] = fit.run(data, progress)
        clock = Clock()
        with progress_bar(f"sample from {fit.label}", fit.events, progress) as report:
            made = gathered(clock.parts(model, fit.events, report), fit.events, data.observed)
        row["sampling"] = {"seconds": clock.seconds, "events_per_second": fit.events / clock.seconds}
        row |= bench.measure(made)
        books.add(fit.label, made)
        print(f"{fit.label}: delta {row['delta']['value']:.5f}, fitted in {row['fit']['seconds']:.1f} s", flush=True)
    except (FitInterrupted, OutputError):  # Ctrl-C and a full disk are no fault of the model
        raise
    except Exception as error:
        row["error"] = str(error) if isinstance(error, HepgenError) else f"{type(error).__name__}: {error}"
        print(f"{fit.label}: failed: {row['error']}", flush=True)
    return row


class Clock:
    """Seconds that drawing events takes, without what is done with them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def parts(self, model: EventGenerator, total: int, report: Report) -> Iterator[Any]:
        """Events of a model in parts."""
        for start in range(0, total, CHUNK):
            began = time.perf_counter()
            events = model.sample(min(CHUNK, total - start), first=start)
            self.seconds += time.perf_counter() - began
            yield model.as_records(events)
            report(start + len(events), "")


class Books:
    """A histogram of every observable compared, with the reference and each model as they are."""

    def __init__(self, bench: Benchmark) -> None:
        self.compared, names = bench.compared, [bench.names[k] for k in bench.compared]
        low, high = bench.ranges.T
        self.booked: dict[str, Hist[Any]] = {}
        for name, k, a, b in zip(names, bench.compared, low, high, strict=True):
            axis = axis_for(name, bench.reference.observables[:, k], low=float(a), high=float(b))
            self.booked[name] = book(axis, samples=("reference",), variations=True)
        self.add("reference", bench.reference)

    def add(self, label: str, sample: Sample) -> None:
        """Fill a sample."""
        for k, (name, one) in zip(self.compared, self.booked.items(), strict=True):
            fill(one, {name: sample.observables[:, k]}, sample.weights, sample=label)


def numbers(study: Study, data: Training, bench: Benchmark, rows: Mapping[str, Any]) -> dict[str, Any]:
    """What comparison.json holds."""
    return {
        "schema": SCHEMA_VERSION,
        "hepgen": hepgen.__version__,
        "title": study.out.name,
        "seed": study.seed,
        "features": list(bench.features.outputs),
        "observables": {"choice": study.generate.observables, "central": study.generate.central, **bench.about()},
        "choices": {"chi2_bins": CHI2_BINS, "neighbours": NEIGHBOURS},
        "events": {
            "read": data.read,
            "training": bench.training.counts(),
            "reference": bench.reference.counts(),
            "generated": study.generate.events,
        },
        "rows": dict(rows),
    }
