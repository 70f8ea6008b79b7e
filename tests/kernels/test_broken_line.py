from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepgen import kernels
from hepgen.kernels import dispatch
from hepgen.kernels.broken_line import broken_line

BACKENDS = dispatch.available("broken_line")
X, Y = np.array([-1.0, 0.0, 2.0]), np.array([0.0, 1.0, 1.5])


@pytest.mark.parametrize("name", BACKENDS)
def test_by_hand(name):
    numbers = np.array([-3.0, -1.0, -0.5, 0.0, 1.0, 2.0, 5.0, np.nan, np.inf, -np.inf])
    with kernels.backend(name):
        got = broken_line(numbers, X, Y, (2.0, 0.1))
    np.testing.assert_allclose(got, [-4.0, 0.0, 0.5, 1.0, 1.25, 1.5, 1.8, np.nan, np.inf, -np.inf], rtol=1e-15)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 300), st.integers(0, 200), st.integers(0, 2**31))
@pytest.mark.skipif("cpp" not in BACKENDS, reason="hepgen._core is not built")
def test_compiled_equals_numpy(points, count, seed):
    random = np.random.default_rng(seed)
    x, y = np.sort(random.normal(size=points)), np.sort(random.normal(size=points))
    x, y = x + 1e-9 * np.arange(points), y + 1e-9 * np.arange(points)
    numbers = np.concatenate([random.normal(scale=2, size=count), x])
    results = []
    for name in ("cpp", "reference"):
        with kernels.backend(name):
            results.append(broken_line(numbers, x, y, (0.7, 1.3)))
    np.testing.assert_allclose(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BACKENDS)
def test_back_and_forth(name):
    random = np.random.default_rng(1)
    x, y = np.sort(random.normal(size=1000)), np.sort(random.normal(size=1000))
    numbers = random.normal(scale=3, size=5000)
    with kernels.backend(name):
        there = broken_line(numbers, x, y, (0.5, 2.0))
        back = broken_line(there, y, x, (2.0, 0.5))
    assert (np.diff(there[np.argsort(numbers)]) >= 0).all()
    np.testing.assert_allclose(back, numbers, rtol=0, atol=1e-7)  # steep segments lose digits


@pytest.mark.parametrize("name", BACKENDS)
def test_a_number_does_not_know_its_neighbours(name):
    random = np.random.default_rng(1)
    numbers = random.normal(size=101)
    with kernels.backend(name):
        whole = broken_line(numbers, X, Y, (2.0, 0.1))
        parts = [broken_line(numbers[i : i + 1], X, Y, (2.0, 0.1)) for i in range(101)]
    if name == "cpp":
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    else:
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-14)
