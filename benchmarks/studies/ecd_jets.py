"""Table III of the paper: six jet observables, whose true ratio is known from a flow fitted to each sample."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import awkward as ak
import numpy as np
import torch
from ecd_runs import Floats, Training, fit, mean, scatter, settings_of
from numpy.typing import NDArray
from study_runs import Result, Store, say
from torch import Tensor

from hepgen import Features, events
from hepgen.events import Chain, Log, Quantile, Scaler
from hepgen.metrics import classifier_auc
from hepgen.networks import MAF
from hepgen.samples.originals import JET_COLUMNS
from hepgen.training import Batch, Objective, Plan, Sample, train

#: These are positive, and stay so in the surrogates; the number of constituents after it was spread by 1/2 either way.
LOGARITHMIC = ("jet_m", "jet_mult", "jet_width", "jet_pt")
HIDDEN = (64, 128, 64)
PAIRS: tuple[tuple[Literal["bce", "mlc"], str], ...] = (
    ("mlc", "relu"),
    ("mlc", "square"),
    ("mlc", "exp"),
    ("bce", "sigmoid"),
    ("bce", "cdf"),
    ("bce", "arctan"),
)
#: The published code drops larger errors.
MOST_ERROR = 100.0
#: MAE in print and its standard deviation over 100 trainings: ECD, then Adam by default.
PAPER = {
    ("mlc", "relu"): ((0.407, 0.005), (0.432, 0.005)),
    ("mlc", "square"): ((0.412, 0.007), (0.434, 0.005)),
    ("mlc", "exp"): ((0.401, 0.004), (0.402, 0.006)),
    ("bce", "sigmoid"): ((0.391, 0.004), (0.398, 0.005)),
    ("bce", "cdf"): ((0.391, 0.004), (0.397, 0.005)),
    ("bce", "arctan"): ((0.393, 0.005), (0.399, 0.005)),
}
METHODS: dict[str, Result] = {
    "ECD default": {"optimizer": "ecd"},
    "ECD paper": {"optimizer": "ecd", "learning_rate": 1.0, "eta": 1.6e3},
    "Adam default": {"optimizer": "adam"},
}


class Surrogates(NamedTuple):
    """Events drawn from two flows: to train with, and a mixture to measure on, with its true log ratio data / simulation."""

    sim: Floats
    data: Floats
    test: Floats
    log_ratio: Floats
    test_is_data: NDArray[np.bool_]
    about: Result


class Likelihood(Objective):
    """Minus the mean log density of a flow."""

    def __init__(self, flow: MAF) -> None:
        super().__init__()
        self.flow = flow

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch."""
        return {"loss": self.flow.negative_log_likelihood(batch["rows"].values)}


def as_events(matrix: Floats) -> ak.Array:
    """Events with the six columns."""
    return ak.Array({name: np.ascontiguousarray(matrix[:, k]) for k, name in enumerate(JET_COLUMNS)})


def read(folder: Path, max_events: int | None, seed: int) -> tuple[Floats, Floats]:
    """The six columns of simulation and data, (n, 6), the number of constituents spread evenly by 1/2 either way.

    Jets of one particle, of which there are one or two in 100 000, have no width and are left out.
    """
    found = []
    for number, name in enumerate(("sim", "data")):
        sample = events.read(folder / f"{name}.root")[:max_events]
        matrix = np.stack([np.asarray(sample[column], dtype=np.float64) for column in JET_COLUMNS], axis=1)
        spread = np.random.default_rng([seed, 10, number]).uniform(-0.5, 0.5, size=len(matrix))
        matrix[:, JET_COLUMNS.index("jet_mult")] += spread
        found.append(matrix[(matrix[:, JET_COLUMNS.index("jet_width")] > 0) & (matrix[:, JET_COLUMNS.index("jet_m")] > 0)])
    return found[0], found[1]


def scaler() -> Scaler:
    """To a normal through the distribution of both samples together: a flow then sees neither edges nor tails."""
    return Scaler([Chain([Log(), Quantile(200)]) if name in LOGARITHMIC else Quantile(200) for name in JET_COLUMNS], JET_COLUMNS)


def fit_flow(rows: Floats, epochs: int, seed: int, checkpoint: Path, title: str) -> MAF:
    """A flow of scaled rows (n, d) by maximum likelihood, in float64 as it is applied."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = MAF(rows.shape[1])
    plan = Plan(epochs, 1000, (1e-3, 1e-5), optimizer="adam", patience=10, seed=seed)
    sample = {"rows": Sample(torch.from_numpy(rows.astype(np.float32)))}
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    record = train(Likelihood(flow), sample, plan, checkpoint=checkpoint, title=title, progress=False)
    seconds = time.perf_counter() - started
    say(f"jets: {title}: best epoch {record.best_epoch} of {len(record.epochs)}, loss {record.best_valid:.4f}, {seconds:.1f} s")
    return flow.double()


def draw(flow: MAF, n: int, rng: np.random.Generator) -> Floats:
    """Rows (n, d) of a flow."""
    with torch.no_grad():
        rows, _ = flow.inverse(torch.from_numpy(rng.standard_normal((n, flow.features))))
    return np.asarray(rows.numpy(), dtype=np.float64)


def log_ratio(sim: MAF, data: MAF, rows: Floats) -> Floats:
    """ln p_data / p_sim of rows that both flows see in the same coordinates, whose Jacobian drops out."""
    x = torch.from_numpy(rows)
    with torch.no_grad():
        return np.asarray((data.log_prob(x) - sim.log_prob(x)).numpy(), dtype=np.float64)


def surrogates(matrices: tuple[Floats, Floats], n: int, test: int, epochs: int, seed: int, auc_events: int, folder: Path) -> Surrogates:
    """Fit both flows and draw `n` events of each to train with, and `test` events of their even mixture."""
    together = scaler().fit(np.concatenate(matrices))
    rows = [together.forward(matrix) for matrix in matrices]
    names = ("simulation", "data")
    flows = [fit_flow(x, epochs, seed + k, folder / f"flow-{names[k]}.checkpoint", f"flow of {names[k]}") for k, x in enumerate(rows)]
    rng = np.random.default_rng([seed, 11])
    drawn = [draw(flow, n, rng) for flow in flows]
    is_data = rng.random(test) < 0.5
    mixture = np.where(is_data[:, None], draw(flows[1], test, rng), draw(flows[0], test, rng))
    about: Result = {"events": {name: len(x) for name, x in zip(names, rows, strict=True)}, "n": n, "test": test}
    for name, flow, x in zip(names, flows, rows, strict=True):
        found = classifier_auc(draw(flow, min(len(x), auc_events), rng), x, max_events=auc_events, seed=seed)
        about[f"auc_{name}"] = {**found.to_dict(), "floor": found.floor.to_dict() if found.floor else None}
    for what, (a, b) in {"samples": (rows[0], rows[1]), "surrogates": (drawn[0], drawn[1])}.items():
        about[f"auc_{what}"] = classifier_auc(a, b, max_events=auc_events, floor=False, seed=seed).to_dict()
    truth = log_ratio(flows[0], flows[1], mixture)
    about["true_ratio"] = dict(zip(("0.1 %", "50 %", "99.9 %", "largest"), np.exp(np.quantile(truth, (1e-3, 0.5, 0.999, 1))), strict=True))
    about["before"] = errors(np.ones((test, 1)), truth)
    return Surrogates(together.inverse(drawn[0]), together.inverse(drawn[1]), together.inverse(mixture), truth, is_data, about)


def kept_surrogates(file: Path, make: Callable[[], Surrogates]) -> Surrogates:
    """Surrogates that a file keeps, made where it is not there."""
    if not file.exists():
        made = make()
        arrays = {name: value for name, value in made._asdict().items() if name != "about"}
        np.savez(file, **arrays, about=json.dumps(made.about))
    with np.load(file) as arrays:
        kept = {name: arrays[name] for name in Surrogates._fields if name != "about"}
        return Surrogates(**kept, about=json.loads(str(arrays["about"])))


def errors(ratios: Floats, truth: Floats) -> Result:
    """Mean |ratio - true| of every training (n, E), all events and those with errors below `MOST_ERROR`, as the published code."""
    found = np.abs(ratios - np.exp(truth)[:, None])
    kept = found < MOST_ERROR
    return {
        "mae": found.mean(axis=0).tolist(),
        "mae_below": [float(column[keep].mean()) for column, keep in zip(found.T, kept.T, strict=True)],
        "dropped": (~kept).sum(axis=0).tolist(),
    }


def train_pair(training: Training, made: Surrogates, checkpoint: Path) -> Result:
    """Train one loss and link, and measure every network on the mixture."""
    fitted = fit(training, Features(list(JET_COLUMNS)), as_events(made.sim), as_events(made.data), checkpoint)
    started = time.perf_counter()
    ratios = fitted.ratios(made.test)
    seconds = time.perf_counter() - started
    found: Result = fitted.summary()
    if fitted.members:
        value, error = scatter(ratios)
        ensemble = errors(ratios.mean(axis=1, keepdims=True), made.log_ratio)
        found |= {**errors(ratios, made.log_ratio), "scatter": value, "scatter_error": error}
        found |= {"ensemble": ensemble, "apply_seconds": seconds}
    return found


def run(store: Store, made: Surrogates | None, configurations: dict[str, Training], identity: Result) -> dict[str, Result]:
    """Train and measure every configuration that may be trained or was trained before."""
    results = {}
    for name, training in configurations.items():

        def compute(checkpoint: Path, training: Training = training, name: str = name) -> Result:
            if made is None:
                raise SystemExit("the jets sample is needed: give --jets DIR, or leave jets and peers out of --only")
            say(f"jets: {name}: trainings: {training.trainings} ...")
            found = train_pair(training, made, checkpoint)
            lost = f", {len(found['failed'])} failed" if found["failed"] else ""
            value = mean(found.get("mae_below", [])).text(digits=4)
            say(f"jets: {name}: MAE {value}, best epochs {found['best_epoch']}, {found['seconds']:.1f} s{lost}")
            return found

        found = store.get("jets", name, settings_of(training, surrogates=identity), compute)
        if found is not None:
            results[name] = found
    return results
