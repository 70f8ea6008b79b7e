"""Names, templates and bands of the variation axis, against numbers worked out by hand."""

from __future__ import annotations

import hist
import numpy as np
import pytest

from hepgen import histograms, variations
from hepgen.errors import UsageError
from hepgen.histograms import book, fill


@pytest.fixture
def booked():
    """Two bins: ttbar has a reweighter and a scale, qcd a reweighter, data neither."""
    found = histograms.book(hist.axis.Regular(2, 0, 2, name="x"), samples=(), variations=True)
    contents = {
        ("data", "nominal"): (30, 20),
        ("ttbar", "nominal"): (9, 16),
        ("ttbar", "reweighterUp"): (12, 12),
        ("ttbar", "reweighterDown"): (6, 17),
        ("ttbar", "scaleUp"): (13, 19),
        ("ttbar", "scaleDown"): (11, 15),
        ("qcd", "nominal"): (4, 4),
        ("qcd", "reweighterUp"): (0, 6),
        ("qcd", "reweighterDown"): (5, 4),
    }
    for (sample, variation), numbers in contents.items():
        histograms.fill(found, {"x": np.repeat([0.5, 1.5], numbers)}, sample=sample, variation=variation)
    return found


def test_names_of_variations():
    assert variations.pair("reweighter") == ("reweighterUp", "reweighterDown")
    assert [variations.uncertainty_of(name) for name in ("nominal", "xUp", "JES_pt1Down", "sampleUp")] == [None, "x", "JES_pt1", "sample"]
    assert variations.paired(["bUp", "nominal", "aDown", "bDown", "aUp"]) == ["a", "b"]
    for name in ("", "xUp", 3):
        with pytest.raises(UsageError, match=f"{name!r} is no name of an uncertainty"):
            variations.pair(name)


def test_a_sample_has_the_uncertainties_that_were_filled(booked):
    assert variations.uncertainties(booked) == ["reweighter", "scale"]
    assert variations.uncertainties(booked, "ttbar") == ["reweighter", "scale"]
    assert variations.uncertainties(booked, "qcd") == ["reweighter"]
    assert variations.uncertainties(booked, "data") == []
    assert variations.uncertainties(histograms.book(hist.axis.Regular(2, 0, 2, name="x"))) == []


def test_templates_are_the_histograms_of_a_sample(booked):
    found = variations.templates(booked, "qcd")
    assert {name: one.values().tolist() for name, one in found.items()} == {
        "nominal": [4, 4],
        "reweighterUp": [0, 6],
        "reweighterDown": [5, 4],
    }
    assert [axis.name for axis in found["nominal"].axes] == ["x"]
    assert list(variations.templates(booked, "data")) == ["nominal"]
    without = histograms.fill(histograms.book(hist.axis.Regular(2, 0, 2, name="x"), samples=None), {"x": [0.5, 9.0]}, [2.0, -3.0])
    view = variations.templates(without)["nominal"].view(flow=True)
    assert (view.value.tolist(), view.variance.tolist()) == ([0, 2, 0, -3], [0, 4, 0, 9])


def test_weights_that_cancel_are_a_fill_and_not_nothing():
    found = histograms.book(hist.axis.Regular(1, 0, 1, name="x"), samples=("mc",), variations=["w"])
    histograms.fill(found, {"x": [0.5, 0.5]}, {"nominal": [1, 1], "wUp": [1, -1], "wDown": [0, 0]}, sample="mc")
    assert variations.uncertainties(found, "mc") == ["w"]
    assert variations.templates(found, "mc")["wUp"].values().tolist() == [0]


def test_split_names_sample_and_variation(booked):
    sides = ["reweighterUp", "reweighterDown"]
    expected = [("data", ["nominal"]), ("ttbar", ["nominal", *sides, "scaleUp", "scaleDown"]), ("qcd", ["nominal", *sides])]
    found = variations.split(booked)
    assert list(found) == [f"{sample}/{variation}" for sample, names in expected for variation in names]
    assert found["ttbar/scaleUp"].values().tolist() == [13, 19]


def test_band_of_a_sample(booked):
    found = variations.band(booked, "ttbar")
    assert found.nominal.tolist() == [9, 16]
    assert found.statistical.tolist() == [3, 4]
    # first bin: +3 -3 of the reweighter, +4 +2 of the scale; second: -4 +1 and +3 -1
    np.testing.assert_allclose(found.up, [np.sqrt(3**2 + 4**2), np.sqrt(1**2 + 3**2)])
    np.testing.assert_allclose(found.down, [3, np.sqrt(4**2 + 1**2)])
    np.testing.assert_allclose(found.total_up, [np.sqrt(25 + 9), np.sqrt(10 + 16)])
    np.testing.assert_allclose(found.total_down, [np.sqrt(9 + 9), np.sqrt(17 + 16)])
    np.testing.assert_allclose(found.scaled(0.5).total_up, found.total_up / 2)
    data = variations.band(booked, "data")
    assert (data.up.tolist(), data.down.tolist()) == ([0, 0], [0, 0])
    np.testing.assert_allclose(data.total_down, np.sqrt([30, 20]))


def test_band_of_a_sum_moves_samples_together(booked):
    found = variations.band(booked, ["ttbar", "qcd"])
    assert found.nominal.tolist() == [13, 20]
    np.testing.assert_allclose(found.statistical, np.sqrt([13, 20]))
    # the reweighter: +3 -4 up and -3 +1 down in the first bin, -4 +2 up and +1 +0 down in the second; the scale is ttbar's alone
    np.testing.assert_allclose(found.up, [4, np.sqrt(1**2 + 3**2)])
    np.testing.assert_allclose(found.down, [2, np.sqrt(2**2 + 1**2)])


def test_band_in_two_dimensions_with_event_weights():
    rng = np.random.default_rng(3)
    x, y, w, k = rng.normal(size=(4, 500))
    axes = hist.axis.Regular(3, -1, 1, name="x"), hist.axis.Regular(2, -1, 1, name="y")
    found = histograms.book(*axes, samples=None, variations=True)
    histograms.fill(found, {"x": x, "y": y}, {"nominal": w, "kUp": w * (1 + k), "kDown": w * (1 - k)})
    edges = [axis.edges for axis in axes]
    nominal, shift, squares = (np.histogram2d(x, y, edges, weights=weights)[0] for weights in (w, w * k, w**2))
    band = variations.band(found)
    for got, expected in ((band.nominal, nominal), (band.up, abs(shift)), (band.down, abs(shift)), (band.statistical, np.sqrt(squares))):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_unusable_histograms_are_named(booked):
    with pytest.raises(UsageError, match="the histogram has no sample 'zz': it has data, ttbar, qcd"):
        variations.templates(booked, "zz")
    with pytest.raises(UsageError, match="name a sample for a histogram that has a sample axis"):
        variations.band(booked)
    with pytest.raises(UsageError, match="no sample was named"):
        variations.band(booked, [])
    counts = hist.Hist(hist.axis.Regular(2, 0, 2, name="x"))
    with pytest.raises(UsageError, match="has Double storage, which keeps no variances: use Weight storage"):
        variations.band(counts)
    one_sided = histograms.fill(booked, {"x": [0.5]}, sample="qcd", variation="isrUp")
    with pytest.raises(UsageError, match="there is isrUp but not isrDown"):
        variations.uncertainties(one_sided)


def test_samples_are_scaled_in_every_variation() -> None:
    histogram = book(hist.axis.Regular(3, 0, 3, name="x"), variations=["flow"])
    for sample, weight in (("simulation", 2.0), ("data", 1.0)):
        fill(histogram, {"x": [0.5, 1.5, 1.5, 7.0]}, dict.fromkeys(("nominal", "flowUp", "flowDown"), np.full(4, weight)), sample=sample)
    found = variations.scaled(histogram, {"simulation": 0.25})
    for side in ("nominal", "flowUp", "flowDown"):
        before, after = (one["simulation", hist.loc(side), :].view(flow=True) for one in (histogram, found))
        assert np.array_equal(after["value"], 0.25 * before["value"])
        assert np.array_equal(after["variance"], 0.0625 * before["variance"])
    assert found["data", ...] == histogram["data", ...]
    assert histogram["simulation", hist.loc("nominal"), 0].value == 2.0  # the given one stays
    with pytest.raises(UsageError, match="has no sample 'signal'"):
        variations.scaled(histogram, {"signal": 2.0})


def test_one_side_is_mirrored_at_nominal() -> None:
    histogram = book(hist.axis.Regular(3, 0, 3, name="x"), samples=(), variations=True)
    fill(histogram, {"x": [0.5, 1.5, 1.5, 7.0]}, np.array([1.0, 2.0, 3.0, 4.0]), sample="background")
    fill(histogram, {"x": [0.5, 0.5, 1.5]}, np.array([2.0, 2.0, 1.0]), sample="background", variation="flowUp")
    fill(histogram, {"x": [2.5]}, np.array([9.0]), sample="signal")
    found = variations.mirrored(histogram, "flow")
    assert list(found.axes["variation"]) == ["nominal", "flowUp", "flowDown"]
    for side in ("nominal", "flowUp"):
        assert np.array_equal(
            found["background", hist.loc(side), :].view(flow=True), histogram["background", hist.loc(side), :].view(flow=True)
        )
    down = found["background", hist.loc("flowDown"), :]
    assert down.values(flow=True).tolist() == [0.0, 2 * 1 - 4, 2 * 5 - 1, 0.0, 8.0]
    assert down.variances(flow=True).tolist() == [0.0, 8.0, 1.0, 0.0, 0.0]
    assert variations.uncertainties(found, "signal") == []
    assert variations.uncertainties(found, "background") == ["flow"]
    with pytest.raises(UsageError, match="mirrored from one side: of flow there is flowUp and flowDown"):
        variations.mirrored(found, "flow")
    with pytest.raises(UsageError, match="mirrored from one side: of scale there is none"):
        variations.mirrored(histogram, "scale")
    with pytest.raises(UsageError, match="none that is called variation|has axes x"):
        variations.mirrored(book(hist.axis.Regular(3, 0, 3, name="x"), samples=None), "flow")
