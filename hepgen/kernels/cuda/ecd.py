"""A step of Energy Conserving Descent (:mod:`hepgen.kernels.ecd`) in CUDA C++."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hepgen.errors import BackendError
from hepgen.kernels import dispatch
from hepgen.kernels.cuda import address
from hepgen.kernels.ecd_device import DevicePlan

if TYPE_CHECKING:
    from hepgen.kernels.ecd import Rule


class Plan(DevicePlan):
    """Two launches a step, and one more where a gradient has moved."""

    def __init__(self, params: Sequence[Tensor], velocities: Sequence[Tensor]) -> None:
        super().__init__(params, velocities)
        module: Any = dispatch.cuda()
        self._module = module
        size = module.ecd_workspace(len(self.sizes), self.pieces)
        self._workspace = torch.empty(size, dtype=torch.uint8, device=self.device)
        parts = self.table, self.owner, self.state, self._workspace
        self._plan = (*(t.data_ptr() for t in parts), len(self.sizes), self.pieces, self.piece, self.size, *self.ranks)
        self.write(0, self.fixed)
        self._call(module.ecd_share)

    def write(self, first: int, words: Sequence[int]) -> None:
        """See the base class."""
        self._call(self._module.ecd_write, first, [word % 2**64 for word in words])

    def launch(self, loss: Tensor | float, rule: Rule, rate: Tensor | None, steps: Tensor | None) -> None:
        """See the base class."""
        lr, eta, f0, nu, q, per_tensor, seed, step = rule
        at, wide, stream = self._number(1.0 if isinstance(loss, Tensor) else loss, loss), self.double, self._stream()
        arguments = at, self._number(lr, rate), eta, f0, nu, q, per_tensor, seed, step, address(steps)
        _checked(self._module.ecd_step, wide, self._plan, *arguments, stream, device=self.device)

    @staticmethod
    def _number(factor: float, tensor: Tensor | float | None) -> tuple[float, int, bool]:
        return (factor, tensor.data_ptr(), tensor.dtype == torch.float64) if isinstance(tensor, Tensor) else (factor, 0, False)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        _checked(function, self._plan, *arguments, self._stream(), device=self.device)

    def _stream(self) -> int:
        """Torch's current stream; looking it up by way of a stream object takes longer than a launch."""
        return int(torch._C._cuda_getCurrentRawStream(self.device.index)) if self.device.type == "cuda" else 0


def _checked(function: Callable[..., None], *arguments: Any, device: torch.device) -> None:
    try:
        if device.type == "cpu" or torch.cuda.current_device() == device.index:
            function(*arguments)
        else:
            with torch.cuda.device(device):
                function(*arguments)
    except RuntimeError as error:
        raise BackendError(f"ecd_step: {error}") from None
