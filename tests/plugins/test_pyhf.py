"""From histograms to a workspace: what pyhf expects of it against the histograms, the treatment of bad bins, files, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from pyhf_support import counts, template

from hepgen import histograms
from hepgen.errors import InputError, MissingDependency, OutputError, UsageError

pyhf = pytest.importorskip("pyhf", reason="pyhf is not installed")

import hepgen_pyhf  # noqa: E402
from hepgen_pyhf import Channel, build  # noqa: E402

# pyhf 0.7.6 checks its schema with a class that jsonschema wants to replace
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated:DeprecationWarning")


SIGNAL = template([2.0, 5.0, 9.0], JESUp=[2.5, 5.0, 9.5], JESDown=[1.5, 5.25, 7.0])
BACKGROUND = template(
    [50.0, 40.0, 30.0],
    [10.0, 8.0, 3.0],
    JESUp=[56.0, 41.0, 30.0],
    JESDown=[44.0, 40.0, 29.0],
    reweighterUp=[48.0, 40.0, 36.0],
    reweighterDown=[51.0, 41.0, 25.0],
)


def two_samples(data: Any = None, **options: Any) -> Any:
    return build({"SR": Channel({"sig": SIGNAL, "bkg": BACKGROUND}, data)}, signal="sig", **options)


def expected(workspace: Any, **parameters: float) -> Any:
    model = workspace.model()
    values = np.array(model.config.suggested_init())
    for name, value in parameters.items():
        values[model.config.par_order.index(name) if name not in model.config.par_names else model.config.par_names.index(name)] = value
    return np.asarray(model.expected_actualdata(values))


def modifiers(workspace: Any, sample: str, channel: int = 0) -> dict[tuple[str, str], Any]:
    found = next(entry for entry in workspace.spec["channels"][channel]["samples"] if entry["name"] == sample)
    return {(entry["name"], entry["type"]): entry["data"] for entry in found["modifiers"]}


@pytest.mark.parametrize(
    ("parameters", "total"),
    [
        ({}, [52.0, 45.0, 39.0]),
        ({"JES": 1.0}, [58.5, 46.0, 39.5]),
        ({"JES": -1.0}, [45.5, 45.25, 36.0]),
        ({"reweighter": 1.0}, [50.0, 45.0, 45.0]),
        ({"reweighter": -1.0}, [53.0, 46.0, 34.0]),
        ({"mu": 0.0, "JES": 1.0}, [56.0, 41.0, 30.0]),
        ({"mu": 3.0, "JES": -1.0}, [48.5, 55.75, 50.0]),
    ],
)
def test_the_model_gives_back_the_histograms_at_one_standard_deviation(parameters, total):
    np.testing.assert_allclose(expected(two_samples(), **parameters), total, rtol=1e-13)


def test_two_uncertainties_at_once_add_their_shapes_and_multiply_their_yields():
    n, u, w = (np.array(numbers) for numbers in ([50.0, 40, 30], [56.0, 41, 30], [51.0, 41, 25]))
    shape = n + (u * 120 / 127 - n) + (w * 120 / 117 - n)
    found = expected(two_samples(), mu=0.0, JES=1.0, reweighter=-1.0)
    np.testing.assert_allclose(found, shape * (127 / 120) * (117 / 120), rtol=1e-13)


def test_every_uncertainty_of_every_sample_gives_back_its_templates():
    rng = np.random.default_rng(7)
    names = [f"u{i}" for i in range(5)]
    moved = {
        sample: {name + side: rng.uniform(0.0, 9.0, 20) for name in names for side in ("Up", "Down")} for sample in ("sig", "bkg", "qcd")
    }
    samples = {sample: template(rng.uniform(0.5, 9.0, 20), **sides) for sample, sides in moved.items()}
    workspace = build({"SR": Channel(samples)}, signal="sig")
    for name in names:
        for alpha, side in ((1.0, "Up"), (-1.0, "Down")):
            total = sum(sides[name + side] for sides in moved.values())
            np.testing.assert_allclose(expected(workspace, **{name: alpha}), total, rtol=1e-12)


def test_an_uncertainty_is_a_shape_of_the_nominal_yield_and_a_ratio_under_one_name():
    found = modifiers(two_samples(), "bkg")
    assert found["JES", "normsys"] == {"hi": 127 / 120, "lo": 113 / 120}
    np.testing.assert_allclose(found["JES", "histosys"]["hi_data"], np.array([56, 41, 30]) * 120 / 127, rtol=1e-15)
    np.testing.assert_allclose(found["JES", "histosys"]["lo_data"], np.array([44, 40, 29]) * 120 / 113, rtol=1e-15)
    names = two_samples().model().config.par_names
    assert sorted(names) == ["JES", "mu", "reweighter", *(f"staterror_SR[{i}]" for i in range(3))]


def test_statistics_of_the_samples_add_in_quadrature():
    with_errors = template([2.0, 5.0, 10.0], [0.5, 1.0, 2.0])
    found = build({"SR": Channel({"sig": with_errors, "bkg": BACKGROUND})}, signal="sig")
    widths = found.model().config.param_set("staterror_SR").sigmas
    np.testing.assert_allclose(widths, np.sqrt([10.5, 9.0, 5.0]) / [52, 45, 40], rtol=1e-14)
    assert ("staterror_SR", "staterror") not in modifiers(two_samples(), "sig")  # no variances: no error of its own
    np.testing.assert_allclose(two_samples().model().config.param_set("staterror_SR").sigmas, np.sqrt([10, 8, 3]) / [50, 40, 30])
    assert "staterror_SR" not in two_samples(staterror=False).model().config.par_map
    only = build({"SR": Channel({"sig": with_errors, "bkg": BACKGROUND})}, signal="sig", staterror=["sig"])
    assert "staterror_SR" not in {name for name, _ in modifiers(only, "bkg")}


def test_a_bin_without_error_has_a_fixed_factor():
    found = build({"SR": Channel({"sig": SIGNAL, "bkg": template([50.0, 40, 30], [10.0, 0, 3])})}, signal="sig")
    assert found.model().config.param_set("staterror_SR").suggested_fixed == [False, True, False]


def test_luminosity_and_yields_given_as_relative_changes():
    found = two_samples(lumi=0.02, lumi_samples=["sig"], normsys={"xs": {"bkg": (0.06, -0.04), "sig": 0.1}}, normfactors={"k": ["bkg"]})
    config = found.model().config
    assert (config.param_set("lumi").sigmas, config.param_set("lumi").auxdata) == ([0.02], [1.0])
    np.testing.assert_allclose(expected(found, mu=0.0, xs=1.0), np.array([50, 40, 30]) * 1.06, rtol=1e-13)
    np.testing.assert_allclose(expected(found, mu=0.0, xs=-1.0), np.array([50, 40, 30]) * 0.96, rtol=1e-13)
    np.testing.assert_allclose(
        expected(found, lumi=1.5, k=2.0, xs=1.0), np.array([2, 5, 9]) * 1.65 + np.array([50, 40, 30]) * 2.12, rtol=1e-13
    )
    assert config.poi_name == "mu"


def test_settings_of_parameters_reach_the_measurement():
    found = two_samples(poi="r", parameters={"r": {"bounds": [[-2.0, 20.0]], "inits": [0.5]}}, measurement="combined")
    config = found.model().config
    assert config.suggested_bounds()[config.poi_index] == [-2.0, 20.0]
    assert (found.poi, found.spec["measurements"][0]["name"], config.suggested_init()[config.poi_index]) == ("r", "combined", 0.5)


def test_data_and_the_expectation_that_stands_for_them():
    assert two_samples(counts([55.0, 40.0, 41.0])).spec["observations"] == [{"name": "SR", "data": [55.0, 40.0, 41.0]}]
    asimov = two_samples()
    assert asimov.spec["observations"][0]["data"] == [52.0, 45.0, 39.0]
    assert asimov.report.asimov == ["SR"]
    assert two_samples(asimov=0.0).spec["observations"][0]["data"] == [50.0, 40.0, 30.0]
    model = asimov.model()
    assert asimov.data(model) == [52.0, 45.0, 39.0, *model.config.auxdata]


def test_a_channel_of_one_bin_has_no_shapes():
    found = build({"SR": Channel({"sig": template([2.0]), "bkg": template([50.0], aUp=[60.0], aDown=[45.0])})}, signal="sig")
    assert modifiers(found, "bkg") == {("a", "normsys"): {"hi": 1.2, "lo": 0.9}}
    assert expected(found, mu=0.0, a=-1.0) == pytest.approx([45.0], rel=1e-14)


def test_uncertainties_of_one_name_are_one_parameter_in_all_channels():
    other = template([10.0, 12.0], JESUp=[11.0, 12.0], JESDown=[9.0, 12.0])
    found = build({"SR": Channel({"sig": SIGNAL, "bkg": BACKGROUND}), "CR": Channel({"bkg": other})}, signal="sig")
    assert found.model().config.par_names.count("JES") == 1
    # pyhf orders channels by name
    np.testing.assert_allclose(expected(found, JES=1.0), [11.0, 12.0, 58.5, 46.0, 39.5], rtol=1e-13)


def test_one_histogram_of_hepgen_holds_all_samples():
    axis = hist.axis.Regular(2, 0, 2, name="x")
    variation = hist.axis.StrCategory([], growth=True, name="variation")
    together = hist.Hist(histograms.sample_axis(()), variation, axis, storage=hist.storage.Weight())
    for sample, name, weights in [
        ("data", "nominal", [30.0, 25.0]),
        ("sig", "nominal", [2.0, 5.0]),
        ("bkg", "nominal", [28.0, 19.0]),
        ("bkg", "reweighterUp", [30.0, 20.0]),
        ("bkg", "reweighterDown", [26.0, 18.0]),
    ]:
        together.fill(dataset=sample, variation=name, x=[0.5, 1.5], weight=weights)
    found = build({"SR": Channel({"sig": together, "bkg": together}, data=together)}, signal="sig")
    assert found.spec["observations"][0]["data"] == [30.0, 25.0]
    assert found.report.unfilled == [("SR", "sig", "reweighter")]
    assert "reweighter" not in {name for name, _ in modifiers(found, "sig")}
    np.testing.assert_allclose(expected(found, mu=0.0, reweighter=1.0), [30.0, 20.0], rtol=1e-13)
    assert modifiers(found, "sig")["staterror_SR", "staterror"] == [2.0, 5.0]
    with pytest.raises(UsageError, match="the histogram of 'ttbar' in channel 'SR' has no dataset 'ttbar': it has data, sig, bkg"):
        build({"SR": Channel({"ttbar": together})}, signal="ttbar")


def test_events_in_flow_bins_are_counted_or_folded_in():
    flow = {"nominal": (1.0, 4.0), "aUp": (2.0, 0.0)}
    bkg = template([50.0, 40.0, 30.0], [1.0, 1.0, 1.0], flow, aUp=[50.0, 40.0, 31.0], aDown=[50.0, 40.0, 29.0])
    bkg.view(flow=True).variance[0, -1] = 3.0
    data = counts([55.0, 40.0, 30.0], (0.0, 2.0))
    left_out = build({"SR": Channel({"sig": SIGNAL, "bkg": bkg}, data)}, signal="sig")
    assert left_out.spec["channels"][0]["samples"][1]["data"] == [50.0, 40.0, 30.0]
    rows = {(row.sample, row.variation): (row.flow, row.folded, row.unused) for row in left_out.report.outside}
    assert rows == {("bkg", "nominal"): (5.0, 0.0, 0.0), ("bkg", "aUp"): (2.0, 0.0, 0.0), ("data", "nominal"): (2.0, 0.0, 0.0)}
    folded = build({"SR": Channel({"sig": SIGNAL, "bkg": bkg}, data, flow=True)}, signal="sig")
    assert folded.spec["channels"][0]["samples"][1]["data"] == [51.0, 40.0, 34.0]
    assert folded.spec["observations"][0]["data"] == [55.0, 40.0, 32.0]
    np.testing.assert_allclose(modifiers(folded, "bkg")["staterror_SR", "staterror"], [1.0, 1.0, 2.0])
    assert {(row.flow, row.folded) for row in folded.report.outside} == {(0.0, 5.0), (0.0, 2.0)}
    assert "SR/bkg/nominal: 5 events folded in from flow bins" in str(folded.report)


@pytest.mark.parametrize("bins", [slice(1, None), [1, 2], np.array([-2, -1])])
def test_bins_that_are_not_used_are_counted(bins):
    found = build({"SR": Channel({"sig": SIGNAL, "bkg": BACKGROUND}, counts([9.0, 41.0, 32.0]), bins)}, signal="sig")
    assert found.spec["observations"][0]["data"] == [41.0, 32.0]
    np.testing.assert_allclose(expected(found, mu=0.0, JES=1.0), [41.0, 30.0], rtol=1e-13)
    assert [row.unused for row in found.report.outside if row.variation == "nominal"] == [2.0, 50.0, 9.0]


def test_two_axes_are_made_one_on_request():
    axes = hist.axis.Regular(2, 0, 2, name="x"), hist.axis.Regular(3, 0, 3, name="y")
    plane = hist.Hist(*axes, storage=hist.storage.Weight())
    plane.view(flow=True).value[:] = np.arange(1.0, 21.0).reshape(4, 5)
    with pytest.raises(UsageError, match="channel 'SR' have 2 axes .* flatten more with flatten=True"):
        build({"SR": Channel({"sig": plane})}, signal="sig")
    found = build({"SR": Channel({"sig": plane}, flatten=True)}, signal="sig")
    assert found.spec["channels"][0]["samples"][0]["data"] == [7.0, 8.0, 9.0, 12.0, 13.0, 14.0]
    folded = build({"SR": Channel({"sig": plane}, flatten=True, flow=True)}, signal="sig")
    assert folded.spec["channels"][0]["samples"][0]["data"] == [
        1 + 2 + 6 + 7,
        3 + 8,
        4 + 5 + 9 + 10,
        11 + 12 + 16 + 17,
        13 + 18,
        14 + 15 + 19 + 20,
    ]


def test_overflow_that_is_no_range_is_not_folded_in():
    turning = hist.Hist(hist.axis.Regular(2, 0, 2, name="phi", circular=True), storage=hist.storage.Weight())
    turning.view(flow=True).value[:] = [3.0, 4.0, 7.0]  # the last holds NaN
    found = build({"SR": Channel({"sig": turning}, flow=True)}, signal="sig")
    assert found.spec["channels"][0]["samples"][0]["data"] == [3.0, 4.0]
    assert [(row.flow, row.folded) for row in found.report.outside] == [(7.0, 0.0)]


# files


def test_a_workspace_comes_back_from_its_file(tmp_path):
    workspace = two_samples(lumi=0.017)
    path = workspace.write(tmp_path / "SR.json")
    assert os.listdir(tmp_path) == ["SR.json"]
    again = hepgen_pyhf.read(path)
    assert (again.spec, again.digest) == (workspace.spec, workspace.digest)
    assert workspace.digest == pyhf.utils.digest(json.loads(path.read_text()))
    with pytest.raises(OutputError, match="SR.json exists already"):
        workspace.write(path)
    two_samples().write(path, overwrite=True)
    assert hepgen_pyhf.read(path).digest == two_samples().digest != workspace.digest


def test_the_digest_does_not_depend_on_the_order_of_keys():
    workspace = two_samples()
    turned = json.loads(json.dumps(workspace.spec), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert list(turned) != list(workspace.spec)
    assert pyhf.utils.digest(turned) == workspace.digest


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    workspace = two_samples()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hepgen_pyhf.workspace.os.replace", full)
    with pytest.raises(OutputError, match="SR.json cannot be written: No space left on device"):
        workspace.write(tmp_path / "SR.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read as JSON: No such file"),
        ('{"channels": [', "cannot be read as JSON"),
        ("{}", "is no workspace: pyhf refuses the workspace: 'channels' is a required property"),
    ],
)
def test_a_file_that_is_no_workspace_is_refused(tmp_path, text, sentence):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        hepgen_pyhf.read(path)


def test_a_workspace_whose_model_pyhf_cannot_build_is_refused(tmp_path):
    spec = two_samples().spec
    spec["channels"][0]["samples"][0]["data"].append(1.0)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(spec))
    with pytest.raises(InputError, match="x.json is no workspace: pyhf refuses the workspace"):
        hepgen_pyhf.read(path)


# the page and the import


def test_the_script_of_the_page_runs(tmp_path, monkeypatch, capsys):
    page = Path(__file__).resolve().parents[2] / "docs" / "pyhf.md"
    monkeypatch.chdir(tmp_path)
    exec(page.read_text().split("```python\n")[1].split("```")[0], {})
    assert hepgen_pyhf.read("SR.json").digest in capsys.readouterr().out


def test_nothing_is_imported_before_it_is_asked_for():
    code = (
        "import sys, hepgen_pyhf; assert not {'pyhf', 'hist', 'torch'} & set(sys.modules); hepgen_pyhf.build; assert 'pyhf' in sys.modules"
    )
    path = os.pathsep.join([str(Path(hepgen_pyhf.__file__).parents[1]), str(Path(histograms.__file__).parents[1])])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_public_names(monkeypatch):
    assert all(getattr(hepgen_pyhf, name).__name__ == name for name in hepgen_pyhf.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        hepgen_pyhf.nothing  # noqa: B018
    monkeypatch.setitem(sys.modules, "pyhf", None)
    for name in [name for name in sys.modules if name.startswith("hepgen_pyhf.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependency, match=r"pip install 'hepgen\[pyhf\]'"):
        hepgen_pyhf.build  # noqa: B018
