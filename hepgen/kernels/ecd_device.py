"""What a step of Energy Conserving Descent keeps on a GPU between steps, whatever language its kernels are written in."""

from __future__ import annotations

import itertools
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hepgen.kernels.ecd import Rule

# rows of the table, 8-byte words of every tensor, as EcdField in csrc/include/hepgen/cuda/ecd.hpp: those from GRADIENT on can change
PARAMETER, VELOCITY, SIZE, FIRST_PIECE, RANKED, GRADIENT, SCALE, WEIGHT_DECAY, FIELDS = range(9)
# words of the state, as EcdState there
FINISHED, OUTCOME, REFUSED, LOSS, STEP = range(5)

_TILE = 4096  # bytes of each tensor that a block handles at a time: 16 in each of 256 threads
_TILES = 8  # at most in a piece
_BLOCKS = 512  # wanted at least
_FEW, _SOME = 8, 256  # pieces of a tensor that a thread or a warp adds up
_LOOK_EVERY = 100  # steps between two looks at the state that wait for nothing


class Refusal(NamedTuple):
    """How the first step that did not move ended, its loss with weight decay, and how many did not."""

    outcome: int
    loss: float
    steps: int


class DevicePlan(ABC):
    """Table, state and pieces of a list of contiguous parameters and their velocities.

    A backend defines `write` and `launch`.
    """

    def __init__(self, params: Sequence[Tensor], velocities: Sequence[Tensor]) -> None:
        first = params[0]
        self.device, self.double = first.device, first.dtype == torch.float64
        self.sizes = [p.numel() for p in params]
        self.size = sum(self.sizes)
        tile = _TILE // first.element_size()
        self.piece = tile * min(_TILES, max(1, self.size // (tile * _BLOCKS)))
        pieces = [-(-size // self.piece) for size in self.sizes]
        starts = list(itertools.accumulate(pieces, initial=0))
        self.pieces = starts.pop()
        ranked = sorted(range(len(pieces)), key=pieces.__getitem__)
        self.ranks = tuple(sum(count <= most for count in pieces) for most in (_FEW, _SOME))
        self.table = torch.empty((FIELDS, len(self.sizes)), dtype=torch.int64, device=self.device)
        self.owner = torch.empty(self.pieces, dtype=torch.int32, device=self.device)
        self.state = torch.zeros(5, dtype=torch.int64, device=self.device)
        self.fixed = [p.data_ptr() for p in params] + [v.data_ptr() for v in velocities] + self.sizes + starts + ranked
        self._changing: tuple[list[int], list[float], list[float]] | None = None
        self._recorded = False
        self._look: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._steps = 0

    @abstractmethod
    def write(self, first: int, words: Sequence[int]) -> None:
        """Copy 64-bit words into the table, from word `first` on, in the order of the stream."""

    @abstractmethod
    def launch(self, loss: Tensor | float, rule: Rule, rate: Tensor | None, steps: Tensor | None) -> None:
        """Start the kernels of a step."""

    def step(
        self,
        gradients: list[int],
        loss: Tensor | float,
        decays: list[float],
        scales: list[float] | Tensor,
        rule: Rule,
        rate: Tensor | None,
        steps: Tensor | None,
    ) -> None:
        """Start a step, with the addresses of contiguous gradients, and wait for nothing.

        The step size is rule.lr times rate, and the noise has the number rule.step plus steps, where those are given.
        """
        recording = self.recording()
        known = scales if isinstance(scales, list) else []
        changing = gradients, known, decays
        # a recorded step brings its own table, and leaves it to whoever comes after its replay
        if changing != self._changing or recording or self._recorded:
            words = [*gradients, *_bits(known or [1.0] * len(gradients)), *_bits(decays)]
            self.write(GRADIENT * len(gradients), words)
            self._changing = gradients, list(known), list(decays)
            self._recorded = self._recorded or recording
        if isinstance(scales, Tensor):
            self.table.view(torch.float64)[SCALE].copy_(scales)
        self.launch(loss, rule, rate, steps)
        self._steps += 1

    def recording(self) -> bool:
        """Whether a CUDA graph is being recorded."""
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def refusal(self) -> Refusal | None:
        """Wait for the device; return what was refused since the last call, None where every step moved, and let steps move again."""
        words = self.state.tolist()
        self._look = None
        if words[OUTCOME] == 0:
            return None
        self.state.zero_()
        (loss,) = struct.unpack("d", struct.pack("q", words[LOSS]))
        return Refusal(words[OUTCOME], loss, words[REFUSED])

    def refused_before(self) -> bool:
        """Whether an earlier step is known to have been refused, some hundred steps late at most: this waits for nothing."""
        if self.recording():
            return False
        if self._look is None:
            if self._steps % _LOOK_EVERY == _LOOK_EVERY - 1:
                self._start_look()
            return False
        state, arrived = self._look
        if arrived is not None and not arrived.query():
            return False
        self._look = None
        return bool(state[OUTCOME])

    def _start_look(self) -> None:
        if self.device.type == "cuda":
            state = torch.empty(self.state.shape, dtype=torch.int64, pin_memory=True)
            state.copy_(self.state, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(self.device))
            self._look = state, arrived
        else:
            self._look = self.state.clone(), None


def _bits(numbers: Sequence[float]) -> tuple[int, ...]:
    """The bits of float64 as integers."""
    return struct.unpack(f"{len(numbers)}q", struct.pack(f"{len(numbers)}d", *numbers))
