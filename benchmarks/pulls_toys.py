"""Toy experiments with a known truth for every uncertainty that hepgen prints: what `benchmarks/pulls.py` counts.

A toy is a function of a random generator that makes one experiment anew and gives (value, error), or (value, error, truth) where the truth
is another in each experiment. The truth of a case is a number, or None for the mean of all its toys: then the error is said to be that of
repeated experiments around their mean, for the value itself is biased (a floor), or has no closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import awkward as ak
import hist
import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

import hepgen
from hepgen import histograms, variations
from hepgen import metrics as merit
from hepgen.estimators.integration import importance_weights
from hepgen.estimators.ratio_checks import reliability
from hepgen.estimators.transfer import ConditionTransfer, transfer_factor
from hepgen.events import Cut, Features, Selection
from hepgen.metrics import classifier

Float = NDArray[np.float64]
Rng = np.random.Generator
Toy = Callable[[Rng], tuple[float, ...]]

#: The share of a normal distribution within one standard deviation.
ONE_SIGMA = 0.682689492137086


@dataclass(frozen=True)
class Case:
    """An uncertainty, and how it is tried.

    Attributes
    ----------
    figure : what has the uncertainty
    name : the situation
    toy : one experiment
    toys : how many
    truth : what |value - truth| <= error asks of; None for the mean of all toys
    expected : the share that is right
    known : why another share is no fault, where there is such a reason
    cheap : whether tests take it too
    """

    figure: str
    name: str
    toy: Toy
    toys: int
    truth: float | None = None
    expected: float = ONE_SIGMA
    known: str = ""
    cheap: bool = False


CASES: list[Case] = []

SAFE = "on the safe side: what is of second order"
FLAT = "too large with all parameters free, too small with one at its limit"


def case(figure: str, name: str, toys: int = 400, truth: float | None = None, **more: Any) -> Callable[[Toy], Toy]:
    """Put a toy on the list, under several names where it has parameters."""

    def put(toy: Toy) -> Toy:
        CASES.append(Case(figure, name, toy, toys, truth, **more))
        return toy

    return put


def gammas(rng: Rng, n: int, shape: float = 2.0) -> Float:
    """Positive weights of mean 1 and variance 1 / shape."""
    return rng.gamma(shape, 1 / shape, n)


def signed(rng: Rng, n: int) -> Float:
    """Weights of mean 0.8, a tenth of them -1."""
    return np.where(rng.random(n) < 0.1, -1.0, 1.0)


def normals(rng: Rng, n: int, rho: float) -> Float:
    """Two normal columns with a correlation."""
    x = rng.normal(size=(n, 2))
    return np.column_stack([x[:, 0], rho * x[:, 0] + np.sqrt(1 - rho**2) * x[:, 1]])


# -- correlations -----------------------------------------------------------------------------------------------------


@case("pearson", "normal columns, rho = 0.5, 500 events", 2000, 0.5, cheap=True)
def pearson_normal(rng: Rng) -> tuple[float, ...]:
    r, error = merit.pearson(normals(rng, 500, 0.5), uncertainty=True)
    return r[0, 1], error[0, 1]


@case("pearson", "exponential tails, gamma weights, 3000 events (2000 effective)", 2000, 1 / np.sqrt(2), cheap=True)
def pearson_tails(rng: Rng) -> tuple[float, ...]:
    x = rng.exponential(size=(3000, 2))
    r, error = merit.pearson(np.column_stack([x[:, 0], x.sum(axis=1)]), gammas(rng, 3000), uncertainty=True)
    return r[0, 1], error[0, 1]


@case("pearson", "a tenth of the weights negative, 2000 events", 1000, 0.5)
def pearson_signed(rng: Rng) -> tuple[float, ...]:
    r, error = merit.pearson(normals(rng, 2000, 0.5), signed(rng, 2000), uncertainty=True)
    return r[0, 1], error[0, 1]


def _others(x: Float) -> tuple[float, ...]:
    names = [str(k) for k in range(x.shape[1])]
    found = merit.correlation_table(x, names, columns=[("0", "1")])
    return found.others, found.others_error


@case("correlation_table, others", "ten independent columns, 2000 events", 400, cheap=True)
def others_independent(rng: Rng) -> tuple[float, ...]:
    return _others(rng.normal(size=(2000, 10)))


@case("correlation_table, others", "ten columns with a part in common, 1000 events", 400, cheap=True)
def others_common(rng: Rng) -> tuple[float, ...]:
    return _others(rng.normal(size=(1000, 10)) + 0.7 * rng.normal(size=(1000, 1)))


@case("correlation_table, others", "three columns in common, seven independent, 1000 events", 400)
def others_mixed(rng: Rng) -> tuple[float, ...]:
    x = rng.normal(size=(1000, 10))
    x[:, :3] += rng.normal(size=(1000, 1))
    return _others(x)


# -- distance correlations --------------------------------------------------------------------------------------------


def _distance(x: Float, y: Float, w: Float | None = None) -> tuple[float, ...]:
    found = merit.distance_correlation_error(x, y, w)
    return found.value, found.error


@case("distance_correlation", "rho = 0.5, 500 events", 1000, cheap=True)
def distance_strong(rng: Rng) -> tuple[float, ...]:
    return _distance(*normals(rng, 500, 0.5).T)


@case("distance_correlation", "y = x^2 and noise, gamma weights, 1000 events", 1000)
def distance_square(rng: Rng) -> tuple[float, ...]:
    x = rng.normal(size=1000)
    return _distance(x, x**2 + rng.normal(size=1000), gammas(rng, 1000))


@case("distance_correlation", "rho = 0.1, 1000 events", 1000)
def distance_weak(rng: Rng) -> tuple[float, ...]:
    return _distance(*normals(rng, 1000, 0.1).T)


@case("distance_correlation", "independent columns, 1000 events", 1000, known=SAFE)
def distance_none(rng: Rng) -> tuple[float, ...]:
    return _distance(*rng.normal(size=(2, 1000)))


def _chi(rng: Rng, rho: float) -> tuple[float, ...]:
    found = merit.correlation_chi(normals(rng, 2000, rho), normals(rng, 500, rho), ["x", "y"])
    return found.pulls[0, 1], 1.0


@case("correlation_chi, pulls", "one distribution, rho = 0.5, 2000 and 500 events", 1000, 0.0, cheap=True)
def chi_dependent(rng: Rng) -> tuple[float, ...]:
    return _chi(rng, 0.5)


@case("correlation_chi, pulls", "one distribution, independent columns", 1000, 0.0, known=SAFE)
def chi_independent(rng: Rng) -> tuple[float, ...]:
    return _chi(rng, 0.0)


# -- areas under ROC curves -------------------------------------------------------------------------------------------

AREA = float(norm.cdf(1 / np.sqrt(2)))


@case("weighted_auc", "normal scores one apart, 200 and 300 events", 2000, AREA, cheap=True)
def auc_plain(rng: Rng) -> tuple[float, ...]:
    return merit.weighted_auc(rng.normal(size=200), rng.normal(1, 1, 300))


@case("weighted_auc", "gamma weights, 500 and 300 events", 2000, AREA)
def auc_weighted(rng: Rng) -> tuple[float, ...]:
    return merit.weighted_auc(rng.normal(size=500), rng.normal(1, 1, 300), gammas(rng, 500, 1), gammas(rng, 300, 1))


@case("weighted_auc", "a tenth of the weights negative, 1000 and 1000 events", 1000, AREA)
def auc_signed(rng: Rng) -> tuple[float, ...]:
    return merit.weighted_auc(rng.normal(size=1000), rng.normal(1, 1, 1000), signed(rng, 1000), signed(rng, 1000))


@case("classifier_floor", "shuffled labels: 0.5 whatever was learnt, 800 events", 400, 0.5)
def auc_floor(rng: Rng) -> tuple[float, ...]:
    found = merit.classifier_floor(rng.normal(size=(800, 3)), hidden=(8,), epochs=5, batch_size=100, seed=int(rng.integers(2**31)))
    return found.auc, found.error


def _trained(rng: Rng) -> tuple[merit.ClassifierAUC, Any, tuple[Float, Float]]:
    """A classifier of two samples, its network, and the centre and spread that its columns are standardised by."""
    a, b = rng.normal(size=(600, 2)), rng.normal(size=(600, 2)) + np.array([0.5, 0.3])
    weights, kept = np.ones(600), []

    def train(*arguments: Any) -> Any:
        kept.append(learn(*arguments))
        return kept[0]

    learn, settings = classifier._train, classifier._Settings((8,), 100, 5, 5, 1e-2, int(rng.integers(2**31)))
    with patch.object(classifier, "_train", train):
        found = classifier._held_out((a, weights), (b, weights), settings, rng)
    x = np.concatenate([a[:300], b[:300]])
    return found, kept[0][0], (x.mean(axis=0), x.std(axis=0))


@case("classifier_auc", "the area of that network with 2 x 40 000 events as truth; 2 x 300 held out", 200)
def auc_network(rng: Rng) -> tuple[float, ...]:
    found, network, (centre, spread) = _trained(rng)
    scores = [classifier._score(network, (rng.normal(size=(40_000, 2)) + shift - centre) / spread) for shift in ([0, 0], [0.5, 0.3])]
    return found.auc, found.error, merit.weighted_auc(*scores)[0]


@case("classifier_auc", "repeated experiments, training and all", 200, known="the training moves too: the error is of the held-out half")
def auc_repeated(rng: Rng) -> tuple[float, ...]:
    found = _trained(rng)[0]
    return found.auc, found.error


# -- shapes -----------------------------------------------------------------------------------------------------------


@case("chi2_ndf, p-value", "equal shapes, gamma weights, as a normal number of 10 bins", 2000, 0.0, cheap=True)
def chi2_p(rng: Rng) -> tuple[float, ...]:
    found = merit.chi2_ndf(rng.normal(size=1000), rng.normal(size=600), 10, gammas(rng, 1000), gammas(rng, 600))
    return float(norm.isf(found.p_value)), 1.0


@case("chi2_ndf, pulls", "middle one of 20 bins", 1000, 0.0, cheap=True)
def chi2_pull(rng: Rng) -> tuple[float, ...]:
    return merit.chi2_ndf(rng.normal(size=1000), rng.normal(size=2000), 20, gammas(rng, 1000)).pulls[10], 1.0


# -- shares -----------------------------------------------------------------------------------------------------------


def _outside(rng: Rng, n: int, share: float, w: Float | None = None) -> tuple[float, ...]:
    features = Features(["x"])
    found = merit.fraction_outside(Selection([Cut("x", maximum=1 - share)]), features, rng.random((n, 1)), w)
    return found.fraction, found.error


@case("fraction_outside", "0.3 of 500 events", 1000, 0.3, cheap=True)
def outside_many(rng: Rng) -> tuple[float, ...]:
    return _outside(rng, 500, 0.3)


@case("fraction_outside", "0.1 of 1000 events with gamma weights", 1000, 0.1)
def outside_weighted(rng: Rng) -> tuple[float, ...]:
    return _outside(rng, 1000, 0.1, gammas(rng, 1000))


@case("fraction_outside", "0.1 of 2000 events, a tenth of the weights negative", 1000, 0.1)
def outside_signed(rng: Rng) -> tuple[float, ...]:
    return _outside(rng, 2000, 0.1, signed(rng, 2000))


@case("fraction_outside", "three events expected of 3000", 1000, 0.001)
def outside_few(rng: Rng) -> tuple[float, ...]:
    return _outside(rng, 3000, 0.001)


@case("fraction_outside", "one event expected of 1000", 1000, 0.001, known="whole numbers: 0, 1 and 2 events are within")
def outside_one(rng: Rng) -> tuple[float, ...]:
    return _outside(rng, 1000, 0.001)


@case("physicality", "any rule broken, 0.2 of 500 events", 1000, 0.2)
def physicality_share(rng: Rng) -> tuple[float, ...]:
    x = np.column_stack([np.where(rng.random(500) < 0.2, -1.0, 1.0), np.zeros(500)])
    found = merit.physicality(x, ["Jet[0].pt", "Jet[0].phi"])
    return found.fraction, found.error


@case("copies_of", "honest, 300 training and 300 generated events", 400, 0.5, cheap=True)
def copies_equal(rng: Rng) -> tuple[float, ...]:
    found = merit.copies_of(*rng.normal(size=(3, 300, 2)))
    return found.closer, found.error


@case("copies_of", "honest, ten times as many generated events", 400, 0.5)
def copies_many(rng: Rng) -> tuple[float, ...]:
    found = merit.copies_of(rng.normal(size=(300, 2)), rng.normal(size=(3000, 2)), rng.normal(size=(300, 2)))
    return found.closer, found.error


# -- paper D ----------------------------------------------------------------------------------------------------------

RANGES = [(-3.5, 3.5)] * 3


def _delta(x: Float, y: Float, w: Float | None = None) -> tuple[float, ...]:
    found = merit.delta(x, y, 12, ranges=RANGES, generated_weights=w)
    return found.value, found.error or 0.0


@case("delta", "one distribution, 2000 events of both", 400, cheap=True)
def delta_same(rng: Rng) -> tuple[float, ...]:
    return _delta(*rng.normal(size=(2, 2000, 3)))


@case("delta", "one distribution, gamma weights, 2000 and 4000 events", 400)
def delta_weighted(rng: Rng) -> tuple[float, ...]:
    return _delta(rng.normal(size=(2000, 3)), rng.normal(size=(4000, 3)), gammas(rng, 4000))


@case("delta", "shifted and correlated, 2000 events of both", 400, cheap=True)
def delta_other(rng: Rng) -> tuple[float, ...]:
    y = rng.normal(size=(2000, 3)) + 0.3
    return _delta(rng.normal(size=(2000, 3)), y + 0.5 * y[:, ::-1])


@case("delta", "slightly shifted, a tenth of the weights negative, 4000 events of both", 400)
def delta_signed(rng: Rng) -> tuple[float, ...]:
    return _delta(rng.normal(size=(4000, 3)), rng.normal(size=(4000, 3)) + 0.1, signed(rng, 4000))


def _holes(x: Float, y: Float, largest: int = 150) -> tuple[float, ...]:
    found = merit.delta_of(x, y, largest=largest)
    return found.value, found.error or 0.0


@case("delta_of", "one distribution, 2000 events", 400, known=SAFE)
def holes_same(rng: Rng) -> tuple[float, ...]:
    return _holes(*rng.normal(size=(2, 2000, 2)))


@case("delta_of", "one distribution, uniform columns, 3000 events", 400, known=SAFE)
def holes_uniform(rng: Rng) -> tuple[float, ...]:
    return _holes(*rng.uniform(-2.4, 2.4, (2, 3000, 2)))


@case("delta_of", "three percent narrower, 6000 events, grids to 200", 200)
def holes_near(rng: Rng) -> tuple[float, ...]:
    return _holes(rng.normal(size=(6000, 2)), 0.97 * rng.normal(size=(6000, 2)), 200)


@case("delta_of", "a generator that copies 1500 training events, 2000 events", 400, known=SAFE)
def holes_copies(rng: Rng) -> tuple[float, ...]:
    training = np.random.default_rng(1).normal(size=(1500, 2))
    return _holes(rng.normal(size=(2000, 2)), training[rng.integers(1500, size=2000)])


@case("delta_of", "a tenth narrower, 2000 events", 400)
def holes_narrow(rng: Rng) -> tuple[float, ...]:
    return _holes(rng.normal(size=(2000, 2)), 0.9 * rng.normal(size=(2000, 2)))


SIZES = np.arange(1, 13) * 1000.0


def _extrapolated(rng: Rng, wanted: Float) -> tuple[float, ...]:
    errors = 0.02 * wanted
    value, error = merit.fit_delta_extrapolation(SIZES, wanted + errors * rng.normal(size=12), errors).at(24_000)
    return value, error


@case(
    "fit_delta_extrapolation, at",
    "0.5 / log(N / 1000 + 2) + 0.01 at twice the largest of 12 sizes",
    200,
    0.5 / np.log(26) + 0.01,
    known=FLAT,
)
def extrapolation_log(rng: Rng) -> tuple[float, ...]:
    return _extrapolated(rng, 0.5 / np.log(SIZES / 1000 + 2) + 0.01)


@case("fit_delta_extrapolation, at", "400 / N, the limit of small B", 200, 400 / 24_000, known=FLAT)
def extrapolation_floor(rng: Rng) -> tuple[float, ...]:
    return _extrapolated(rng, 400 / SIZES)


@case("delta_by_size and the fit", "12 sizes to 1200 of 2400 events of one distribution, at 2400", 200, known=FLAT)
def extrapolation_sample(rng: Rng) -> tuple[float, ...]:
    found = merit.delta_by_size(rng.normal(size=(2400, 3)), range(100, 1300, 100), 8, ranges=RANGES)
    value, error = merit.fit_delta_extrapolation(found.events, found.value, found.error).at(2400)
    other = merit.delta(*rng.normal(size=(2, 2400, 3)), 8, ranges=RANGES)
    return value, error, other.floor


# -- yields and integrals ---------------------------------------------------------------------------------------------


@case("transfer_factor", "Poisson numbers of events, gamma and signed weights", 2000, 2000 * 1.0 / (1500 * 0.8), cheap=True)
def transfer(rng: Rng) -> tuple[float, ...]:
    return transfer_factor(gammas(rng, rng.poisson(2000), 1), signed(rng, rng.poisson(1500)))


@case("transfer_factor", "few events: 40 over 60 expected", 2000, 40 / 60)
def transfer_few(rng: Rng) -> tuple[float, ...]:
    return transfer_factor(np.ones(rng.poisson(40)), np.ones(rng.poisson(60)))


@case("histogram variance", "a bin of 100 events with gamma weights", 2000, 100.0, cheap=True)
def bin_weighted(rng: Rng) -> tuple[float, ...]:
    booked = histograms.book(hist.axis.Regular(2, 0, 2, name="x"), samples=["data"])
    n = rng.poisson(200)
    found = variations.band(histograms.fill(booked, {"x": 2 * rng.random(n)}, gammas(rng, n), sample="data"), "data")
    return found.nominal[0], found.statistical[0]


@case("histogram variance", "two samples added, a tenth of the weights negative", 2000, 200 * 0.8 + 30 * 2.0)
def bin_added(rng: Rng) -> tuple[float, ...]:
    booked = histograms.book(hist.axis.Regular(1, 0, 1, name="x"), samples=["a", "b"])
    for sample, mean, weight in (("a", 200, 1.0), ("b", 30, 2.0)):
        n = rng.poisson(mean)
        w = signed(rng, n) if sample == "a" else np.full(n, weight)
        histograms.fill(booked, {"x": rng.random(n)}, w, sample=sample)
    found = variations.band(booked, ["a", "b"])
    return found.nominal[0], found.statistical[0]


@case(
    "histogram variance", "a jagged column, 1 to 3 entries of an event in one bin", 2000, 200.0,
    known="entries are taken for independent: low where an event fills a bin more than once",
)  # fmt: skip
def bin_jagged(rng: Rng) -> tuple[float, ...]:
    booked = histograms.book(hist.axis.Regular(1, 0, 1, name="x"), samples=["data"])
    counts = rng.integers(1, 4, rng.poisson(100))
    found = variations.band(histograms.fill(booked, {"x": ak.unflatten(rng.random(counts.sum()), counts)}, sample="data"), "data")
    return found.nominal[0], found.statistical[0]


@case("map of a histogram, up and down", "Mean storage: the mean of 50 values in a bin", 1000, 1.0)
def map_mean(rng: Rng) -> tuple[float, ...]:
    from hepgen.exporting.maps import _plain

    axis = hist.axis.Regular(1, 0, 1, name="x")
    filled = hist.Hist(axis, storage=hist.storage.Mean()).fill(rng.random(50), sample=rng.exponential(size=50))
    found = _plain("map", filled, [axis], True).values()
    return found[0, 0], found[1, 0] - found[0, 0]


@case("reliability, error", "normal log ratios, the first of 3 bins, 600 and 400 events", 2000)
def reliability_three(rng: Rng) -> tuple[float, ...]:
    return _reliability(rng, 3)


@case("reliability, error", "normal log ratios, the middle one of 20 bins, 3000 and 2000 events", 1000)
def reliability_many(rng: Rng) -> tuple[float, ...]:
    return _reliability(rng, 20, 5)


def _reliability(rng: Rng, bins: int, times: int = 1) -> tuple[float, ...]:
    found = reliability(rng.normal(-0.5, 1, 600 * times), rng.normal(0.5, 1, 400 * times), bins=bins)
    edges = np.concatenate([[-np.inf], found.chi2.edges[1:-1], [np.inf]])
    truth = np.diff(norm.cdf(edges, 0.5)) / np.diff(norm.cdf(edges, -0.5))
    k = len(truth) // 2 if bins > 3 else 0
    return found.observed[k], found.error[k], truth[k]


PEAK, WIDTH = np.array([0.3, 0.5]), np.array([0.05, 0.1])
LOW, HIGH = np.arctan((0 - PEAK) / WIDTH), np.arctan((1 - PEAK) / WIDTH)
PEAKS = float(np.prod((HIGH - LOW) / WIDTH))


def peaks(x: Float) -> Float:
    """A product of Breit-Wigner peaks on the unit square, whose integral is PEAKS."""
    return np.asarray(np.prod(1 / ((x - PEAK) ** 2 + WIDTH**2), axis=1))


@cache
def _generator() -> hepgen.EventGenerator:
    x = PEAK + WIDTH * np.tan(LOW + (HIGH - LOW) * np.random.default_rng(1).random((1000, 2)))
    return hepgen.EventGenerator(Features(["a", "b"]), "gmm", components=4).fit(ak.zip({"a": x[:, 0], "b": x[:, 1]}))


def _integral(rng: Rng, flat: float) -> tuple[float, ...]:
    found = importance_weights(_generator(), peaks, 1000, limits=[(0, 1)] * 2, flat=flat, seed=int(rng.integers(2**31)))
    return found.value, found.error


@case("importance_weights", "two Breit-Wigner peaks by a mixture of normals, a tenth flat, 1000 points", 400, PEAKS, cheap=True)
def integral_mixed(rng: Rng) -> tuple[float, ...]:
    return _integral(rng, 0.1)


@case("importance_weights", "the same with flat points alone", 400, PEAKS)
def integral_flat(rng: Rng) -> tuple[float, ...]:
    return _integral(rng, 1.0)


# -- ensembles --------------------------------------------------------------------------------------------------------

SHIFT, MEMBERS = 0.5, 10
#: Of the two normals at 1.
RATIO = float(np.exp(SHIFT - SHIFT**2 / 2))
X = Features([], computed=["x"])
TRAININGS = "the scatter of single trainings: neither the error of their mean nor that of the samples"
#: A further normal number within the sample standard deviation of MEMBERS others around their mean.
WITHIN = float(1 - 2 * t.sf(1 / np.sqrt(1 + 1 / MEMBERS), MEMBERS - 1))


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _reweighter(rng: Rng, members: int, n: int = 1000, epochs: int = 10) -> hepgen.Reweighter:
    """A short fit of small networks to so many events of each of two normals."""
    sim, data = (ak.Array({"x": rng.normal(mean, 1, n)}) for mean in (0, SHIFT))
    with _one_thread():
        model = hepgen.Reweighter(X, ensemble=members, hidden=(8,))
        return model.fit(sim, data, epochs=epochs, batch_size=n // 10, seed=int(rng.integers(2**31)), progress=False)


@case("Reweighter.weights, dw", f"one more training against {MEMBERS} at an x in [0, 1]", 300, expected=WITHIN)
def dw_training(rng: Rng) -> tuple[float, ...]:
    raw = _reweighter(rng, MEMBERS + 1).weigh(rng.random((1, 1))).replicas[0]
    return raw[-1], raw[:-1].std(ddof=1), raw[:-1].mean()


@case("Reweighter.weights, dw", "against the true ratio at x = 1, 1000 events, 10 epochs", 200, known=TRAININGS)
def dw_truth(rng: Rng) -> tuple[float, ...]:
    return _against_truth(_reweighter(rng, MEMBERS))


@case("Reweighter.weights, dw", "the same, five networks, 200 events, 30 epochs", 100, known=TRAININGS)
def dw_truth_long(rng: Rng) -> tuple[float, ...]:
    return _against_truth(_reweighter(rng, 5, 200, 30))


def _against_truth(model: hepgen.Reweighter) -> tuple[float, ...]:
    found = model.weigh(np.array([[1.0]]))
    return found.nominal[0], found.column("uncertainty")[0], RATIO


@case("histogram variation of a Reweighter", "content of 0.5 < x < 1.5 in 1e5 simulated events", 100, known=TRAININGS)
def variation(rng: Rng) -> tuple[float, ...]:
    x = np.random.default_rng(1).normal(size=100_000)
    inside = x[(x > 0.5) & (x < 1.5)]
    shifts = _reweighter(rng, MEMBERS).variations(ak.Array({"x": inside}))
    booked = histograms.book(hist.axis.Regular(1, 0.5, 1.5, name="x"), samples=["sim"], variations=["reweighter"])
    weights = {"nominal": shifts["nominal"], "reweighterUp": shifts["up"], "reweighterDown": shifts["down"]}
    found = variations.band(histograms.fill(booked, {"x": inside}, weights, sample="sim"), "sim")
    return found.nominal[0], found.up[0], float(np.exp(SHIFT * inside - SHIFT**2 / 2).sum())


@case("transfer_weights", "five networks and the factor, against the true T at c = 1", 100, known=TRAININGS)
def transfer_condition(rng: Rng) -> tuple[float, ...]:
    control, signal = rng.normal(size=(rng.poisson(1000), 1)), rng.normal(SHIFT, 1, (rng.poisson(800), 1))
    with _one_thread():
        model = ConditionTransfer(["c"], [False], 5)
        model.fit((control, None), (signal, None), seed=int(rng.integers(2**31)), checkpoint=None, progress=False)
    factor, error = transfer_factor(np.ones(len(signal)), np.ones(len(control)))
    nominal, scatter = model.weights(np.array([[1.0]]))
    return nominal[0], float(np.hypot(nominal[0] * error / factor, scatter[0])), 0.8 * RATIO


# -- likelihood -------------------------------------------------------------------------------------------------------


@case("hepgen_pyhf.fit, mu", "ten bins, 60 signal events on 500, MC statistics in the model", 200, 1.0)
def strength(rng: Rng) -> tuple[float, ...]:
    import hepgen_pyhf

    axis = hist.axis.Regular(10, 0, 1, name="x")
    booked = histograms.book(axis, samples=["signal", "background", "data"])
    for sample, mean, weight in (("signal", 600, 0.1), ("background", 5000, 0.1)):
        n = rng.poisson(mean)
        histograms.fill(booked, {"x": _shape(rng, sample, n)}, np.full(n, weight), sample=sample)
    seen = [_shape(rng, "signal", rng.poisson(60)), _shape(rng, "background", rng.poisson(500))]
    histograms.fill(booked, {"x": np.concatenate(seen)}, sample="data")
    channel = hepgen_pyhf.Channel({"signal": booked, "background": booked}, data=booked)
    found = hepgen_pyhf.fit(hepgen_pyhf.build({"SR": channel}, signal="signal"))
    return found["mu"]


def _shape(rng: Rng, sample: str, n: int) -> Float:
    if sample == "background":
        return rng.random(n)
    inside = partial(np.clip, a_min=0, a_max=0.999)
    return np.asarray(inside(rng.normal(0.5, 0.1, n)))
