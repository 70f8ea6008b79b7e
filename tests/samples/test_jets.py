"""The sample "jets": layout, reproducibility, and the physics in it."""

from __future__ import annotations

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepgen import events, samples

pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
pytest.importorskip("fastjet", reason="fastjet is not installed")

from hepgen.samples import jets

OBSERVABLES = ["jet_m", "jet_mult", "jet_width", "jet_ln_rho", "jet_tau21", "jet_pt"]
COLUMNS = ["runNumber", "eventNumber", "weight", *OBSERVABLES, "jet_y", "jet_phi", "Z_pt"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("jets")
    paths = samples.make("jets", 400, 11, out, processes=1)
    assert [path.name for path in paths] == ["sim.root", "data.root", "jets.json"]
    return out


def test_layout_and_bounds(made: Path) -> None:
    for sample in jets.SAMPLES:
        with uproot.open(made / f"{sample}.root") as file:
            types = file["events"].typenames()
        assert list(types) == COLUMNS
        assert set(types.values()) == {"int32_t", "float"}
        read = events.read(made / f"{sample}.root")
        assert read.eventNumber.tolist() == list(range(1, 401))
        assert ak.all(read.runNumber == jets.RUNS[sample])
        assert ak.all(read.Z_pt > 200)
        assert ak.all(read.jet_pt > 10)
        assert ak.all(read.jet_mult == np.round(read.jet_mult))
        assert ak.all(read.jet_mult >= 1)
        assert ak.all((read.jet_width >= 0) & (read.jet_width < 1.2))
        assert ak.all((read.jet_tau21 >= 0) & (read.jet_tau21 < 2))
        # grooming takes mass away; -20 is where no mass is left
        assert ak.all(read.jet_ln_rho > -20)
        assert ak.all(np.exp(read.jet_ln_rho / 2) * read.jet_pt <= read.jet_m * 1.0001)
        assert ak.all(abs(read.jet_phi) <= np.float32(np.pi))


def test_jets_recoil_and_are_those_of_quarks_and_gluons(made: Path) -> None:
    for sample in jets.SAMPLES:
        read = events.read(made / f"{sample}.root")
        assert np.corrcoef(read.jet_pt, read.Z_pt)[0, 1] > 0.6
        assert 0.7 < ak.mean(read.jet_pt) / ak.mean(read.Z_pt) < 1.0
        assert 17 < ak.mean(read.jet_mult) < 28
        assert 15 < ak.mean(read.jet_m) < 25
        assert 0.10 < ak.mean(read.jet_width) < 0.17
        assert -8 < ak.mean(read.jet_ln_rho) < -6
        assert 0.6 < ak.mean(read.jet_tau21) < 0.8
    sim, data = (events.read(made / f"{sample}.root") for sample in jets.SAMPLES)
    # 24.1 and 21.9 on average, known to 0.5 each
    assert ak.mean(sim.jet_mult) > ak.mean(data.jet_mult)


def test_provenance(made: Path) -> None:
    record = json.loads((made / "jets.json").read_text())
    assert record["command"] == "hepgen samples make jets --events 400 --seed 11 --out DIR"
    assert record["settings"] == json.loads(json.dumps(jets.describe()))
    assert {"pythia": record["pythia"], "fastjet": record["fastjet"]} == jets.versions()
    for counts in record["counts"].values():
        assert 400 <= counts["hard"] - counts["ungroomed"] < counts["generated"]
        assert counts["hard"] / counts["generated"] == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("sample", jets.SAMPLES)
def test_a_block_depends_on_its_arguments_alone(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jets, "BATCH", 40)
    long, _ = jets.generate_block(sample, 5, 3, 40)
    other, _ = jets.generate_block(sample, 6, 3, 10)
    short, _ = jets.generate_block(sample, 5, 3, 10)
    assert ak.array_equal(short, long[:10], dtype_exact=True)
    assert not ak.array_equal(short.jet_m, other.jet_m)
    assert short.eventNumber.tolist() == list(range(15_001, 15_011))


def test_nothing_of_the_programs_is_printed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jets, "BATCH", 10)
    jets.generate_block("data", 5, 0, 1)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
