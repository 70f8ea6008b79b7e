"""Where the time of a job goes: seconds by stage, over all its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_clock: ContextVar[Clock | None] = ContextVar("hepgen_clock", default=None)
# the thread that the stage in force was begun in, and the seconds that the stages inside it have taken
_inside: ContextVar[tuple[int, list[float]] | None] = ContextVar("hepgen_inside", default=None)
#: a stage that is no work, such as waiting for a thread: taken off the stage around it, and not counted
IDLE = "idle"


class Clock:
    """Seconds by stage; threads that run in a copy of the context of `running` add to the same one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[Clock]:
        """Count the stages of the block."""
        token = _clock.set(self)
        try:
            yield self
        finally:
            _clock.reset(token)

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage."""
        if stage != IDLE:
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def shares(self) -> dict[str, float]:
        """Share of all seconds by stage, the largest first; they add up to one."""
        total = sum(self.seconds.values())
        ordered = sorted(self.seconds.items(), key=lambda item: -item[1])
        return {name: seconds / total for name, seconds in ordered} if total > 0 else {}


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the block, less the stages inside it, to a stage of the clock that is running; nothing without one."""
    clock = _clock.get()
    if clock is None:
        yield
        return
    outer, own, thread = _inside.get(), [0.0], threading.get_ident()
    token = _inside.set((thread, own))
    began = time.perf_counter()
    try:
        yield
    finally:
        took = time.perf_counter() - began
        clock.add(name, took - own[0])
        _inside.reset(token)
        if outer is not None and outer[0] == thread:
            outer[1][0] += took
