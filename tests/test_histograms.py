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
