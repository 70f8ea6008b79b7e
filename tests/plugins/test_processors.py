"""Copies, replacing and reweighting in processors, and a processor of one's own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest

import hepgen
from hepgen.errors import UsageError
from hepgen.estimators import cache

pytest.importorskip("coffea", reason="coffea is not installed")

N = 300
AXIS = hist.axis.Regular(20, -4, 8, name="x")


def events(n: int, seed: int, shift: float = 0.0) -> ak.Array:
    rng = np.random.default_rng(seed)
    columns = {"x": rng.normal(shift, 1, n), "y": rng.normal(0, 1, n), "weight": rng.choice([1.0, -1.0], p=[0.9, 0.1], size=n) * 1.5}
    return ak.Array({**columns, "runNumber": np.ones(n, int), "eventNumber": np.arange(n)})


def of(array: ak.Array, dataset: str = "sim") -> ak.Array:
    """The events with the metadata that coffea gives them."""
    kind = type("EventArray", (ak.Array,), {"metadata": {"dataset": dataset, "treename": "events"}})
    return ak.Array(ak.with_name(array, "Event").layout, behavior={("*", "Event"): kind})


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = hepgen.SimToData(hepgen.Features(["x"], computed=["y"]), loss="nll", blocks=2, hidden=(8, 8))
    model.fit(events(500, 1), events(500, 2, 1.0), epochs=2, batch_size=100, progress=False)
    return model.save(tmp_path_factory.mktemp("models") / "flow.hepgen")


@pytest.fixture(scope="module")
def ratio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = hepgen.Reweighter(hepgen.Features(["x", "y"]), ensemble=3, hidden=(8,))
    model.fit(events(500, 1), events(500, 2, 0.5), epochs=2, batch_size=100, progress=False)
    return model.save(tmp_path_factory.mktemp("models") / "ratio.hepgen")


def filled(x: Any, weights: Any) -> np.ndarray:
    return np.histogram(ak.to_numpy(x), AXIS.edges, weights=weights)[0]


def test_copies_share_the_weight_of_their_event(flow: Path) -> None:
    from hepgen_coffea import TransformProcessor

    array, model = events(N, 3), cache.cached(flow)
    out = TransformProcessor(flow, {"x": ("x", AXIS)}, copies=3).process(of(array))["sim"]
    weights = ak.to_numpy(array.weight)
    wanted = sum(filled(model.transform(array, copy=copy).x, weights / 3) for copy in range(3))
    np.testing.assert_allclose(out["hists"]["x"]["transformed", :].values(), wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(out["hists"]["x"]["simulation", :].values(), filled(array.x, weights), rtol=1e-12, atol=1e-12)
    assert (out["events"], out["transformed"], out["untouched"]) == (N, N, 0)
    with pytest.raises(UsageError, match="copies must be at least 1, not 0"):
        TransformProcessor(flow, {}, copies=0)


def test_replaced_events_are_scaled_to_the_signal_region(flow: Path) -> None:
    from hepgen_coffea import ReplaceProcessor

    array, model = events(N, 3), cache.cached(flow)
    processor = ReplaceProcessor(flow, {"x": ("x", AXIS)}, transfer=(0.2, 0.05), copies=2, weight=False, data={"signal region"})
    out = processor.process(of(array, "control"))["control"]["hists"]["x"]
    shape = sum(filled(model.transform(array, copy=copy).x, np.full(N, 0.5)) for copy in range(2))
    for variation, factor in (("nominal", 0.2), ("transferUp", 0.25), ("transferDown", 0.15)):
        np.testing.assert_allclose(out["replaced", hist.loc(variation), :].values(), factor * shape, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(out["control region", hist.loc("nominal"), :].values(), filled(array.x, None))
    signal = processor.process(of(array, "signal region"))["signal region"]
    assert (signal["transformed"], signal["untouched"]) == (0, N)
    assert list(signal["hists"]["x"].axes[0]) == ["data"]
    for wrong in ((0.0, 0.1), (1.0, -0.1), (np.inf, 0.0)):
        with pytest.raises(UsageError, match="transfer is a positive factor and its error"):
            ReplaceProcessor(flow, {}, transfer=wrong)


def test_the_transfer_of_the_model_is_taken(flow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hepgen_coffea import ReplaceProcessor

    processor = ReplaceProcessor(flow, {"x": ("x", AXIS)}, copies=1, weight=False)
    raw = events(N, 3)
    array, model = of(raw, "control"), cache.cached(flow)
    plain = processor.process(array)["control"]["hists"]["x"]
    weights, errors = np.random.default_rng(1).uniform(0.1, 1, (2, N))  # one an event, as of a transfer by condition
    monkeypatch.setattr(model, "transfer_weights", lambda _events: (weights, errors), raising=False)
    scaled = processor.process(array)["control"]["hists"]["x"]
    moved = model.transform(raw, copy=0).x
    for variation, factor in (("nominal", weights), ("transferUp", weights + errors), ("transferDown", np.maximum(weights - errors, 0))):
        np.testing.assert_allclose(scaled["replaced", hist.loc(variation), :].values(), filled(moved, factor), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(plain["replaced", hist.loc(variation), :].values(), filled(moved, np.ones(N)), rtol=1e-12, atol=1e-12)


def test_a_reweighter_fills_nominal_up_and_down(ratio: Path) -> None:
    from hepgen_coffea import ReweightProcessor

    array, model = events(N, 3), cache.cached(ratio)
    out = ReweightProcessor(ratio, {"x": ("x", AXIS)}).process(of(array))["sim"]
    weights, (w, dw) = ak.to_numpy(array.weight), model.weights(array, uncertainty=True)
    found = out["hists"]["x"]
    assert np.all(dw > 0)
    for variation, factor in (("nominal", w), ("reweighterUp", w + dw), ("reweighterDown", np.maximum(w - dw, 0))):
        np.testing.assert_allclose(
            found["reweighted", hist.loc(variation), :].values(), filled(array.x, weights * factor), rtol=1e-12, atol=1e-12
        )
    np.testing.assert_allclose(found["simulation", hist.loc("nominal"), :].values(), filled(array.x, weights), rtol=1e-12, atol=1e-12)
    assert (out["transformed"], out["untouched"]) == (N, 0)


def test_a_processor_of_ones_own(flow: Path) -> None:
    from worker_processors import Smeared

    array, model = events(N, 3), cache.cached(flow)
    processor = pickle.loads(pickle.dumps(Smeared(flow, {"x": ("x", AXIS)}, weight=False)))
    out = processor.process(of(array))["sim"]
    np.testing.assert_array_equal(out["hists"]["x"]["harder", :].values(), filled(model.transform(array).x + 1, None))
    assert (out["transformed"], out["untouched"]) == (N, 0)
