"""The demo's path from files to report, on the packaged sample and on real dimuon events."""

from __future__ import annotations

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

pytest.importorskip("coffea", reason="the demo fills its histograms by coffea")

from hepgen import demo
from hepgen.errors import OutputError
from hepgen.events import Writer, chunks, open_info, read, read_histograms
from hepgen.study import FeaturesSection, FitSection, SampleSection, Study


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")  # raised inside pyhf
def test_demo_leaves_every_kind_of_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    demo.run_demo(out, epochs=1, progress=False)
    said = capsys.readouterr().out
    report = [f"report/{name}" for name in ("report.html", "metrics.json", "history.png")]
    higgs = [f"higgs/{name}" for name in ("diphoton.root", "diphoton.png", "workspace.json")]
    for name in ("model.hepgen", "other.hepgen", "transformed.root", "histograms.root", *report, *higgs):
        assert (out / name).stat().st_size > 0
        assert Path(name).name in said
    assert "classifier AUC" in said
    assert "warm start" in said
    assert "CLs(mu = 1)" in said
    histograms = read_histograms(out / "histograms.root")
    assert set(histograms) == {f"{sample}/{name}" for sample in ("data", "simulation", "transformed") for name in demo.PATHS}
    metrics = json.loads((out / "report" / "metrics.json").read_text())
    assert histograms["data/photon[0].pt"].sum(flow=True).value == metrics["samples"]["data"]["events"]
    assert histograms["simulation/photon[0].pt"].sum(flow=True).value == pytest.approx(metrics["samples"]["simulation"]["sum_of_weights"])
    with pytest.raises(OutputError, match="is not empty"):
        demo.run_demo(out)


def test_the_same_path_on_real_dimuons(shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "uproot-Zmumu.root"
    chunk = next(chunks(data))
    raw = chunk.raw
    for muon in ("1", "2"):
        raw = ak.with_field(raw, raw[f"pt{muon}"] * 1.1, f"pt{muon}")
    with Writer(tmp_path / "sim.root", like=open_info(data)) as writer:
        writer.extend(raw[raw.fields])
    study = Study(
        output=str(tmp_path / "out"),
        sim=SampleSection(files=[str(tmp_path / "sim.root")]),
        data=SampleSection(files=[str(data)]),
        features=FeaturesSection(paths=["pt1", "eta1", "phi1", "pt2", "eta2", "phi2"], computed=["Q1"]),
        model={"loss": "mdmm", "blocks": 3, "hidden": [32, 32], "warm_start": 40, "relative_angles": True},
        fit=FitSection(epochs=5, batch_size=256),
    )
    evaluation = demo.run(study, tmp_path / "sim.root", progress=False)
    chi2 = evaluation.metrics["chi2"]
    assert chi2["pt1"]["simulation"]["per_ndf"] > 4
    assert chi2["pt1"]["transformed"]["per_ndf"] < 3
    before, after = read(tmp_path / "sim.root"), read(tmp_path / "out" / "transformed.root")
    assert after.fields == before.fields
    assert ak.all(after.Event == before.Event)
    assert ak.all(after.Q1 == before.Q1)
    assert not np.allclose(after.pt1, before.pt1)
    assert read_histograms(tmp_path / "out" / "histograms.root")["data/pt1"].sum(flow=True).value == len(before)
