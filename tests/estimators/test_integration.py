"""Densities in GeV and rad against finite differences, and integrals against closed forms."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest
from numpy.typing import NDArray

import hepgen
from hepgen.errors import InputError, UsageError
from hepgen.estimators.event_density import log_density, log_jacobian, log_slope, without_limits
from hepgen.estimators.integration import importance_weights
from hepgen.events import Angle, Chain, Features, Identity, Log, LogitRange, MaxAbs, Quantile, Scaler, Standard
from hepgen.kernels import threads

Matrix = NDArray[np.float64]

# -- a product of Breit-Wigner peaks on [0, 1]^4 ----------------------------------------------------------------------

COLUMNS = Features(["a", "b", "c", "d"])
PEAK, WIDTH = np.array([0.3, 0.5, 0.6, 0.4]), np.array([0.05, 0.06, 0.08, 0.1])
LOW, HIGH = np.arctan((0 - PEAK) / WIDTH), np.arctan((1 - PEAK) / WIDTH)
# int dx / ((x - M)^2 + G^2) and the same of its square, with x = M + G tan(u)
VALUE = float(np.prod((HIGH - LOW) / WIDTH))
SQUARE = float(np.prod(((HIGH - LOW) / 2 + (np.sin(2 * HIGH) - np.sin(2 * LOW)) / 4) / WIDTH**3))
UNIT = [(0.0, 1.0)] * 4
MODELS: dict[str, dict[str, Any]] = {
    "gmm": {"components": 8},
    "kde": {"bandwidth": 0.3},
    "maf": {"blocks": 3, "hidden": (24, 24)},
    "flow-matching": {"hidden": (32, 32)},
    "bvae": {"hidden": (32, 32, 32, 32), "beta": 1e-4, "gamma": 0.2},
}
EPOCHS = {"maf": 15, "flow-matching": 15, "bvae": 48}


def peaks(x: Matrix) -> Matrix:
    return np.asarray(np.prod(1 / ((x - PEAK) ** 2 + WIDTH**2), axis=1))


def events(n: int, seed: int) -> ak.Array:
    x = PEAK + WIDTH * np.tan(LOW + (HIGH - LOW) * np.random.default_rng(seed).random((n, 4)))
    return ak.zip(dict(zip(COLUMNS.names, x.T, strict=True)))


@pytest.fixture(scope="module", params=list(MODELS))
def fitted(request: pytest.FixtureRequest) -> hepgen.EventGenerator:
    with threads(1):
        model = hepgen.EventGenerator(COLUMNS, request.param, latent=4, **MODELS[request.param])
        return model.fit(events(2000, 1), epochs=EPOCHS.get(request.param), batch_size=250, progress=False)


@pytest.fixture(scope="module")
def mixture() -> hepgen.EventGenerator:
    return hepgen.EventGenerator(COLUMNS, "gmm", components=4).fit(events(1000, 2))


def test_value_error_and_variance(fitted: hepgen.EventGenerator) -> None:
    found = importance_weights(fitted, peaks, 6000, limits=UNIT, flat=0.1, seed=5)
    assert abs(found.value - VALUE) < 3 * found.error
    assert found.error == pytest.approx(found.weights.std(ddof=1) / np.sqrt(6000))
    assert found.variance_reduction is not None
    assert found.variance_reduction > 5
    # the variance of flat points, of which the reduction speaks, in closed form
    wanted = (SQUARE - VALUE**2) / found.weights.var(ddof=1)
    assert found.variance_reduction == pytest.approx(wanted, rel=0.25)
    assert found.weights.max() <= peaks(PEAK[None])[0] / 0.1 * (1 + 1e-9)
    assert found.efficiency == pytest.approx(found.weights.mean() / found.weights.max())
    assert found.effective == pytest.approx(6000 / (1 + found.weights.var() / found.weights.mean() ** 2))


def test_a_point_depends_on_its_number_alone(fitted: hepgen.EventGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importance_weights(fitted, peaks, 60, limits=UNIT, flat=0.3)
    monkeypatch.setattr("hepgen.estimators.integration.BLOCK", 17)
    part = importance_weights(fitted, peaks, 40, limits=UNIT, flat=0.3)
    np.testing.assert_array_equal(part.values, whole.values[:40])
    np.testing.assert_allclose(part.weights, whole.weights[:40], rtol=1e-5)
    assert not np.array_equal(importance_weights(fitted, peaks, 40, limits=UNIT, flat=0.3, seed=9).values, part.values)


def test_errors_are_those_of_the_scatter(mixture: hepgen.EventGenerator) -> None:
    found = [importance_weights(mixture, peaks, 2000, limits=UNIT, seed=seed) for seed in range(40)]
    pulls = np.array([(one.value - VALUE) / one.error for one in found])
    assert abs(pulls.mean()) < 3 / np.sqrt(40)
    assert 0.6 < pulls.std() < 1.5


def test_flat_points_alone(mixture: hepgen.EventGenerator) -> None:
    found = importance_weights(mixture, lambda x: x.sum(axis=1), 4000, limits=[(0, 1), (0, 2), (0, 1), (0, 1)], flat=1.0)
    assert abs(found.value - 2 * 2.5) < 3 * found.error
    assert found.variance_reduction == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(found.weights, 2 * found.values.sum(axis=1))


def test_limits_and_records(mixture: hepgen.EventGenerator) -> None:
    whole = importance_weights(mixture, peaks, 3000, limits=UNIT)
    again = importance_weights(mixture, lambda e: peaks(np.stack([e[k] for k in e.fields], axis=1)), 3000, limits=UNIT, records=True)
    np.testing.assert_array_equal(again.weights, whole.weights)
    # f outside of the limits counts as nothing, by itself or by them
    open_ended = importance_weights(mixture, lambda x: np.where(((x >= 0) & (x <= 1)).all(axis=1), peaks(x), 0), 3000)
    np.testing.assert_allclose(open_ended.weights, whole.weights)
    assert open_ended.variance_reduction is None
    half = importance_weights(mixture, peaks, 3000, limits={"a": (0, PEAK[0]), "b": (0, 1), "c": (0, 1), "d": (0, 1)})
    assert abs(half.value - VALUE * -LOW[0] / (HIGH[0] - LOW[0])) < 3 * half.error
    signed = importance_weights(mixture, lambda x: -peaks(x), 3000, limits=UNIT)
    assert (signed.value, signed.error) == pytest.approx((-whole.value, whole.error))


# -- pt, eta, phi and E -----------------------------------------------------------------------------------------------

OBJECTS = Features(["Jet[0].pt", "Jet[0].eta", "Jet[0].phi", "Jet[0].E", "MET_phi"])


def jets(n: int, seed: int) -> ak.Array:
    rng = np.random.default_rng(seed)
    pt, eta, mass = 20 + rng.exponential(30, n), rng.normal(0, 1, n), rng.gamma(4, 2, n)
    phi = rng.uniform(-np.pi, np.pi, n)
    met = (phi + rng.normal(0, 0.5, n)) % (2 * np.pi) - np.pi
    energy = np.sqrt(mass**2 + (pt * np.cosh(eta)) ** 2)
    jet = ak.zip({name: ak.Array(column[:, None]) for name, column in {"pt": pt, "eta": eta, "phi": phi, "E": energy}.items()})
    return ak.zip({"Jet": jet, "MET_phi": met}, depth_limit=1)


def jet_density(x: Matrix) -> Matrix:
    """Of `jets`, in closed form: its integral is one."""
    from scipy.stats import expon, gamma, norm

    pt, eta, phi, energy, met = x.T
    square = energy**2 - (pt * np.cosh(eta)) ** 2
    mass = np.sqrt(np.maximum(square, 0))
    angle = sum(norm.pdf(met - phi - np.pi + 2 * np.pi * turn, scale=0.5) for turn in range(-2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        of_energy = np.where(square > 0, gamma.pdf(mass, 4, scale=2) * energy / mass, 0.0)
    return np.asarray(expon.pdf(pt, 20, 30) * norm.pdf(eta) / (2 * np.pi) * angle * of_energy)


@pytest.fixture(scope="module")
def jet_model() -> hepgen.EventGenerator:
    return hepgen.EventGenerator(OBJECTS, "gmm", components=3).fit(jets(2000, 3))


def test_integral_of_a_density_is_one(jet_model: hepgen.EventGenerator) -> None:
    found = importance_weights(jet_model, jet_density, 5000, seed=4)
    assert abs(found.value - 1) < 3 * found.error
    assert found.error < 0.05


def test_jacobian_is_the_determinant(jet_model: hepgen.EventGenerator) -> None:
    coordinates = jet_model.coordinates
    matrix, present = OBJECTS.extract_optional(jets(40, 5))
    step, columns = 1e-6, []
    for k in range(5):
        shift = np.zeros(5)
        shift[k] = step
        columns.append((coordinates.forward(matrix + shift, present) - coordinates.forward(matrix - shift, present)) / (2 * step))
    wanted = np.linalg.slogdet(np.stack(columns, axis=2))[1]
    # a knot of the quantiles within the step, or an angle that turns, makes a few differences wrong
    close = np.isclose(log_jacobian(coordinates, matrix, present), wanted, atol=1e-3)
    assert close.mean() > 0.85
    sampler = jet_model.sampler
    assert sampler is not None
    scaled = coordinates.forward(matrix, present)
    np.testing.assert_allclose(
        log_density(jet_model, jets(40, 5)), log_jacobian(coordinates, matrix, present) - sampler.anomaly(scaled), rtol=1e-12
    )


def test_points_of_the_space(jet_model: hepgen.EventGenerator) -> None:
    coordinates = jet_model.coordinates
    matrix, present = OBJECTS.extract_optional(jets(50, 6))
    scaled = coordinates.forward(matrix, present)
    values, inside = without_limits(coordinates, scaled)
    assert inside.all()
    np.testing.assert_allclose(values, matrix, rtol=1e-9)
    scaled[0, 2], scaled[1, 4], scaled[2, 3] = 40.0, -40.0, -1e4  # beyond a turn, beyond a turn, and a square below zero
    _, inside = without_limits(coordinates, scaled)
    assert np.flatnonzero(~inside).tolist() == [0, 1, 2]
    # a pt above all that were learnt stays
    scaled[5, 0] = 9.0
    assert without_limits(coordinates, scaled)[0][5, 0] > coordinates.limits[0, 1]


@pytest.mark.parametrize(
    "scaling",
    [
        Identity(),
        Standard(),
        MaxAbs(),
        Log(1.0),
        LogitRange(-0.5, 9.0),
        Angle(),
        Quantile(50),
        Quantile(50, output="uniform"),
        Chain([Log(1.0), Standard(), Quantile(20)]),
    ],
    ids=repr,
)
def test_slopes_of_scalings(scaling: Any) -> None:
    scaling.fit(np.random.default_rng(7).uniform(0, 3, 500))
    x = np.random.default_rng(8).uniform(-0.2, 3.1, 200)  # the tails too
    difference = (scaling.forward(x + 1e-7) - scaling.forward(x - 1e-7)) / 2e-7
    close = np.isclose(log_slope(scaling, x), np.log(difference), atol=1e-5)
    assert close.all() or (close.mean() > 0.98 and "Quantile" in repr(scaling))


# -- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_refused(mixture: hepgen.EventGenerator) -> None:
    with pytest.raises(UsageError, match="is no number of points"):
        importance_weights(mixture, peaks, 1)
    with pytest.raises(UsageError, match="needs finite limits"):
        importance_weights(mixture, peaks, 10, flat=0.1)
    with pytest.raises(UsageError, match="limits and columns do not match at 'b'"):
        importance_weights(mixture, peaks, 10, limits={"a": (0, 1)})
    with pytest.raises(UsageError, match="a low and a higher number"):
        importance_weights(mixture, peaks, 10, limits=[(1, 0)] * 4)
    with pytest.raises(InputError, match="it must give one number for each"):
        importance_weights(mixture, lambda x: x, 10)
    with pytest.raises(InputError, match="f is not finite at"):
        importance_weights(mixture, lambda x: np.full(len(x), np.nan), 10)
    smearing = hepgen.EventGenerator(COLUMNS, "smearing").fit(events(50, 1))
    with pytest.raises(UsageError, match="has no density, so that its points have no weights"):
        importance_weights(smearing, peaks, 10)
    with pytest.raises(UsageError, match="'smearing' has no density"):
        log_density(smearing, events(5, 1))
    lists = ak.zip({"x": ak.Array([[1.0, 2.0], [3.0], [4.0, 1.0], [2.0], [1.5]])}, depth_limit=1)
    absent = hepgen.EventGenerator(Features(["x[0]", "x[1]"]), "kde", bandwidth=1.0, scaler=Scaler([Identity(), Identity()])).fit(lists)
    with pytest.raises(UsageError, match="events that all have the same objects"):
        importance_weights(absent, lambda x: x[:, 0], 10)
