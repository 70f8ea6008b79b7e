"""Histograms in ROOT files: exact contents, and axes that come back whole."""

from __future__ import annotations

import json

import hist
import numpy as np
import pytest
import uproot

from hepgen import histograms
from hepgen.errors import InputError, OutputError, UsageError
from hepgen.events.root_histograms import read_histograms, write_histograms
from hepgen.variations import pair


def filled() -> dict[str, hist.Hist]:
    rng = np.random.default_rng(1)
    x, y, z, w = rng.normal(0.5, 0.5, 500), rng.normal(0.5, 1, 500), rng.integers(-1, 4, 500), rng.normal(1, 2, 500)
    which = ["nominal", "up"] * 250
    new = hist.Hist.new
    return {
        "SR/mass": new.Reg(10, 0, 1, name="mass", label=r"$m_{\gamma\gamma}$ [GeV]").Weight().fill(x, weight=w),
        "SR/deep/two": new.Var([0, 0.2, 1, 5], name="pt1").Reg(4, 0, 1, name="pt2").Weight().fill(x, y, weight=w),
        "three": new.Reg(3, 0, 1, name="a").Reg(2, 0, 1, name="b").Int(0, 3, name="c").Weight().fill(x, y, z, weight=w),
        "variations": new.StrCat([], growth=True, name="variation").Reg(4, 0, 1, name="m").Weight().fill(which, x, weight=w),
        "noflow": new.Reg(5, 0, 1, name="x", underflow=False, overflow=False).Weight().fill(x, weight=w),
        "angle": new.Reg(6, -np.pi, np.pi, name="phi", circular=True).Weight().fill(4 * x, weight=w),
        "log": new.Reg(5, 1, 1000, name="pt", transform=hist.axis.transform.log).Weight().fill(100 * abs(x), weight=w),
        "integers": new.IntCat([3, 7], name="code").Bool(name="tight").Weight().fill([3, 7, 9], [True, False, True], weight=[2, 3, 5]),
        "plain": new.Reg(5, 0, 1, name="x").Double().fill(x, weight=w),
    }


def test_histograms_come_back_exactly(tmp_path):
    given = filled()
    paths = write_histograms(tmp_path / "h.root", given)
    assert paths == [tmp_path / "h.root", tmp_path / "h.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.json", "h.root"]
    found = read_histograms(tmp_path / "h.root")
    assert set(found) == set(given)
    for name, histogram in given.items():
        back = found[name]
        assert back.storage_type is histogram.storage_type
        assert np.array_equal(back.view(flow=True), histogram.view(flow=True)), name
        assert [(axis.name, axis.label) for axis in back.axes] == [(axis.name, axis.label) for axis in histogram.axes]
        assert back.axes == histogram.axes
        assert np.array_equal((back + histogram).values(), 2 * histogram.values())


def test_root_alone_holds_values_variances_and_flow(tmp_path):
    given = filled()
    write_histograms(tmp_path / "h.root", given)
    with uproot.open(tmp_path / "h.root") as file:
        assert file.classnames(cycle=False)["SR/mass"] == "TH1D"
        assert file["SR/deep/two"].classname == "TH2D"
        assert file["three"].classname == "TH3D"
        for name in ("SR/mass", "SR/deep/two", "three"):
            assert np.array_equal(file[name].values(flow=True), given[name].values(flow=True))
            assert np.array_equal(file[name].variances(flow=True), given[name].variances(flow=True))
        assert np.allclose(file["SR/mass"].axis().edges(), given["SR/mass"].axes[0].edges, rtol=1e-15)
        assert file["variations"].axis(0).labels() == ["nominal", "up"]
        assert np.array_equal(file["variations"].values(flow=True)[1:-1], given["variations"].values(flow=True))
        mass = given["SR/mass"]
        mean = np.average(mass.axes[0].centers, weights=mass.values())
        assert np.isclose(file["SR/mass"].member("fTsumwx") / file["SR/mass"].member("fTsumw"), mean, rtol=1e-12)
        assert np.isclose(file["SR/mass"].member("fTsumw2"), mass.variances().sum(), rtol=1e-12)
    (tmp_path / "h.json").unlink()
    bare = read_histograms(tmp_path / "h.root")["SR/mass"]
    assert np.array_equal(bare.view(flow=True), given["SR/mass"].view(flow=True))


def test_counts_are_written_as_doubles(tmp_path):
    counts = hist.Hist.new.Reg(5, 0, 1, name="x").Int64().fill([0.1, 0.1, 0.7, 3])
    write_histograms(tmp_path / "h.root", {"n": counts})
    back = read_histograms(tmp_path / "h.root")["n"]
    assert back.values(flow=True).tolist() == [0, 2, 0, 0, 1, 0, 1]
    assert back.axes[0].name == "x"


def test_what_root_does_not_hold(tmp_path):
    four = hist.Hist(*[hist.axis.Regular(2, 0, 1, name=name) for name in "abcd"])
    with pytest.raises(OutputError, match="histogram 'four' has 4 axes and ROOT holds 1 to 3"):
        write_histograms(tmp_path / "h.root", {"four": four})
    with pytest.raises(OutputError, match="histogram 'mean' has Mean storage, which a ROOT histogram does not hold"):
        write_histograms(tmp_path / "h.root", {"mean": hist.Hist.new.Reg(2, 0, 1, name="x").Mean()})
    assert list(tmp_path.iterdir()) == []


def test_existing_files(tmp_path):
    given = {"x": filled()["plain"]}
    write_histograms(tmp_path / "h.root", given)
    with pytest.raises(OutputError, match=r"h\.root exists already"):
        write_histograms(tmp_path / "h.root", given)
    (tmp_path / "h.root").unlink()
    with pytest.raises(OutputError, match=r"h\.json exists already"):
        write_histograms(tmp_path / "h.root", given)
    write_histograms(tmp_path / "h.root", {"x": given["x"] * 2}, overwrite=True)
    assert read_histograms(tmp_path / "h.root")["x"].sum() == 2 * given["x"].sum()
    with pytest.raises(OutputError, match="there is no folder"):
        write_histograms(tmp_path / "no" / "h.root", given)
    with pytest.raises(OutputError, match=r"name the \.root file"):
        write_histograms(tmp_path / "g.json", given)


def test_json_of_other_histograms(tmp_path):
    write_histograms(tmp_path / "h.root", {"x": filled()["plain"]})
    form = json.loads((tmp_path / "h.json").read_text())
    form["x"]["axes"][0]["bins"] = 7
    (tmp_path / "h.json").write_text(json.dumps(form))
    with pytest.raises(InputError, match=r"h\.json describes other bins of 'x' than the ROOT file holds"):
        read_histograms(tmp_path / "h.root")
    form["x"]["axes"][0].update(bins=5, upper=2.0)
    (tmp_path / "h.json").write_text(json.dumps(form))
    with pytest.raises(InputError, match="describes other bins of 'x'"):
        read_histograms(tmp_path / "h.root")
    (tmp_path / "h.json").write_text("{")
    with pytest.raises(InputError, match=r"h\.json cannot be read as the axes"):
        read_histograms(tmp_path / "h.root")


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"h\.root does not exist"):
        read_histograms(tmp_path / "h.root")
    path, _ = write_histograms(tmp_path / "h.root", filled())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"h\.root is cut short"):
        read_histograms(path)


def varied(*axes: hist.axis.AxesMixin) -> hist.Hist:
    """Weighted fills of data, ttbar and qcd, the last without the second uncertainty; entries in the flow bins too."""
    rng = np.random.default_rng(5)
    found = histograms.book(*axes, samples=("data", "ttbar"), variations=["unused"])
    for sample, names in (("qcd", ["a"]), ("ttbar", ["b", "a"]), ("data", [])):
        columns = {axis.name: rng.normal(0.5, 1, 200) for axis in axes}
        w = {name: rng.normal(1, 2, 200) for name in ("nominal", *(side for name in names for side in pair(name)))}
        histograms.fill(found, columns, w, sample=sample)
    return found


REGIONS = {
    "SR": varied(hist.axis.Regular(5, 0, 1, name="mass", label=r"$m_{\gamma\gamma}$ [GeV]")),
    "CR/b": varied(hist.axis.Variable([0, 0.2, 1], name="x"), hist.axis.Regular(3, 0, 1, name="y", underflow=False)),
    "3d": varied(*(hist.axis.Regular(k, 0, 1, name=f"x{k}") for k in (2, 3, 4))),
    "empty": histograms.book(hist.axis.Regular(2, 0, 1, name="x"), samples=(), variations=True),
}


def test_samples_and_variations_become_folders_and_come_back_exactly(tmp_path):
    write_histograms(tmp_path / "h.root", {**REGIONS, "mass": filled()["SR/mass"]})
    found = read_histograms(tmp_path / "h.root")
    assert set(found) == {*REGIONS, "mass"}
    for name, histogram in REGIONS.items():
        assert found[name].axes == histogram.axes
        assert [(axis.name, axis.label) for axis in found[name].axes] == [(axis.name, axis.label) for axis in histogram.axes]
        assert np.array_equal(found[name].view(flow=True), histogram.view(flow=True)), name
    # it grows on: another sample adds up with it
    more = histograms.book(hist.axis.Regular(5, 0, 1, name="mass", label=r"$m_{\gamma\gamma}$ [GeV]"), samples=(), variations=True)
    histograms.fill(more, {"mass": [0.1, 0.1]}, sample="signal", variation="cUp")
    total = found["SR"] + more
    assert total[{"dataset": "signal", "variation": "cUp"}].values().tolist() == [2, 0, 0, 0, 0]
    assert np.array_equal(total["qcd", "aUp", :].view(flow=True), REGIONS["SR"]["qcd", "aUp", :].view(flow=True))


def test_root_alone_holds_a_template_for_every_variation_of_a_sample(tmp_path):
    write_histograms(tmp_path / "h.root", REGIONS)
    sides = {"data": "", "ttbar": "ab", "qcd": "a"}
    parts = {f"{sample}/{v}" for sample, names in sides.items() for v in ("nominal", *(side for name in names for side in pair(name)))}
    with uproot.open(tmp_path / "h.root") as file:
        kinds = {key: kind for key, kind in file.classnames(cycle=False).items() if kind != "TDirectory"}
        assert kinds == {f"{name}/{part}": kind for name, kind in (("SR", "TH1D"), ("CR/b", "TH2D"), ("3d", "TH3D")) for part in parts}
        for part in parts:
            template = REGIONS["SR"][(*part.split("/"), slice(None))]
            assert np.array_equal(file[f"SR/{part}"].values(flow=True), template.values(flow=True))
            assert np.array_equal(file[f"SR/{part}"].variances(flow=True), template.variances(flow=True))
    (tmp_path / "h.json").unlink()
    assert np.array_equal(read_histograms(tmp_path / "h.root")["SR/qcd/aUp"].view(), REGIONS["SR"]["qcd", "aUp", :].view())


def test_double_storage_and_fixed_categories_are_split_too(tmp_path):
    new = hist.Hist.new.StrCat(["mc"], name="dataset").StrCat(["nominal", "aUp", "aDown"], name="variation").Reg(3, 0, 1, name="x")
    given = new.Double().fill("mc", ["nominal", "aUp", "aDown", "aDown"], [0.1, 0.5, 0.9, 7])
    write_histograms(tmp_path / "h.root", {"SR": given})
    back = read_histograms(tmp_path / "h.root")["SR"]
    assert back.axes == given.axes
    assert np.array_equal(back.view(flow=True), given.view(flow=True))
    with pytest.raises(OutputError, match="the dataset axis of 'SR' has entries outside its categories"):
        write_histograms(tmp_path / "g.root", {"SR": given.copy().fill("other", "nominal", 0.5)})


def test_names_that_cannot_be_folders(tmp_path):
    axis = hist.axis.Regular(2, 0, 1, name="x")
    slashed = histograms.fill(histograms.book(axis, variations=True), {"x": [0.5]}, sample="/DY/NANOAOD")
    with pytest.raises(OutputError, match="the dataset '/DY/NANOAOD' of 'SR' cannot be the name of a folder"):
        write_histograms(tmp_path / "h.root", {"SR": slashed})
    with pytest.raises(OutputError, match="two histograms would be written as 'SR/data/nominal'"):
        write_histograms(tmp_path / "h.root", {"SR": REGIONS["SR"], "SR/data/nominal": filled()["plain"]})
    one_sided = histograms.fill(histograms.book(axis, samples=("mc",), variations=True), {"x": [0.5]}, sample="mc", variation="aUp")
    with pytest.raises(UsageError, match="there is aUp but not aDown"):
        write_histograms(tmp_path / "h.root", {"SR": one_sided})
    assert list(tmp_path.iterdir()) == []


def test_json_of_other_templates(tmp_path):
    write_histograms(tmp_path / "h.root", {"SR": REGIONS["SR"]})
    whole = (tmp_path / "h.json").read_text()
    (tmp_path / "h.json").write_text(whole.replace("qcd", "zz"))
    with pytest.raises(InputError, match=r"h\.json names 'SR/zz/nominal', which the ROOT file does not hold"):
        read_histograms(tmp_path / "h.root")
    form = json.loads(whole)
    form["SR"]["axes"][0]["categories"] = ["data", "ttbar", "other"]
    (tmp_path / "h.json").write_text(json.dumps(form))
    with pytest.raises(InputError, match=r"h\.json does not describe 'SR'"):
        read_histograms(tmp_path / "h.root")
    (tmp_path / "h.json").write_text(whole.replace('"bins": 5', '"bins": 4'))
    with pytest.raises(InputError, match=r"h\.json describes other bins of 'SR'"):
        read_histograms(tmp_path / "h.root")


def test_cabinetry_collects_the_templates(tmp_path):
    cabinetry = pytest.importorskip("cabinetry")
    write_histograms(tmp_path / "h.root", {"SR": REGIONS["SR"]})
    config = {
        "General": {
            "Measurement": "m",
            "POI": "mu",
            "HistogramFolder": str(tmp_path / "histograms"),
            "InputPath": f"{tmp_path / 'h.root'}:{{RegionPath}}/{{SamplePath}}/{{VariationPath}}",
            "VariationPath": "nominal",
        },
        "Regions": [{"Name": "SR", "RegionPath": "SR"}],
        "Samples": [{"Name": name, "SamplePath": name, **({"Data": True} if name == "data" else {})} for name in ("data", "ttbar", "qcd")],
        "Systematics": [
            {
                "Name": name,
                "Type": "NormPlusShape",
                "Samples": samples,
                "Up": {"VariationPath": f"{name}Up"},
                "Down": {"VariationPath": f"{name}Down"},
            }
            for name, samples in (("a", ["ttbar", "qcd"]), ("b", ["ttbar"]))
        ],
        "NormFactors": [{"Name": "mu", "Samples": "ttbar", "Nominal": 1, "Bounds": [0, 5]}],
    }
    cabinetry.templates.collect(config)
    for name, template in (("SR_qcd_a_Up", ("qcd", "aUp")), ("SR_ttbar_b_Down", ("ttbar", "bDown")), ("SR_data", ("data", "nominal"))):
        stored = np.load(tmp_path / "histograms" / f"{name}.npz")
        expected = REGIONS["SR"][(*template, slice(None))]
        assert np.array_equal(stored["yields"], expected.values())
        assert np.array_equal(stored["stdev"], np.sqrt(expected.variances()))
