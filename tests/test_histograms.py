"""Histograms against numpy's, axes against what a physicist would draw."""

from __future__ import annotations

import awkward as ak
import hist
import numpy as np
import pytest

from hepgen import histograms
from hepgen.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("photon[0].pt", r"$p_{T}^{\gamma_{1}}$ [GeV]"),
        ("Photon_eta[1]", r"$\eta^{\gamma_{2}}$"),
        ("muon[1].phi", r"$\phi^{\mu_{2}}$ [rad]"),
        ("MET.pt", r"$p_{T}^{\mathrm{miss}}$ [GeV]"),
        ("fat_jet[0].mass", r"$m^{\mathrm{fat jet}_{1}}$ [GeV]"),
        ("pt2", r"$p_{T}^{2}$ [GeV]"),
        ("m_yy", r"$m_{\gamma\gamma}$ [GeV]"),
        ("m_mumu", r"$m_{\mu\mu}$ [GeV]"),
        ("m_12", r"$m_{12}$ [GeV]"),
        ("mass(photon[0], photon[1])", "mass(photon[0], photon[1]) [GeV]"),
        ("deltaR(jet[0], jet[1])", "deltaR(jet[0], jet[1])"),
        ("score", "score"),
    ],
)
def test_labels_have_symbols_and_units(name, text):
    assert histograms.label(name) == text


@pytest.mark.parametrize(
    ("name", "values", "low", "high", "width"),
    [
        ("photon[0].pt", np.linspace(35.2, 163, 100), 35, 165, 2.5),
        ("photon[0].eta", [-1.0, 2.37], -2.4, 2.4, 0.1),
        ("m_yy", np.linspace(60.1, 299.9, 100), 60, 300, 5),
        # three of a thousand lie far above: the axis stops near the rest
        ("photon[0].pt", np.concatenate([np.linspace(0, 100, 1000), [900.0, 950, 1000]]), 0, 100, 2),
        ("x", [3.0, 3.0], 2.5, 3.5, 0.02),
    ],
)
def test_axes_have_round_edges_around_the_data(name, values, low, high, width):
    axis = histograms.axis_for(name, values)
    assert axis.edges[0] == pytest.approx(low, abs=1e-12)
    assert axis.edges[-1] == pytest.approx(high, abs=1e-12)
    np.testing.assert_allclose(np.diff(axis.edges), width, rtol=1e-9)
    assert (axis.name, axis.label) == (name, histograms.label(name))


def test_phi_is_circular():
    axis = histograms.axis_for("photon[0].phi", [0.1])
    assert axis.traits.circular
    booked = histograms.fill(histograms.book(axis, samples=None), {"photon[0].phi": [-np.pi + 0.01, np.pi + 0.01]})
    assert booked.view().value[0] == 2


def test_jagged_columns_take_one_weight_an_event():
    pt = ak.Array([[10.0, 20.0], [], [30.0, None], None, [40.0]])
    w = np.array([1.0, 2.0, -3.0, 5.0, 0.5])
    booked = histograms.fill(histograms.book(hist.axis.Regular(5, 0, 50, name="pt")), {"pt": pt}, w, sample="data")
    view = booked["data", :].view()
    np.testing.assert_array_equal(view.value, [0, 1, 1, -3, 0.5])
    np.testing.assert_array_equal(view.variance, [0, 1, 1, 9, 0.25])


def test_flat_column_is_repeated_along_lists():
    booked = histograms.book(hist.axis.Integer(0, 4, name="n"), hist.axis.Integer(0, 4, name="x"), samples=None)
    histograms.fill(booked, {"n": np.array([2, 1]), "x": ak.Array([[0, 1], [2]])}, [1.0, 3.0])
    expected = np.zeros((4, 4))
    expected[2, 0] = expected[2, 1] = 1
    expected[1, 2] = 3
    np.testing.assert_array_equal(booked.view().value, expected)


def test_fills_in_chunks_add_up_also_across_samples():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=1000), rng.normal(1, 1, size=1000)
    axis = histograms.axis_for("x", x)
    whole = histograms.fill(histograms.book(axis), {"x": x}, w, sample="data")
    parts = [
        histograms.fill(histograms.book(axis, samples=()), {"x": x[part]}, w[part], sample="data")
        for part in (slice(0, 300), slice(300, None))
    ]
    other = histograms.fill(histograms.book(axis, samples=()), {"x": x}, sample="simulation")
    total = parts[0] + parts[1] + other
    np.testing.assert_allclose(total["data", :].view().value, whole["data", :].view().value, rtol=1e-12)
    np.testing.assert_allclose(total["data", :].view().variance, np.histogram(x, axis.edges, weights=w**2)[0], rtol=1e-12)
    assert total["simulation", :].sum(flow=True).value == 1000
    assert histograms.fill(histograms.book(axis), {"x": np.array([])}, [], sample="data").sum().value == 0


def looped(edges, events, w):
    """Contents and squares with under- and overflow, (2, bins + 2), entry by entry in float64; an event is a number, a list or None."""
    found = np.zeros((2, len(edges) + 1))
    for event, weight in zip(events, w, strict=True):
        for x in event if isinstance(event, list) else [event]:
            if x is not None:
                found[:, np.searchsorted(edges, x, side="right")] += weight, weight**2
    return found


def view(histogram, sample, variation):
    """Contents and variances with flow bins, (2, bins + 2)."""
    template = histogram[{"dataset": hist.loc(sample), "variation": hist.loc(variation)}].view(flow=True)
    return np.stack([template.value, template.variance])


NAMES = ("nominal", "reweighterUp", "reweighterDown", "sampleUp", "sampleDown")
MASS = hist.axis.Regular(6, -2, 2, name="mass")


def drawn(n, seed=0, *, exact=False):
    """Jagged columns with None, missing and empty lists, and signed weights by variation; `exact` ones are multiples of 1/64."""
    rng = np.random.default_rng(seed)
    x = ak.Array([None if k == 4 else [None if v > 2.2 else v for v in rng.normal(size=k)] for k in rng.integers(0, 5, n)])
    w = {name: rng.normal(1, 1, n) for name in NAMES}
    return x, {name: np.round(64 * values) / 64 for name, values in w.items()} if exact else w


def test_variation_axis_comes_behind_the_sample_axis():
    assert histograms.VARIATION_AXIS == "variation"
    booked = histograms.book(MASS, variations=["reweighter"])
    assert [axis.name for axis in booked.axes] == ["dataset", "variation", "mass"]
    assert list(booked.axes["variation"]) == ["nominal", "reweighterUp", "reweighterDown"]
    assert booked.axes["variation"].traits.growth
    assert booked.storage_type is hist.storage.Weight
    assert list(histograms.book(MASS, samples=None, variations=True).axes[0]) == ["nominal"]
    assert [axis.name for axis in histograms.book(MASS).axes] == ["dataset", "mass"]


def test_weights_by_variation_fill_all_of_them_from_jagged_columns():
    x, w = drawn(400)
    booked = histograms.fill(histograms.book(MASS, samples=(), variations=True), {"mass": x}, w, sample="mc")
    for name in NAMES:
        np.testing.assert_allclose(view(booked, "mc", name), looped(MASS.edges, x.to_list(), w[name]), rtol=0, atol=1e-12)


def test_weights_by_variation_fill_flat_columns_and_lists_together():
    rng = np.random.default_rng(2)
    n, lists, w = 300, rng.integers(0, 3, 300), {name: rng.normal(1, 1, 300) for name in ("nominal", "tUp", "tDown")}
    flat, jagged = rng.uniform(-1, 4, n), [rng.normal(size=k).tolist() for k in lists]
    axes = hist.axis.Regular(3, 0, 3, name="met"), MASS
    columns = {"met": ak.mask(flat, flat < 3.5), "mass": ak.Array(jagged)}
    booked = histograms.fill(histograms.book(*axes, samples=None, variations=True), columns, w)
    x, y = np.repeat(flat, lists), np.concatenate(jagged)
    kept = x < 3.5
    for name, values in w.items():
        expected = np.histogram2d(x[kept], y[kept], [axis.edges for axis in axes], weights=np.repeat(values, lists)[kept])[0]
        np.testing.assert_allclose(booked[hist.loc(name), ...].values(), expected, rtol=0, atol=1e-12)


def test_regular_columns_take_their_own_events_weight():
    # numpy lines (2,) weights up with the last axis of a (2, 2) column
    booked = histograms.book(hist.axis.Integer(0, 4, name="x"), samples=None)
    histograms.fill(booked, {"x": np.array([[0, 1], [2, 3]])}, [1.0, 5.0])
    assert booked.values().tolist() == [1, 1, 5, 5]


def test_other_columns_fill_one_variation_and_nominal_is_the_default():
    x, w = drawn(200)
    booked = histograms.book(MASS, samples=(), variations=["scale"])
    histograms.fill(booked, {"mass": x}, w["nominal"], sample="mc")
    for side, factor in (("scaleUp", 1.25), ("scaleDown", 0.75), ("weightUp", 1)):
        histograms.fill(booked, {"mass": factor * x}, w["nominal"], sample="mc", variation=side)
    expected = {"nominal": 1, "scaleUp": 1.25, "scaleDown": 0.75, "weightUp": 1}
    assert list(booked.axes["variation"]) == ["nominal", "scaleUp", "scaleDown", "weightUp"]
    for name, factor in expected.items():
        reference = looped(MASS.edges, (factor * x).to_list(), w["nominal"])
        np.testing.assert_allclose(view(booked, "mc", name), reference, rtol=0, atol=1e-12)


def in_chunks(x, w, size):
    """Sum of histograms of one chunk each, that meet samples and variations in an order of their own."""
    rng = np.random.default_rng(size)
    total = histograms.book(MASS, samples=(), variations=True)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        booked = histograms.book(MASS, samples=(), variations=True)
        for sample in rng.permutation(list(w)):
            histograms.fill(booked, {"mass": x[part]}, {name: w[sample][name][part] for name in rng.permutation(NAMES)}, sample=sample)
        total = total + booked
    return total


def test_chunks_of_any_size_add_up_to_one_pass():
    n = 1010
    x, exact = drawn(n, exact=True)
    w = {"exact": exact, "rounded": drawn(n)[1]}
    whole = in_chunks(x, w, n)
    for size in (1, 7, 1000):
        parts = in_chunks(x, w, size)
        assert set(parts.axes["variation"]) == set(NAMES)
        for name in NAMES:
            # bit for bit where every sum has its place in 53 bits; else sums in another order differ by (terms) eps sum|term| at most
            np.testing.assert_array_equal(view(parts, "exact", name), looped(MASS.edges, x.to_list(), exact[name]))
            bound = np.finfo(float).eps * n * looped(MASS.edges, x.to_list(), np.abs(w["rounded"][name]))
            assert np.all(np.abs(view(parts, "rounded", name) - view(whole, "rounded", name)) <= bound)


def test_no_events_fill_nothing_and_still_add_up():
    empty = histograms.book(MASS, samples=(), variations=True)
    for x in (np.array([]), ak.Array([[]])[:0], ak.Array([[], [], None])):
        histograms.fill(empty, {"mass": x}, {name: np.ones(len(x)) for name in NAMES}, sample="mc")
    assert empty.sum(flow=True).value == 0
    x, w = drawn(50)
    booked = histograms.fill(histograms.book(MASS, samples=(), variations=True), {"mass": x}, w, sample="mc")
    np.testing.assert_array_equal(view(empty + booked, "mc", "sampleUp"), view(booked, "mc", "sampleUp"))


@pytest.mark.parametrize(
    ("weights", "variation", "error", "message"),
    [
        ({"xUp": [1.0], "xDown": [1.0]}, None, UsageError, "the variations xUp, xDown lack nominal: give it too"),
        ({"nominal": [1.0], "xUp": [1.0]}, None, UsageError, "there is xUp but not xDown: give both sides of every uncertainty"),
        ({"nominal": [1.0], "x": [1.0]}, None, UsageError, "'x' is no variation: it is nominal, or an uncertainty's name with Up or Down"),
        ({"nominal": [1.0], "Up": [1.0]}, None, UsageError, "'Up' is no variation"),
        ({"nominal": [1.0]}, "xUp", UsageError, "give the weights by variation or variation='xUp', not both"),
        ([1.0], "up", UsageError, "'up' is no variation"),
        (
            {"nominal": [1.0], "xUp": [1.0, 2.0], "xDown": [1.0]},
            None,
            InputError,
            r"xUp weights of mass have shape \(2,\), expected \(1,\)",
        ),
        ({"nominal": [1.0], "xUp": [1.0], "xDown": [np.inf]}, None, InputError, "the xDown weights of mass have 1 NaN or infinite entries"),
        ({"nominal": [np.nan], "xUp": [1.0], "xDown": [1.0]}, None, InputError, "the weights of mass have 1 NaN or infinite entries"),
    ],
)
def test_unusable_variations_are_named_and_fill_nothing(weights, variation, error, message):
    booked = histograms.book(MASS, samples=None, variations=True)
    with pytest.raises(error, match=message):
        histograms.fill(booked, {"mass": [0.5]}, weights, variation=variation)
    assert booked.sum(flow=True).value == 0
    assert list(booked.axes["variation"]) == ["nominal"]


def test_variations_need_their_axis_and_names_that_are_free():
    plain = histograms.book(MASS, samples=None)
    for given in ({"weights": {"nominal": [1.0]}}, {"variation": "nominal"}):
        with pytest.raises(UsageError, match="has no variation axis: book it with variations=True"):
            histograms.fill(plain, {"mass": [0.5]}, **given)
    with pytest.raises(UsageError, match="'reweighterUp' is no name of an uncertainty: give a word without the Up or Down"):
        histograms.book(MASS, variations=["reweighterUp"])
    with pytest.raises(UsageError, match="the uncertainties are 'reweighter', expected a list of names"):
        histograms.book(MASS, variations="reweighter")
    for name in ("variation", "weight"):
        with pytest.raises(UsageError, match=f"an axis has the name '{name}', which is taken"):
            histograms.book(hist.axis.Regular(2, 0, 1, name=name), variations=True)
    fixed = hist.Hist(hist.axis.StrCategory(["nominal"], name="variation"), MASS, storage=hist.storage.Weight())
    with pytest.raises(UsageError, match="the variation axis has no category 'xUp' and does not grow"):
        histograms.fill(fixed, {"mass": [0.5]}, variation="xUp")


def test_matrices_become_one_histogram_a_column():
    rng = np.random.default_rng(1)
    data, sim = rng.normal(size=(500, 2)), rng.normal(size=(400, 2))
    w = rng.uniform(-0.2, 1, 400)
    found = histograms.from_matrices(
        ["eta1", "x"], {"data": data, "simulation": sim}, {"simulation": w}, axes={"x": hist.axis.Regular(4, -1, 1, name="x")}
    )
    assert list(found) == ["eta1", "x"]
    np.testing.assert_allclose(found["x"]["simulation", :].view().value, np.histogram(sim[:, 1], np.linspace(-1, 1, 5), weights=w)[0])
    assert found["eta1"]["data", :].sum(flow=True).value == 500
    assert isinstance(found["x"].storage_type(), hist.storage.Weight)


@pytest.mark.parametrize(
    ("columns", "weights", "sample", "error", "message"),
    [
        ({"y": [1.0]}, None, "data", UsageError, "has axes x, but columns y"),
        ({"x": [1.0]}, None, None, UsageError, "give sample="),
        ({"x": [1.0]}, [np.nan], "data", InputError, r"the weights of x have 1 NaN or infinite entries \(first at \[0\]\)"),
        ({"x": [1.0]}, [1.0, 2.0], "data", InputError, r"expected \(1,\)"),
        ({"x": [1.0, np.nan]}, None, "data", InputError, "column x holds 1 NaN"),
    ],
)
def test_unusable_fills_are_named(columns, weights, sample, error, message):
    booked = histograms.book(hist.axis.Regular(2, 0, 2, name="x"))
    with pytest.raises(error, match=message):
        histograms.fill(booked, columns, weights, sample=sample)


def test_columns_that_do_not_match_are_named():
    booked = histograms.book(hist.axis.Regular(2, 0, 2, name="x"), hist.axis.Regular(2, 0, 2, name="y"), samples=None)
    with pytest.raises(InputError, match="different numbers of events"):
        histograms.fill(booked, {"x": [1.0], "y": [1.0, 2.0]})
    with pytest.raises(InputError, match="do not have the same lists"):
        histograms.fill(booked, {"x": ak.Array([[1.0, 1.0]]), "y": ak.Array([[1.0, 1.0, 1.0]])})
    with pytest.raises(InputError, match="is empty or not finite"):
        histograms.axis_for("x", [])
    with pytest.raises(UsageError, match="no sample was given"):
        histograms.from_matrices(["x"], {})
