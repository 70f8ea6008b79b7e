"""Simulation weighted to look like data: the likelihood ratio from an ensemble of classifiers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators.base import Matrix
from hepgen.estimators.fit_rows import FitRows, over_ranks, rows_to_fit
from hepgen.estimators.ratio_arrays import Weighted, per_event
from hepgen.estimators.ratio_checks import Calibrator, ess, isotonic
from hepgen.estimators.ratio_sums import Sums, together
from hepgen.estimators.weigher import Weigher
from hepgen.events import Angle, Chain, Features, Scaler, Selection, Standard
from hepgen.losses.ratio import checked_link, log_ratio
from hepgen.networks.frozen import FrozenMLP

if TYPE_CHECKING:
    from hepgen.training import Plan

__all__ = ["RatioSettings", "Reweighter", "ess", "per_event"]

#: First and last learning rate; for "ecd" the rescaled step of the paper.
RATES = {"ecd": (1.0, 1.0), "adam": (1e-3, 1e-3), "rmsprop": (1e-3, 1e-5), "sgd": (1e-2, 1e-4)}
EPOCHS, BATCH_SIZE = 50, 1000
#: One below the smallest loss: of BCE that of samples that can hardly be told apart, as in the paper; of MLC that of equal samples.
F0 = {"bce": -0.3, "mlc": -1.0}
#: A log ratio is held within these bounds, in which float64 has its exponential and the square of that, ...
MOST_LOG_RATIO = 300.0
#: ... and a scaled column within these, from which float32 layers give numbers.
MOST_SCALED = 1e6


@dataclass(frozen=True)
class RatioSettings:
    """The networks and their training; every default that is not the paper's is explained in docs/reweighter.md.

    Attributes
    ----------
    hidden, activation, dropout
        The networks; see `hepgen.networks.MLP`.
    F0
        Of ECD: below every loss that can be reached, best by about one; -0.3 for BCE and -1 for MLC where None.
    eta, nu
        Of ECD; eta is that of `hepgen.optim.eta_for` for all steps asked for where None.
    betas
        Of Adam.
    weight_decay
        Of every optimiser.
    validation
        Share of each sample that picks the best epoch.
    calibration_share
        Share of each sample that is kept from the training for the calibration, where there is one.
    """

    hidden: tuple[int, ...] = (64, 128, 64)
    activation: Literal["relu", "tanh", "elu"] = "relu"
    dropout: float = 0.0
    F0: float | None = None
    eta: float | None = None
    nu: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    validation: float = 0.1
    calibration_share: float = 0.2


class Reweighter(Weigher):
    """Weights that make simulation look like data in the joint distribution of the features.

    Networks are trained to tell the samples apart, and their output z(x) estimates r(x) = p_data(x) / p_sim(x) through the links of
    `hepgen.losses.ratio`. With E members, a calibration c and a constant s,

        w(x) = exp(s) min(exp(c(ln 1/E sum_e r_e(x))), clip),      w_e(x) = w(x) r_e(x) / (1/E sum_e r_e(x))

    so that w is the mean of its replicas w_e; its uncertainty is their sample standard deviation. (De Luca, Nachman, Silverstein and
    Zheng: Energy Conserving Descent for likelihood ratios.) **A weight does not include the event's own weight**: fill with the product.

    Parameters
    ----------
    features
        Columns that the networks see; computed ones as well as paths. Nothing is written.
    loss, link
        "bce" with "sigmoid", "cdf" or "arctan"; "mlc" with "exp", "square" or "relu". The first link where None.
    optimizer
        "ecd", "adam", "rmsprop" or "sgd".
    ensemble
        Number of networks E.
    scaler
        A `hepgen.events.Scaler`; by default every column is standardised, angles after wrapping them into [-pi, pi).
    schema
        Name of the schema of the files, remembered with the model; see `hepgen.events.schema`.
    selection
        Cuts on the events to fit. Applying does not look at them: outside them the networks extrapolate.
    calibration
        "isotonic" for a calibration on events that take no part in the training.
    clip
        Largest ratio r of densities, whose mean over the simulation is one; None does not clip. The fit's record and
        `weights_counted` say what it did.
    normalise
        What the sum of w over the simulated events of the fit, times their weights, equals: "sim" their own sum of weights, "data" that of
        the data; None leaves the ratio of the densities as it was learned.
    settings
        Any attribute of `RatioSettings` by name, such as ``hidden=(50, 100, 50)``.

    Attributes
    ----------
    networks : list of FrozenMLP
        Scaled columns (n, d) -> z (n, 1).
    log_scale : float
        s. The two samples count alike in the loss, so that no ratio of class sizes is left in r.
    calibrator : Calibrator or None
        c.
    """

    def __init__(
        self,
        features: Features,
        *,
        loss: Literal["bce", "mlc"] = "bce",
        link: str | None = None,
        optimizer: str = "ecd",
        ensemble: int = 10,
        scaler: Scaler | None = None,
        schema: str | None = None,
        selection: Selection | None = None,
        calibration: Literal["isotonic"] | None = None,
        clip: float | None = None,
        normalise: Literal["data", "sim"] | None = "sim",
        **settings: Any,
    ) -> None:
        self.link = checked_link(loss, link)
        if optimizer not in RATES:
            raise UsageError(f"optimizer {optimizer!r} is not known: choose one of {', '.join(RATES)}")
        if isinstance(ensemble, bool) or not isinstance(ensemble, int) or ensemble < 1:
            raise UsageError(f"ensemble={ensemble!r} is no number of networks: give 1 or more")
        if calibration not in (None, "isotonic"):
            raise UsageError(f"calibration={calibration!r} is not known: choose 'isotonic' or None")
        if normalise not in (None, "data", "sim"):
            raise UsageError(f"normalise={normalise!r} is not known: choose 'data', 'sim' or None")
        if clip is not None and not clip > 0:
            raise UsageError(f"clip={clip} is no largest ratio: give a positive number, or None")
        unknown = sorted(set(settings) - set(RatioSettings.__dataclass_fields__))
        if unknown:
            raise UsageError(f"Reweighter has no setting {unknown[0]!r}: it has {', '.join(RatioSettings.__dataclass_fields__)}")
        for name in ("hidden", "betas"):  # lists, as a model's document has them
            settings[name] = tuple(settings.get(name, getattr(RatioSettings, name)))
        self.settings = RatioSettings(**settings)
        if not 0 < self.settings.calibration_share < 1:
            raise UsageError(f"calibration_share must lie between 0 and 1, not {self.settings.calibration_share}")
        self.features, self.loss, self.optimizer, self.ensemble = features, loss, optimizer, ensemble
        self.schema, self.selection, self.calibration = schema, selection, calibration
        self.clip, self.normalise = None if clip is None else float(clip), normalise
        self.scaler = scaler if scaler is not None else _standard(features)
        self.networks: list[FrozenMLP] = []
        self.log_scale = 0.0
        self.calibrator: Calibrator | None = None
        self.record: dict[str, Any] = {}
        self.seed = 1

    def __repr__(self) -> str:
        state = "fitted" if self.networks else "not fitted"
        return f"Reweighter({list(self.features.names)}, loss={self.loss!r}, link={self.link!r}, ensemble={self.ensemble}, {state})"

    # -- fitting ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        sim: Any,
        data: Any,
        sim_weights: ArrayLike | None = None,
        data_weights: ArrayLike | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 1,
        *,
        learning_rate: float | tuple[float, float] | None = None,
        patience: int | None = 10,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
        device: str = "cpu",
    ) -> Reweighter:
        """Fit the networks to two samples.

        Parameters
        ----------
        sim, data
            Events: awkward arrays in GeV and rad that hold the features, or `hepgen.events.EventStream` of files that do not fit into
            memory. Events without the objects, or outside the selection, take no part.
        sim_weights, data_weights
            Signed event weights (n,), or None for one each; a stream has its own. The ratio is that of the weighted densities.
        epochs, batch_size
            At most so many passes through the longer sample (50), and events of each sample in a step (1000).
        seed
            Fixes the starts, splits and orders; each member has its own made from it.
        learning_rate
            One rate, or the first and last of a square-root decay; by default 1 for "ecd" (dt_hat), 1e-3 for "adam".
        patience
            Epochs without a better validation loss before a member stops; None never stops.
        checkpoint
            Folder for checkpoints: a fit that was stopped goes on from there, to the same weights bit for bit.
        progress
            Show a progress bar (default: on a terminal).
        device
            Where to fit: "cpu", or "cuda" for a GPU. Its random numbers are others, and so are the weights; transforming needs none.

        Raises
        ------
        InputError
            A column is missing, not finite or constant, no event has the objects, or weights sum to nothing.
        StepError
            ECD met a loss that is not above F0, or not finite: pass a lower F0 to `Reweighter`.
        FitInterrupted
            Stopped by Ctrl-C after writing the checkpoint.
        """
        from hepgen.estimators.fit_samples import training_sample
        from hepgen.estimators.reweighter_fit import Shape, fit_members

        self.changed()
        s, self.seed = self.settings, seed
        folder = None if checkpoint is None else Path(checkpoint)
        parts = {
            name: rows_to_fit(self.features, events, weights, name, self.selection, seed=seed, folder=folder)
            for name, events, weights in (("sim", sim, sim_weights), ("data", data, data_weights))
        }
        scaler = deepcopy(self.scaler).fit(*together(*(rows.learnt() for rows in parts.values())))
        training, held = parts, {}
        if self.calibration is not None:
            split = {name: rows.split(s.calibration_share, (seed, 6, i)) for i, (name, rows) in enumerate(parts.items())}
            training, held = ({name: pair[side] for name, pair in split.items()} for side in (0, 1))
        plan = replace(self._plan(epochs, batch_size, seed, learning_rate, patience), device=device)
        members = fit_members(
            {name: training_sample(rows, scaler.forward, folder) for name, rows in training.items()},
            Shape(self.loss, self.link, s.hidden, s.activation, s.dropout),
            plan,
            self.ensemble,
            checkpoint=folder,
            progress=progress,
        )
        self.scaler, self.networks = scaler, [self._frozen(member.state) for member in members]
        self.calibrator, self.log_scale = None, 0.0
        if held:
            kept_sim, kept_data = (rows.learnt() for rows in held.values())
            self.calibrator = isotonic(self._raw(kept_sim.matrix)[0], self._raw(kept_data.matrix)[0], kept_sim.weights, kept_data.weights)
        events = {name: rows.events() for name, rows in parts.items()}
        self.record = {"events": events, "plan": asdict(plan), "members": [member.record for member in members]}
        self._normalise(*parts.values())
        self.record = json.loads(json.dumps(self.record))  # as it will be read back: lists, no tuples
        return self

    def _plan(
        self, epochs: int | None, batch_size: int | None, seed: int, learning_rate: float | tuple[float, float] | None, patience: int | None
    ) -> Plan:
        from hepgen.training import Plan

        rates = RATES[self.optimizer] if learning_rate is None else learning_rate
        first, last = rates if isinstance(rates, Sequence) else (rates, rates)
        return Plan(
            EPOCHS if epochs is None else epochs,
            BATCH_SIZE if batch_size is None else batch_size,
            (float(first), float(last)),
            optimizer=self.optimizer,
            validation=self.settings.validation,
            patience=patience,
            seed=seed,
            options=self._options(),
        )

    def _options(self) -> dict[str, Any]:
        s = self.settings
        options: dict[str, Any] = {"weight_decay": s.weight_decay}
        if self.optimizer == "adam":
            options["betas"] = s.betas
        if self.optimizer == "ecd":
            options |= {"F0": F0[self.loss] if s.F0 is None else s.F0, "nu": s.nu} | ({} if s.eta is None else {"eta": s.eta})
        return options

    def _normalise(self, sim: FitRows, data: FitRows) -> None:
        """Find the scale from the events of the fit, and note what the weights of the simulation are like."""
        sums = sum((self._sums(*part) for part in sim.parts()), Sums())
        (sums,) = (Sums(*found) for found in over_ranks(sim.on_disk, np.sum, sums.all))
        total, own, target = sums.reweighted, sums.own, data.mean_weight() * data.events()
        if not (np.isfinite(total) and total > 0):
            self.networks = []
            raise InputError(f"the weights of the simulation times the ratios sum to {total:.3g}: nothing can be normalised to them")
        if self.normalise is not None:
            self.log_scale = float(np.log((own if self.normalise == "sim" else target) / total))
        scale = float(np.exp(self.log_scale))
        self.record["sums"] = {"sim": own, "data": target, "reweighted": scale * total}
        self.record["ess"] = {"sim": own**2 / sums.own_squares, "reweighted": total**2 / sums.squares}
        if self.clip is not None:
            self.record["clip"] = {"events": int(sums.clipped), "share_of_weight": sums.lost / sums.unclipped}

    def _sums(self, matrix: Matrix, own: Matrix) -> Sums:
        """Of some rows of the simulation and their own weights, while there is no scale yet."""
        found = self.weigh(matrix)
        weights = own * found.nominal
        squares = float((own**2).sum()), float((weights**2).sum())
        if self.clip is None:
            return Sums(float(own.sum()), float(weights.sum()), *squares)
        ratios = np.exp(self._calibrated(matrix))
        lost, unclipped = float((own * np.maximum(ratios - self.clip, 0)).sum()), float((own * ratios).sum())
        return Sums(float(own.sum()), float(weights.sum()), *squares, found.clipped, lost, unclipped)

    def _frozen(self, state: Mapping[str, NDArray[Any]]) -> FrozenMLP:
        network = FrozenMLP(state, activation=self.settings.activation)
        expected = (len(self.features), *self.settings.hidden, 1)
        if network.widths != expected:
            raise UsageError(f"a network has the widths {network.widths}, not the {expected} that the settings say")
        return network

    # -- applying --------------------------------------------------------------------------------------------------

    def _raw(self, matrix: Matrix) -> tuple[Matrix, Matrix]:
        """Log of the mean ratio (n,) and the ratios of the members over that mean (n, E), of a feature matrix (n, d)."""
        if not self.networks:
            raise UsageError("this Reweighter is not fitted: call fit, or load a saved model")
        scaled = np.clip(self.scaler.forward(matrix), -MOST_SCALED, MOST_SCALED)
        logs = np.stack([log_ratio(network(scaled)[:, 0], self.loss, self.link) for network in self.networks], axis=1)
        ratios = np.exp(np.clip(logs, -MOST_LOG_RATIO, MOST_LOG_RATIO))
        mean = ratios.mean(axis=1)
        return np.log(mean), ratios / mean[:, None]

    def _calibrated(self, matrix: Matrix) -> Matrix:
        raw, _ = self._raw(matrix)
        return raw if self.calibrator is None else self.calibrator(raw)

    def weigh(self, matrix: Matrix) -> Weighted:
        """Weights of a feature matrix (n, d) in GeV and rad, all of it finite and in the support of the scaler."""
        raw, relative = self._raw(matrix)
        log = raw if self.calibrator is None else self.calibrator(raw)
        clipped = np.zeros(len(log), dtype=bool) if self.clip is None else log > np.log(self.clip)
        held = np.where(clipped, np.log(self.clip or 1.0), log)
        nominal = np.exp(held + self.log_scale)
        cut = float((np.exp(log[clipped] + self.log_scale) - nominal[clipped]).sum())
        return Weighted(nominal, nominal[:, None] * relative, held + self.log_scale, int(clipped.sum()), cut)

    # -- saving ----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Estimator.tensors`."""
        if not self.networks:
            raise UsageError("this Reweighter is not fitted: call fit, or load a saved model")
        arrays = {f"member.{e}.{name}": array for e, network in enumerate(self.networks) for name, array in network.state.items()}
        if self.calibrator is not None:
            arrays |= {"calibrator.x": self.calibrator.x, "calibrator.y": self.calibrator.y}
        return arrays

    def document(self) -> dict[str, Any]:
        """See `Estimator.document`."""
        plain = ("loss", "link", "optimizer", "ensemble", "schema", "calibration", "clip", "normalise", "log_scale", "seed", "record")
        return {
            "features": self.features.to_dict(),
            "selection": None if self.selection is None else self.selection.to_dict(),
            "settings": asdict(self.settings),
            "scaler": self.scaler.to_dict(),
            **{name: getattr(self, name) for name in plain},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Reweighter:
        """See `Estimator.from_document`."""
        options = ("loss", "link", "optimizer", "ensemble", "schema", "calibration", "clip", "normalise")
        model = cls(
            Features.from_dict(document["features"]),
            scaler=Scaler.from_dict(document["scaler"]),
            selection=None if document["selection"] is None else Selection.from_dict(document["selection"]),
            **{name: document[name] for name in options},
            **document["settings"],
        )
        model.log_scale, model.seed, model.record = float(document["log_scale"]), document["seed"], document["record"]
        states = [_under(f"member.{number}.", tensors) for number in range(model.ensemble)]
        model.networks = [model._frozen(state) for state in states]
        if model.calibration is not None:
            model.calibrator = Calibrator(tensors["calibrator.x"], tensors["calibrator.y"])
        return model


def _standard(features: Features) -> Scaler:
    """Every column standardised, angles after wrapping; the features' own scalings come first. Unfitted."""
    default = Scaler.default(features).scalings
    chosen = [
        own if name in features.scalings else Chain([Angle(), Standard()]) if angle else Standard()
        for name, angle, own in zip(features.names, features.periodic, default, strict=True)
    ]
    return Scaler(chosen, features.names)


def _under(prefix: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
