"""How the flow or the adversarial pair of an ObjectReplacer is fitted: the part of it that needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepgen.errors import InputError
from hepgen.estimators.fit_samples import sample_of
from hepgen.estimators.gan_objective import MOST_COLUMNS, AdversarialObjective
from hepgen.losses.adversarial import adversarial_loss
from hepgen.networks import MAF
from hepgen.networks.gan import DenseDiscriminator, DenseGenerator, Discriminator, Generator, gan_networks
from hepgen.training import Batch, Objective, Plan, Sample, train
from hepgen.training.orders import mix_seed

Matrix = NDArray[np.float64]


class ConditionalLogLoss(Objective):
    """-E log p(object | condition): the first columns of a row given the others."""

    def __init__(self, flow: MAF) -> None:
        super().__init__()
        self.flow = flow

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The log loss of one batch; weights have a mean of one over their whole sample, not over the batch."""
        rows, weights, d = batch["signal"].values, batch["signal"].weights, self.flow.features
        loss = self.flow.negative_log_likelihood(rows[:, :d].contiguous(), rows[:, d:].contiguous(), weights)
        return {"loss": loss if weights is None else loss * weights.mean()}


def fit_flow(
    scaled: Matrix,
    weights: Matrix | None,
    outputs: int,
    shape: tuple[int, Sequence[int], str, str],
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    progress: bool | None = None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Fit a flow to scaled rows (n, d), of which the first `outputs` columns are what it draws.

    Parameters
    ----------
    weights
        Signed (n,), or None.
    shape
        Blocks, hidden widths, permutation and activation; see `hepgen.networks.MAF`.
    checkpoint
        Folder for the checkpoint.

    Returns
    -------
    state, record
        The weights by name, and the training record.
    """
    torch.manual_seed(plan.seed)
    flow = MAF(outputs, scaled.shape[1] - outputs, *shape, seed=plan.seed)
    sample = sample_of(scaled, weights)
    file = checkpoint / "flow.checkpoint" if checkpoint is not None else None
    record = train(ConditionalLogLoss(flow), {"signal": sample}, plan, checkpoint=file, title="flow fit", progress=progress)
    return {name: tensor.detach().numpy() for name, tensor in flow.state_dict().items()}, record.to_dict()


class GanShape(NamedTuple):
    """The adversarial pair; see `hepgen.networks.gan` and `AdversarialObjective`."""

    kind: str
    outputs: int
    hidden: Sequence[int]
    latent: int
    dropout: float
    label_noise: float
    copies: int


def fit_gan(
    scaled: Matrix,
    weights: Matrix | None,
    shape: GanShape,
    plan: Plan,
    restarts: int,
    *,
    checkpoint: Path | None = None,
    progress: bool | None = None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Fit a generator against a discriminator on rows (n, d) in [-1, 1], of which the first columns are those of the object.

    An attempt fails where it stops being finite, or where its best -2 ln Lambda is above that of objects whose columns are those of the
    sample, each by itself. It is then made again from another seed, at most `restarts` times; the best attempt is kept.

    Returns
    -------
    state, record
        The generator's weights by name; the training record of the best attempt, and what came of every attempt.

    Raises
    ------
    InputError
        All attempts failed.
    """
    sample, inputs = sample_of(scaled, weights), scaled.shape[1] - shape.outputs
    # an event a cell or more, or emptiness is all that counts; the paper has 10^4 cells
    bins = min(max(int((plan.validation * len(sample)) ** (1 / MOST_COLUMNS)), 2), 10)
    best: tuple[float, dict[str, NDArray[Any]], dict[str, Any]] | None = None
    attempts: list[dict[str, Any]] = []
    for attempt in range(restarts + 1):
        seed = plan.seed if attempt == 0 else mix_seed(plan.seed, 7, attempt)
        objective = AdversarialObjective(
            *new_pair(shape, inputs, seed), adversarial_loss("gan", label_noise=shape.label_noise), sample, copies=shape.copies, bins=bins
        )
        alone = _columns_alone(objective, sample, plan)
        file = checkpoint / f"gan-{attempt}.checkpoint" if checkpoint is not None else None
        title = "gan fit" + (f", attempt {attempt + 1}" if attempt else "")
        try:
            record = train(objective, {"signal": sample}, replace(plan, seed=seed), checkpoint=file, title=title, progress=progress)
        except InputError as error:
            attempts.append({"seed": seed, "failed": str(error)})
            continue
        attempts.append({"seed": seed, "best_valid": record.best_valid, "columns_alone": alone})
        if best is None or record.best_valid < best[0]:
            state = {name: tensor.detach().numpy().copy() for name, tensor in objective.generator.state_dict().items()}
            best = record.best_valid, state, {**objective.about(), **record.to_dict()}
        if record.best_valid < alone:
            return best[1], {**best[2], "attempts": attempts}
    said = "; ".join(
        found.get("failed") or f"-2 ln Lambda {found['best_valid']:.2f}, columns by themselves {found['columns_alone']:.2f}"
        for found in attempts
    )
    raise InputError(f"all {restarts + 1} adversarial fits failed ({said}): give more epochs or another optimizer, or take model='maf'")


def new_pair(shape: GanShape, inputs: int, seed: int) -> tuple[Generator, Discriminator]:
    """Generator and discriminator with the weights that `seed` names, for a condition of so many columns."""
    if shape.kind == "convolutional":
        return gan_networks(shape.kind, inputs, shape.outputs, shape.latent, dropout=shape.dropout, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = DenseGenerator(inputs, shape.outputs, shape.latent, shape.hidden)
        return generator, DenseDiscriminator(inputs + shape.outputs, shape.dropout, (*shape.hidden, shape.hidden[-1]))


def _columns_alone(objective: AdversarialObjective, sample: Sample, plan: Plan) -> float:
    """-2 ln Lambda per event of objects that are right in every column and know of nothing else, measured as the fit is."""
    numbers = torch.Generator().manual_seed(plan.seed)
    held = max(round(plan.validation * len(sample)), 1)
    reference = sample.take(torch.randperm(len(sample), generator=numbers)[:held])
    copies = [
        torch.stack([column[torch.randperm(len(sample), generator=numbers)[:held]] for column in sample.values.T], dim=1)
        for _ in range(objective.copies)
    ]
    return objective.score(reference, copies)
