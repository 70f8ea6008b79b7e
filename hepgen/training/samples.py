"""Samples of events as tensors, and the batches an epoch draws from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hepgen import ranks
from hepgen.errors import InputError
from hepgen.training.orders import HELD_ON_DISK, Order, Shuffled, Windows, held_out_of, mix_seed

HASHED = 1 << 20  # rows at a time


@dataclass(frozen=True)
class Sample:
    """Rows of one sample: values (n, k) and signed weights (n,), or None for one each.

    In the batches of an ensemble an axis of members comes first. What is `on_disk` is mapped from there in a random order, never all in
    memory or on a GPU, and over several ranks each has rows of its own.
    """

    values: Tensor
    weights: Tensor | None = None
    on_disk: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def part(self, rows: slice) -> Sample:
        """Consecutive rows."""
        return Sample(self.values[rows], None if self.weights is None else self.weights[rows])

    def of_rank(self) -> Sample:
        """Those rows of a sample that this rank fits."""
        return self if self.on_disk or ranks.count() == 1 else self.part(ranks.split(len(self)))

    def to(self, device: torch.device | str) -> Sample:
        """The same rows on a device."""
        return Sample(self.values.to(device), None if self.weights is None else self.weights.to(device))

    def take(self, rows: Tensor) -> Sample:
        """The rows given by an index tensor of any shape."""
        return Sample(self.values[rows], None if self.weights is None else self.weights[rows])


@dataclass(frozen=True)
class Batch:
    """What one step sees: a batch of every named sample, and random numbers of its own.

    Attributes
    ----------
    samples
        For an ensemble, values are (members, n, k) and weights (members, n).
    seeds
        One for each member; where there is no ensemble, one.
    members
        Which members of the ensemble these are.
    numbers
        A generator to seed and take the random numbers from, one of the samples' device by default.
    """

    samples: Mapping[str, Sample]
    seeds: tuple[int, ...]
    members: tuple[int, ...] = (0,)
    numbers: torch.Generator | None = None

    def __getitem__(self, name: str) -> Sample:
        return self.samples[name]

    @cached_property
    def generator(self) -> torch.Generator:
        """The random numbers of the first seed, which go on from use to use; other numbers on another type of device."""
        if self.numbers is not None:
            return self.numbers
        device = next(iter(self.samples.values())).values.device
        return torch.Generator(device).manual_seed(self.seeds[0])


class BatchOrder:
    """Which rows each step of each epoch takes: a function of (seed, epoch, step) alone, so that a fit resumes anywhere.

    A share of every sample is held out. An epoch goes once through the longest sample; a shorter one starts over with a new
    shuffle. The samples are shuffled independently of each other: nothing pairs them. Rows left over from the last full batch wait
    for the next epoch's shuffle. The members of an ensemble each have a seed, and from it a split and an order, of their own.

    Where there are several ranks each has rows of its own here, holds out and shuffles these, and takes its part of every batch.

    Parameters
    ----------
    samples
        At least two rows each.
    validation
        Share of each sample that is held out.
    batch_size
        Rows of each sample in a batch, at most, those of all ranks together.
    seeds
        Of the members; one where there is no ensemble.
    ensemble
        Whether batches have an axis of members, even of one.
    device
        Of the batches, where the samples that are not on disk lie too.
    """

    def __init__(
        self,
        samples: Mapping[str, Sample],
        validation: float,
        batch_size: int,
        seeds: Sequence[int],
        *,
        ensemble: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        self.samples, self.ensemble, self.device = samples, ensemble, torch.device(device)
        self.seeds = tuple(seed if ranks.count() == 1 else mix_seed(seed, 6, ranks.number()) for seed in seeds)
        self._orders: dict[str, Order] = {}
        for number, (name, sample) in enumerate(samples.items()):
            if len(sample) < 2:
                raise InputError(f"a fit needs at least two events in every sample, and one of them has {len(sample)}")
            held, shown = ranks.least(held_out_of(len(sample), validation, HELD_ON_DISK if sample.on_disk else None))
            self._orders[name] = (
                Windows(len(sample), held, shown, self.seeds, number)
                if sample.on_disk
                else Shuffled(len(sample), held, shown, self.seeds, number, sample.values.device)
            )
        lengths = [order.shown for order in self._orders.values()]
        self.batch_size = min(max(batch_size // ranks.count(), 1), *lengths)
        self.steps = max(max(lengths) // self.batch_size, 1)

    def batch(self, epoch: int, step: int, members: Sequence[int] = (0,)) -> Batch:
        """The batch of one step, of some members of the ensemble."""
        rows = self.rows(epoch, step, members)
        drawn = {name: self.take(name, of_sample) for name, of_sample in rows.items()}
        return Batch(drawn, self.step_seeds(epoch, step, members), tuple(members))

    def rows(self, epoch: int, step: int, members: Sequence[int] = (0,)) -> dict[str, Tensor]:
        """The rows of every sample that the batch of one step has, (members, batch size) of integers."""
        found = {}
        for name, order in self._orders.items():
            turn, place = divmod(step, order.shown // self.batch_size)
            found[name] = order.rows(epoch, turn, members, place * self.batch_size, self.batch_size)
        return found

    def step_seeds(self, epoch: int, step: int, members: Sequence[int] = (0,)) -> tuple[int, ...]:
        """The seeds of the batch of one step."""
        return tuple(mix_seed(self.seeds[member], 2, epoch, step) for member in members)

    def held_out(self, members: Sequence[int] = (0,)) -> Batch:
        """The rows held out, as one batch."""
        rows = {name: self.take(name, order.held_out(members)) for name, order in self._orders.items()}
        return Batch(rows, tuple(mix_seed(self.seeds[member], 3) for member in members), tuple(members))

    def seen(self, members: Sequence[int] = (0,)) -> Batch:
        """As many of the training rows as are held out, the same ones every time, as one batch."""
        rows = {name: self.take(name, order.some(members, min(order.held, order.shown))) for name, order in self._orders.items()}
        return Batch(rows, tuple(mix_seed(self.seeds[member], 4) for member in members), tuple(members))

    def take(self, name: str, rows: Tensor) -> Sample:
        """The events of one sample at `rows` (members, n)."""
        return self.samples[name].take((rows if self.ensemble else rows[0]).long()).to(self.device)


def fingerprint(samples: Mapping[str, Sample], *settings: object) -> str:
    """Hash of the rows, the weights and the settings of a fit: what a checkpoint must agree with to be resumed."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, sample in sorted(samples.items()):
        digest.update(name.encode())
        for tensor in (sample.values, sample.weights):
            for rows in () if tensor is None else tensor.split(HASHED):
                digest.update(rows.cpu().contiguous().numpy().data)
    if any(sample.on_disk for sample in samples.values()) and ranks.count() > 1:
        digest = hashlib.sha256("".join(ranks.objects(digest.hexdigest())).encode())
    return digest.hexdigest()
