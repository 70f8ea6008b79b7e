"""How the adversarial generators of events are fitted: the part of it that needs torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepgen.errors import InputError
from hepgen.estimators.fit_samples import sample_of
from hepgen.estimators.gan_objective import AdversarialObjective, MmdObjective
from hepgen.estimators.generator_models.base import FitOptions, Rows
from hepgen.estimators.generator_models.gan import Box
from hepgen.estimators.generator_models.pairs import PairHistograms
from hepgen.estimators.generator_settings import GeneratorSettings, gan_plan
from hepgen.events.presence import Presence
from hepgen.losses.adversarial import adversarial_loss
from hepgen.networks import Discriminator, Generator
from hepgen.networks.gan import DenseDiscriminator, DenseGenerator, gan_networks
from hepgen.training import Sample, train
from hepgen.training.orders import mix_seed

HIDDEN = (256, 256, 256)
#: The loss of a model, its steps of the discriminator for one of the generator, and its dropout. A critic has none, whose slope matters.
KINDS = {
    "lsgan": ("lsgan", 1, 0.2),
    "wgan": ("wgan", 5, 0.0),
    "wgan-gp": ("wgan-gp", 5, 0.0),
    "mmd-gan": ("gan", 1, 0.0),
    "dijet-gan": ("gan", 1, 0.2),
}


def fit_pair(
    model: str, rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """See `Family.fit`. The epoch is kept whose events are nearest to those held out, by `PairHistograms`.

    Raises
    ------
    InputError
        All attempts stopped being finite.
    """
    presence = rows.presence
    plan = replace(gan_plan(model, settings, options.epochs, options.batch_size, options.seed), device=options.device)
    box = Box(*_edges(rows))
    boxed = np.where(presence.patterns[rows.index], box.forward(rows.values), 0.0)
    sample = sample_of(np.concatenate([boxed, presence.one_hot(rows.index)], axis=1), rows.weights)
    failures = []
    for attempt in range(settings.restarts + 1):
        seed = plan.seed if attempt == 0 else mix_seed(plan.seed, 7, attempt)
        objective = _objective(model, presence, settings, latent, sample, seed)
        file = options.checkpoint / f"{model}-{attempt}.checkpoint" if options.checkpoint is not None else None
        try:
            record = train(objective, {"signal": sample}, replace(plan, seed=seed), checkpoint=file, title=model, progress=options.progress)
        except InputError as error:
            failures.append(f"seed {seed}: {error}")
            continue
        state = {name: tensor.detach().numpy().copy() for name, tensor in objective.generator.state_dict().items()}
        return {**state, "low": box.low, "high": box.high}, {"plan": asdict(plan), "failures": failures, **record.to_dict()}
    raise InputError(f"all {len(failures)} adversarial fits failed ({'; '.join(failures)}): give another model, such as 'maf'")


def _objective(model: str, presence: Presence, settings: GeneratorSettings, latent: int, sample: Sample, seed: int) -> AdversarialObjective:
    loss, steps, dropout = KINDS[model]
    steps = settings.discriminator_steps or steps
    dropout = dropout if settings.dropout is None else settings.dropout
    patterns = torch.from_numpy(presence.patterns.astype(np.float32))

    def finish(objects: Tensor, condition: Tensor) -> Tensor:
        return objects * (condition @ patterns) if presence.codes else objects

    figure = PairHistograms(sample.values.numpy().astype(np.float64))

    def compare(real: Sample, copies: Iterable[Tensor]) -> float:
        weights = None if real.weights is None else real.weights.cpu().double().numpy()
        held = figure.histograms(real.values.cpu().double().numpy(), weights)
        return float(np.mean([figure.distance(held, figure.histograms(rows.cpu().double().numpy(), weights)) for rows in copies]))

    kind = MmdObjective if model == "mmd-gan" else AdversarialObjective
    pair = _pair(model, presence, settings, latent, dropout, seed)
    return kind(*pair, adversarial_loss(loss), sample, copies=1, discriminator_steps=steps, figure=compare, finish=finish)


def _pair(
    model: str, presence: Presence, settings: GeneratorSettings, latent: int, dropout: float, seed: int
) -> tuple[Generator, Discriminator]:
    columns, codes, hidden = presence.columns, presence.codes, settings.hidden or HIDDEN
    if model == "dijet-gan":
        return gan_networks("convolutional", codes, columns, latent, dropout=dropout, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DenseGenerator(codes, columns, latent, hidden), DenseDiscriminator(codes + columns, dropout, hidden)


def _edges(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest value of every column where it is present, (k,)."""
    there = rows.presence.patterns[rows.index]
    return np.where(there, rows.values, np.inf).min(axis=0), np.where(there, rows.values, -np.inf).max(axis=0)
