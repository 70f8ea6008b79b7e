"""Seconds by stage: nested, in other threads, and nothing without a clock."""

from __future__ import annotations

import contextvars
import threading
import time

import pytest

from hepgen.stages import IDLE, Clock, stage


def test_a_stage_inside_another_is_taken_off_it() -> None:
    clock = Clock()
    with clock.running(), stage("outer"):
        time.sleep(0.03)
        with stage("inner"):
            time.sleep(0.06)
        with stage(IDLE):
            time.sleep(0.2)
    assert set(clock.seconds) == {"outer", "inner"}
    assert 0.03 <= clock.seconds["outer"] < 0.15
    assert 0.06 <= clock.seconds["inner"] < 0.18
    shares = clock.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["inner"] == pytest.approx(clock.seconds["inner"] / sum(clock.seconds.values()))


def test_a_thread_adds_to_the_clock_and_takes_nothing_off_its_starter() -> None:
    clock = Clock()

    @stage("work")
    def work() -> None:
        time.sleep(0.05)

    with clock.running(), stage("main"):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        thread.join()
    assert clock.seconds["work"] >= 0.05
    assert clock.seconds["main"] >= 0.05


def test_without_a_clock_nothing_is_counted() -> None:
    clock = Clock()
    with clock.running():
        pass
    with stage("later"):
        pass
    assert not clock.seconds
    assert clock.shares() == {}
