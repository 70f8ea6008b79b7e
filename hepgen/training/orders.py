"""Which rows of a sample each step of a fit takes: all in a random order in memory, or windows over rows that lie on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

BLOCK, BLOCKS = 1 << 14, 64  # consecutive rows on disk, and how many blocks are shuffled together
HELD_ON_DISK = 1 << 18  # rows of a sample on disk that are held out, at most


def mix_seed(*parts: int) -> int:
    """One 63-bit seed out of several integers, so that every (seed, epoch, step) has random numbers of its own."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Order(Protocol):
    """Rows that are held out, and orders of the others: one for each (epoch, turn) and member, a function of the member's seed.

    Attributes
    ----------
    held, shown
        How many rows are held out, and how many one turn goes through.
    """

    held: int
    shown: int

    def held_out(self, members: Sequence[int]) -> Tensor:
        """The rows held out, (members, held)."""

    def some(self, members: Sequence[int], count: int) -> Tensor:
        """So many of the others, the same ones every time, (members, count)."""

    def rows(self, epoch: int, turn: int, members: Sequence[int], start: int, count: int) -> Tensor:
        """Consecutive ones of an order, (members, count)."""


class Shuffled:
    """Orders of all rows of a sample in memory, 4 bytes a row and member.

    Parameters
    ----------
    number
        Of the sample, which its orders depend on too.
    held, shown
        Of the rows that there are.
    """

    def __init__(self, length: int, held: int, shown: int, seeds: Sequence[int], number: int, device: torch.device) -> None:
        self.held, self.shown, self.seeds, self.number = held, shown, seeds, number
        rows = torch.stack([shuffled(length, seed, 0, number) for seed in seeds]).to(device)
        self._held, self._training = rows[:, :held].clone(), rows[:, held : held + shown].clone()
        self._last: tuple[object, Tensor] = (None, rows[:, :0])

    def held_out(self, members: Sequence[int]) -> Tensor:
        """See `Order`."""
        return self._held[list(members)]

    def some(self, members: Sequence[int], count: int) -> Tensor:
        """See `Order`."""
        return self._training[list(members), :count]

    def rows(self, epoch: int, turn: int, members: Sequence[int], start: int, count: int) -> Tensor:
        """See `Order`."""
        key = epoch, turn, tuple(members)
        if self._last[0] != key:
            self._last = key, torch.stack([self._order(member, epoch, turn) for member in members])
        return self._last[1][:, start : start + count]

    def _order(self, member: int, epoch: int, turn: int) -> Tensor:
        rows = self._training[member]
        return rows[shuffled(len(rows), self.seeds[member], 1, self.number, epoch, turn).to(rows.device).long()]


class Windows:
    """Orders of rows that lie on disk in a random order already: blocks are shuffled, and rows within a window of some blocks.

    A step then reads from the disk what lies together, and memory does not grow with the sample. Held out are consecutive rows from a place
    that the seed draws. Blocks begin at another row in every turn; what is left of the last one waits for the next turn.
    """

    def __init__(self, length: int, held: int, shown: int, seeds: Sequence[int], number: int) -> None:
        self.length, self.held, self.seeds, self.number = length, held, seeds, number
        self.size = shown
        self.block = min(BLOCK, max(shown // BLOCKS, 1))
        self.shown = shown // self.block * self.block
        self._last: dict[int, tuple[object, Tensor]] = {}

    def held_out(self, members: Sequence[int]) -> Tensor:
        """See `Order`."""
        return torch.stack([self._at(member, torch.arange(self.held) - self.held) for member in members])

    def some(self, members: Sequence[int], count: int) -> Tensor:
        """See `Order`."""
        return torch.stack([self._at(member, torch.arange(count)) for member in members])

    def rows(self, epoch: int, turn: int, members: Sequence[int], start: int, count: int) -> Tensor:
        """See `Order`."""
        width = self.block * BLOCKS
        found = []
        for member in members:
            begins = range(start // width * width, start + count, width)
            parts = [self._window(member, epoch, turn, at // width)[max(start - at, 0) : start + count - at] for at in begins]
            found.append(torch.cat(parts))
        return torch.stack(found)

    def _window(self, member: int, epoch: int, turn: int, window: int) -> Tensor:
        key, seed = (epoch, turn, window), (self.seeds[member], 1, self.number, epoch, turn)
        if self._last.get(member, (None,))[0] != key:
            blocks = shuffled(self.shown // self.block, *seed)[window * BLOCKS : (window + 1) * BLOCKS].long()
            places = (blocks[:, None] * self.block + torch.arange(self.block)).flatten() + mix_seed(*seed, 1) % self.size
            inside = shuffled(len(places), *seed, 2, window).long()
            self._last[member] = key, self._at(member, (places % self.size)[inside])
        return self._last[member][1]

    def _at(self, member: int, places: Tensor) -> Tensor:
        """The rows at places among those that are not held out; negative places are those held out."""
        return (places + self.held + mix_seed(self.seeds[member], 0, self.number) % self.length) % self.length


def held_out_of(length: int, validation: float, most: int | None = None) -> tuple[int, int]:
    """How many of `length` rows are held out, `most` of them at most, and how many are not."""
    held = min(max(round(validation * length), 1), length - 1)
    held = held if most is None else min(held, most)
    return held, length - held


def shuffled(length: int, *seed: int) -> Tensor:
    """The numbers below `length` in an order that the seed names; int32, for an ensemble has many of them."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(mix_seed(*seed)), dtype=torch.int32)
