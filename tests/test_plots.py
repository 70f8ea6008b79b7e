"""What the pictures hold: lines at the histograms' values, ratios, labels, no figure left open."""

from __future__ import annotations

import builtins

import hist
import numpy as np
import pytest

from hepgen import histograms, plots
from hepgen.errors import InputError, MissingDependency, OutputError, UsageError
from hepgen.metrics import classifier_auc, correlation_table

pytest.importorskip("matplotlib")
pytest.importorskip("mplhep")


@pytest.fixture
def booked():
    found = histograms.book(hist.axis.Regular(4, 0, 8, name="photon[0].pt", label=histograms.label("photon[0].pt")))
    for sample, contents, weight in (("data", [4, 10, 6, 0], 1), ("simulation", [8, 8, 16, 8], 0.5), ("transformed", [8, 20, 12, 0], 2)):
        histograms.fill(found, {"photon[0].pt": np.repeat([1.0, 3, 5, 7], contents)}, np.full(sum(contents), weight), sample=sample)
    return found


def test_ratio_panel_holds_shapes_over_data_with_errors(booked, tmp_path):
    figure = plots.marginals({"photon[0].pt": booked}, path=tmp_path / "m.png")
    top, bottom = figure.axes
    assert (top.get_ylabel(), bottom.get_xlabel()) == ("Events / 2 GeV", r"$p_{T}^{\gamma_{1}}$ [GeV]")
    simulation, transformed = (patch.get_data().values for patch in bottom.patches)
    # 40 entries scaled to data's 20, and shape equal to data's; no ratio where data has nothing
    np.testing.assert_allclose(simulation, [1.0, 0.4, 8 / 6, np.nan])
    np.testing.assert_allclose(transformed, [1, 1, 1, np.nan])
    band = bottom.collections[0].get_paths()[0].vertices[:, 1]
    assert np.nanmin(np.abs(band - 1.0 * (1 + 1 / np.sqrt(8)))) < 1e-9
    segments = top.containers[0].lines[2][1].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in segments][1], [10 - np.sqrt(10), 10 + np.sqrt(10)])
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["Simulation", "Transformed", "Data"]
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def varied():
    """Data 4, 16, 0 and qcd, ttbar, with a reweighter that moves both, and a signal."""
    found = histograms.book(hist.axis.Regular(3, 0, 6, name="m_yy"), samples=(), variations=True)
    contents = {
        ("data", "nominal"): (4, 16, 0),
        ("qcd", "nominal"): (2, 4, 1),
        ("qcd", "wUp"): (3, 4, 1),
        ("qcd", "wDown"): (1, 4, 1),
        ("ttbar", "nominal"): (7, 5, 0),
        ("ttbar", "wUp"): (10, 5, 0),
        ("ttbar", "wDown"): (4, 1, 0),
        ("signal", "nominal"): (0, 30, 0),
    }
    for (sample, variation), numbers in contents.items():
        histograms.fill(found, {"m_yy": np.repeat([1.0, 3, 5], numbers)}, sample=sample, variation=variation)
    return found


def bounds(collection):
    """Lower and upper end of a band in each of the three bins, (3, 2); NaN where it is not drawn."""
    found = np.full((3, 2), np.nan)
    corners = {(x, round(y, 12)) for path in collection.get_paths() for x, y in path.vertices}
    for k in range(3):
        ends = {y for x, y in corners if x == 2 * k} & {y for x, y in corners if x == 2 * k + 2}
        found[k] = (min(ends), max(ends)) if ends else found[k]
    return found


def hatched(axes):
    return [bounds(one) for one in axes.collections if one.get_hatch()]


def test_yields_stack_samples_as_they_are_with_the_band_of_their_sum(varied, tmp_path):
    figure = plots.yields(varied, stack=["qcd", "ttbar"], path=tmp_path / "y.png")
    top, bottom = figure.axes
    layers = {patch.get_label(): patch.get_data() for patch in top.patches}
    np.testing.assert_array_equal(layers["qcd"].values, [2, 4, 1])
    np.testing.assert_array_equal([layers["ttbar"].baseline, layers["ttbar"].values], [[2, 4, 1], [9, 9, 1]])
    np.testing.assert_array_equal(layers["signal"].values, [0, 30, 0])
    # the reweighter moves both samples: +1 +3, -1 -3 in the first bin, 0 0, 0 -4 in the second; with sqrt(9), sqrt(9), sqrt(1)
    ends = np.array([[9 - 5, 9 + 5], [9 - 5, 9 + 3], [1 - 1, 1 + 1]])
    (band,) = hatched(top)
    np.testing.assert_allclose(band, ends)
    assert top.get_ylim()[1] > 30
    # below, the stack over data, not the signal; nothing where data has nothing
    assert [patch.get_data().values.tolist()[:2] for patch in bottom.patches] == [[9 / 4, 9 / 16]]
    assert np.isnan(bottom.patches[0].get_data().values[2])
    statistical = next(one for one in bottom.collections if not one.get_hatch())
    data = np.array([[4], [16], [np.nan]])
    np.testing.assert_allclose(bounds(statistical), np.array([[6, 12], [6, 12], [0, 2]]) / data)
    np.testing.assert_allclose(hatched(bottom)[0], ends / data)
    points = bottom.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in points], [[0.5, 1.5], [0.75, 1.25]])
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["ttbar", "qcd", "signal", "Data", "Uncertainty"]
    assert (tmp_path / "y.png").read_bytes().startswith(b"\x89PNG")


def test_lines_have_bands_of_their_own_and_shapes_are_scaled_with_them(varied):
    for draw, scales in (
        (plots.yields, {"qcd": 1, "ttbar": 1, "signal": 1}),
        (plots.spectrum, {"qcd": 20 / 7, "ttbar": 20 / 12, "signal": 20 / 30}),
    ):
        top, bottom = draw(varied if draw is plots.yields else [varied]).axes
        for position, (sample, contents) in enumerate({"qcd": [2, 4, 1], "ttbar": [7, 5, 0], "signal": [0, 30, 0]}.items()):
            assert top.patches[position].get_label() == sample
            np.testing.assert_allclose(top.patches[position].get_data().values, scales[sample] * np.array(contents))
            ratio = bottom.patches[position].get_data().values
            np.testing.assert_allclose(ratio[:2], scales[sample] * np.array(contents[:2]) / [4, 16])
            assert np.isnan(ratio[2])
        # the signal has no variations and no hatch
        qcd, ttbar = hatched(top)
        np.testing.assert_allclose(qcd, scales["qcd"] * np.array([[2 - np.sqrt(3), 2 + np.sqrt(3)], [2, 6], [0, 2]]))
        np.testing.assert_allclose(ttbar, scales["ttbar"] * np.array([[7 - 4, 7 + 4], [5 - np.sqrt(21), 5 + np.sqrt(5)], [0, 0]]))


def test_variation_axis_without_variations_changes_no_picture(booked):
    axes = booked.axes[1]
    same = histograms.book(axes, variations=["unused"])
    same[:, "nominal", :] = booked.view(flow=True)
    assert plots.png(plots.spectrum([same])) == plots.png(plots.spectrum([booked]))


def test_bins_without_a_reference_have_no_ratio():
    # what is left of cancelling weights would make a ratio of 1e16, a negative content a mirrored one
    found = histograms.book(hist.axis.Regular(4, 0, 4, name="x"), samples=("data", "mc"))
    histograms.fill(found, {"x": [0.5, 1.5, 1.5, 1.5, 2.5]}, [2.0, 0.1, 0.2, -0.3, -1.0], sample="data")
    histograms.fill(found, {"x": [0.5, 1.5, 2.5, 3.5]}, sample="mc")
    assert 0 < found["data", :].values()[1] < 1e-15
    np.testing.assert_array_equal(plots.yields(found).axes[1].patches[0].get_data().values, [0.5, np.nan, np.nan, np.nan])


def test_sample_without_content_is_left_out():
    found = histograms.fill(histograms.book(hist.axis.Regular(2, 0, 2, name="x")), {"x": np.array([0.5, 1.5])}, sample="data")
    histograms.fill(found, {"x": np.array([9.0])}, sample="transformed")
    top = plots.spectrum([found]).axes[0]
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["Data"]


def test_pictures_are_the_same_each_time_and_pyplot_holds_none(booked):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    settings = dict(plt.rcParams)
    first, second = (plots.png(plots.spectrum([booked, booked])) for _ in range(2))
    assert first == second
    assert plt.get_fignums() == before
    assert dict(plt.rcParams) == settings


def test_correlations_are_drawn_in_per_cent(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3))
    table = correlation_table(x, ["pt1", "eta1", "phi1"])
    figure = plots.correlations({"data": table, "simulation": table}, path=tmp_path / "c.png")
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), 100 * np.corrcoef(x, rowvar=False))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["$p_{T}^{1}$", r"$\eta^{1}$", r"$\phi^{1}$"]
    assert f"{100 * np.corrcoef(x, rowvar=False)[0, 1]:.1f}" in [text.get_text() for text in figure.axes[1].texts]


def test_roc_shows_every_curve_and_the_floor():
    rng = np.random.default_rng(1)
    found = classifier_auc(rng.normal(size=(200, 2)), rng.normal(1, 1, size=(200, 2)), epochs=3)
    axes = plots.roc({"simulation": found}, floor=found.floor).axes[0]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), found.tpr)
    np.testing.assert_array_equal(axes.lines[2].get_xdata(), found.floor.fpr)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"{found.auc:.4f}" in texts[0]
    assert texts[1].startswith("Shuffled data")


def test_history_has_a_second_panel_only_with_a_multiplier(tmp_path):
    epochs = {"epoch": [1, 2, 3], "train": [3.0, 2.0, 1.0], "valid": [None, None, None]}
    single = plots.history(epochs)
    assert len(single.axes) == 1
    assert len(single.axes[0].lines) == 1
    steps = {"lambda": np.linspace(0, 2, 300), "l1": np.linspace(2, 1, 300), "l2": np.linspace(-1, 1, 300)}
    double = plots.history({**epochs, "valid": [3.0, 2.0, 2.0], **steps}, path=tmp_path / "h.png")
    panel, right = double.axes[1:]
    np.testing.assert_array_equal(right.lines[0].get_ydata(), steps["lambda"])
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), steps["l1"])
    # a running mean of a straight line is the line, but at its ends
    np.testing.assert_allclose(panel.lines[1].get_ydata()[5:-5], steps["l1"][5:-5])
    assert panel.get_yscale() == "linear"


def test_unusable_input_is_named(booked, tmp_path):
    with pytest.raises(UsageError, match="no sample 'real': it has data, simulation, transformed"):
        plots.spectrum([booked], reference="real")
    with pytest.raises(UsageError, match="expected dataset and one quantity"):
        plots.spectrum([hist.Hist(hist.axis.Regular(2, 0, 1, name="x"))])
    with pytest.raises(InputError, match="the data sample has no positive content within the axis of x"):
        plots.spectrum([histograms.book(hist.axis.Regular(2, 0, 1, name="x"))])
    with pytest.raises(UsageError, match="no sample 'qcd': it has data, simulation, transformed"):
        plots.yields(booked, stack=["qcd"])
    with pytest.raises(UsageError, match="data is drawn as points and cannot be in the stack"):
        plots.yields(booked, stack=["data"])
    with pytest.raises(UsageError, match="has axes dataset, x, y, expected dataset and one quantity, variation between"):
        plots.yields(histograms.book(*(hist.axis.Regular(2, 0, 1, name=name) for name in "xy")))
    for draw in (plots.marginals, plots.spectrum, plots.correlations, plots.roc):
        with pytest.raises(UsageError, match="was given to draw"):
            draw({})
    with pytest.raises(UsageError, match="it needs epoch, and train or valid"):
        plots.history({"train": [1.0]})
    with pytest.raises(InputError, match="different lengths"):
        plots.history({"epoch": [1, 2], "train": [1.0]})
    with pytest.raises(OutputError, match="cannot write the picture"):
        plots.spectrum([booked], path=tmp_path / "nowhere" / "m.png")


def test_missing_mplhep_is_named_with_its_pip_line(booked, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "mplhep":
            raise ModuleNotFoundError("No module named 'mplhep'", name="mplhep")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match=r"pictures need mplhep: pip install 'hepgen\[plot\]'"):
        plots.spectrum([booked])
