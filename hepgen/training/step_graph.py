"""A step of a fit on a GPU, recorded once and replayed: the host only starts it, and waits for nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hepgen.training.samples import Batch, BatchOrder

EAGER_STEPS = (
    3  # steps of the fit that are taken as ever before one is recorded: libraries load, autotuners try, optimisers make their state
)

Step = Callable[[Batch], dict[str, Tensor]]


class StepGraph:
    """Replays a step for the rows and random numbers of any step of the fit.

    Parameters
    ----------
    step
        Takes a step of the fit, changing parameters and buffers in place, and returns losses: nothing that waits for the device.
    order
        Where batches come from.
    """

    def __init__(self, step: Step, order: BatchOrder) -> None:
        self._step, self._order = step, order
        self._taken = 0
        self._rows = {name: rows.clone() for name, rows in order.rows(0, 0).items()}
        self._device = next(iter(self._rows.values())).device
        self._numbers = torch.Generator(self._device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._losses: dict[str, Tensor] = {}

    def take(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Take one step and return its losses."""
        (seed,) = self._order.step_seeds(epoch, step)
        self._numbers.manual_seed(seed)
        for name, rows in self._order.rows(epoch, step).items():
            self._rows[name].copy_(rows)
        if self._graph is None:
            if self._taken < EAGER_STEPS:
                self._taken += 1
                return self._eagerly()
            self._record()
            self._numbers.manual_seed(seed)
        assert self._graph is not None
        self._graph.replay()
        return {name: value.clone() for name, value in self._losses.items()}

    def _run(self) -> dict[str, Tensor]:
        drawn = {name: self._order.take(name, rows) for name, rows in self._rows.items()}
        return self._step(Batch(drawn, (0,), numbers=self._numbers))

    def _eagerly(self) -> dict[str, Tensor]:
        """On a stream of its own, as the recording will be."""
        here = torch.cuda.current_stream(self._device)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            losses = self._run()
        here.wait_stream(side)
        return losses

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._numbers)
        with torch.cuda.graph(graph):
            self._losses = self._run()
        self._graph = graph
