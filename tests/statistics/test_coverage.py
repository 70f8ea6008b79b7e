"""The truth lies within a quoted error as often as it should, for the uncertainties that take no fit: `benchmarks/pulls.py` in short.

This folder mirrors no module: an uncertainty is right or wrong in repeated experiments, whichever module it comes from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TOYS = 400
# Of 400 toys the right share, 68.3 %, has 273 +- 9.3 within the error by the binomial law. A number as unlikely as one in 2000 fails: below
# 241 or above 305, that is below 60 % or above 76 %. An error of half or twice the right size has 38 or 95 %.
RARE = 5e-4


def cases() -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        from pulls_toys import CASES
    return [f"{case.figure}: {case.name}" for case in CASES if case.cheap]


@pytest.mark.parametrize("name", cases())
def test_truth_is_within_the_error_in_two_of_three_toys(name, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from pulls import CASES, covered

    case = next(case for case in CASES if f"{case.figure}: {case.name}" == name)
    found = covered(case, TOYS)
    assert found.chance > RARE, f"{found.share:.3f}"
    # of unbiased values the mean pull is 0 with an error of 1 / sqrt(400)
    assert abs(found.pulls.mean()) < 4 / np.sqrt(TOYS)
    for factor in (0.5, 2.0):
        assert found.scaled(factor).chance < 1e-12


def test_an_error_a_quarter_off_is_noticed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from pulls import Case, covered

    def toy(factor):
        return lambda rng: (rng.normal(), factor)

    assert covered(Case("normal", "right", toy(1.0), TOYS, 0.0)).chance > RARE
    for factor in (0.75, 1.25):
        assert covered(Case("normal", "wrong", toy(factor), 3 * TOYS, 0.0)).chance < RARE
