"""Thrust: closed forms, all signs tried one by one, and Pythia's own class."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepgen.errors import InputError
from hepgen.samples.event_shapes import thrust

RNG = np.random.default_rng(17)


def by_all_signs(p: np.ndarray) -> float:
    """max over all 2^n signs of abs(sum s_i p_i) / sum abs(p_i), in float64: what thrust is, with no plane in it."""
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=len(p))))
    return float(np.linalg.norm(signs @ p, axis=1).max() / np.linalg.norm(p, axis=1).sum())


def along_axis(p: np.ndarray, axis: np.ndarray) -> float:
    return float(np.abs(p @ axis).sum() / np.linalg.norm(p, axis=1).sum())


def rotation() -> np.ndarray:
    return np.linalg.qr(RNG.normal(size=(3, 3)))[0]


def star(n: int) -> np.ndarray:
    """`n` equal momenta at equal angles in a plane."""
    angle = 2 * np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angle), np.sin(angle), np.zeros(n)])


# n even: sum |cos| over a regular star is 2 / sin(pi/n) at most; n odd: 1 / sin(pi/2n)
@pytest.mark.parametrize(
    ("p", "expected"),
    [
        pytest.param([[0, 0, 45.6], [0, 0, -45.6]], 1.0, id="back to back"),
        pytest.param([[3.0, 4.0, 0.0]], 1.0, id="one particle"),
        pytest.param([[1, 1, 0], [2, 2, 0], [-3, -3, 0], [-0.5, -0.5, 0]], 1.0, id="on one line"),
        pytest.param(star(3), 2 / 3, id="Mercedes"),
        pytest.param(star(4), 1 / np.sqrt(2), id="cross"),
        pytest.param(star(5), 1 / np.sin(np.pi / 10) / 5, id="five-pointed star"),
        pytest.param(star(12), 2 / np.sin(np.pi / 12) / 12, id="twelve in a plane"),
        pytest.param(np.vstack([np.eye(3), -np.eye(3)]), 1 / np.sqrt(3), id="six along the axes"),
        pytest.param([[2, 0, 0], [0, 1, 0]], np.sqrt(5) / 3, id="two at right angles"),
    ],
)
def test_closed_forms(p: object, expected: float) -> None:
    momenta = np.array(p, dtype=float)
    for turned in (momenta, momenta @ rotation(), 1e-3 * momenta @ rotation()):
        (value,), (axis,) = thrust(turned, [len(turned)])
        assert value == pytest.approx(expected, rel=1e-13)
        assert along_axis(turned, axis) == pytest.approx(expected, rel=1e-13)
        assert axis[2] >= 0


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("n", range(1, 11))
def test_as_by_all_signs(n: int, dimensions: int) -> None:
    for _ in range(5):
        p = RNG.normal(size=(n, 3)) * RNG.exponential(size=(n, 1))
        p[:, dimensions:] = 0
        p = p @ rotation()
        (value,), (axis,) = thrust(p, [n])
        assert value == pytest.approx(by_all_signs(p), rel=1e-13)
        assert along_axis(p, axis) == pytest.approx(value, rel=1e-13)
        assert np.linalg.norm(axis) == pytest.approx(1, rel=1e-13)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=9))
def test_on_a_lattice_where_many_momenta_are_parallel_coplanar_or_zero(rows: list[tuple[int, int, int]]) -> None:
    p = np.array(rows, dtype=float)
    (value,), _ = thrust(p, [len(p)])
    if not p.any():
        assert np.isnan(value)
    else:
        assert value == pytest.approx(by_all_signs(p), rel=1e-13)


def test_events_do_not_touch_one_another() -> None:
    sizes = RNG.integers(0, 40, size=300)
    p = RNG.normal(size=(sizes.sum(), 3))
    values, axes = thrust(p, sizes)
    ends = np.cumsum(sizes)
    assert np.isnan(values).tolist() == (sizes == 0).tolist() == np.isnan(axes).any(axis=1).tolist()
    for k in np.flatnonzero(sizes)[:50]:
        (alone,), _ = thrust(p[ends[k] - sizes[k] : ends[k]], [sizes[k]])
        assert values[k] == pytest.approx(alone, rel=1e-14)
    assert (values[sizes > 0] > 0.5).all()
    assert (values[sizes > 0] < 1 + 1e-14).all()


def test_as_pythia_computes_it_on_hadrons() -> None:
    pythia8mc = pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
    from hepgen.samples import pythia
    from hepgen.samples.thrust import COMMON, _momenta

    generator = pythia.start(COMMON, 3, "hadrons")
    analysis = pythia8mc.Thrust(2)  # 2: visible final particles
    for _ in range(40):
        particles = pythia.visible(pythia.batch(generator, 1))
        momenta, sizes = _momenta(particles)
        (value,), (axis,) = thrust(momenta, sizes)
        assert analysis.analyze(generator.event)
        assert value == pytest.approx(analysis.thrust(), rel=1e-12)
        theirs = analysis.eventAxis(1)
        assert abs(axis @ [theirs.px(), theirs.py(), theirs.pz()]) == pytest.approx(1, rel=1e-9)


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="counts that sum to k, not .2, 3. and counts that sum to 3"):
        thrust(np.ones((2, 3)), [3])
    with pytest.raises(InputError, match="not .2, 4."):
        thrust(np.ones((2, 4)), [2])
    with pytest.raises(InputError, match="finite momenta"):
        thrust([[1.0, np.nan, 0.0]], [1])
    assert thrust(np.empty((0, 3)), [])[0].shape == (0,)
