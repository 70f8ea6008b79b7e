"""The toy of a detector at LEP: its formulas and its selection."""

from __future__ import annotations

import numpy as np
import pytest

from hepgen.samples.lep_detector import DATA, NEUTRAL_HADRON, PHOTON, SIMULATION, TRACK, Detector, selected

PERFECT = Detector(
    max_abs_cos=0.94, min_momentum=0.2, track_efficiency=1, slow_loss=0, slow_momentum=1, track_curvature=0, track_constant=0,
    neutral_efficiency=1, photon_stochastic=0, hadron_stochastic=0, neutral_constant=0, photon_scale=1.1, hadron_scale=0.5,
)  # fmt: skip


def test_efficiency_and_resolution_follow_their_formulas() -> None:
    kind = np.array([TRACK, TRACK, PHOTON, NEUTRAL_HADRON])
    found = DATA.efficiency(kind, np.array([0.25, 40.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [0.96 * (1 - 0.45 / np.e), 0.96, 0.90, 0.90], rtol=1e-12)
    width = SIMULATION.resolution(kind, np.array([3.0, 30.0, 9.0, 9.0]), np.array([5.0, 40.0, 9.0, 9.0]))
    wanted = [np.hypot(0.0024, 0.005), np.hypot(0.024, 0.005), np.hypot(0.06, 0.01), np.hypot(0.85 / 3, 0.01)]
    np.testing.assert_allclose(width, wanted, rtol=1e-12)


def test_acceptance_threshold_and_scale() -> None:
    inside, outside = np.array([np.sqrt(1 - 0.93**2), 0, 0.93]), np.array([np.sqrt(1 - 0.95**2), 0, -0.95])
    momenta = np.array([inside, outside, 0.19 * inside, 0.21 * inside, 0.19 * inside, 0.39 * inside])
    kind = np.array([TRACK, TRACK, TRACK, TRACK, PHOTON, NEUTRAL_HADRON])
    measured, found = PERFECT.measure(kind, momenta, np.linalg.norm(momenta, axis=1), np.random.default_rng(1))
    # photons measure 10 % too high and pass the threshold, hadrons at half their momentum do not
    assert found.tolist() == [True, False, False, True, True, False]
    np.testing.assert_allclose(measured[[0, 4]], [inside, 1.1 * 0.19 * inside], rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "scale", "width"), [(TRACK, 1.0, np.hypot(1.2e-2, 8e-3)), (PHOTON, 0.99, np.hypot(0.22 / np.sqrt(10), 0.02))]
)
def test_what_is_measured_has_the_stated_scale_width_and_rate(kind: int, scale: float, width: float) -> None:
    n = 100_000
    momenta = np.tile([10.0, 0.0, 0.0], (n, 1))
    measured, found = DATA.measure(np.full(n, kind), momenta, np.full(n, 10.0), np.random.default_rng(2))
    ratio = measured[:, 0] / 10
    assert ratio.mean() == pytest.approx(scale, abs=5 * width / np.sqrt(n))
    assert ratio.std() == pytest.approx(scale * width, rel=0.015)
    rate = 0.96 if kind == TRACK else 0.90
    assert found.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / n))
    assert (measured[:, 1:] == 0).all()


def event(tracks: int, neutrals: int, track_momentum: float) -> tuple[np.ndarray, np.ndarray]:
    kind = np.array([TRACK] * tracks + [PHOTON] * neutrals)
    return kind, np.tile([track_momentum, 0.0, 0.0], (tracks + neutrals, 1))


@pytest.mark.parametrize(
    ("tracks", "neutrals", "momentum", "axis_z", "passes"),
    [
        (5, 8, 3.0, 0.5, True),
        (4, 9, 5.0, 0.5, False),
        (5, 7, 3.0, 0.5, False),
        (5, 8, 2.99, 0.5, False),
        (5, 8, 3.0, 0.82, False),
        (5, 8, 3.0, -0.81, True),
        (5, 8, 3.0, np.nan, False),
    ],
)
def test_selection(tracks: int, neutrals: int, momentum: float, axis_z: float, passes: bool) -> None:
    kind, momenta = event(tracks, neutrals, momentum)
    # between an empty event and a good one, so that a wrong index shows
    good_kind, good = event(10, 10, 4.0)
    where = np.concatenate([np.full(len(kind), 1), np.full(len(good_kind), 2)])
    found = selected(np.concatenate([kind, good_kind]), np.concatenate([momenta, good]), where, np.array([0.1, axis_z, 0.1]))
    assert found.tolist() == [False, passes, True]
