"""The models of the study of paper C: flows, and adversarial pairs whose figure of merit is measured after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from cgan_events import CONDITIONS, GENERATE, PICKS, TRUE_PICKS, Floats, Region, Regions, massless
from torch import Tensor

from hepgen import Features, ObjectReplacer
from hepgen.estimators.gan_objective import AdversarialObjective
from hepgen.estimators.replacer_fit import GanShape, new_pair
from hepgen.estimators.replacer_settings import MODELS, new_plan
from hepgen.losses.adversarial import adversarial_loss
from hepgen.metrics import LambdaReference
from hepgen.networks.frozen_gan import FrozenGenerator
from hepgen.training import Batch, Sample, train

Result = dict[str, Any]

#: Objects an event that the figure of merit is measured with, of figure 2; the first one picks the best epoch.
COPIES = (10, 1, 100)


def new_model(model: str, strategy: str, **settings: Any) -> ObjectReplacer:
    """An unfitted model of the study."""
    return ObjectReplacer(GENERATE, CONDITIONS[strategy], picks=PICKS, fit_picks=TRUE_PICKS, model=model, **settings)


def fit_flow(strategy: str, regions: Regions, networks: int, options: Any) -> tuple[ObjectReplacer, Result]:
    """Fit a conditional flow, and the transfer as a function of the condition by so many ratio networks."""
    started = time.perf_counter()
    model = new_model("maf", strategy, blocks=options.blocks, transfer_networks=networks).fit(
        regions.fit.events,
        control_region=regions.control_fit.events,
        epochs=options.flow_epochs,
        batch_size=options.flow_batch,
        seed=options.seed,
        progress=False,
    )
    found = {"seconds": time.perf_counter() - started, "epochs": len(model.record["epochs"])}
    return model, found | {"transfer": list(model.transfer or ())}


def fit_gan(
    kind: str, strategy: str, latent: int, epochs: int, copies: Sequence[int], regions: Regions, options: Any
) -> tuple[ObjectReplacer, Result]:
    """Fit an adversarial pair as `ObjectReplacer` does, with the paper's figure of merit after every `options.every` epochs.

    It is measured with each of so many objects an event, `copies`; the first picks the best epoch.
    """
    started = time.perf_counter()
    model = new_model(kind, strategy, latent=latent)
    events, features = regions.fit.events, model.features.bind(regions.fit.picked)
    matrix = features.to_matrix(events)[0]
    model.coordinates.fit(matrix)
    model.limits = np.stack([matrix.min(0), matrix.max(0)], axis=1)[: len(GENERATE)]
    model.seed = options.seed
    scaled = np.clip(2 * model.coordinates.forward(matrix) - 1, -1, 1)
    rows = np.concatenate([scaled, _other(regions.fit)], axis=1)
    sample = Sample(torch.from_numpy(rows.astype(np.float32)))
    shape = GanShape(str(MODELS[kind]), len(GENERATE), (512, 512, 512), latent, 0.2, 0.15, copies[0])
    pair = new_pair(shape, scaled.shape[1] - len(GENERATE), options.seed)
    objective = Watched(*pair, sample, _observables(model, scaled.shape[1]), copies)
    plan = new_plan(kind, model.settings, epochs, options.gan_batch, options.seed, None, None)
    record = train(
        objective, {"signal": sample}, replace(plan, validate_every=options.every), title=f"{kind} {strategy} {latent}", progress=False
    )
    state = {name: tensor.detach().numpy().copy() for name, tensor in objective.generator.state_dict().items()}
    model.network = FrozenGenerator(state)
    steps = len(record.steps["generator"])
    seconds = sum(epoch["seconds"] for epoch in record.epochs)  # of the steps alone
    return model, {
        "seconds": time.perf_counter() - started,
        "seconds_per_epoch": seconds / epochs,
        "steps": steps,
        "epochs": epochs,
        "best_epoch": record.best_epoch,
        "every": options.every,
        "scores": objective.found,
    }


class Watched(AdversarialObjective):
    """The pair of `ObjectReplacer`, with -2 ln Lambda per event by several numbers of objects an event, kept epoch by epoch in `found`."""

    measures_training = False  # a hundred copies of as many training events would cost more than the training

    def __init__(
        self, generator: Any, discriminator: Any, sample: Sample, observables: Callable[[Floats], Floats], copies: Sequence[int]
    ) -> None:
        loss = adversarial_loss("gan", label_noise=0.15)
        super().__init__(generator, discriminator, loss, sample, observables=observables, copies=copies[0])
        self.found: dict[str, list[float]] = {str(number): [] for number in copies}

    def validation_loss(self, batch: Batch) -> Tensor:
        """-2 ln Lambda per event with the first of the numbers of objects; the others are measured beside it."""
        signal = batch["signal"]
        reference = LambdaReference(self._observables(signal.values.double().numpy()), bins=self.edges)
        for copies, found in self.found.items():
            objects = (self._replaced(signal.values, batch.generator) for _ in range(int(copies)))
            found.append(reference.score(self._observables(rows.double().numpy()) for rows in objects).per_event)
        return torch.tensor(self.found[str(self.copies)][-1], dtype=torch.float64)


def _other(region: Region) -> Floats:
    """pT, eta and phi of the other photon (n, 3), which only the figure of merit looks at."""
    columns = Features([], computed=["Photon[other].pt", "Photon[other].eta", "Photon[other].phi"])
    return columns.bind(region.picked).to_matrix(region.events)[0]


def _observables(model: ObjectReplacer, columns: int) -> Callable[[Floats], Floats]:
    """From rows of scaled columns with the other photon behind them to the columns of -2 ln Lambda."""

    def observables(rows: Floats) -> Floats:
        physical = model.coordinates.inverse((np.clip(rows[:, :columns], -1, 1) + 1) / 2)
        fake, other = (massless(part) for part in (physical[:, :3], rows[:, columns:]))
        pair = fake + other
        return np.column_stack([physical[:, 0], np.abs(physical[:, 1]), physical[:, 3], pair.pt / pair.mass])

    return observables
