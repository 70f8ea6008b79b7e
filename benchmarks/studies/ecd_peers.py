"""What else weights simulation to data, on the same events: boosted trees of hep_ml and of scikit-learn, and a histogram."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import ecd_jets
import ecd_thrust
import numpy as np
from ecd_jets import Surrogates
from ecd_runs import Floats, mean
from ecd_thrust import Halves
from study_runs import Result, Store, say

Predict = Callable[[Floats], Floats]
Method = Callable[[Floats, Floats], Predict]


def gb_reweighter(sim: Floats, data: Floats) -> Predict:
    """hep_ml's GBReweighter at its defaults; its weights have no scale of their own and are brought to a mean of one."""
    from hep_ml.reweight import GBReweighter  # type: ignore[import-untyped]

    model = GBReweighter().fit(sim, data)
    scale = float(model.predict_weights(sim).mean())
    return lambda x: np.asarray(model.predict_weights(x) / scale, dtype=np.float64)


def boosted_classifier(sim: Floats, data: Floats) -> Predict:
    """scikit-learn's HistGradientBoostingClassifier at its defaults, p / (1 - p)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows, label = np.concatenate([sim, data]), np.concatenate([np.zeros(len(sim)), np.ones(len(data))])
    model = HistGradientBoostingClassifier(random_state=1).fit(rows, label)
    return lambda x: np.asarray(np.exp(model.decision_function(x)) * (len(sim) / len(data)), dtype=np.float64)


def histogram(sim: Floats, data: Floats) -> Predict:
    """The quotient of histograms: 50 equal bins of one column; of more, 3 bins with equal numbers of events in each. Empty: 1."""
    from sklearn.preprocessing import KBinsDiscretizer

    columns = sim.shape[1]
    bins = 50 if columns == 1 else 3
    # of numpy's rules only this one is left by scikit-learn for columns without weights
    rule = {"strategy": "uniform"} if columns == 1 else {"strategy": "quantile", "quantile_method": "averaged_inverted_cdf"}
    grid = KBinsDiscretizer(bins, encode="ordinal", subsample=None, **rule).fit(np.concatenate([sim, data]))

    def cell(x: Floats) -> Floats:
        return np.asarray(grid.transform(x) @ bins ** np.arange(columns), dtype=np.float64)

    counts = [np.bincount(cell(x).astype(np.int64), minlength=bins**columns) / len(x) for x in (sim, data)]
    filled = (counts[0] > 0) & (counts[1] > 0)
    ratio = np.where(filled, counts[1] / np.where(filled, counts[0], 1), 1.0)
    return lambda x: ratio[cell(x).astype(np.int64)]


#: By name: the package, and how to fit.
PEERS: dict[str, tuple[str, Method]] = {
    "hep_ml GBReweighter": ("hep_ml", gb_reweighter),
    "scikit-learn HistGradientBoosting": ("sklearn", boosted_classifier),
    "histogram": ("sklearn", histogram),
}


def timed(method: Method, sim: Floats, data: Floats, test: Floats) -> tuple[Predict, Floats, Result]:
    """Fit a peer and apply it: how to apply it, its ratios of the test events, and the seconds of both."""
    started = time.perf_counter()
    predict = method(sim, data)
    fitted = time.perf_counter()
    ratios = predict(test)
    return predict, ratios, {"seconds": fitted - started, "apply_seconds": time.perf_counter() - fitted}


def on_thrust(halves: Halves, method: Method) -> Result:
    """MAE and times on thrust."""
    sim = halves.sim_train[:, None]
    predict, test, seconds = timed(method, sim, halves.data_train[:, None], halves.sim_test[:, None])
    return {**ecd_thrust.measure(halves, test[:, None], predict(sim)[:, None], seconds["apply_seconds"]), **seconds}


def on_jets(made: Surrogates, method: Method) -> Result:
    """MAE and times on the surrogate jets."""
    _, test, seconds = timed(method, made.sim, made.data, made.test)
    return {**ecd_jets.errors(test[:, None], made.log_ratio), **seconds}


def run(store: Store, name: str, identity: Result, measure: Callable[[Method], Result] | None) -> dict[str, Result]:
    """Every peer on one sample; one that is not installed is left out."""
    results = {}
    for peer, (package, method) in PEERS.items():

        def compute(_: Path, package: str = package, method: Method = method) -> Result:
            if find_spec(package) is None:
                raise ImportError(f"{package} is not installed")
            if measure is None:
                raise SystemExit(f"the {name} sample is needed: give --{name} DIR, or leave peers out of --only")
            return measure(method)

        try:
            found = store.get("peers", f"{name} {peer}", {"peer": peer, "sample": name, **identity}, compute)
        except ImportError as error:
            say(f"peers: {peer} is left out: {error}")
            continue
        if found is not None:
            say(f"peers: {name}: {peer}: MAE {mean(found['mae']).text(digits=5)}, {found['seconds']:.1f} s")
            results[peer] = found
    return results
