"""Histograms in ROOT files: exact contents, and axes that come back whole."""

from __future__ import annotations

import json

import hist
import numpy as np
import pytest
import uproot

from hepgen.errors import InputError, OutputError
from hepgen.events.root_histograms import read_histograms, write_histograms


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
