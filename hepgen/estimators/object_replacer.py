"""Events of a control region made events of the signal region: the object that fails is replaced by a generated one that passes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators.base import Invalid, Keys, Matrix
from hepgen.estimators.coordinates import Coordinates
from hepgen.estimators.fit_rows import of_all_ranks, rows_to_fit
from hepgen.estimators.object_order import collection_columns, sort_by_pt
from hepgen.estimators.replacer_settings import MODELS, ReplacerSettings, new_plan, uniform_quantiles
from hepgen.estimators.transfer import ConditionTransfer, Transfer, transfer_factor
from hepgen.estimators.transformer import Transformer, run_on
from hepgen.events import Features, Pick, Selection
from hepgen.events.layouts import has_data
from hepgen.events.picks import checked_picks, find_picks
from hepgen.kernels import philox
from hepgen.networks.frozen import FrozenMAF
from hepgen.networks.frozen_gan import FrozenGenerator

if TYPE_CHECKING:
    from hepgen.training import Plan

#: The field of the events that holds the weight of a replaced event.
WEIGHT = "hepgen_weight"


class ObjectReplacer(Transformer):
    """Replace the object that fails a selection by a generated one that passes, correlated with the rest of its event.

    Simulated events of the signal region teach p(object | condition); in events of the control region the object is drawn from it, in its
    place in the collection. What is not generated stays as the event has it. (Lohezic, Sahin, Couderc and Malcles: Data driven background
    estimation in HEP using Generative Adversarial Networks, which has a conditional GAN for p.)

    Parameters
    ----------
    generate
        Columns of the object that are replaced, such as ``["photon[fake].pt", "photon[fake].eta", "photon[fake].mvaID"]``.
    condition
        Columns that the object depends on: paths or functions, such as ``"photon[other].pt"`` or ``"count(jet)"``. None of the generated.
    picks
        Which object a name in brackets means in events to transform: ``{"fake": Pick("photon", lowest="mvaID"), "other": Pick("photon",
        highest="pt", besides="fake")}``.
    fit_picks
        The same in the events to fit, where the truth may say it: ``{"fake": Pick("photon", lowest="isPrompt"), ...}``; `picks` where None.
    model
        "maf", a conditional masked autoregressive flow; "gan", the paper's convolutional conditional GAN; "gan-dense", a GAN of dense
        layers.
    constants
        Columns of the object that get one value, such as ``{"photon[fake].isPrompt": 0}``.
    order
        "keep" leaves the object in its place; "pt" sorts the collection of a changed event by falling pt.
    schema
        Name of the schema of the files, remembered with the model; see `hepgen.events.schema`.
    selection
        Cuts on the events to fit.
    scaler
        A `hepgen.events.Scaler`; quantiles by default, to a standard normal for "maf" and to a uniform for the others, which is bijective
        for whole numbers and scores too.
    settings
        Any attribute of `ReplacerSettings` by name.

    Attributes
    ----------
    network : FrozenMAF, FrozenGenerator or None
    transfer : Transfer or None
        Sum of weights of the signal region over that of the control region, in simulation, with the error from both sums.
    condition_transfer : ConditionTransfer or None
        The same as a function of the condition, where ``transfer_networks`` says so; its mean is the factor.
    limits : (outputs, 2)
        Smallest and largest value of every generated column in the events of the fit: a generated object stays within, and so passes the
        cuts that those pass.
    """

    def __init__(
        self,
        generate: Iterable[str],
        condition: Iterable[str] = (),
        *,
        picks: Mapping[str, Pick] | None = None,
        fit_picks: Mapping[str, Pick] | None = None,
        model: str = "maf",
        constants: Mapping[str, float] | None = None,
        order: Literal["keep", "pt"] = "keep",
        schema: str | None = None,
        selection: Selection | None = None,
        scaler: Any = None,
        **settings: Any,
    ) -> None:
        if model not in MODELS:
            raise UsageError(f"model {model!r} is not known: choose one of {', '.join(MODELS)}")
        if order not in ("keep", "pt"):
            raise UsageError(f"order={order!r} is not known: choose keep or pt")
        unknown = sorted(set(settings) - set(ReplacerSettings.__dataclass_fields__))
        if unknown:
            raise UsageError(f"ObjectReplacer has no setting {unknown[0]!r}: it has {', '.join(ReplacerSettings.__dataclass_fields__)}")
        settings["hidden"] = tuple(settings.get("hidden", ReplacerSettings.hidden))
        self.settings = ReplacerSettings(**settings)
        self.features = Features(generate, computed=condition)
        if not self.features.outputs:
            raise UsageError("ObjectReplacer needs at least one column to generate")
        if self.settings.transfer_networks and not self.features.computed:
            raise UsageError("transfer_networks learn from the condition, and there is none: give condition=, or leave them out")
        self.constants = Features(constants) if constants else None
        self.constant_values = [float(value) for value in (constants or {}).values()]
        needed = self.features.picked | (self.constants.picked if self.constants is not None else set())
        self.picks = checked_picks(picks or {}, needed)
        self.fit_picks = self.picks if fit_picks is None else checked_picks(fit_picks, needed)
        self.model, self.order, self.schema, self.selection = model, order, schema, selection
        scaler = uniform_quantiles(self.features) if scaler is None and MODELS[model] else scaler
        self.coordinates = Coordinates(self.features, scaler, relative_angles=self.settings.relative_angles, reference="condition")
        self.network: FrozenMAF | FrozenGenerator | None = None
        self.transfer: Transfer | None = None
        self.condition_transfer: ConditionTransfer | None = None
        self.limits: Matrix = np.empty((0, 2))
        self.record: dict[str, Any] = {}
        self.seed = 1

    def __repr__(self) -> str:
        state = "fitted" if self.network is not None else "not fitted"
        return f"ObjectReplacer({list(self.features.outputs)}, condition={list(self.features.computed)}, model={self.model!r}, {state})"

    # -- fitting ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        signal_region: Any,
        weights: ArrayLike | None = None,
        *,
        control_region: Any = None,
        control_weights: ArrayLike | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 1,
        learning_rate: tuple[float, float] | None = None,
        patience: int | None = 10,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
        device: str = "cpu",
    ) -> ObjectReplacer:
        """Fit to simulated events of the signal region.

        Parameters
        ----------
        signal_region
            Events: awkward arrays in GeV and rad, or branches of a file of the model's schema. Those without the objects, or outside the
            selection, take no part.
        weights
            Signed event weights (n,), or None for one each.
        control_region, control_weights
            Simulated events of the control region from the same luminosity, for the transfer factor; and for the transfer by condition,
            where there are ``transfer_networks``.
        epochs, batch_size
            At most so many passes (60; 200 of an adversarial fit), and events per step (1024).
        seed
            Fixes the start, the order and the noise of later transforms.
        learning_rate
            First and last rate of the square-root decay, 1e-3 to 1e-5 by default; of an adversarial fit along half a cosine, 1e-3 to 0
            (2e-4 to 0 with Adam, as "gan-dense" has it).
        patience
            Epochs without a better validation loss before the fit of a flow stops; None never stops. An adversarial fit goes on to the end,
            and keeps the epoch with the lowest -2 ln Lambda of the validation events.
        checkpoint
            Folder for a checkpoint: a fit that was stopped goes on from there, to the same weights bit for bit.
        progress
            Show a progress bar (default: on a terminal).
        device
            Where to fit: "cpu", or "cuda" for a GPU. Its random numbers are others, and so are the weights; transforming needs none.

        Raises
        ------
        InputError
            A column is missing, not finite or constant, no event has the objects, or weights sum to nothing.
        FitInterrupted
            Stopped by Ctrl-C after writing the checkpoint.
        """
        self.changed()
        matrix, own = self._rows(signal_region, weights, "signal_region")
        folder = Path(checkpoint) if checkpoint is not None else None
        self.transfer = self.condition_transfer = None
        if control_region is not None:
            self._fit_transfer((matrix, own), control_region, control_weights, seed, folder, progress, device)
        self.coordinates.fit(matrix, own)
        self.limits = np.stack([matrix.min(0), matrix.max(0)], axis=1)[: len(self.features.outputs)]
        self.seed = seed
        scaled = self._scaled(matrix)
        fit = self._fit_gan if MODELS[self.model] else self._fit_flow
        plan = replace(new_plan(self.model, self.settings, epochs, batch_size, seed, learning_rate, patience), device=device)
        state, record = fit(scaled, own, plan, folder, progress)
        self.network = self._frozen(state)
        self.record = json.loads(json.dumps({"events": len(scaled), "plan": asdict(plan), **record}))  # as it will be read back
        return self

    def _rows(self, events: Any, weights: ArrayLike | None, name: str) -> tuple[Matrix, Matrix | None]:
        records = self.as_records(events)
        rows = rows_to_fit(self.features.bind(find_picks(self.fit_picks, records)), records, weights, name, self.selection)
        return rows.matrix, rows.weights

    def _fit_transfer(
        self,
        signal: tuple[Matrix, Matrix | None],
        control_region: Any,
        control_weights: ArrayLike | None,
        seed: int,
        folder: Path | None,
        progress: bool | None,
        device: str,
    ) -> None:
        # of the control region only objects and condition count, not whether a generated column is constant
        records = self.as_records(control_region)
        matrix, mask = self.features_of(records).to_matrix(records)
        given = np.ones(len(mask)) if control_weights is None else np.asarray(control_weights, dtype=np.float64)
        if given.shape != mask.shape:
            raise InputError(f"control_weights has shape {given.shape}, and there are {len(mask)} events: give one weight per event")
        weights = given[mask]
        if self.selection is not None:
            passed = np.asarray(self.selection.mask(records))[mask]
            matrix, weights = matrix[passed], weights[passed]
        matrix, weights = of_all_ranks(matrix, weights)
        events, own = signal
        self.transfer = transfer_factor(np.ones(len(events)) if own is None else own, weights)
        if self.settings.transfer_networks:
            first = len(self.features.outputs)
            transfer = ConditionTransfer(self.features.computed, self.features.periodic[first:].tolist(), self.settings.transfer_networks)
            regions = (matrix[:, first:], weights), (events[:, first:], own)
            self.condition_transfer = transfer.fit(*regions, seed=seed, checkpoint=folder, progress=progress, device=device)

    def _fit_flow(
        self, scaled: Matrix, weights: Matrix | None, plan: Plan, folder: Path | None, progress: bool | None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        from hepgen.estimators.replacer_fit import fit_flow

        s = self.settings
        shape = (s.blocks, s.hidden, s.permutation, s.activation)
        return fit_flow(scaled, weights, len(self.features.outputs), shape, plan, checkpoint=folder, progress=progress)

    def _fit_gan(
        self, scaled: Matrix, weights: Matrix | None, plan: Plan, folder: Path | None, progress: bool | None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        from hepgen.estimators.replacer_fit import GanShape, fit_gan

        s = self.settings
        shape = GanShape(str(MODELS[self.model]), len(self.features.outputs), s.hidden, s.latent, s.dropout, s.label_noise, s.copies)
        return fit_gan(scaled, weights, shape, plan, s.restarts, checkpoint=folder, progress=progress)

    def _frozen(self, state: Mapping[str, NDArray[Any]]) -> FrozenMAF | FrozenGenerator:
        s, outputs, inputs = self.settings, len(self.features.outputs), len(self.features.computed)
        if MODELS[self.model]:
            generator = FrozenGenerator(state)
            if (generator.inputs, generator.outputs) != (inputs + s.latent, outputs):
                raise UsageError(f"the generator has not the {inputs} + {s.latent} inputs and {outputs} outputs that its settings say")
            return generator
        flow = FrozenMAF(state, activation=s.activation)
        expected = (outputs, inputs, s.blocks, s.hidden)
        if (flow.features, flow.context, len(flow.blocks), flow.hidden) != expected:
            raise UsageError(f"the flow has not the columns, blocks and widths {expected} that its settings say")
        return flow

    def _scaled(self, matrix: Matrix) -> Matrix:
        """Feature matrix (n, d) -> what the network sees, within [-1, 1] for a generator."""
        scaled = self.coordinates.forward(matrix)
        return np.clip(2 * scaled - 1, -1, 1) if MODELS[self.model] else scaled

    # -- applying --------------------------------------------------------------------------------------------------

    def transform(self, events: Any, *, copies: int | None = None, identity: ArrayLike | str | None = None, **options: Any) -> Any:
        """Events with the object replaced: same layout, fields, dtypes and behaviours.

        Parameters
        ----------
        events
            Of the control region; see `Transformer.transform`. An event without the objects passes through untouched.
        copies
            Give so many copies of all events one after the other, each with an object of its own, and the field ``hepgen_weight``:
            `transfer_weights` over `copies`. Their own weights are not in it.
        identity, options
            See `Transformer.transform`; `seed`, `copy`, `invalid` and `raw`.
        """
        if copies is None:
            return super().transform(events, identity=identity, **options)
        if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
            raise UsageError(f"copies={copies!r} is no number of copies: give 1 or more")
        if "copy" in options:
            raise UsageError("copies= makes copies 0, 1, ... itself: leave copy= out")
        return run_on(partial(_copies, self, copies, options), events, identity)

    def transfer_weights(self, events: Any, *, invalid: Invalid = "raise") -> tuple[Matrix, Matrix]:
        """Events of the signal region that every event of the control region stands for, and the error of that.

        Parameters
        ----------
        events
            n events in memory: awkward arrays in GeV and rad, or branches of a file of the model's schema.
        invalid
            As in `transform`.

        Returns
        -------
        weights, errors : (n,) float64
            The transfer factor, 1 without error where the fit had no control region; with ``transfer_networks`` the ratio that the
            condition says, and the scatter of the networks beside the error of the factor. 0 for an event that `transform` leaves as it is.
        """
        records = self.as_records(events)
        found = self.features_of(records).extract(records, invalid=invalid)
        weights, errors = np.zeros((2, len(found.mask)))
        rows, matrix = np.flatnonzero(found.mask), found.matrix
        if invalid == "identity":
            good = self.supports(matrix).all(axis=1)
            rows, matrix = rows[good], matrix[good]
        factor, error = self.transfer or (1.0, 0.0)
        if self.condition_transfer is None:
            weights[rows], errors[rows] = factor, error
        else:
            weights[rows], scatter = self.condition_transfer.weights(matrix[:, len(self.features.outputs) :])
            errors[rows] = np.hypot(weights[rows] * (error / factor), scatter)
        return weights, errors

    def supports(self, matrix: Matrix) -> NDArray[np.bool_]:
        """See `Transformer.supports`; of the generated columns the old values are not looked at."""
        supported = self.coordinates.supports(matrix)
        supported[:, : len(self.features.outputs)] = True
        return supported

    def transform_matrix(self, matrix: Matrix, keys: Keys, *, seed: int | None = None, copy: int = 0) -> Matrix:
        """See `Transformer.transform_matrix`."""
        network, outputs = self._fitted(), len(self.features.outputs)
        seed = self.seed if seed is None else seed
        known = matrix.copy()
        known[:, :outputs] = self.limits.mean(1)  # only the condition counts
        scaled = self.coordinates.forward(known)
        condition = self._scaled(known)[:, outputs:]
        if isinstance(network, FrozenGenerator):
            noise = philox.normal(keys, self.settings.latent, seed=seed, stream=copy)
            scaled[:, :outputs] = (network(condition, noise) + 1) / 2
        else:
            scaled[:, :outputs], _ = network.inverse(philox.normal(keys, outputs, seed=seed, stream=copy), condition)
        found = self.coordinates.inverse(scaled)[:, :outputs]
        return np.clip(found, self.limits[:, 0], self.limits[:, 1])

    def features_of(self, events: Any) -> Features:
        """See `Transformer.features_of`."""
        return self.features.bind(find_picks(self.picks, events))

    def finish(self, features: Features, events: Any, mask: NDArray[np.bool_]) -> Any:
        """See `Transformer.finish`: constants, and the order of the objects."""
        if self.constants is not None:
            values = np.tile(self.constant_values, (int(mask.sum()), 1))
            events = features.of(self.constants.outputs).from_matrix(events, values, mask)
        return sort_by_pt(self.features, events, mask) if self.order == "pt" else events

    def columns(self, available: Iterable[str]) -> set[str]:
        """See `Estimator.columns`."""
        names = list(available)
        needed = super().columns(names)
        for pick in self.picks.values():
            needed |= pick.columns(names)
        if self.constants is not None:
            needed |= self.constants.columns(names)
        return needed | (collection_columns(self.features, names) if self.order == "pt" else set())

    def _fitted(self) -> FrozenMAF | FrozenGenerator:
        if self.network is None:
            raise UsageError("this ObjectReplacer is not fitted: call fit, or load a saved model")
        return self.network

    # -- saving ----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Estimator.tensors`."""
        arrays = {f"network.{name}": array for name, array in self._fitted().state.items()}
        if self.condition_transfer is not None:
            arrays |= {f"transfer.{name}": array for name, array in self.condition_transfer.tensors().items()}
        return arrays

    def document(self) -> dict[str, Any]:
        """See `Estimator.document`."""
        constants = () if self.constants is None else self.constants.outputs
        return {
            "features": self.features.to_dict(),
            "picks": {name: pick.to_dict() for name, pick in self.picks.items()},
            "fit_picks": {name: pick.to_dict() for name, pick in self.fit_picks.items()},
            "model": self.model,
            "constants": dict(zip(constants, self.constant_values, strict=True)),
            "order": self.order,
            "schema": self.schema,
            "selection": None if self.selection is None else self.selection.to_dict(),
            "settings": asdict(self.settings),
            "coordinates": self.coordinates.to_dict(),
            "limits": self.limits.tolist(),
            "transfer": None if self.transfer is None else list(self.transfer),
            "condition_transfer": None if self.condition_transfer is None else self.condition_transfer.document(),
            "seed": self.seed,
            "record": self.record,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> ObjectReplacer:
        """See `Estimator.from_document`."""
        features = Features.from_dict(document["features"])
        picks = {which: {name: Pick.from_dict(pick) for name, pick in document[which].items()} for which in ("picks", "fit_picks")}
        model = cls(
            features.outputs,
            features.computed,
            **picks,
            model=document["model"],
            constants=document["constants"] or None,
            order=document["order"],
            schema=document["schema"],
            selection=None if document["selection"] is None else Selection.from_dict(document["selection"]),
            **document["settings"],
        )
        model.features = features
        model.coordinates = Coordinates.from_dict(features, document["coordinates"], reference="condition")
        model.limits, model.seed, model.record = np.asarray(document["limits"]), document["seed"], document["record"]
        model.transfer = None if document["transfer"] is None else Transfer(*document["transfer"])
        model.network = model._frozen(_under("network.", tensors))
        if document["condition_transfer"] is not None:
            model.condition_transfer = ConditionTransfer.from_document(document["condition_transfer"], _under("transfer.", tensors))
        return model


def _under(prefix: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _copies(model: ObjectReplacer, copies: int, options: Mapping[str, Any], events: Any, identity: Any = None) -> Any:
    import awkward as ak

    if not isinstance(events, ak.Array):
        raise UsageError("copies= needs an awkward array, to which the field of the weights can be added")
    if WEIGHT in events.fields:
        raise InputError(f"the events have a field {WEIGHT} already: leave it out, or transform with copy= 0, 1, ... yourself")
    invalid: Invalid = options.get("invalid", "raise")
    parts = [Transformer.transform(model, events, identity=identity, copy=copy, **options) for copy in range(copies)]
    if has_data(events.layout):
        weight: Any = model.transfer_weights(events, invalid=invalid)[0] / copies
    else:
        weight = ak.zeros_like(events[events.fields[0]], dtype=np.float64) if events[events.fields[0]].ndim == 1 else 0.0
    return ak.concatenate([ak.with_field(part, weight, WEIGHT) for part in parts])
