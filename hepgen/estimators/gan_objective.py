"""Adversarial pairs as objectives of the training loop: the conditional GAN of paper C, and those that generate whole events.

Every batch holds "signal" rows, scaled to [-1, 1]: the columns of the object first, those of the condition after, then any that only the
figure of merit looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepgen.errors import InputError, UsageError
from hepgen.kernels.mmd import mmd2
from hepgen.losses.adversarial import AdversarialLoss, clip_weights, gradient_penalty
from hepgen.metrics.lambda_score import LambdaReference
from hepgen.networks import Discriminator, Generator
from hepgen.training import Batch, Objective, Sample

Matrix = NDArray[np.float64]

MOST_COLUMNS = 4  # that are binned by default
CHUNK = 4096  # rows generated at once for the figure of merit


class AdversarialObjective(Objective):
    """A generator, a discriminator and the figure of merit that picks the best epoch: -2 ln Lambda per event, or another.

    Each step the discriminator moves first, and the generator against what the discriminator has become, with the objects that both saw.

    Parameters
    ----------
    generator, discriminator
        Of one condition.
    loss
        Of both.
    sample
        All signal rows, whose quantiles are the edges of the bins.
    observables
        What is binned, (n, columns of the sample) -> (n, d), of scaled rows with generated objects in them; by default four
        columns: the first of the object and, where there is a condition, the first of that, or no correlation with it would count.
    copies
        Objects generated for each event, for the figure of merit alone.
    bins
        Uniformised, in each dimension.
    discriminator_steps
        Steps of the discriminator, each on the real rows of the batch and new generated ones, for one of the generator.
    figure
        In place of -2 ln Lambda: (rows, copies of them with generated objects) -> a number, the lower, the better.
    finish
        What is made of generated objects (n, outputs) for conditions (n, inputs) before anyone sees them; differentiable.
    """

    players = ("discriminator", "generator")
    measures_training = True

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        loss: AdversarialLoss,
        sample: Sample,
        *,
        observables: Callable[[Matrix], Matrix] | None = None,
        copies: int = 10,
        bins: int = 10,
        discriminator_steps: int = 1,
        figure: Callable[[Sample, Iterable[Tensor]], float] | None = None,
        finish: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        columns, used = sample.values.shape[1], generator.outputs + generator.inputs
        if discriminator.inputs != used or columns < used:
            raise UsageError(
                f"object and condition have {used} columns, but the discriminator takes {discriminator.inputs} and the sample has {columns}"
            )
        if copies < 1 or discriminator_steps < 1:
            raise UsageError(f"copies and discriminator_steps must be at least 1, not {copies} and {discriminator_steps}")
        self.generator, self.discriminator, self.loss = generator, discriminator, loss
        self.copies, self.discriminator_steps = copies, discriminator_steps
        self._observables, self._figure, self._finish = observables or self._first_columns, figure, finish
        self.edges: Any = None if figure else LambdaReference(self._observables(_matrix(sample.values)), _weights(sample), bins=bins).edges

    def turns(self, batch: Batch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """The discriminator's turns and the generator's."""
        real, condition = self._split(batch["signal"].values)
        weights, generated = batch["signal"].weights, real
        for _ in range(self.discriminator_steps):
            generated = self.generate(condition, batch.generator)
            yield "discriminator", {"loss": self._discriminator_loss(real, generated, condition, weights, batch.generator)}
            if self.loss.clip:
                clip_weights(self.discriminator, self.loss.clip)
        logits = self.discriminator(generated, condition, batch.generator)
        yield "generator", {"loss": self.loss.generator(logits, weights)}

    def _discriminator_loss(
        self, real: Tensor, generated: Tensor, condition: Tensor, weights: Tensor | None, numbers: torch.Generator
    ) -> Tensor:
        n, fixed = len(real), generated.detach()
        logits = self.discriminator(torch.cat([real, fixed]), condition.repeat(2, 1), numbers)
        loss = self.loss.discriminator(logits[:n], logits[n:], weights, weights, numbers)
        if self.loss.penalty:
            penalty = gradient_penalty(lambda x: self.discriminator(x, condition), real, fixed, weights, numbers)
            loss = loss + self.loss.penalty * penalty
        return loss

    def generate(self, condition: Tensor, numbers: torch.Generator | None = None) -> Tensor:
        """Scaled objects (n, outputs) for conditions (n, inputs), with fresh latents."""
        latent = torch.randn(len(condition), self.generator.latent, generator=numbers, dtype=condition.dtype, device=condition.device)
        objects: Tensor = self.generator(condition, latent)
        return objects if self._finish is None else self._finish(objects, condition)

    def validation_loss(self, batch: Batch) -> Tensor:
        """-2 ln Lambda per event, or the other figure of merit, of the rows of the batch, each with `copies` objects."""
        signal = batch["signal"]
        copies = (self._replaced(signal.values, batch.generator) for _ in range(self.copies))
        return torch.tensor(self.score(signal, copies), dtype=torch.float64)

    def score(self, signal: Sample, copies: Iterable[Tensor]) -> float:
        """-2 ln Lambda per event, or the other figure of merit, of rows (n, columns) and as many others, copy by copy."""
        if self._figure is not None:
            return self._figure(signal, copies)
        reference = LambdaReference(self._observables(_matrix(signal.values)), _weights(signal), bins=self.edges)
        return reference.score((self._observables(_matrix(rows)) for rows in copies), _weights(signal)).per_event

    def _replaced(self, rows: Tensor, numbers: torch.Generator) -> Tensor:
        """Rows whose objects are generated ones."""
        with torch.no_grad():
            objects = torch.cat([self.generate(self._split(part)[1], numbers) for part in rows.split(CHUNK)])
        if not objects.isfinite().all():
            raise InputError("the generator's objects are not finite: lower the learning rate")
        return torch.cat([objects, rows[:, self.generator.outputs :]], dim=1)

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.generator.outputs
        return rows[:, :outputs], rows[:, outputs : outputs + self.generator.inputs]

    def _first_columns(self, rows: Matrix) -> Matrix:
        outputs, conditions = self.generator.outputs, min(self.generator.inputs, 1)
        return rows[:, [*range(min(outputs, MOST_COLUMNS - conditions)), *range(outputs, outputs + conditions)]]

    def about(self) -> dict[str, Any]:
        """What the training record should hold beside the losses."""
        return {"copies": self.copies} | ({} if self.edges is None else {"bins": [len(edges) - 1 for edges in self.edges]})


class MmdObjective(AdversarialObjective):
    """MMD-GAN (Li et al. 2017): the generator against the kernel that tells its objects best from the real ones.

    The kernel is a mixture of Gaussians on what the hidden layers of the discriminator make of a row, whose parameters are clipped to keep
    them from growing steep, beside one on the row itself, which nothing can blind. Their widths are multiples of the mean squared distance
    of the real rows of the batch.
    """

    scales = (0.125, 0.5, 2.0, 8.0)
    clip = 0.05

    def turns(self, batch: Batch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """The turns of the discriminator, which is the kernel here, and of the generator."""
        real, condition = self._split(batch["signal"].values)
        weights = batch["signal"].weights
        for _ in range(self.discriminator_steps):
            generated = self.generate(condition, batch.generator).detach()
            yield "discriminator", {"loss": -self._apart(self._hidden(real, condition), self._hidden(generated, condition), weights)}
            clip_weights(self.discriminator, self.clip)
        generated = self.generate(condition, batch.generator)
        loss = self._apart(self._hidden(real, condition), self._hidden(generated, condition), weights)
        rows = torch.cat([real, condition], dim=1), torch.cat([generated, condition], dim=1)
        yield "generator", {"loss": loss + self._apart(*rows, weights)}

    def _hidden(self, objects: Tensor, condition: Tensor) -> Tensor:
        return self.discriminator.hidden(torch.cat([objects, condition], dim=1))

    def _apart(self, real: Tensor, generated: Tensor, weights: Tensor | None) -> Tensor:
        """The squared discrepancy of rows (n, k) and (n, k) with the same weights (n,)."""
        width = 2 * real.detach().var(dim=0).sum().clamp(min=1e-12)
        widths = (width * torch.tensor(self.scales, dtype=real.dtype, device=real.device))[:, None]
        return mmd2(generated, real, widths, x_weights=weights, y_weights=weights)


def _matrix(rows: Tensor) -> Matrix:
    return rows.cpu().double().numpy()


def _weights(sample: Sample) -> Matrix | None:
    return None if sample.weights is None else sample.weights.cpu().double().numpy()
