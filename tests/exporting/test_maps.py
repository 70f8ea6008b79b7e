"""Binned maps in correctionlib against the histograms themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import correctionlib
import hist
import numpy as np
import pytest

from hepgen.errors import InputError, OutputError, UsageError
from hepgen.exporting import export_maps, map_set, maps
from hepgen.histograms import variation_axis

AXES = {
    "pt": hist.axis.Regular(5, 0, 100, name="photon[0].pt", label="$p_T$ [GeV]"),
    "eta": hist.axis.Variable([-2.5, -1.37, 0.1, 2.5], name="photon[0].eta"),
    "mass": hist.axis.Regular(4, 60, 300, name="m_yy", transform=hist.axis.transform.log),
}


def filled(*names: str, variations: bool = False) -> hist.Hist[Any]:
    """Contents and variances of random numbers, those of flow bins too."""
    first = [variation_axis(["scale"])] if variations else []
    histogram = hist.Hist(*first, *(AXES[name] for name in names), storage=hist.storage.Weight())
    rng = np.random.default_rng(3)
    view = histogram.view(flow=True)
    view["value"], view["variance"] = rng.uniform(0.5, 1.5, view.shape), rng.uniform(0.01, 0.1, view.shape)
    return histogram


def loaded(path: Path) -> Any:
    return correctionlib.CorrectionSet.from_file(str(path))


@pytest.mark.parametrize("names", [("pt",), ("pt", "eta"), ("pt", "eta", "mass")], ids=str)
def test_contents_inside_and_outside(names: tuple[str, ...], tmp_path: Path) -> None:
    histogram = filled(*names)
    axes, rng = [AXES[name] for name in names], np.random.default_rng(1)
    rows = np.stack([rng.uniform(axis.edges[0] - 10, axis.edges[-1] + 10, 500) for axis in axes], axis=1)
    index = np.stack([np.digitize(column, axis.edges) - 1 for axis, column in zip(axes, rows.T, strict=True)], axis=1)
    clamped = np.clip(index, 0, [len(axis) - 1 for axis in axes])
    inside, contents = (index == clamped).all(axis=1), histogram.values()[tuple(clamped.T)]
    assert 0.1 < inside.mean() < 1

    clamp = loaded(export_maps({"sf": histogram}, tmp_path / "c.json", flow="clamp"))["sf"]
    np.testing.assert_allclose(clamp.evaluate(*rows.T), contents, rtol=1e-14)
    number = loaded(export_maps({"sf": histogram}, tmp_path / "n.json.gz", flow=1))["sf"]
    np.testing.assert_allclose(number.evaluate(*rows.T), np.where(inside, contents, 1.0), rtol=1e-14)
    strict = loaded(export_maps({"sf": histogram}, tmp_path / "e.json"))["sf"]
    np.testing.assert_allclose(strict.evaluate(*rows[inside].T), contents[inside], rtol=1e-14)
    with pytest.raises(RuntimeError, match="bounds in"):
        strict.evaluate(*rows[~inside][0])
    for n in (0, 1):
        assert len(clamp.evaluate(*rows[:n].T)) == n


def test_names_units_and_versions(tmp_path: Path) -> None:
    path = export_maps({"sf": filled("pt", "eta"), "other": filled("mass")}, tmp_path / "m.json", version=7, description="Photons.")
    corrections = loaded(path)
    assert set(corrections) == {"sf", "other"}
    found = [(given.name, given.type, given.description) for given in corrections["sf"].inputs]
    assert found == [("photon[0].pt", "real", "$p_T$ [GeV]"), ("photon[0].eta", "real", "photon[0].eta")]
    assert [given.description for given in corrections["other"].inputs] == ["m_yy [GeV]"]
    assert corrections["sf"].version == 7
    assert map_set({"sf": filled("pt")}, description="Photons.")["description"] == "Photons."


def test_up_and_down_of_the_variances(tmp_path: Path) -> None:
    histogram = filled("pt", "eta")
    correction = loaded(export_maps({"sf": histogram}, tmp_path / "m.json", errors=True))["sf"]
    assert [given.name for given in correction.inputs] == ["variation", "photon[0].pt", "photon[0].eta"]
    value, spread = histogram.values()[2, 1], math.sqrt(histogram.variances()[2, 1])
    for variation, expected in (("nominal", value), ("up", value + spread), ("down", value - spread)):
        assert correction.evaluate(variation, 50.0, 0.0) == pytest.approx(expected, rel=1e-14)


def test_a_variation_axis_keeps_its_names_and_comes_first(tmp_path: Path) -> None:
    histogram = filled("pt", variations=True)
    turned = hist.Hist(AXES["pt"], variation_axis(["scale"]), storage=hist.storage.Weight())
    turned.view(flow=False)[...] = histogram.view(flow=False).T
    corrections = loaded(export_maps({"one": histogram, "turned": turned}, tmp_path / "m.json", flow="clamp"))
    for number, variation in enumerate(("nominal", "scaleUp", "scaleDown")):
        for correction in (corrections["one"], corrections["turned"]):
            found = correction.evaluate(variation, np.array([-5.0, 30.0, 99.0]))
            np.testing.assert_allclose(found, histogram.values()[number, [0, 1, 4]], rtol=1e-14)


def test_an_angle_goes_round(tmp_path: Path) -> None:
    axis = hist.axis.Regular(8, -math.pi, math.pi, name="phi", circular=True)
    histogram = hist.Hist(axis, storage=hist.storage.Double())
    histogram.view()[...] = np.arange(8.0)
    correction = loaded(export_maps({"sf": histogram}, tmp_path / "m.json"))["sf"]
    phi = np.array([-3.0, 0.1, 3.0])
    for turn in (-2, 0, 1):
        np.testing.assert_array_equal(correction.evaluate(phi + 2 * math.pi * turn), [0, 4, 7])


def test_a_wrong_map_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = maps.map_correction

    def swapped(*given: Any, **options: Any) -> Any:
        content = right(*given, **options)
        content["data"]["content"][0] += 1e-9
        return content

    monkeypatch.setattr("hepgen.exporting.to_correctionlib.map_correction", swapped)
    with pytest.raises(OutputError, match="m.json was not written: .* the map 'sf' does not give the contents of its bins"):
        export_maps({"sf": filled("pt")}, tmp_path / "m.json")

    def open_ended(*given: Any, **options: Any) -> Any:
        content = right(*given, **options)
        content["data"]["flow"] = "clamp"
        return content

    monkeypatch.setattr("hepgen.exporting.to_correctionlib.map_correction", open_ended)
    with pytest.raises(OutputError, match="the map 'sf' gives a number and no error"):
        export_maps({"sf": filled("pt")}, tmp_path / "m.json", flow="error")
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    good = filled("pt")
    with pytest.raises(UsageError, match="no histogram was given"):
        map_set({})
    for flow in ("wrap", True, None):
        with pytest.raises(UsageError, match="flow=.* is not known: choose 'clamp', 'error', or the number"):
            map_set({"sf": good}, flow=flow)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="flow=nan is no finite number"):
        map_set({"sf": good}, flow=math.nan)
    with pytest.raises(UsageError, match="the map 'sf' has 4 axes"):
        map_set({"sf": hist.Hist(*(hist.axis.Regular(2, 0, 1, name=name) for name in "abcd"))})
    with pytest.raises(UsageError, match="the map 'sf' has 0 axes"):
        map_set({"sf": hist.Hist(variation_axis())})
    with pytest.raises(UsageError, match="an axis of the map 'sf' has no name"):
        map_set({"sf": hist.Hist(hist.axis.Regular(2, 0, 1))})
    with pytest.raises(UsageError, match="the axis 'n' of the map 'sf' is an Integer"):
        map_set({"sf": hist.Hist(hist.axis.Integer(0, 3, name="n"))})
    with pytest.raises(UsageError, match="the axis 'x' of the map 'sf' has an infinite edge"):
        map_set({"sf": hist.Hist(hist.axis.Variable([0, 1, math.inf], name="x"))})
    with pytest.raises(UsageError, match="has Double storage, which keeps no variances"):
        map_set({"sf": hist.Hist(AXES["pt"])}, errors=True)
    with pytest.raises(UsageError, match="has a variation axis already"):
        map_set({"sf": filled("pt", variations=True)}, errors=True)
    with pytest.raises(UsageError, match="there is scaleUp but not scaleDown"):
        map_set({"sf": hist.Hist(hist.axis.StrCategory(["nominal", "scaleUp"], name="variation"), AXES["pt"])})
    bad = filled("pt")
    bad.view()["value"][1] = math.nan
    with pytest.raises(InputError, match="the map 'sf' has 1 bins that are NaN or inf"):
        map_set({"sf": bad})
    assert list(tmp_path.iterdir()) == []
