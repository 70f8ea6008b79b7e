"""Principal components of latents against a singular value decomposition, and events at places given in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import hepgen
from hepgen.errors import InputError, UsageError
from hepgen.estimators.steering import Steering
from hepgen.events import Features
from hepgen.kernels import threads

FEATURES = Features(["Jet[0].pt", "Jet[0].eta", "Jet[1].pt", "Jet[1].eta", "MET_pt"])


def events(n: int, seed: int) -> ak.Array:
    """Two jets, the second in two of three events, and missing momentum that goes with the leading one."""
    rng = np.random.default_rng(seed)
    hard = rng.exponential(40, n)
    pt = np.stack([30 + hard, 20 + 0.5 * hard * rng.random(n)], axis=1)
    jets = ak.zip({"pt": ak.from_regular(ak.Array(pt)), "eta": ak.from_regular(ak.Array(rng.normal(0, 1, (n, 2)).astype(np.float32)))})
    jets = jets[ak.local_index(jets.pt) < ak.Array(rng.choice([1, 2, 2], n))[:, None]]
    return ak.zip({"Jet": jets, "MET_pt": 0.3 * hard + rng.exponential(5, n)}, depth_limit=1)


@pytest.fixture(scope="module")
def model() -> hepgen.EventGenerator:
    with threads(1):
        return hepgen.EventGenerator(FEATURES, "bvae", latent=4, hidden=(32, 32, 32), beta=1e-5).fit(
            events(3000, 1), epochs=36, batch_size=250, progress=False
        )


@pytest.fixture(scope="module")
def steering(model: hepgen.EventGenerator) -> Steering:
    return Steering(model)


def columns(found: ak.Array) -> np.ndarray:
    return FEATURES.extract_optional(found)[0]


def test_components_are_singular_vectors(steering: Steering) -> None:
    latents = steering.vae.mu.astype(np.float64)
    _, singular, vectors = np.linalg.svd(latents - latents.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(steering.deviations, singular / np.sqrt(len(latents)), rtol=1e-6)
    np.testing.assert_allclose(np.abs((steering.components * vectors).sum(axis=1)), 1, rtol=1e-6)
    np.testing.assert_allclose(steering.components @ steering.components.T, np.eye(4), atol=1e-12)
    assert (steering.components[np.arange(4), np.abs(steering.components).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose(steering.explained, singular**2 / (singular**2).sum(), rtol=1e-6)


def test_coordinates_of_the_events_learnt_from_are_standardised(steering: Steering) -> None:
    found = steering.locate(events(3000, 1))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found.T @ found / len(found), np.eye(4), atol=1e-3)
    with_events = Steering(steering.model, events(3000, 1))
    np.testing.assert_allclose(with_events.components, steering.components, atol=1e-3)


def test_weights_of_the_fit_count() -> None:
    data = events(600, 2)
    weights = np.where(np.asarray(data.MET_pt) > 10, 3.0, 1.0)
    with threads(1):
        fitted = hepgen.EventGenerator(FEATURES, "bvae", latent=2, hidden=(8, 8)).fit(data, weights, epochs=8, progress=False)
    found, mu = Steering(fitted), fitted.sampler.mu.astype(np.float64)  # type: ignore[union-attr]
    repeated = np.repeat(mu, weights.astype(int), axis=0)
    np.testing.assert_allclose(found.mean, repeated.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.deviations[0] ** 2, np.linalg.eigvalsh(np.cov(repeated.T, ddof=0))[-1], rtol=1e-6)


def test_all_coordinates_give_the_reconstruction(steering: Steering) -> None:
    """What is decoded at the place of an event is what the model makes of it: the error of `anomaly`."""
    data = events(200, 3)
    again = steering.generate(steering.locate(data))
    assert str(again.type.content) == str(data.type.content)
    vae, model = steering.vae, steering.model
    assert model.presence is not None
    matrix, present = FEATURES.extract_optional(data)
    rows = vae.presence.encode(model.coordinates.forward(matrix, present), model.presence.index(present))
    scaled, index = vae.presence.decode(vae.decode(vae.encode(rows)[0]))
    wanted = model.coordinates.inverse(scaled, model.presence.patterns[index])
    swapped = wanted[:, 2] > wanted[:, 0]
    np.testing.assert_allclose(columns(again)[~swapped], wanted[~swapped], rtol=1e-4, atol=1e-4)
    # the missing momentum comes back: its mean would be wrong by 0.7 standard deviations or so
    assert np.abs(columns(again)[:, 4] - matrix[:, 4]).mean() < 0.3 * matrix[:, 4].std()


def test_polar_grid(steering: Steering) -> None:
    places = steering.polar(3, 4, radii=(0.5, 2.5))
    np.testing.assert_allclose(np.hypot(*places.T), np.repeat([0.5, 1.5, 2.5], 4))
    np.testing.assert_allclose(places[4:8], 1.5 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-12)
    found = steering.grid(3, 4, radii=(0.5, 2.5))
    assert len(found) == 12
    np.testing.assert_array_equal(columns(found), columns(steering.generate(places)))
    assert len(steering.grid()) == 64


def test_events_are_found_where_they_were_put(steering: Steering) -> None:
    """Where events are: between those with one jet and those with two there is nothing to be found again."""
    places = steering.locate(events(200, 6))
    found = steering.locate(steering.generate(places))
    assert np.median(np.hypot(*(found - places)[:, :2].T)) < 0.35
    assert min(np.corrcoef(found[:, k], places[:, k])[0, 1] for k in range(2)) > 0.9


def test_other_components_are_drawn_with_a_seed(steering: Steering) -> None:
    here = np.tile([1.0, -0.5], (300, 1))
    still = columns(steering.generate(here))
    np.testing.assert_array_equal(still, np.tile(still[:1], (300, 1)))
    drawn = columns(steering.generate(here, seed=3))
    np.testing.assert_array_equal(drawn[:100], columns(steering.generate(here[:100], seed=3)))
    assert np.nanstd(drawn[:, 1]) > 0.05
    # in all components nothing is left to draw
    everywhere = steering.locate(events(20, 4))
    np.testing.assert_allclose(columns(steering.generate(everywhere, seed=3)), columns(steering.generate(everywhere)), rtol=1e-5)


def test_sets_of_objects_not_learnt(steering: Steering) -> None:
    odd = ak.with_field(events(3, 5), ak.Array([[], [], []]), "unused")
    odd = ak.with_field(odd, odd.Jet[:, :0], "Jet")
    assert np.isnan(steering.locate(odd)).all()
    with pytest.raises(InputError, match="0 of the events have objects as they were learnt"):
        Steering(steering.model, odd)


def test_a_saved_model_steers_without_torch(steering: Steering, tmp_path: Path) -> None:
    path = steering.model.save(tmp_path / "model.hepgen")
    script = (
        "import hepgen, sys; from hepgen.estimators.steering import Steering; s = Steering(hepgen.load(sys.argv[1])); "
        "print(s.grid(2, 3).MET_pt.tolist()); assert 'torch' not in sys.modules"
    )
    out = subprocess.check_output([sys.executable, "-c", script, str(path)], text=True)
    assert out.strip() == str(steering.grid(2, 3).MET_pt.tolist())


def test_what_is_refused(steering: Steering) -> None:
    kde = hepgen.EventGenerator(FEATURES, "kde", bandwidth=0.5).fit(events(50, 1))
    with pytest.raises(UsageError, match="steering is for model='bvae', not 'kde'"):
        Steering(kde)
    with pytest.raises(UsageError, match="k at least 1 and at most 4"):
        steering.generate(np.zeros((2, 5)))
    with pytest.raises(UsageError, match="must be finite"):
        steering.generate([[np.nan, 0.0]])
    with pytest.raises(UsageError, match="at least one radius"):
        steering.polar(0, 4)
