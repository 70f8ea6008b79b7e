"""A reweighting by a study file: model, figures, report and histograms with variations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hist
import numpy as np
import pytest

import hepgen
from hepgen import cli
from hepgen.errors import UsageError
from hepgen.events import read, read_histograms, write
from hepgen.study import Study
from hepgen.variations import band

STUDY = """
task = "reweight"
output = "out"
seed = 3
[sim]
files = ["sim.root"]
[data]
files = ["data.root"]
[features]
paths = ["x", "y"]
[model]
ensemble = 3
hidden = [16, 16]
[fit]
epochs = 8
batch_size = 250
[evaluation]
variables = ["ratio(x, y)"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples of a known ratio, with signed weights in the simulation, and a study of them."""
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(1)
    for name, shift in (("sim", 0.0), ("data", 0.6)):
        n = 6000
        columns = {"x": rng.normal(shift, 1, n), "y": rng.uniform(1, 2, n), "event": np.arange(n)}
        if name == "sim":
            columns["weight"] = rng.choice([1.0, -0.5], p=[0.9, 0.1], size=n)
        write(folder / f"{name}.root", columns, tree="events")
    (folder / "study.toml").write_text(STUDY)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["hepgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_a_reweighting_by_a_study_file(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "fit", folder / "study.toml", "--quiet") == 0
    assert "reweighted" in capsys.readouterr().out
    model = hepgen.load(folder / "out" / "model.hepgen")
    assert isinstance(model, hepgen.Reweighter)
    metrics = json.loads((folder / "out" / "report" / "metrics.json").read_text())
    assert list(metrics["samples"]) == ["data", "simulation", "reweighted"]
    assert metrics["chi2"]["x"]["simulation"]["per_ndf"] > 10
    assert metrics["chi2"]["x"]["reweighted"]["per_ndf"] < 3
    assert metrics["auc"]["simulation"]["value"] > 0.6
    assert abs(metrics["auc"]["reweighted"]["value"] - 0.5) < 0.05
    # the ratio of the two normal distributions, where there are events
    x = np.linspace(-1.5, 2.0, 50)
    w = model.weights({"x": x, "y": np.full(50, 1.5)})
    assert np.abs(np.log(w) - (0.6 * x - 0.18)).mean() < 0.2
    report = (folder / "out" / "report" / "report.html").read_text()
    assert "Simulation, as it is and reweighted, against data: x, y" in report


def test_its_histograms_are_those_of_plain_numpy(folder: Path) -> None:
    found = read_histograms(folder / "out" / "report" / "histograms.root")
    assert set(found) == {"x", "y", "ratio(x, y)"}
    sim, data = (read(folder / f"{name}.root") for name in ("sim", "data"))
    model = hepgen.load(folder / "out" / "model.hepgen")
    w, dw = model.weights(sim, uncertainty=True)
    own = np.asarray(sim.weight)
    for name, values in (("x", np.asarray(sim.x)), ("ratio(x, y)", np.asarray(sim.x) / np.asarray(sim.y))):
        edges = found[name].axes[-1].edges
        sides = {"nominal": w, "reweighterUp": w + dw, "reweighterDown": np.maximum(w - dw, 0)}
        for side, factor in sides.items():
            wanted = np.histogram(values, edges, weights=own * factor)[0]
            np.testing.assert_allclose(found[name]["reweighted", hist.loc(side), :].values(), wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(band(found[name], "simulation").nominal, np.histogram(values, edges, weights=own)[0], atol=1e-9)
    assert found["x"]["data", hist.loc("nominal"), :].sum(flow=True).value == len(data)


def test_evaluating_again_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "evaluate", folder / "study.toml", "--out", folder / "again") == 0
    one, two = (json.loads((path / "metrics.json").read_text()) for path in (folder / "out" / "report", folder / "again"))
    assert one["chi2"] == two["chi2"]


def test_what_a_reweighting_has_not_is_refused(folder: Path) -> None:
    path = folder / "other.toml"
    path.write_text(STUDY + '[fit_selection]\ncuts = [{expression = "x", minimum = 0}]\n')
    with pytest.raises(UsageError, match=r"leave out \[fit_selection\]"):
        Study.from_file(path).estimator()
    path.write_text(STUDY.replace("epochs = 8", 'epochs = 8\noptimizer = "adam"'))
    study = Study.from_file(path)
    assert "optimizer" not in study.fit_options()
    assert study.estimator().settings is not None
    assert "adam" in json.dumps(study.estimator().document())


def test_two_ranks_read_their_parts_and_fit_one_model_in_memory_and_on_disk(tmp_path: Path) -> None:
    from hepgen import load, samples

    paths = '["photon[0].pt", "photon[0].eta", "photon[1].pt"]'
    model = 'loss = "nll"\nblocks = 1\nhidden = [8]\n[fit]\nepochs = 1\nbatch_size = 2048'
    study = 'output = "{{}}"\n[sim]\nfiles = ["{sim}"]\n[data]\nfiles = ["{data}"]\n[features]\npaths = {paths}\n[model]\n{model}\n'
    text = study.format(**samples.packaged("diphoton"), paths=paths, model=model)
    fitted = {}
    for name, options in (("one", []), ("two", ["--ranks", "2"]), ("streamed", ["--ranks", "2"])):
        stream = "stream = true\n[evaluation]\nevents = 1500\n" if name == "streamed" else ""
        (tmp_path / f"{name}.toml").write_text(text.format(name) + stream)
        command = [sys.executable, "-m", "hepgen", "fit", str(tmp_path / f"{name}.toml"), "--quiet", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.stdout.count("events pass; data:") == (0 if stream else 1)
        fitted[name] = load(tmp_path / name / "model.hepgen")
    one = fitted.pop("one")
    assert fitted["two"].coordinates.to_dict() == one.coordinates.to_dict()
    for other in fitted.values():
        assert other.record["events"] == one.record["events"]
        np.testing.assert_array_equal(other.limits, one.limits)
        assert other.record["stages"][0]["epochs"][-1]["valid"] == pytest.approx(one.record["stages"][0]["epochs"][-1]["valid"], rel=0.1)
    evaluated = json.loads((tmp_path / "streamed" / "report" / "metrics.json").read_text())["samples"]
    assert 1000 < evaluated["data"]["events"] <= 1501, evaluated
