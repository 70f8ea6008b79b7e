"""Scalings: exact inverses, weighted fits against numpy and scipy, JSON without loss, and errors that name the column."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.preprocessing import QuantileTransformer

from hepgen.errors import InputError, ModelFileError, UsageError
from hepgen.events import Angle, Chain, Features, Identity, Log, LogitRange, MaxAbs, Quantile, Scaler, Standard
from hepgen.events.quantiles import cumulative
from hepgen.events.scalings import Scaling, wrap_angle

RNG = np.random.default_rng(20)
COLUMN = RNG.gamma(2.0, 20.0, 5000) + 1.0

BATTERY = {
    "identity": Identity(),
    "standard": Standard(),
    "maxabs": MaxAbs(),
    "log": Log(shift=5.0),
    "logit": LogitRange(0.0, 1000.0),
    "quantile": Quantile(),
    "quantile-uniform": Quantile(n_quantiles=50, output="uniform"),
    "chain": Chain([Log(), Standard()]),
    "chain-empty": Chain([]),
}


@pytest.fixture(params=list(BATTERY))
def scaling(request: pytest.FixtureRequest) -> Scaling:
    return Scaling.from_dict(BATTERY[request.param].to_dict()).fit(COLUMN)


def test_inverse_is_exact_inside_and_outside_of_the_fitted_range(scaling: Scaling) -> None:
    outside = np.array([0.01, 0.5, 300.0, 500.0, 999.0])
    for x in (COLUMN, outside):
        y = scaling.forward(x)
        np.testing.assert_allclose(scaling.inverse(y), x, rtol=1e-12, atol=1e-12)
        assert (np.diff(scaling.forward(np.sort(x))) >= 0).all()
    assert (np.diff(scaling.forward(outside)) > 0).all()


def test_json_keeps_every_bit(scaling: Scaling) -> None:
    again = Scaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
    assert again == scaling
    assert type(again) is type(scaling)
    x = np.append(COLUMN, [0.01, 900.0])
    np.testing.assert_array_equal(again.forward(x), scaling.forward(x))
    np.testing.assert_array_equal(again.inverse(scaling.forward(x)), scaling.inverse(scaling.forward(x)))


def test_nothing_given_is_changed_and_nan_stays_nan(scaling: Scaling) -> None:
    x = COLUMN.copy()
    y = scaling.forward(x)
    kept = y.copy()
    y[0] = -1.0
    np.testing.assert_array_equal(x, COLUMN)
    scaling.inverse(kept)[:] = 0.0
    np.testing.assert_array_equal(scaling.forward(x), kept)
    assert np.isnan(scaling.forward(np.array([np.nan, 5.0]))).tolist() == [True, False]
    assert scaling.forward(np.empty(0)).shape == scaling.inverse(np.empty(0)).shape == (0,)


def test_standard_and_maxabs_are_their_formulas_with_signed_weights() -> None:
    weights = RNG.normal(1.0, 0.7, len(COLUMN))
    standard = Standard().fit(COLUMN, weights)
    mean = sum(w * x for w, x in zip(weights, COLUMN, strict=True)) / sum(weights)
    variance = sum(w * (x - mean) ** 2 for w, x in zip(weights, COLUMN, strict=True)) / sum(weights)
    assert (standard.mean, standard.std) == (pytest.approx(mean), pytest.approx(math.sqrt(variance)))
    weights[np.argmax(COLUMN)] = 0.0
    assert MaxAbs().fit(-COLUMN, weights).scale == np.sort(COLUMN)[-2]


def test_logit_range_never_leaves_the_range_and_log_is_the_logarithm() -> None:
    scaling = LogitRange(-1.0, 3.0)
    inside = scaling.inverse(np.array([-1e3, -30.0, 0.0, 30.0, 1e3]))
    assert ((inside > -1.0) & (inside < 3.0)).all()
    assert inside[2] == 1.0
    near = np.array([-1 + 1e-9, 3 - 1e-9])
    np.testing.assert_allclose(scaling.inverse(scaling.forward(near)), near, rtol=1e-15)
    assert scaling.forward(np.array([2.0]))[0] == pytest.approx(math.log(3.0))
    assert Log(1.0).forward(np.array([math.e - 1]))[0] == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"strictly between -1 and 3 .*: 2 of 3 do not \(-1 at row 0, 4 at row 2\)"):
        scaling.forward(np.array([-1.0, 0.0, 4.0]))
    with pytest.raises(InputError, match=r"must lie above -1 .*: 1 of 2 do not \(-2 at row 1\)"):
        Log(1.0).forward(np.array([0.0, -2.0]))


@settings(deadline=None)
@given(st.floats(-1e6, 1e6))
def test_wrapping_keeps_what_is_inside_and_the_angle(angle: float) -> None:
    wrapped = float(wrap_angle(np.array([angle]))[0])
    assert -math.pi <= wrapped < math.pi
    if -math.pi <= angle < math.pi:
        assert wrapped == angle
    assert (math.cos(wrapped), math.sin(wrapped)) == pytest.approx((math.cos(angle), math.sin(angle)), abs=1e-9)
    scaling = Angle()
    assert scaling.forward(np.array([angle])) == scaling.inverse(np.array([angle])) == wrapped


def test_wrapping_at_the_seam() -> None:
    edges = np.array([np.pi, -np.pi, np.nextafter(-np.pi, -4), np.nextafter(np.pi, 4), 3 * np.pi, -5e-324, 2 * np.pi])
    wrapped = wrap_angle(edges)
    assert ((wrapped >= -np.pi) & (wrapped < np.pi)).all()
    assert wrapped[0] == wrapped[1] == -np.pi
    assert wrapped[5] == -5e-324
    assert np.isnan(wrap_angle(np.array([np.inf, -np.inf, np.nan]))).all()


# --- quantiles -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["normal", "uniform"])
def test_quantile_agrees_with_scikit_learn_in_the_bulk(output: str) -> None:
    reference = QuantileTransformer(n_quantiles=1000, output_distribution=output, subsample=None).fit(COLUMN[:, None])
    x = np.quantile(COLUMN, np.linspace(0.01, 0.99, 333))
    np.testing.assert_allclose(Quantile(output=output).fit(COLUMN).forward(x), reference.transform(x[:, None])[:, 0], atol=5e-3)


def test_quantile_output_is_normal_also_for_new_events() -> None:
    x = RNG.gamma(2.0, 20.0, 200_000)
    scaling = Quantile().fit(x[:100_000])
    y = scaling.forward(x[100_000:])
    assert stats.kstest(y, "norm").statistic < 2.0 / math.sqrt(50_000)
    assert (y.mean(), y.std()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    assert stats.kstest(scaling.inverse(RNG.normal(size=100_000)), stats.gamma(2.0, scale=20.0).cdf).statistic < 0.01


def test_weighted_quantiles_are_those_of_repeated_events() -> None:
    repeats = RNG.integers(0, 4, len(COLUMN))
    weighted = Quantile(200).fit(COLUMN, repeats.astype(float))
    repeated = Quantile(200).fit(np.repeat(COLUMN, repeats) + RNG.normal(0, 1e-9, repeats.sum()))
    x = np.quantile(COLUMN, np.linspace(0.01, 0.99, 200))
    np.testing.assert_allclose(weighted.forward(x), repeated.forward(x), atol=0.01)


def test_signed_weights_cancel_a_contamination() -> None:
    signal, extra = RNG.normal(0, 1, 100_000), RNG.normal(3, 1, 20_000)
    # the contamination enters once with weight 1 and is taken out by independent events of weight -1
    x = np.concatenate([signal, extra, RNG.normal(3, 1, 20_000)])
    weights = np.concatenate([np.ones(120_000), -np.ones(20_000)])
    scaling = Quantile(100).fit(x, weights)
    grid = np.linspace(-2, 1.5, 30)
    np.testing.assert_allclose(scaling.forward(grid), grid, atol=0.03)
    np.testing.assert_allclose(scaling.inverse(scaling.forward(x)), x, rtol=1e-12, atol=1e-11)


def test_cumulative_is_repaired_to_its_running_maximum() -> None:
    x, weights = np.array([3.0, 1.0, 2.0, 2.0, 4.0]), np.array([-0.5, 1.0, 2.0, -0.5, 2.0])
    unique, below, above, repeats = cumulative(x, weights)
    # running sums 1, 2.5, 2, 4: the third falls, so its value adds nothing
    assert unique.tolist() == [1.0, 2.0, 4.0]
    assert (below.tolist(), above.tolist()) == ([0.0, 0.25, 0.625], [0.25, 0.625, 1.0])
    assert repeats.tolist() == [1, 2, 1]
    unique, below, above, repeats = cumulative(np.array([1.0, 1.0, 5.0]), None)
    assert (unique.tolist(), above.tolist(), repeats.tolist()) == ([1.0, 5.0], [2 / 3, 1.0], [2, 1])


def test_a_hard_gap_stays_nearly_empty() -> None:
    eta = RNG.uniform(-2.37, 2.37, 300_000)
    eta = eta[(np.abs(eta) < 1.37) | (np.abs(eta) > 1.52)]
    for weights in (None, RNG.uniform(0.5, 1.5, len(eta))):
        scaling = Quantile().fit(eta, weights)
        drawn = scaling.inverse(RNG.normal(size=1_000_000))
        in_gap = (np.abs(drawn) > 1.37) & (np.abs(drawn) < 1.52)
        assert in_gap.mean() < 2e-4
        assert (np.abs(drawn) > 2.37).mean() < 1e-4
        inside = np.linspace(1.371, 1.519, 100)
        np.testing.assert_allclose(scaling.inverse(scaling.forward(inside)), inside, rtol=1e-12)
        assert (np.diff(scaling.forward(inside)) > 0).all()


def test_a_spike_of_equal_values_stays_a_spike_of_its_weight() -> None:
    isolation = np.where(RNG.uniform(size=100_000) < 0.3, 0.0, RNG.exponential(2.0, 100_000))
    scaling = Quantile().fit(isolation)
    x = np.append(isolation[:1000], [-1e-3, 0.0, 1e-12, 1e-3, 100.0])
    np.testing.assert_allclose(scaling.inverse(scaling.forward(x)), x, rtol=1e-12, atol=1e-15)
    drawn = scaling.inverse(RNG.normal(size=100_000))
    assert (np.abs(drawn) < 1e-6).mean() == pytest.approx(0.3, abs=0.01)
    # below the spike there were no events, and values a little outside are not thrown far away
    assert -20 < scaling.forward(np.array([-1.0]))[0] < scaling.forward(np.array([0.0]))[0]
    assert drawn.min() > -0.1


def test_counts_come_back_as_counts() -> None:
    jets = RNG.poisson(2.5, 50_000).astype(float)
    scaling = Quantile().fit(jets)
    np.testing.assert_allclose(scaling.inverse(scaling.forward(jets)), jets, rtol=1e-12, atol=1e-12)
    drawn = scaling.inverse(RNG.normal(size=200_000))
    near = np.abs(drawn - np.rint(drawn)) < 1e-6
    assert near.mean() > 0.998
    frequencies = np.bincount(np.rint(drawn[near]).astype(int), minlength=12)[:8] / len(drawn)
    np.testing.assert_allclose(frequencies, stats.poisson(2.5).pmf(np.arange(8)), atol=0.01)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1.0, 1.5]), min_size=2, max_size=60).filter(lambda x: len(set(x)) > 1),
    st.integers(2, 30),
    st.sampled_from(["normal", "uniform"]),
    st.randoms(use_true_random=False),
)
def test_quantile_is_strictly_monotone_and_invertible_for_any_column(
    values: list[float], n_quantiles: int, output: str, random: Any
) -> None:
    x = np.array(values)
    weights = np.array([random.choice([1.0, 2.0, -0.3]) for _ in values])
    use = weights if weights.sum() > 0.5 else None
    scaling = Quantile(n_quantiles, output)
    try:
        scaling.fit(x, use)
    except InputError as error:
        assert "only one value whose weights do not cancel" in str(error)  # noqa: PT017
        assert use is not None
        return
    assert scaling.x is not None
    assert scaling.y is not None
    assert (np.diff(scaling.x) > 0).all()
    assert (np.diff(scaling.y) > 0).all()
    span = x.max() - x.min()
    points = np.concatenate([x, np.linspace(x.min() - span, x.max() + span, 40)])
    np.testing.assert_allclose(scaling.inverse(scaling.forward(points)), points, rtol=1e-12, atol=1e-12 * (span + np.abs(x).max()))
    far = np.array([x.min() - 2 * span, x.min(), x.max(), x.max() + 2 * span])
    assert (np.diff(scaling.forward(far)) > 0).all()


# --- scaler ----------------------------------------------------------------------------------------------------------------------


def test_the_default_scaler_is_normal_and_wraps_angles() -> None:
    features = Features(["photon[0].pt", "photon[0].phi"], computed=["mass(photon[0], photon[1])"], scalings={"photon[0].pt": Log()})
    scaler = Scaler.default(features)
    assert scaler.names == list(features.names)
    assert scaler.scalings == [Log(), Chain([Angle(), Quantile()]), Quantile()]
    matrix = np.stack([COLUMN, RNG.uniform(-np.pi, np.pi, len(COLUMN)), COLUMN[::-1]], axis=1)
    scaled = scaler.fit(matrix).forward(matrix)
    assert stats.kstest(scaled[:, 1], "norm").pvalue > 0.01
    np.testing.assert_allclose(scaler.inverse(scaled), matrix, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scaler.forward(matrix + np.array([0, 2 * np.pi, 0])), scaled, atol=1e-6)
    assert (np.abs(scaler.inverse(np.array([[0.0, 9.0, 0.0], [0.0, -9.0, 0.0]]))[:, 1]) <= np.pi).all()
    assert features.scalings["photon[0].pt"] is not scaler.scalings[0]
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert again == scaler
    np.testing.assert_array_equal(again.forward(matrix), scaled)


def test_scaler_takes_any_strides_and_no_events() -> None:
    matrix = RNG.normal(size=(100, 6))
    scaler = Scaler([Standard(), Quantile(10), MaxAbs()]).fit(matrix[:, ::2])
    expected = np.stack([scaling.forward(matrix[:, 2 * column]) for column, scaling in enumerate(scaler.scalings)], axis=1)
    np.testing.assert_array_equal(scaler.forward(matrix[:, ::2]), expected)
    np.testing.assert_array_equal(scaler.forward(np.asfortranarray(matrix[:, ::2])), expected)
    assert scaler.forward(np.empty((0, 3))).shape == scaler.inverse(np.empty((0, 3))).shape == (0, 3)
    assert scaler.forward(matrix[:1, ::2]).tolist() == expected[:1].tolist()


@pytest.mark.parametrize(
    ("column", "weights", "match"),
    [
        (np.ones(5), None, r"column 'eta' is constant \(1 in all 5 events\)"),
        (np.array([1.0, 1, 2]), np.array([1.0, 1, 0]), r"column 'eta' is constant \(1 in all 2 events\)"),
        (np.array([1.0, 2, 3]), np.array([1.0, -2, 1]), r"weights of column 'eta' sum to 0: a fit needs a positive sum"),
        (np.array([1.0, 2, 3]), np.array([0.1, 0.2, -0.3]), r"weights of column 'eta' sum to"),
        (np.array([1.0, 2, 3]), np.array([-1.0, -2, 1]), r"weights of column 'eta' sum to -2"),
        (np.array([1.0, 2, 3]), np.ones(2), r"column 'eta' has 3 events and \(2,\) weights"),
        (np.array([1.0, 2, 3]), np.array([1.0, np.nan, 1]), r"weights of column 'eta' must be finite: 1 of 3 do not"),
        (np.array([1.0, np.inf, np.nan]), None, r"column 'eta' must be finite: 2 of 3 do not \(inf at row 1, nan at row 2\)"),
        (np.empty(0), None, r"column 'eta' has shape \(0,\): a scaling is fitted to at least one event"),
    ],
)
@pytest.mark.parametrize("kind", [Identity, Standard, MaxAbs, Quantile, lambda: Chain([Angle(), Standard()])])
def test_columns_that_cannot_be_fitted_are_named(kind: Any, column: Any, weights: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Scaler([kind()], ["eta"]).fit(column[:, None], weights)


def test_a_variance_that_negative_weights_cancel_is_refused() -> None:
    with pytest.raises(InputError, match="column 'x' has a weighted variance of"):
        Scaler([Standard()], ["x"]).fit(np.array([[0.0], [1.0], [-5.0], [6.0]]), np.array([5.0, 5.0, -1.0, -1.0]))


def test_wrong_use_is_named() -> None:
    with pytest.raises(UsageError, match="this Quantile scaling was not fitted yet"):
        Scaler([Chain([Angle(), Quantile()])]).forward(np.zeros((2, 1)))
    with pytest.raises(InputError, match=r"matrix has shape \(2, 3\), but the scalings are for 1 columns: pt"):
        Scaler([Identity()], ["pt"]).forward(np.zeros((2, 3)))
    with pytest.raises(InputError, match="column 'pt': values must lie above 0"):
        Scaler([Log()], ["pt"]).forward(np.zeros((2, 1)))
    with pytest.raises(UsageError, match="2 scalings cannot have 1 names"):
        Scaler([Identity(), Identity()], ["pt"])
    with pytest.raises(UsageError, match="neither 'normal' nor 'uniform'"):
        Quantile(output="flat")
    with pytest.raises(UsageError, match="integer of 2 or more"):
        Quantile(n_quantiles=1)
    with pytest.raises(UsageError, match="needs low < high"):
        LogitRange(1.0, 1.0)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "Nothing"},
        {},
        "Standard",
        {"kind": "Standard", "mean": 0.0},
        {"kind": "Standard", "mean": 0.0, "std": 0.0},
        {"kind": "Standard", "mean": math.nan, "std": 1.0},
        {"kind": "LogitRange", "low": 2, "high": 1},
        {"kind": "Quantile", "n_quantiles": 9, "output": "normal", "x": [0.0, 0.0], "y": [0.0, 1.0], "tails": [1.0, 1.0]},
        {"kind": "Quantile", "n_quantiles": 9, "output": "normal", "x": [0.0, 1.0], "y": [0.0, 1.0], "tails": [1.0]},
        {"kind": "Chain", "scalings": [{"kind": "Standard"}]},
    ],
)
def test_damaged_descriptions_are_refused(data: Any) -> None:
    with pytest.raises(ModelFileError, match=r"description of a.* is damaged"):
        Scaling.from_dict(data)
    with pytest.raises(ModelFileError, match=r"description of .* damaged"):
        Scaler.from_dict({"scalings": [data], "names": ["x"]})
    with pytest.raises(ModelFileError, match="description of the scalings is damaged"):
        Scaler.from_dict({"names": ["x"]})
