"""What a Reweighter learns, fixes at the fit and saves; how it meets arrays is in test_weigher.py and test_arrays.py."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ratio_support import MEAN, STD, made, outputs

import hepgen
from hepgen.errors import InputError, StepError, UsageError
from hepgen.estimators import reweighter_fit
from hepgen.events import Angle, Chain, Log, Quantile, Standard
from hepgen.kernels import threads
from hepgen.losses.ratio import LINKS, log_ratio
from hepgen.training import train_ensemble

Columns = dict[str, np.ndarray]
FEATURES = hepgen.Features(["x", "y"])
SHIFT = np.array([0.5, -0.25])
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 100, "progress": False}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks of this size gain nothing from a second thread, and wait for it where other processes run."""
    with threads(1):
        yield


def gaussian(n: int, seed: int, shift: Any = (0.0, 0.0)) -> Columns:
    x, y = np.random.default_rng(seed).normal(0, 1, (2, n)) + np.asarray(shift)[:, None]
    return {"x": x, "y": y}


def wide(n: int, seed: int) -> tuple[Columns, np.ndarray]:
    """Events of twice the variance in x, with signed weights that make them unit Gaussians."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, np.sqrt(2), n), rng.normal(0, 1, n)
    return {"x": x, "y": y}, np.sqrt(2) * np.exp(-(x**2) / 4) * rng.choice([1.5, -0.5], p=[0.75, 0.25], size=n)


def truth(events: Columns) -> np.ndarray:
    return np.asarray(events["x"] * SHIFT[0] + events["y"] * SHIFT[1] - SHIFT @ SHIFT / 2)


@pytest.fixture(scope="module")
def samples() -> tuple[Columns, Columns, np.ndarray]:
    sim, weights = wide(20_000, 1)
    return sim, gaussian(15_000, 2, SHIFT), weights


@pytest.fixture(scope="module")
def fitted(samples: Any) -> hepgen.Reweighter:
    sim, data, weights = samples
    model = hepgen.Reweighter(FEATURES, ensemble=3, hidden=(32, 32))
    return model.fit(sim, data, sim_weights=weights, data_weights=np.full(15_000, 2.0), epochs=12, batch_size=500, seed=3, progress=False)


def test_the_ratio_of_weighted_densities_is_learned(fitted: hepgen.Reweighter) -> None:
    events = gaussian(20_000, 5)
    w, dw = fitted.weights(events, uncertainty=True)
    error = w - np.exp(truth(events))
    assert np.abs(error).mean() < 0.08  # of a mean weight of 1; unweighted, the ratio to the wide sample would be off by 0.3
    assert np.abs(w - np.exp(truth(events)) * np.exp(-(events["x"] ** 2) / 4) * np.sqrt(2)).mean() > 0.25
    assert 0.005 < dw.mean() < 0.1
    np.testing.assert_allclose(fitted.log_ratio(events), np.log(w), rtol=1e-12, atol=1e-12)


def test_closure_sees_what_the_weights_bring(fitted: hepgen.Reweighter) -> None:
    sim, weights = wide(20_000, 6)
    data = gaussian(20_000, 7, SHIFT)
    closure = fitted.closure(sim, data, weights, bins=10)
    assert closure.before["x"].per_ndf > 20
    assert closure.before["y"].per_ndf > 10
    assert closure.after["x"].per_ndf < 4
    assert closure.after["y"].per_ndf < 4
    w = weights * fitted.weights(sim)
    assert closure.sums == pytest.approx({"sim": weights.sum(), "reweighted": w.sum(), "data": 20_000})
    assert closure.ess["reweighted"] == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert closure.to_dict()["after"]["x"]["per_ndf"] == closure.after["x"].per_ndf
    reliable = fitted.reliability(sim, data, weights, bins=8)
    assert np.abs(reliable.observed / reliable.predicted - 1).max() < 0.25


@pytest.mark.parametrize("normalise", ["sim", "data", None])
def test_what_the_weights_sum_to_is_fixed_by_the_fit(samples: Any, normalise: Any) -> None:
    sim, data, weights = samples
    data_weights = np.full(len(data["x"]), 2.0)
    model = hepgen.Reweighter(FEATURES, ensemble=2, hidden=(8,), normalise=normalise, clip=1.5)
    model.fit(sim, data, weights, data_weights, epochs=2, batch_size=1000, progress=False)
    total = float((weights * model.weights(sim)).sum())
    if normalise is None:
        assert model.log_scale == 0
        assert total == pytest.approx(weights.sum(), rel=0.1)  # the mean ratio of densities is one
    else:
        assert total == pytest.approx(weights.sum() if normalise == "sim" else 30_000, rel=1e-12)
    assert model.record["sums"] == pytest.approx({"sim": weights.sum(), "data": 30_000, "reweighted": total})
    # nothing is taken from a chunk
    chunks = [{name: column[i : i + 777] for name, column in sim.items()} for i in range(0, 20_000, 777)]
    assert np.array_equal(np.concatenate([model.weights(chunk) for chunk in chunks]), model.weights(sim))
    # what the clip did
    unclipped = model.weights(sim) / np.exp(model.log_scale)
    clip = model.record["clip"]
    assert unclipped.max() == pytest.approx(1.5)
    assert clip["events"] == np.isclose(unclipped, 1.5, rtol=1e-12).sum()
    assert 0 < clip["share_of_weight"] < 0.1


@pytest.mark.parametrize(("loss", "link"), [(loss, link) for loss, links in LINKS.items() for link in links])
def test_every_loss_and_link_learns(loss: Any, link: str) -> None:
    sim, data = gaussian(4000, 1), gaussian(4000, 2, 2 * SHIFT)
    model = hepgen.Reweighter(FEATURES, loss=loss, link=link, ensemble=1, hidden=(16, 16))
    model.fit(sim, data, epochs=8, batch_size=250, progress=False)
    events = gaussian(4000, 3)
    true = np.exp(2 * events["x"] * SHIFT[0] + 2 * events["y"] * SHIFT[1] - 2 * SHIFT @ SHIFT)
    w = model.weights(events)
    assert np.isfinite(w).all()
    assert np.abs(1 - true).mean() > 0.6
    assert np.abs(w - true).mean() < (0.5 if link == "relu" else 0.3)  # which learns where it is not dead


@pytest.mark.parametrize("optimizer", ["ecd", "adam", "rmsprop", "sgd"])
def test_every_optimizer_learns(optimizer: str) -> None:
    sim, data = gaussian(4000, 1), gaussian(4000, 2, 2 * SHIFT)
    model = hepgen.Reweighter(FEATURES, optimizer=optimizer, ensemble=1, hidden=(16,))
    rate = {"sgd": 0.5, "rmsprop": 1e-2, "adam": 1e-2}.get(optimizer)
    record = model.fit(sim, data, epochs=4, batch_size=250, learning_rate=rate, progress=False).record["members"][0]
    assert record["best_valid"] < record["epochs"][0]["valid"] + 1e-6 < np.log(2)
    assert model.record["plan"]["options"].get("F0") == (-0.3 if optimizer == "ecd" else None)


def test_fit_is_reproducible_and_every_member_is_another() -> None:
    sim, data = gaussian(600, 1), gaussian(500, 2, SHIFT)

    def weights(seed: int) -> np.ndarray:
        return np.asarray(
            hepgen.Reweighter(FEATURES, ensemble=2, hidden=(8,)).fit(sim, data, seed=seed, **QUICK).weights(sim, replicas=True)
        )

    one = weights(1)
    assert np.array_equal(weights(1), one)
    assert not np.allclose(weights(2), one)
    assert not np.allclose(one[:, 0], one[:, 1], rtol=1e-3)


def test_a_fit_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sim, data = gaussian(600, 1), gaussian(500, 2, SHIFT)

    def fit(folder: Path | None) -> np.ndarray:
        model = hepgen.Reweighter(FEATURES, ensemble=2, hidden=(8,), dropout=0.2, nu=1e-2)
        return np.asarray(model.fit(sim, data, epochs=4, batch_size=100, checkpoint=folder, progress=False).weights(sim, replicas=True))

    whole, losses, calls = fit(None), reweighter_fit.RatioObjective.losses, 0

    def dying(self: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 13:  # of 5 steps in each of 4 epochs
            raise RuntimeError("killed here")
        return losses(self, batch)

    monkeypatch.setattr(reweighter_fit.RatioObjective, "losses", dying)
    monkeypatch.setattr(reweighter_fit, "train_ensemble", partial(train_ensemble, checkpoint_seconds=0))
    with pytest.raises(RuntimeError, match="killed here"):
        fit(tmp_path)
    assert np.array_equal(fit(tmp_path), whole)
    assert calls < 13 + 20 - 5, "it went on instead of starting anew"


def test_save_and_load(fitted: hepgen.Reweighter, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "ratio.hepgen")
    again, events = hepgen.load(path), gaussian(500, 8)
    assert np.array_equal(again.weights(events, replicas=True), fitted.weights(events, replicas=True))
    assert again.record == fitted.record
    assert [member["seed"] for member in again.record["members"]] == [member["seed"] for member in fitted.record["members"]]
    assert repr(again) == "Reweighter(['x', 'y'], loss='bce', link='sigmoid', ensemble=3, fitted)"
    shipped = pickle.dumps(fitted)
    assert len(shipped) < 10_000
    assert np.array_equal(pickle.loads(shipped).weights(events), fitted.weights(events))
    np.savez(tmp_path / "events.npz", **events)
    script = (
        "import sys, numpy as np, hepgen\n"
        f"model, events = hepgen.load({str(path)!r}), dict(np.load({str(tmp_path / 'events.npz')!r}))\n"
        "w, dw = model.weights(events, uncertainty=True)\n"
        "print(*(name for name in ('torch', 'scipy', 'sklearn', 'numba') if name in sys.modules), w.sum().hex())"
    )
    found = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert found == [fitted.weights(events).sum().hex()]


def test_calibration_is_fitted_on_events_apart_and_saved(tmp_path: Path) -> None:
    sim, data = gaussian(12_000, 1), gaussian(12_000, 2, 2 * SHIFT)
    model = hepgen.Reweighter(FEATURES, ensemble=2, hidden=(16,), calibration="isotonic", calibration_share=0.5, normalise=None)
    model.fit(sim, data, epochs=3, batch_size=500, seed=2, progress=False)
    assert model.calibrator is not None
    assert model.record["events"] == {"sim": 12_000, "data": 12_000}
    events = gaussian(300, 4)
    matrix = np.stack([events["x"], events["y"]], axis=1)
    raw = np.mean([np.exp(network(model.scaler.forward(matrix))[:, 0].astype(np.float64)) for network in model.networks], axis=0)
    calibrated = np.exp(np.interp(np.log(raw), model.calibrator.x, model.calibrator.y))
    np.testing.assert_allclose(model.weights(events), calibrated, rtol=1e-6)
    np.testing.assert_allclose(model.weights(events, replicas=True).mean(axis=1), calibrated, rtol=1e-6)
    assert not np.allclose(calibrated, raw, rtol=0.02)
    again = hepgen.load(model.save(tmp_path / "calibrated.hepgen"))
    assert np.array_equal(again.weights(events), model.weights(events))
    check = model.reliability(gaussian(20_000, 8), gaussian(20_000, 9, 2 * SHIFT), bins=6)
    assert np.abs(check.observed / check.predicted - 1).max() < 0.2


def test_columns_are_standardised_on_both_samples_together_and_angles_wrapped() -> None:
    rng = np.random.default_rng(1)
    features = hepgen.Features(["pt", "phi", "mass"], scalings={"mass": Log()})
    sizes, means = (300, 900), (10.0, 30.0)
    columns = [
        {"pt": rng.normal(m, 1, n), "phi": rng.uniform(0, 2 * np.pi, n), "mass": rng.uniform(1, 2, n)}
        for n, m in zip(sizes, means, strict=True)
    ]
    model = hepgen.Reweighter(features, ensemble=1, hidden=(4,)).fit(*columns, **QUICK)
    standard, chain, log = model.scaler.scalings
    assert isinstance(standard, Standard)
    both = [part["pt"] for part in columns]
    mean = (both[0].mean() + both[1].mean()) / 2  # the samples count alike, whatever their sizes
    assert standard.mean == pytest.approx(mean)
    assert standard.std == pytest.approx(np.sqrt(((both[0] - mean) ** 2).mean() / 2 + ((both[1] - mean) ** 2).mean() / 2))
    assert isinstance(chain, Chain)
    assert [type(scaling) for scaling in chain.scalings] == [Angle, Standard]
    assert isinstance(log, Log)
    turned = {**columns[0], "phi": columns[0]["phi"] - 2 * np.pi}
    np.testing.assert_allclose(model.weights(turned), model.weights(columns[0]), rtol=1e-5)
    own = hepgen.Reweighter(FEATURES, scaler=hepgen.events.Scaler([Quantile(), Quantile()], ["x", "y"]), ensemble=1, hidden=(4,))
    own.fit(gaussian(300, 1), gaussian(300, 2), **QUICK)
    assert [type(scaling) for scaling in own.scaler.scalings] == [Quantile, Quantile]


def test_the_selection_is_of_the_fit() -> None:
    sim, data = gaussian(2000, 1), gaussian(2000, 2, SHIFT)
    model = hepgen.Reweighter(FEATURES, selection=hepgen.Selection([hepgen.events.Cut("x", minimum=0.0)]), ensemble=1, hidden=(4,))
    model.fit(sim, data, **QUICK)
    assert model.record["events"] == {"sim": int((sim["x"] >= 0).sum()), "data": int((data["x"] >= 0).sum())}
    assert np.all(model.weights({"x": np.array([-2.0]), "y": np.zeros(1)}) != 1.0)


def test_extreme_values_give_finite_weights() -> None:
    for loss, links in LINKS.items():
        for link in links:
            model = made(FEATURES, loss=loss, link=link)
            far = np.array([[1e300, -1e300], [-1e300, 1e300], [0.0, 0.0], [1e5, 1e5]])
            with np.errstate(all="raise"):
                w, dw = model.weights({"x": far[:, 0], "y": far[:, 1]}, uncertainty=True)
            assert np.isfinite(w).all(), link
            assert np.isfinite(dw).all(), link
            assert (w >= 0).all()


@pytest.mark.parametrize(("loss", "link"), [(loss, link) for loss, links in LINKS.items() for link in links])
def test_weights_are_the_mean_ratio_of_the_members(loss: Any, link: str) -> None:
    model, rng = made(FEATURES, loss=loss, link=link), np.random.default_rng(2)
    matrix = rng.normal(MEAN, STD, (200, 2))
    events = {"x": matrix[:, 0], "y": matrix[:, 1]}
    ratios = np.exp(np.clip(log_ratio(outputs(model, matrix), loss, link), -300, 300) + 0.3)
    close: dict[str, Any] = {"rtol": 2e-4 if link in {"square", "relu"} else 3e-5, "atol": 1e-6}
    np.testing.assert_allclose(model.weights(events), ratios.mean(axis=1), **close)
    np.testing.assert_allclose(model.weights(events, replicas=True), ratios, **close)
    w, dw = model.weights(events, uncertainty=True)
    np.testing.assert_allclose(dw, model.weights(events, replicas=True).std(axis=1, ddof=1), rtol=1e-12)
    found = model.variations(events)
    assert np.array_equal(found["nominal"], w)
    np.testing.assert_allclose(found["up"], w + dw, rtol=1e-12)
    np.testing.assert_allclose(found["down"], np.maximum(w - dw, 0), rtol=1e-12, atol=1e-15)


def test_bad_options_are_named() -> None:
    for options, sentence in (
        ({"loss": "mse"}, "loss 'mse' is not known: choose one of bce, mlc"),
        ({"link": "exp"}, "the loss 'bce' has no link 'exp'"),
        ({"optimizer": "lion"}, "optimizer 'lion' is not known: choose one of ecd, adam"),
        ({"ensemble": 0}, "ensemble=0 is no number of networks"),
        ({"calibration": "platt"}, "calibration='platt' is not known"),
        ({"normalise": "both"}, "normalise='both' is not known"),
        ({"clip": -1.0}, "clip=-1.0 is no largest ratio"),
        ({"calibration_share": 1.0}, "calibration_share must lie between 0 and 1, not 1.0"),
        ({"blocks": 3}, "Reweighter has no setting 'blocks': it has hidden, activation"),
    ):
        with pytest.raises(UsageError, match=sentence):
            hepgen.Reweighter(FEATURES, **options)
    with pytest.raises(UsageError, match="not fitted: call fit, or load"):
        hepgen.Reweighter(FEATURES).weights(gaussian(3, 1))
    with pytest.raises(UsageError, match="not fitted: call fit, or load"):
        hepgen.Reweighter(FEATURES).to_bytes()


def test_bad_samples_are_named() -> None:
    sim, data, model = gaussian(50, 1), gaussian(50, 2), hepgen.Reweighter(FEATURES, ensemble=1, hidden=(4,))
    for weights, sentence in (
        (np.ones(3), r"sim_weights has shape \(3,\), and there are 50 events"),
        (np.full(50, np.nan), "sim_weights holds 50 values that are not finite, the first at event 0"),
        (np.repeat([1.0, -1.0], 25), "sim_weights sum to 0: the sum of the weights must be positive"),
    ):
        with pytest.raises(InputError, match=sentence):
            model.fit(sim, data, sim_weights=weights, **QUICK)
    with pytest.raises(InputError, match="column 'y' of data is constant"):
        model.fit(sim, {**data, "y": np.zeros(50)}, **QUICK)
    with pytest.raises(InputError, match="column 'x' holds 1 value that is NaN or inf, at entry 4"):
        model.fit({**sim, "x": np.where(np.arange(50) == 4, np.nan, sim["x"])}, data, **QUICK)
    with pytest.raises(StepError, match="is not above F0 = 10: choose F0 below"):
        hepgen.Reweighter(FEATURES, ensemble=1, hidden=(4,), F0=10.0).fit(sim, data, **QUICK)
    assert not model.networks
