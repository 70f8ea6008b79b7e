"""A comparison by a study file: its figures against independent ones, its rows, what it keeps, and what it refuses."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from numpy.typing import NDArray

import hepgen
from hepgen import metrics
from hepgen.comparing import HALVES, TRAINING, compare_study
from hepgen.comparing_figures import Benchmark, Observed, Sample, leading_jets
from hepgen.comparing_report import HEAD
from hepgen.errors import FitInterrupted, InputError, OutputError, UsageError
from hepgen.events import Cut, Features, Selection, read_histograms, write
from hepgen.study import Study

STUDY = """
task = "compare"
output = "out"
seed = 2
[sample]
files = ["sample.root"]
schema = "nanoaod"
[features]
paths = ["Muon[0].pt", "Muon[0].phi", "Muon[1].pt", "Muon[1].phi", "MET.pt"]
[selection]
cuts = [{expression = "MET.pt", minimum = 12}]
[generate]
events = 3000
train = 800
observables = ["Muon[0].pt", "Muon[1].pt", "MET.pt", "ratio(Muon[0].pt, MET.pt)"]
[models.kde]
model = "kde"
bandwidth = 0.15
[models.copies]
model = "smearing"
smearing = 0.0
"""
MAF = '[models.flow]\nmodel = "maf"\nblocks = 2\nhidden = [16]\nepochs = 2\nbatch_size = 200\n'


def muons(n: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    pt = np.sort(10 + rng.exponential(20, (n, 2)), axis=1)[:, ::-1]
    two = ak.Array(rng.random(n) < 0.4)
    full = ak.zip({"pt": ak.from_regular(ak.Array(pt)), "phi": ak.from_regular(ak.Array(rng.uniform(-np.pi, np.pi, (n, 2))))})
    full = full[ak.local_index(full.pt) < 1 + ak.values_astype(two, np.int64)]
    identity = {"run": np.ones(n, np.uint32), "luminosityBlock": np.ones(n, np.uint32), "event": np.arange(n, dtype=np.uint64)}
    weights = rng.choice([1.0, -0.3], n, p=[0.9, 0.1]).astype(np.float32)
    met = 0.3 * pt[:, 0] + rng.exponential(15, n)
    return {**identity, "Muon_pt": full.pt, "Muon_phi": full.phi, "MET_pt": met, "genWeight": weights}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "sample.root", muons(3000, 1), tree="Events")
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


def compared(folder: Path, more: str = "", **options: Any) -> dict[str, Any]:
    (folder / "study.toml").write_text(STUDY + more)
    compare_study(Study.from_file(folder / "study.toml"), progress=False, **options)
    found: dict[str, Any] = json.loads((folder / "out" / "report" / "comparison.json").read_text())
    return found


# -- figures ----------------------------------------------------------------------------------------------------------


def brute_delta(x: NDArray[np.float64], y: NDArray[np.float64], ranges: list[tuple[float, float]], w: NDArray[np.float64]) -> float:
    """Mean chi2 of all pairs, by numpy, with one bin more for what is outside."""
    found = []
    for i, j in combinations(range(x.shape[1]), 2):
        p, q = (
            np.histogram2d(m[:, i], m[:, j], 25, [ranges[i], ranges[j]], weights=v)[0].ravel() / v.sum()
            for m, v in ((x, w), (y, 0 * y[:, 0] + 1))
        )
        p, q = (np.append(one, 1 - one.sum()) for one in (p, q))
        p = np.maximum(p, 0) / np.maximum(p, 0).sum()
        used = p + q > 0
        found.append(((p - q)[used] ** 2 / (p + q)[used]).sum())
    return float(np.mean(found))


def test_delta_is_that_of_the_central_ranges() -> None:
    rng = np.random.default_rng(3)
    x, y, w = rng.normal(size=(3000, 3)), rng.normal(0.1, 1, (2000, 3)), rng.choice([1.0, -0.2], 3000, p=[0.95, 0.05])
    names, reference = ("a", "b", "c"), Sample(x, x, w)
    bench = Benchmark.of(reference, Sample(x[:500], x[:500]), Features(names), names, central=0.98)
    found = bench.measure(Sample(y, y))
    ranges = [(float(np.quantile(column, 0.01)), float(np.quantile(column, 0.99))) for column in x.T]
    assert found["delta"]["value"] == pytest.approx(brute_delta(x, y, ranges, w), rel=1e-9)
    assert found["delta"]["outside"]["a"] == pytest.approx(np.mean((y[:, 0] < ranges[0][0]) | (y[:, 0] > ranges[0][1])), rel=1e-9)
    assert found["physicality"] is None
    assert found["delta_of"] == {}
    every = metrics.marginal_chi2(y, x, names, 40, b_weights=w)
    assert found["chi2"]["columns"] == {name: one.to_dict() for name, one in every.items()}
    assert every[found["chi2"]["worst"]].p_value == min(one.p_value for one in every.values())


def test_jets_cuts_and_copies() -> None:
    rng = np.random.default_rng(4)
    names = [f"Jet_{q}[{i}]" for i in (0, 1) for q in ("pt", "eta", "phi")]
    draw = np.column_stack([rng.exponential(30, 2000), rng.normal(0, 1, 2000), rng.uniform(-np.pi, np.pi, 2000)] * 2)
    draw[:, 3:] = rng.permutation(draw[:, 3:])
    draw[:, [0, 3]] = np.sort(draw[:, [0, 3]], axis=1)[:, ::-1]
    training, reference = (Sample(part, part) for part in (draw[:900], draw[900:]))
    cuts = Selection([Cut("Jet_pt[0]", minimum=20)])
    bench = Benchmark.of(reference, training, Features(names), names, selection=cuts)
    found = bench.measure(Sample(np.tile(draw[:450], (2, 1)), np.tile(draw[:450], (2, 1))))
    assert found["delta_of"]["eta"] == metrics.delta_of(draw[900:1800, [1, 4]], np.tile(draw[:450], (2, 1))[:, [1, 4]]).to_dict()
    assert found["delta_of"]["phi"]["holes"] > 10 * found["delta_of"]["phi"]["floor"]
    assert (found["copies"]["exact"], found["copies"]["closer"]) == (1.0, 1.0)
    assert found["physicality"]["fraction"] == pytest.approx(np.mean(draw[:450, 0] < 20))
    honest = bench.measure(reference[:500], against=reference[500:])
    assert abs(honest["copies"]["closer"] - 0.5) < 4 * honest["copies"]["error"]
    assert honest["copies"]["exact"] == 0


def test_leading_jets_by_name() -> None:
    assert leading_jets(["jet1.eta", "jet2.eta", "jet1.phi", "MET.phi"]) == {"eta": (0, 1)}
    assert leading_jets(["Jet_phi[1]", "Jet_phi[0]", "Jet_eta[0]", "Jet_eta[2]"]) == {"phi": (1, 0)}


def test_absent_objects_are_zero() -> None:
    events = ak.zip({"Muon": ak.Array([[{"pt": 5.0}, {"pt": 3.0}], [{"pt": 4.0}]])}, depth_limit=1)
    observed = Observed(Features(["Muon[0].pt", "Muon[1].pt"]), ["ratio(Muon[1].pt, Muon[0].pt)", "Muon[0].pt"])
    columns, observables = observed(events)
    assert columns.tolist() == [[5, 3], [4, 0]]
    assert observables.tolist() == [[0.6, 5], [0, 4]]
    assert observed.needed.names == ("Muon[0].pt", "Muon[1].pt", "ratio(Muon[1].pt, Muon[0].pt)")


def test_constant_observables_are_left_out() -> None:
    x = np.random.default_rng(5).normal(size=(100, 3))
    x[:, 1] = 7.0
    bench = Benchmark.of(Sample(x, x), Sample(x, x), Features(["a", "b", "c"]), ["a", "b", "c"])
    assert bench.about()["left_out"] == ["b"]
    assert bench.measure(Sample(x, x), copies=False)["delta"]["value"] == 0
    with pytest.raises(InputError, match="fewer than two vary"):
        Benchmark.of(Sample(x[:, :2], x[:, :2]), Sample(x, x), Features(["a", "b"]), ["a", "b"])


# -- the whole --------------------------------------------------------------------------------------------------------


def test_a_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(folder)
    rows = found["rows"]
    assert list(rows) == [TRAINING, HALVES, "kde", "copies"]
    n = found["events"]["training"]["events"] + found["events"]["reference"]["events"]
    assert (found["events"]["read"], found["events"]["training"]["events"]) == (3000, 800)
    assert n == np.sum(np.asarray(muons(3000, 1)["MET_pt"]) >= 12)
    # of one distribution: at the floor; the error is that of one comparison
    for label in (TRAINING, HALVES):
        assert abs(rows[label]["delta"]["value"] - rows[label]["delta"]["floor"]) < 0.15 * rows[label]["delta"]["floor"]
    assert (rows["copies"]["copies"]["exact"], rows[TRAINING]["copies"]) == (1.0, None)
    assert rows["copies"]["copies"]["closer"] > 0.95 > rows["kde"]["copies"]["closer"]
    assert rows["copies"]["sampling"]["events_per_second"] == pytest.approx(3000 / rows["copies"]["sampling"]["seconds"])
    assert rows[TRAINING]["physicality"]["rules"]["MET.pt >= 12"]["events"] == 0
    out = folder / "out"
    booked = read_histograms(out / "histograms.root")
    assert list(booked) == found["observables"]["names"]
    assert set(booked["MET.pt"].axes[0]) == {"reference", "kde", "copies"}
    assert booked["MET.pt"]["kde", "nominal", sum].value == 3000
    assert booked["MET.pt"]["reference", "nominal", sum].value == pytest.approx(found["events"]["reference"]["sum_of_weights"])
    text = (out / "report" / "report.html").read_text()
    assert all(word in text for word in (*HEAD, "kde", "data:image/png"))
    assert "http:" not in text
    assert "https:" not in text
    said = capsys.readouterr().out
    assert f"800 to learn from, {n - 800} as reference" in said


def test_what_was_fitted_is_not_fitted_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compared(folder)
    models = folder / "out" / "models"
    before = {path.name: path.read_bytes() for path in models.glob("*.*")}
    assert set(before) == {"kde.hepgen", "kde.json", "copies.hepgen", "copies.json"}
    fitted: list[str] = []
    fit = hepgen.EventGenerator.fit
    monkeypatch.setattr(hepgen.EventGenerator, "fit", lambda self, *a, **k: (fitted.append(self.model), fit(self, *a, **k))[1])
    with pytest.raises(OutputError, match="report exists and holds files"):
        compared(folder, MAF)
    again = compared(folder, MAF, overwrite=True)
    assert fitted == ["maf"]
    assert {name: (models / name).read_bytes() for name in before} == before
    for label in ("kde", "copies"):
        assert all(again["rows"][label][part] == first["rows"][label][part] for part in ("fit", "delta", "copies", "chi2"))
    # the model saved is the one that was measured
    model = hepgen.load(models / "flow.hepgen")
    assert model.seed == 2
    assert model.record["plan"]["epochs"] == 2


def test_models_of_other_settings_are_refused(folder: Path) -> None:
    compared(folder)
    before = (folder / "out" / "models" / "kde.hepgen").read_bytes()
    text = STUDY.replace("bandwidth = 0.15", "bandwidth = 0.3")
    (folder / "study.toml").write_text(text)
    plan = Study.from_file(folder / "study.toml")
    for path in (folder / "out" / "report").iterdir():
        path.unlink()
    for path in (folder / "out").glob("histograms.*"):
        path.unlink()
    with pytest.raises(OutputError, match="kde.hepgen was fitted with other settings or events"):
        compare_study(plan, progress=False)
    assert (folder / "out" / "models" / "kde.hepgen").read_bytes() == before
    compare_study(plan, overwrite=True, progress=False)
    assert hepgen.load(folder / "out" / "models" / "kde.hepgen").settings.bandwidth == 0.3


def test_a_model_that_fails_says_why_and_the_others_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = hepgen.EventGenerator.sample

    def broken(self: hepgen.EventGenerator, *arguments: Any, **options: Any) -> Any:
        if self.model == "kde":
            raise FloatingPointError("no longer finite")
        return sample(self, *arguments, **options)

    monkeypatch.setattr(hepgen.EventGenerator, "sample", broken)
    (folder / "study.toml").write_text(STUDY)
    result = compare_study(Study.from_file(folder / "study.toml"), progress=False)
    assert result.failures == {"kde": "FloatingPointError: no longer finite"}
    assert result.best == "copies"
    assert result.rows()[2][:3] == ("kde", "failed", "-")
    text = (folder / "out" / "report" / "report.html").read_text()
    assert "kde failed: FloatingPointError: no longer finite" in text
    found = json.loads((folder / "out" / "report" / "comparison.json").read_text())
    assert found["rows"]["copies"]["delta"]["value"] > 0


def test_a_stopped_comparison_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = hepgen.EventGenerator.fit

    def stopped(self: hepgen.EventGenerator, *arguments: Any, **options: Any) -> Any:
        if self.model == "maf":
            options["checkpoint"].mkdir(parents=True)
            raise FitInterrupted("the fit was stopped")
        return fit(self, *arguments, **options)

    monkeypatch.setattr(hepgen.EventGenerator, "fit", stopped)
    with pytest.raises(FitInterrupted):
        compared(folder, MAF)
    assert {path.name for path in (folder / "out" / "models").glob("*.hepgen")} == {"kde.hepgen", "copies.hepgen"}
    assert not (folder / "out" / "report").exists()
    monkeypatch.setattr(hepgen.EventGenerator, "fit", fit)
    found = compared(folder, MAF)
    assert {label: row["fit"]["resumed"] for label, row in found["rows"].items() if "fit" in row} == {
        "kde": False, "copies": False, "flow": True,
    }  # fmt: skip
    assert not list((folder / "out" / "models" / "checkpoints").iterdir())


def test_what_is_refused(folder: Path) -> None:
    for old, new, error, message in (
        ("train = 800", "train = 2999", InputError, "generate.train asks for 2999 events of 2"),
        ("bandwidth = 0.15", "width = 1", UsageError, "models.kde: EventGenerator has no setting 'width'"),
        ('"MET.pt", "ratio', '"MET.ptt", "ratio', InputError, "MET.ptt"),
        ('schema = "nanoaod"', 'weights = "none"\nschema = "cms"', UsageError, "there is no schema 'cms'"),
    ):
        assert old in STUDY
        (folder / "study.toml").write_text(STUDY.replace(old, new))
        with pytest.raises(error, match=message):
            compare_study(Study.from_file(folder / "study.toml"), progress=False)
        assert not list(folder.rglob("*.hepgen"))
