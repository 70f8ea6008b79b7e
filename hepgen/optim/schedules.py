"""Learning-rate schedules as plain functions of the step."""

from __future__ import annotations

import math


def power_decay(step: int, steps: int, first: float, last: float, power: float = 0.5) -> float:
    """Learning rate at `step` of `steps`: polynomial decay from `first` to `last`, a square root by default.

    ``lr = last + (first - last) (1 - step / steps)^power`` (sim-to-data paper, sec. 3: 1e-3 to 1e-5).
    """
    remaining = 1.0 - min(max(step, 0), steps) / max(steps, 1)
    return last + (first - last) * float(remaining**power)


def cosine_decay(step: int, steps: int, first: float, last: float = 0.0) -> float:
    """Learning rate at `step` of `steps`: from `first` to `last` along half a cosine.

    ``lr = last + (first - last) (1 + cos(pi step / steps)) / 2`` (Loshchilov and Hutter 2016, eq. 5, without restarts; paper C: 1e-3 to 0).
    """
    done = min(max(step, 0), steps) / max(steps, 1)
    return last + (first - last) * (1.0 + math.cos(math.pi * done)) / 2
