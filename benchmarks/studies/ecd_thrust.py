"""Table I and figure 1 of the paper: the thrust of hadronic Z decays, reweighted in one dimension."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import numpy as np
from ecd_runs import Floats, Training, fit, mean, scatter, settings_of
from study_runs import Result, Store, say

from hepgen import Features, events

BINS, KEPT, FINE = 19, 10, 10
EDGES = np.linspace(0.0, 0.5, BINS + 1)
HIDDEN = (50, 100, 50)
#: The networks of the published code, which have four times the parameters, and four times the width and depth taken literally.
SHAPES = {
    "wide": (100, 200, 100),
    "deep": (50, 100, 100, 100, 100, 50),
    "4 x width": (200, 400, 200),
    "4 x depth": (50, 100, 50) * 4,
}
#: MAE in print, and its standard deviation over ten trainings.
PAPER = {
    "ECD default": (1.48e-3, 0.29e-3),
    "Adam tuned": (2.59e-3, 0.27e-3),
    "Adam default": (3.20e-3, 0.87e-3),
    "ECD default, wide": (1.58e-3, 0.18e-3),
    "Adam tuned, wide": (3.23e-3, 0.19e-3),
    "ECD default, deep": (1.87e-3, 0.58e-3),
    "Adam tuned, deep": (2.72e-3, 0.42e-3),
}
#: Settings that the paper and its code name. The code has no dropout here and its loss is BCE whatever `--loss_fn` says.
NAMED: dict[str, Result] = {
    "ECD default": {"optimizer": "ecd"},
    "Adam default": {"optimizer": "adam"},
    "ECD dt 0.3": {"optimizer": "ecd", "learning_rate": 0.3},
    "ECD paper text": {"optimizer": "ecd", "learning_rate": 0.1, "eta": 1e6, "F0": -1.0, "trainings": 3},
    "ECD published script": {"optimizer": "ecd", "learning_rate": 0.1, "eta": 1e5, "F0": -0.35, "dropout": 0.0, "trainings": 3},
    "ECD published script, MLC": {
        "optimizer": "ecd", "learning_rate": 0.1, "eta": 1e5, "F0": -0.35, "dropout": 0.0, "loss": "mlc", "link": "exp",
    },
    "Adam paper": {"optimizer": "adam", "learning_rate": 1e-5, "betas": (0.997, 0.998)},
}  # fmt: skip


@dataclass(frozen=True)
class Halves:
    """Thrust of the events that pass, in a half to train with and a half to measure on."""

    sim_train: Floats
    sim_test: Floats
    data_train: Floats
    data_test: Floats

    def identity(self) -> Result:
        """Numbers of events and sums: what tells one sample from another."""
        parts = {"sim train": self.sim_train, "sim test": self.sim_test, "data train": self.data_train, "data test": self.data_test}
        return {name: [len(values), float(values.sum())] for name, values in parts.items()}


def load(folder: Path, max_events: int | None, seed: int) -> Halves:
    """Read the sample, keep events with pass_reco == 1, and halve each sample at random."""
    parts = []
    for number, name in enumerate(("sim", "data")):
        sample = events.read(folder / f"{name}.root")
        thrust = np.asarray(sample.thrust, dtype=np.float64)[np.asarray(sample.pass_reco) == 1]
        order = np.random.default_rng([seed, number]).permutation(len(thrust))[:max_events]
        parts += [thrust[order[: len(order) // 2]], thrust[order[len(order) // 2 :]]]
    return Halves(*parts)


def as_events(thrust: Floats) -> ak.Array:
    """Events of one column."""
    return ak.Array({"thrust": thrust})


def spectrum(thrust: Floats, weights: Floats | None = None, bins: int = BINS) -> Floats:
    """Fraction of all events, or of all weight, in bins of 1 - T over [0, 0.5]."""
    counts = np.histogram(1.0 - thrust, bins=bins, range=(0.0, 0.5), weights=weights)[0].astype(np.float64)
    return counts / (len(thrust) if weights is None else weights.sum())


def mae(reweighted: Floats, data: Floats, kept: int = KEPT) -> Floats:
    """sum_b n_b |w_b / n_b - 1| / sum_b n_b over the first bins, of densities (..., bins); w simulation, n data."""
    w, n = reweighted[..., :kept], data[..., :kept]
    return np.asarray(np.abs(w - n).sum(axis=-1) / n.sum(axis=-1))


def floor(sim: Floats, data: Floats, n_sim: int, n_data: int, draws: int, seed: int, kept: int = KEPT) -> tuple[float, float]:
    """MAE of the exact ratio, and its spread, where samples are as large as `n_sim` and `n_data`.

    Both samples are drawn again and again from the fractions `sim` and `data` in fine bins (`FINE` to a bin), drawn simulation is
    weighted with the quotient of the fractions, and the two are compared as reweighted simulation and data are.
    """
    rng = np.random.default_rng(seed)
    ratio = np.divide(data, sim, out=np.zeros_like(data), where=sim > 0)
    drawn = [rng.multinomial(n, p / p.sum(), size=draws).astype(np.float64) for n, p in ((n_sim, sim), (n_data, data))]
    drawn[0] *= ratio
    w, n = (counts.reshape(draws, -1, FINE).sum(axis=-1) / counts.sum(axis=-1, keepdims=True) for counts in drawn)
    found = mae(w, n, kept)
    return float(found.mean()), float(found.std())


def about(halves: Halves, draws: int, seed: int) -> Result:
    """The spectra of both halves, MAE before reweighting, and the statistical floors."""
    everything = {"sim": np.concatenate([halves.sim_train, halves.sim_test]), "data": np.concatenate([halves.data_train, halves.data_test])}
    fine = {name: spectrum(values, bins=BINS * FINE) for name, values in everything.items()}
    n = {name: len(values) for name, values in everything.items()}
    return {
        "events": {name: value[0] for name, value in halves.identity().items()},
        "sim": spectrum(halves.sim_test).tolist(),
        "data": spectrum(halves.data_test).tolist(),
        "before_test": float(mae(spectrum(halves.sim_test), spectrum(halves.data_test))),
        "before_all": float(mae(spectrum(everything["sim"]), spectrum(everything["data"]))),
        "floor_test": floor(fine["sim"], fine["data"], len(halves.sim_test), len(halves.data_test), draws, seed),
        "floor_all": floor(fine["sim"], fine["data"], n["sim"], n["data"], draws, seed),
    }


def measure(halves: Halves, test: Floats, train: Floats, apply_seconds: float) -> Result:
    """Everything that is asked of ratios of the simulation, (n, E) in the test half and in the training half."""
    n_test = spectrum(halves.data_test)
    n_all = spectrum(np.concatenate([halves.data_train, halves.data_test]))
    sim_all = np.concatenate([halves.sim_train, halves.sim_test])
    w = [spectrum(halves.sim_test, column) for column in test.T]
    w_all = [spectrum(sim_all, np.concatenate(pair)) for pair in zip(train.T, test.T, strict=True)]
    ensemble = test.mean(axis=1)
    squares = np.histogram(1.0 - halves.sim_test, bins=EDGES, weights=ensemble**2)[0]
    value, error = scatter(test[1.0 - halves.sim_test < EDGES[KEPT]])
    return {
        "mae": [float(mae(one, n_test)) for one in w],
        "mae_all": [float(mae(one, n_all)) for one in w_all],
        "spectra": [one.tolist() for one in w],
        "scatter": value,
        "scatter_error": error,
        "ensemble": {
            "mae": float(mae(spectrum(halves.sim_test, ensemble), n_test)),
            "mae_all": float(mae(spectrum(sim_all, np.concatenate([train.mean(axis=1), ensemble])), n_all)),
            "spectrum": spectrum(halves.sim_test, ensemble).tolist(),
            "statistical_error": (np.sqrt(squares) / ensemble.sum()).tolist(),
        },
        "apply_seconds": apply_seconds,
    }


def train(training: Training, halves: Halves, checkpoint: Path, events_each: int | None = None) -> Result:
    """Train a configuration on the training half, or its first events, and measure it."""
    features = Features(["thrust"])
    sim, data = (as_events(part[:events_each]) for part in (halves.sim_train, halves.data_train))
    fitted = fit(training, features, sim, data, checkpoint)
    started = time.perf_counter()
    test = fitted.ratios(halves.sim_test[:, None])
    seconds = time.perf_counter() - started
    if not fitted.members:
        return fitted.summary()
    return {**fitted.summary(), **measure(halves, test, fitted.ratios(halves.sim_train[:, None]), seconds)}


def run(
    store: Store, halves: Halves | None, configurations: dict[str, Training], what: str = "thrust", events_each: int | None = None
) -> dict[str, Result]:
    """Train and measure configurations by name, those that may be trained or were trained before."""
    results = {}
    for name, training in configurations.items():

        def compute(checkpoint: Path, training: Training = training, name: str = name) -> Result:
            if halves is None:
                raise SystemExit("the thrust sample is needed: give --thrust DIR, or leave thrust, scan and peers out of --only")
            say(f"{what}: {name}: trainings: {training.trainings} ...")
            found = train(training, halves, checkpoint, events_each)
            lost = f", {len(found['failed'])} failed" if found["failed"] else ""
            value = mean(found.get("mae", [])).text(1e-3)
            epochs = f"best epochs {found['best_epoch']} of {found['epochs']}"
            say(f"{what}: {name}: MAE {value} e-3, scatter {found.get('scatter', 0.0):.4f}, {epochs}, {found['seconds']:.1f} s{lost}")
            return found

        found = store.get(what, name, settings_of(training, events=events_each), compute)
        if found is not None:
            results[name] = found
    return results


def closure(found: Result, sample: Result) -> list[dict[str, float]]:
    """The ensemble mean against data in every kept bin: pull with the statistical errors of both, and with the band as well."""
    spectra = np.asarray(found["spectra"])
    rows = []
    for b in range(KEPT):
        w, n = found["ensemble"]["spectrum"][b], sample["data"][b]
        statistical = float(np.hypot(found["ensemble"]["statistical_error"][b], np.sqrt(n / sample["events"]["data test"])))
        band = float(spectra[:, b].std(ddof=1)) if len(spectra) > 1 else 0.0
        rows.append({
            "low": EDGES[b], "high": EDGES[b + 1], "before": sample["sim"][b] / n, "after": w / n, "statistical": statistical / n,
            "band": band / n, "pull": (w - n) / statistical, "pull_with_band": (w - n) / float(np.hypot(statistical, band)),
        })  # fmt: skip
    return rows
