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
