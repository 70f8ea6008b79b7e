"""What the parts of the ECD study share: trainings, and means with their spread."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import awkward as ak
import numpy as np
from numpy.typing import ArrayLike, NDArray
from study_runs import Result

from hepgen import Features, Reweighter
from hepgen.errors import InputError, StepError
from hepgen.losses.ratio import log_ratio
from hepgen.networks import MLP
from hepgen.optim import eta_for

Floats = NDArray[np.float64]

#: Epochs without a better validation loss before a training stops, as in the paper.
PATIENCE = 10
#: Ratios are held below this, so that a network that says "infinite" spoils a mean and not the arithmetic.
MOST_RATIO = 1e12


@dataclass(frozen=True)
class Training:
    """One configuration and how often it is trained; None leaves a default of `hepgen.Reweighter`."""

    optimizer: str
    hidden: tuple[int, ...]
    dropout: float
    batch_size: int
    epochs: int
    patience: int
    trainings: int
    seed: int
    loss: Literal["bce", "mlc"] = "bce"
    link: str | None = None
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    eta: float | None = None
    F0: float | None = None

    def reweighter(self, features: Features, trainings: int) -> Reweighter:
        """The unfitted model of so many networks."""
        named = {name: getattr(self, name) for name in ("hidden", "dropout", "betas", "eta", "F0")}
        options = {name: value for name, value in named.items() if value is not None}
        return Reweighter(features, loss=self.loss, link=self.link, optimizer=self.optimizer, ensemble=trainings, normalise=None, **options)


class Fitted(NamedTuple):
    """The networks of a configuration: models of one or more, the reasons of failed trainings, and the wall time of the fit."""

    models: list[Reweighter]
    failed: list[str]
    seconds: float
    resumed: bool

    @property
    def members(self) -> list[Result]:
        """The training record of every network."""
        return [member for model in self.models for member in model.record["members"]]

    def ratios(self, matrix: Floats) -> Floats:
        """The ratio of every network on its own, (n, E), of a feature matrix (n, d)."""
        columns = []
        for model in self.models:
            scaled = model.scaler.forward(matrix)
            columns += [np.exp(log_ratio(network(scaled)[:, 0], model.loss, model.link)) for network in model.networks]
        return np.minimum(np.stack(columns, axis=1), MOST_RATIO) if columns else np.empty((len(matrix), 0))

    def summary(self) -> Result:
        """What the record of every training says, for a result file."""
        return {
            "trainings": len(self.members),
            "failed": self.failed,
            "seconds": self.seconds,
            "resumed": self.resumed,
            "best_valid": [member["best_valid"] for member in self.members],
            "best_epoch": [member["best_epoch"] for member in self.members],
            "epochs": [len(member["epochs"]) for member in self.members],
        }


def fit(training: Training, features: Features, sim: ak.Array, data: ak.Array, checkpoint: Path) -> Fitted:
    """Train the networks of a configuration; if one fails, train each by itself and note which failed."""
    started, resumed = time.perf_counter(), checkpoint.exists()

    def one(trainings: int, seed: int, folder: Path) -> Reweighter:
        return training.reweighter(features, trainings).fit(
            sim,
            data,
            epochs=training.epochs,
            batch_size=training.batch_size,
            seed=seed,
            learning_rate=training.learning_rate,
            patience=training.patience,
            checkpoint=folder,
            progress=False,
        )

    models, failed = [], []
    try:
        models.append(one(training.trainings, training.seed, checkpoint / "all"))
    except (InputError, StepError) as error:
        if training.trainings == 1:
            failed.append(str(error))
    for number in range(training.trainings if not models and not failed else 0):
        try:
            models.append(one(1, training.seed + 1000 * (number + 1), checkpoint / f"single-{number}"))
        except (InputError, StepError) as error:
            failed.append(str(error))
    return Fitted(models, failed, time.perf_counter() - started, resumed)


def own_eta(training: Training, inputs: int, events: int, validation: float = 0.1) -> float:
    """The eta that `Reweighter` gives ECD by itself, for `events` in the longer sample."""
    kept = events - max(round(validation * events), 1)
    return eta_for(MLP(inputs, 1, training.hidden), training.epochs * max(kept // training.batch_size, 1))


def settings_of(training: Training, **more: Any) -> Result:
    """A configuration as JSON has it, with whatever else a result depends on."""
    plain: Result = json.loads(json.dumps(asdict(training)))
    return {**plain, **more}


class Mean(NamedTuple):
    """Mean, standard deviation (n - 1) and number of some values."""

    value: float
    std: float
    n: int

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.std / self.n**0.5 if self.n else float("nan")

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        """Mean ± standard deviation, in units of `scale`."""
        if not self.n:
            return "failed"
        spread = "" if self.n < 2 else f" ± {self.std / scale:.{digits}f}"
        return f"{self.value / scale:.{digits}f}{spread}"


def mean(values: ArrayLike) -> Mean:
    """Mean and spread of some values; the spread of one value is not a number."""
    x = np.asarray(values, dtype=np.float64)
    return Mean(
        float(x.mean()) if len(x) else float("nan"),
        float(x.std(ddof=1)) if len(x) > 1 else float("nan"),
        len(x),
    )


def scatter(ratios: Floats) -> tuple[float, float]:
    """The standard deviation over trainings of the ratio of an event, averaged over events, of ratios (n, E); its error by jackknife."""
    _, trainings = ratios.shape
    if trainings < 2:
        return float("nan"), float("nan")
    value = float(ratios.std(axis=1, ddof=1).mean())
    if trainings < 3:
        return value, float("nan")
    less = [float(np.delete(ratios, e, axis=1).std(axis=1, ddof=1).mean()) for e in range(trainings)]
    return value, float(np.sqrt((trainings - 1) * np.var(less)))


def quotient(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """a / b and its standard error, of values with theirs."""
    value = a[0] / b[0]
    return value, abs(value) * float(np.hypot(a[1] / a[0], b[1] / b[0]))
