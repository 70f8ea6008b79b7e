"""Samples of events as tensors, and the batches an epoch draws from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hepgen.errors import InputError


@dataclass(frozen=True)
class Sample:
    """Rows of one sample: values (n, k) and signed weights (n,), or None for one each."""

    values: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Tensor) -> Sample:
        """The rows given by an index tensor."""
        return Sample(self.values[rows], None if self.weights is None else self.weights[rows])

    def split(self, fraction: float, seed: int) -> tuple[Sample, Sample]:
        """Split at random into (1 - fraction, fraction); both parts hold at least one row."""
        if len(self) < 2:
            raise InputError(f"a fit needs at least two events in every sample, and one of them has {len(self)}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        held = min(max(round(fraction * len(self)), 1), len(self) - 1)
        return self.take(order[held:]), self.take(order[:held])


@dataclass(frozen=True)
class Batch:
    """What one step sees: a batch of every named sample, and a generator for the step's random numbers."""

    samples: Mapping[str, Sample]
    generator: torch.Generator

    def __getitem__(self, name: str) -> Sample:
        return self.samples[name]


def mix_seed(*parts: int) -> int:
    """One 63-bit seed out of several integers, so that every (seed, epoch, step) has random numbers of its own."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class BatchOrder:
    """Which rows each step of each epoch takes: a function of (seed, epoch, step) alone, so that a fit resumes anywhere.

    An epoch goes once through the longest sample; a shorter one starts over with a new shuffle. The samples are
    shuffled independently of each other: nothing pairs them. Rows left over from the last full batch wait for
    the next epoch's shuffle.
    """

    def __init__(self, samples: Mapping[str, Sample], batch_size: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self.batch_size = min(batch_size, *(len(sample) for sample in samples.values()))
        self.steps = max(max(len(sample) for sample in samples.values()) // self.batch_size, 1)
        self._orders: dict[tuple[int, int, int], Tensor] = {}

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of one step."""
        drawn = {}
        for number, (name, sample) in enumerate(self.samples.items()):
            per_pass = len(sample) // self.batch_size
            order = self._order(number, epoch, step // per_pass, len(sample))
            start = step % per_pass * self.batch_size
            drawn[name] = sample.take(order[start : start + self.batch_size])
        return Batch(drawn, torch.Generator().manual_seed(mix_seed(self.seed, 2, epoch, step)))

    def _order(self, number: int, epoch: int, turn: int, length: int) -> Tensor:
        key = (number, epoch, turn)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != number}
            self._orders[key] = torch.randperm(length, generator=torch.Generator().manual_seed(mix_seed(self.seed, 1, *key)))
        return self._orders[key]


def fingerprint(samples: Mapping[str, Sample], *settings: object) -> str:
    """Hash of the rows, the weights and the settings of a fit: what a checkpoint must agree with to be resumed."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, sample in sorted(samples.items()):
        digest.update(name.encode())
        for tensor in (sample.values, sample.weights):
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
