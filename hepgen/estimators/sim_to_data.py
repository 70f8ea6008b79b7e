"""Simulation transformed to look like data, without pairing: a conditional flow from simulated events to data events."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import UsageError
from hepgen.estimators.base import Keys, Matrix
from hepgen.estimators.coordinates import Coordinates
from hepgen.estimators.fit_rows import rows_to_fit
from hepgen.estimators.transformer import Transformer
from hepgen.events import Features, Selection
from hepgen.kernels import philox
from hepgen.networks.frozen import FrozenMAF

if TYPE_CHECKING:
    from hepgen.estimators.flow_objectives import FlowObjective
    from hepgen.networks import MAF
    from hepgen.training import Plan, Sample

LOSSES = ("nll", "kl", "mmd", "mdmm")
#: Scaled columns are standard normal and span about six of their units where the paper's span one.
SCALED_RANGE = 6.0
#: First and last learning rate of a fit that starts from the weights of a log-loss fit.
WARM_RATES = (3e-5, 1e-6)
#: Times an event outside the selection is drawn again, and the streams of random numbers kept for each copy of an event.
DRAWS, STREAMS = 20, 64


@dataclass(frozen=True)
class FlowSettings:
    """The network and its losses; every default that is not the sim-to-data paper's is explained in docs/sim-to-data.md.

    Attributes
    ----------
    blocks, hidden, permutation, activation
        The flow; see `hepgen.networks.MAF`.
    relative_angles
        Learn angles relative to the first one; see `Coordinates`.
    shear
        The flow's first layer, fixed, adds x_c to delta; see `hepgen.networks.MAF`.
    mmd_bandwidth
        sigma of the MMD kernel for features that span the unit interval, as in the paper.
    mmd_cross_weight, mmd_per_feature
        See `hepgen.losses.MMD`.
    kl_points, kl_bandwidth
        Grid points per feature; KDE bandwidth in units of Silverman's rule at the batch size.
    epsilon
        Bound of the MMD in units of data against data.
    damping, rate
        delta and the ascent rate of the multipliers, with both losses in units of data against data.
    warm_start
        Epochs of log loss before a KL, MMD or MDMM fit.
    """

    blocks: int = 10
    hidden: tuple[int, ...] = (128, 128)
    permutation: Literal["reverse", "random", "none"] = "reverse"
    activation: Literal["relu", "tanh", "elu"] = "relu"
    relative_angles: bool = True
    shear: bool = True
    mmd_bandwidth: float = 0.1
    mmd_cross_weight: float = 2.0
    mmd_per_feature: bool = False
    kl_points: int = 512
    kl_bandwidth: float = 1.0
    epsilon: float = 1.015
    damping: float = 1.0
    rate: float = 0.01
    warm_start: int = 0


@dataclass(frozen=True)
class FitDefaults:
    """Epochs and batch size where the user gives none."""

    epochs: int
    batch_size: int


DEFAULTS = {
    "nll": FitDefaults(100, 4096),
    "kl": FitDefaults(100, 25600),
    "mmd": FitDefaults(100, 4096),
    "mdmm": FitDefaults(100, 4096),
}


class SimToData(Transformer):
    """Transform simulated events so that their joint distribution is the data's.

    The events of the two samples are not paired. A conditional masked autoregressive flow learns p(delta | x_c) for simulated
    events x_c, so that x_c + delta is distributed as data (Gendreau-Distler, Le Pottier, Wang: Transforming Simulation to
    Data Without Pairing).

    Parameters
    ----------
    features
        Columns to transform; computed ones condition the transformation and are not changed.
    loss
        "nll" (log loss), "kl" (KL of the marginals' KDEs), "mmd" or "mdmm" (KL under a constraint on the MMD).
    schema
        Name of the schema of the files, remembered with the model; see `hepgen.events.schema`.
    selection
        Cuts that transformed events should pass; `outside` says what happens to those that do not.
    fit_selection
        Cuts on the events to fit, `selection` by default. A flow blurs an edge that is not along a column, such as that of a mass
        cut; fitted without that cut, and drawn again outside it (``outside="reject"``), it has the edge exactly.
    outside
        What happens to a transformed event that fails `selection`: "keep" it, "clip" it to the range of the data that was
        fitted (column by column), or "reject" the draw and take another (up to 20 times).
    scaler
        A `hepgen.events.Scaler`; quantiles of the data to a standard normal by default.
    settings
        Any attribute of `FlowSettings` by name, such as ``blocks=5``.
    """

    def __init__(
        self,
        features: Features,
        loss: str = "mdmm",
        *,
        schema: str | None = None,
        selection: Selection | None = None,
        fit_selection: Selection | None = None,
        outside: Literal["keep", "clip", "reject"] = "keep",
        scaler: Any = None,
        **settings: Any,
    ) -> None:
        if loss not in LOSSES:
            raise UsageError(f"loss {loss!r} is not known: choose one of {', '.join(LOSSES)}")
        if outside not in ("keep", "clip", "reject"):
            raise UsageError(f"outside={outside!r} is not known: choose keep, clip or reject")
        unknown = sorted(set(settings) - set(FlowSettings.__dataclass_fields__))
        if unknown:
            raise UsageError(f"SimToData has no setting {unknown[0]!r}: it has {', '.join(FlowSettings.__dataclass_fields__)}")
        if not features.outputs:
            raise UsageError("SimToData needs at least one path to transform: the features hold computed columns only")
        settings["hidden"] = tuple(settings.get("hidden", FlowSettings.hidden))
        self.features, self.loss, self.schema, self.selection, self.outside = features, loss, schema, selection, outside
        self.fit_selection = fit_selection if fit_selection is not None else selection
        self.settings = FlowSettings(**settings)
        self.coordinates = Coordinates(features, scaler, relative_angles=self.settings.relative_angles)
        self.flow: FrozenMAF | None = None
        self.record: dict[str, Any] = {}
        self.limits: Matrix = np.empty((0, 2))
        self.seed = 1

    def __repr__(self) -> str:
        state = "fitted" if self.flow is not None else "not fitted"
        return f"SimToData({list(self.features.names)}, loss={self.loss!r}, {state})"

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
        learning_rate: tuple[float, float] | None = None,
        optimizer: str = "rmsprop",
        patience: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
        device: str = "cpu",
    ) -> SimToData:
        """Fit the flow to two unpaired samples.

        Parameters
        ----------
        sim, data
            Events: awkward arrays in GeV and rad that hold the features, or `hepgen.events.EventStream` of files that do not fit into
            memory. Events without the objects, or outside the selection, take no part.
        sim_weights, data_weights
            Signed event weights (n,), or None for one each; a stream has its own.
        epochs, batch_size
            Passes through the longer sample, and events per step; per-loss defaults where None.
        seed
            Fixes the start, the order and the noise of the fit, and the noise of later transforms.
        learning_rate
            First and last rate of the square-root decay; the paper's 1e-3 to 1e-5, or 3e-5 to 1e-6 after a warm start, which
            itself runs at the paper's.
        optimizer, patience
            See `hepgen.training.Plan`.
        checkpoint
            Folder for checkpoints: a fit that was stopped goes on from there, to the same weights bit for bit.
        progress
            Show a progress bar (default: on a terminal).
        device
            Where to fit: "cpu", or "cuda" for a GPU. Its random numbers are others, and so are the weights; transforming needs none.

        Raises
        ------
        InputError
            A column is missing, not finite or constant, no event has the objects, or weights sum to zero.
        FitInterrupted
            Stopped by Ctrl-C after writing the checkpoint.
        """
        from hepgen.estimators.fit_samples import training_sample
        from hepgen.training import Plan

        self.changed()
        folder = Path(checkpoint) if checkpoint is not None else None
        parts = {
            name: rows_to_fit(self.features, events, weights, name, self.fit_selection, seed=seed, folder=folder)
            for name, events, weights in (("sim", sim, sim_weights), ("data", data, data_weights))
        }
        learnt = {name: rows.learnt() for name, rows in parts.items()}
        self.coordinates.fit(learnt["data"].matrix, learnt["data"].weights)
        self.limits = parts["data"].limits()[: len(self.features.outputs)]
        self.seed = seed
        samples = {name: training_sample(rows, self.coordinates.forward, folder) for name, rows in parts.items()}
        known = {
            name: training_sample(learnt[name], self.coordinates.forward) if sample.on_disk else sample for name, sample in samples.items()
        }
        default = DEFAULTS[self.loss]
        warm = self.settings.warm_start if self.loss != "nll" else 0
        rates = learning_rate or (WARM_RATES if warm else Plan.learning_rate)
        size = batch_size or default.batch_size
        plan = Plan(epochs or default.epochs, size, rates, optimizer=optimizer, patience=patience, seed=seed, device=device)
        stages = [("nll", replace(plan, epochs=warm, learning_rate=Plan.learning_rate))] if warm else []
        stages.append((self.loss, plan))
        self.record = {"events": {name: rows.events() for name, rows in parts.items()}, "stages": []}
        self._fit_stages(samples, known, stages, folder, progress)
        return self

    def _fit_stages(
        self,
        samples: Mapping[str, Sample],
        known: Mapping[str, Sample],
        stages: list[tuple[str, Plan]],
        folder: Path | None,
        progress: bool | None,
    ) -> None:
        """Fit to samples; what losses have to know beforehand is learnt from `known`, which is in memory."""
        import torch

        from hepgen.training import train

        torch.manual_seed(self.seed)
        flow = self._new_flow()
        for loss, stage in stages:
            objective = self._objective(loss, flow, known, stage)
            checkpoint = folder / f"{loss}.checkpoint" if folder is not None else None
            record = train(objective, samples, stage, checkpoint=checkpoint, title=f"{loss} fit", progress=progress)
            self.record["stages"].append({"loss": loss, "plan": asdict(stage), **objective.about(), **record.to_dict()})
        self.record = json.loads(json.dumps(self.record))  # as it will be read back: lists, no tuples
        self.flow = self._frozen({name: tensor.detach().numpy() for name, tensor in flow.state_dict().items()})

    def _frozen(self, state: Mapping[str, NDArray[Any]]) -> FrozenMAF:
        flow = FrozenMAF(state, activation=self.settings.activation, shear=self.settings.shear)
        s = self.settings
        expected = (len(self.features.outputs), len(self.features), s.blocks, s.hidden)
        if (flow.features, flow.context, len(flow.blocks), flow.hidden) != expected:
            raise UsageError(f"the flow has not the columns, blocks and widths {expected} that its settings say")
        return flow

    def _new_flow(self) -> MAF:
        from hepgen.networks import MAF

        s = self.settings
        return MAF(
            len(self.features.outputs), len(self.features), s.blocks, s.hidden, s.permutation, s.activation, seed=self.seed, shear=s.shear
        )

    def _objective(self, loss: str, flow: MAF, samples: Mapping[str, Sample], plan: Plan) -> FlowObjective:
        from hepgen.estimators.flow_objectives import KLLoss, LogLoss, MDMMLoss, MMDLoss, data_floors
        from hepgen.kernels import kde_bandwidth
        from hepgen.losses import MMD, KLOfKDE
        from hepgen.optim import MDMM
        from hepgen.training import Sample

        if loss == "nll":
            return LogLoss(flow)
        s, data = self.settings, samples["data"]
        target = Sample(data.values[:, : flow.features].contiguous(), data.weights)
        batch_size = min(plan.batch_size, len(data), len(samples["sim"]))
        bandwidth = s.kl_bandwidth * kde_bandwidth(target.values, "silverman", target.weights, events=batch_size)
        mmd = MMD(s.mmd_bandwidth * SCALED_RANGE**2, cross_weight=s.mmd_cross_weight, per_feature=s.mmd_per_feature)
        if loss == "mmd":
            return MMDLoss(flow, mmd)
        divergence = KLOfKDE(target.values, target.weights, bandwidth=bandwidth, points=s.kl_points)
        if loss == "kl":
            return KLLoss(flow, divergence)
        floors = data_floors(target, samples["sim"].weights, divergence, mmd, batch_size, seed=plan.seed)
        return MDMMLoss(flow, divergence, mmd, floors, MDMM(s.epsilon, damping=s.damping, rate=s.rate))

    # -- applying --------------------------------------------------------------------------------------------------

    def supports(self, matrix: Matrix) -> NDArray[np.bool_]:
        """See `Transformer.supports`."""
        return self.coordinates.supports(matrix)

    def transform_matrix(self, matrix: Matrix, keys: Keys, *, seed: int | None = None, copy: int = 0, outside: str | None = None) -> Matrix:
        """Feature matrix (n, d) in GeV and rad and identities (n, k) -> transformed output columns (n, outputs).

        `outside` replaces the model's own, to see the first draw ("keep") of a model that rejects.
        """
        self._fitted()
        seed = self.seed if seed is None else seed
        outside = self.outside if outside is None else outside
        scaled = self.coordinates.forward(matrix)
        stream = copy * STREAMS
        result = self._draw(scaled, keys, seed, stream)
        if self.selection is not None and outside == "reject":
            again = np.arange(len(result))
            for draw in range(1, DRAWS + 1):
                again = again[~self.selection.matrix_mask(self.features, result[again])]
                if not len(again):
                    break
                result[again] = self._draw(scaled[again], keys[again], seed, stream + draw)
        if outside == "clip":
            result = np.clip(result, self.limits[:, 0], self.limits[:, 1])
        return result

    def _draw(self, scaled: Matrix, keys: Keys, seed: int, stream: int) -> Matrix:
        outputs = len(self.features.outputs)
        noise = philox.normal(keys, outputs, seed=seed, stream=stream)
        delta, _ = self._fitted().inverse(noise, scaled)
        moved = scaled.copy()
        moved[:, :outputs] += delta
        return self.coordinates.inverse(moved)[:, :outputs]

    def _fitted(self) -> FrozenMAF:
        if self.flow is None:
            raise UsageError("this SimToData is not fitted: call fit, or load a saved model")
        return self.flow

    # -- saving ----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Estimator.tensors`."""
        return {f"flow.{name}": array for name, array in self._fitted().state.items()}

    def document(self) -> dict[str, Any]:
        """See `Estimator.document`."""
        return {
            "features": self.features.to_dict(),
            "loss": self.loss,
            "schema": self.schema,
            "selection": None if self.selection is None else self.selection.to_dict(),
            "fit_selection": None if self.fit_selection is None else self.fit_selection.to_dict(),
            "outside": self.outside,
            "settings": asdict(self.settings),
            "coordinates": self.coordinates.to_dict(),
            "limits": self.limits.tolist(),
            "seed": self.seed,
            "record": self.record,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> SimToData:
        """See `Estimator.from_document`."""
        cuts = {name: document[name] for name in ("selection", "fit_selection")}
        model = cls(
            Features.from_dict(document["features"]),
            document["loss"],
            schema=document["schema"],
            **{name: None if content is None else Selection.from_dict(content) for name, content in cuts.items()},
            outside=document["outside"],
            **document["settings"],
        )
        model.coordinates = Coordinates.from_dict(model.features, document["coordinates"])
        model.limits, model.seed, model.record = np.asarray(document["limits"]), document["seed"], document["record"]
        model.flow = model._frozen({name.removeprefix("flow."): array for name, array in tensors.items()})
        return model
