"""What a fit leaves behind about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Record:
    """Training history: one entry per epoch in `epochs`, one per step and quantity in `steps`.

    Attributes
    ----------
    epochs
        Dictionaries of epoch (counted from 1), train and valid loss, learning rate and seconds.
    steps
        Every quantity the objective reported, for each step: for MDMM lambda, l1 and l2 (figure 2 of the sim-to-data paper).
    best_epoch, best_valid
        The epoch whose weights were kept, and its validation loss.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int = 0
    best_valid: float = float("inf")

    def add_steps(self, rows: list[Mapping[str, Tensor]]) -> None:
        """Append the quantities of some steps, in order."""
        for row in rows:
            for name, value in row.items():
                self.steps.setdefault(name, []).append(float(value))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Record:
        """The record that `to_dict` wrote."""
        return cls(**content)
