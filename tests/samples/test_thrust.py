"""The sample "thrust": layout, reproducibility, and the physics in it."""

from __future__ import annotations

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepgen import events, samples
from hepgen.errors import UsageError
from hepgen.samples import thrust

pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")

BRANCHES = {"runNumber": "int32_t", "eventNumber": "int32_t", "weight": "float", "thrust": "float", "pass_reco": "bool"}
TRUTH = {"thrust_truth": "float", "pass_truth": "bool"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("thrust")
    paths = samples.make("thrust", 2000, 11, out, processes=1)
    assert [path.name for path in paths] == ["sim.root", "data.root", "thrust.json"]
    return out


def test_layout(made: Path) -> None:
    for sample, expected in (("sim", BRANCHES | TRUTH), ("data", BRANCHES)):
        with uproot.open(made / f"{sample}.root") as file:
            assert file["events"].typenames() == expected
        read = events.read(made / f"{sample}.root")
        assert read.fields == list(expected)
        assert read.eventNumber.tolist() == list(range(1, 2001))
        assert ak.all(read.runNumber == thrust.RUNS[sample])
        assert ak.all(read.weight == 1)
        assert len(np.unique(events.identity(read), axis=0)) == 2000


def test_features_and_selections_take_it(made: Path) -> None:
    from hepgen import Features, Selection
    from hepgen.events import Cut

    read = events.read(made / "data.root")
    matrix, mask = Features(["thrust"]).to_matrix(read)
    assert mask.all()
    np.testing.assert_array_equal(matrix[:, 0], ak.to_numpy(read.thrust))
    assert Selection([Cut("pass_reco", equal=1)]).mask(read).tolist() == read.pass_reco.tolist()


def test_thrust_is_that_of_hadronic_decays(made: Path) -> None:
    sim, data = (events.read(made / f"{sample}.root") for sample in ("sim", "data"))
    for values in (sim.thrust, sim.thrust_truth, data.thrust):
        assert ak.all(values > 0.5)
        assert ak.all(values <= 1)
    # LEP: mean of 1 - T = 0.068 at the Z; 2000 events know it to 0.0014
    assert ak.mean(1 - sim.thrust_truth) == pytest.approx(0.068, abs=0.005)
    assert np.corrcoef(sim.thrust[sim.pass_reco], sim.thrust_truth[sim.pass_reco])[0, 1] > 0.85
    # a thrust axis is distributed as 1 + cos^2: 0.82 (1 + 0.82^2 / 3) / (4 / 3) of them are central
    assert ak.mean(sim.pass_truth) == pytest.approx(0.82 * (1 + 0.82**2 / 3) * 0.75, abs=0.04)
    for sample in (sim, data):
        assert 0.70 < ak.mean(sample.pass_reco) < 0.82
    assert ak.mean(sim.pass_reco == sim.pass_truth) > 0.93
    # less radiation in data: two-jet events, 1 - T < 0.025, are 1.3 times as many, a difference of 6 standard deviations here
    narrow = [ak.mean(sample.thrust[sample.pass_reco] > 0.975) for sample in (sim, data)]
    assert 1.1 < narrow[1] / narrow[0] < 1.6


def test_provenance(made: Path) -> None:
    record = json.loads((made / "thrust.json").read_text())
    assert record["command"] == "hepgen samples make thrust --events 2000 --seed 11 --out DIR"
    assert record["settings"] == json.loads(json.dumps(thrust.describe()))
    assert record["pythia"] == thrust.versions()["pythia"]
    for sample in thrust.SAMPLES:
        assert record["counts"][sample]["passed"] == ak.sum(events.read(made / f"{sample}.root").pass_reco)
        # 41.4 nb without radiation from the beams
        assert record["counts"][sample]["cross_section_pb"] == pytest.approx(41_440, rel=0.01)


@pytest.mark.parametrize("sample", thrust.SAMPLES)
def test_a_block_depends_on_its_arguments_alone(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thrust, "BATCH", 40)
    long, _ = thrust.generate_block(sample, 5, 2, 100)
    other, _ = thrust.generate_block(sample, 6, 2, 30)
    short, counts = thrust.generate_block(sample, 5, 2, 30)
    assert ak.array_equal(short, long[:30], dtype_exact=True)
    assert not ak.array_equal(short.thrust, other.thrust)
    assert short.eventNumber.tolist() == list(range(10_001, 10_031))
    assert counts["generated"] == 30


def test_no_files_of_it_ship() -> None:
    with pytest.raises(UsageError, match="no files of the sample 'thrust' ship with hepgen; make them: hepgen samples make thrust"):
        samples.packaged("thrust")
