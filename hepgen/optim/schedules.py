"""Learning-rate schedules as plain functions of the step."""

from __future__ import annotations


def power_decay(step: int, steps: int, first: float, last: float, power: float = 0.5) -> float:
    """Learning rate at `step` of `steps`: polynomial decay from `first` to `last`, a square root by default.

    ``lr = last + (first - last) (1 - step / steps)^power`` (sim-to-data paper, sec. 3: 1e-3 to 1e-5).
    """
    remaining = 1.0 - min(max(step, 0), steps) / max(steps, 1)
    return last + (first - last) * float(remaining**power)
