"""The generator: deterministic, independent of the number of processes, in the layout of the open data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepgen import samples
from hepgen.errors import MissingDependency, OutputError, UsageError
from hepgen.samples import diphoton, production
from hepgen.samples.detector import CRACK, DATA, SIMULATION

BRANCHES = {
    "runNumber": "int32_t",
    "eventNumber": "int32_t",
    "channelNumber": "int32_t",
    "mcWeight": "float",
    "scaleFactor_PILEUP": "float",
    "scaleFactor_PHOTON": "float",
    "trigP": "bool",
    "photon_n": "int32_t",
    "photon_pt": "float[]",
    "photon_eta": "float[]",
    "photon_phi": "float[]",
    "photon_E": "float[]",
    "photon_isTightID": "bool[]",
    "photon_ptcone30": "float[]",
}


def read(path: Path) -> ak.Array:
    with uproot.open(path) as file:
        return file["mini"].arrays()


def same(a: ak.Array, b: ak.Array) -> bool:
    return a.fields == b.fields and all(ak.array_equal(a[name], b[name], dtype_exact=True) for name in a.fields)


@pytest.fixture(scope="module")
def _pythia() -> None:
    pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diphoton, "EVENTS_PER_BLOCK", 60)
    monkeypatch.setattr(diphoton, "BATCH", 400)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, _pythia: None) -> Path:
    out = tmp_path_factory.mktemp("made")
    paths = samples.make("diphoton", 250, 7, out / "new" / "folder", processes=1)
    assert [path.name for path in paths] == ["sim.root", "data.root", "diphoton.json"]
    return paths[0].parent


def test_layout_and_types_are_those_of_the_open_data(made: Path) -> None:
    for sample in diphoton.SAMPLES:
        with uproot.open(made / f"{sample}.root") as file:
            tree = file["mini"]
            assert tree.typenames() == BRANCHES
            assert tree.num_entries == 250
            assert file.file.compression == uproot.ZSTD(9)
            counters = {
                branch.member("fLeaves")[0].member("fLeafCount").member("fName") for branch in tree.branches if "[]" in branch.typename
            }
        assert counters == {"photon_n"}


def test_preselection_order_and_numbers(made: Path) -> None:
    for sample in diphoton.SAMPLES:
        events = read(made / f"{sample}.root")
        pt = events.photon_pt
        assert ak.all(pt[:, 0] > 32e3)
        assert ak.all(pt[:, 1] > 24e3)
        assert ak.all(pt[:, :-1] >= pt[:, 1:])
        assert ak.all(abs(events.photon_eta) < 2.37)
        assert events.photon_n.tolist() == ak.num(pt).tolist()
        assert events.eventNumber.tolist() == list(range(1, 251))
        np.testing.assert_allclose(ak.flatten(events.photon_E), ak.flatten(pt * np.cosh(events.photon_eta)), rtol=1e-6)


def test_weights_tell_simulation_from_data(made: Path) -> None:
    sim, data = read(made / "sim.root"), read(made / "data.root")
    assert set(np.unique(sim.mcWeight)) <= {-1.0, 1.0}
    assert ak.all(data.mcWeight == 0)
    assert ak.all(data.channelNumber == data.runNumber)
    assert set(np.unique(sim.channelNumber)) <= set(diphoton.CHANNELS.values())
    assert 0.9 < ak.mean(sim.scaleFactor_PILEUP) < 1.1
    assert ak.all(data.scaleFactor_PHOTON == 1)


def test_provenance_says_how_to_make_it_again(made: Path) -> None:
    record = json.loads((made / "diphoton.json").read_text())
    assert record["command"] == "hepgen samples make diphoton --events 250 --seed 7 --out DIR"
    assert record["settings"]["pythia_settings"]["common"] == list(diphoton.COMMON)
    for sample in diphoton.SAMPLES:
        counts = record["counts"][sample]
        assert counts["written"] == 250 <= counts["preselected"] <= counts["generated"]
        assert record["files"][f"{sample}.root"]["bytes"] == (made / f"{sample}.root").stat().st_size
    assert record["counts"]["sim"]["cross_section_pb_H"] == pytest.approx(0.067, rel=0.05)
    expected = diphoton.CROSS_SECTIONS["yj"]
    assert record["counts"]["data"]["cross_section_pb_yj"] == pytest.approx(expected, rel=0.1)


def test_same_seed_same_events_other_seed_other_events(made: Path, tmp_path: Path) -> None:
    again, other = (samples.make("diphoton", 60, seed, tmp_path / str(seed), processes=1) for seed in (7, 8))
    for index, sample in enumerate(diphoton.SAMPLES):
        assert same(read(again[index]), read(made / f"{sample}.root")[:60])
        assert not same(read(other[index]), read(again[index]))
    assert json.loads((made / "diphoton.json").read_text())["files"]["sim.root"]["sha256"] == production.file_sha256(made / "sim.root")


@pytest.mark.usefixtures("_pythia")
def test_events_do_not_depend_on_the_number_of_processes() -> None:
    # in a fresh interpreter: workers are spawned, and see the module as it is on disk
    code = (
        "import awkward as ak\n"
        "from hepgen.samples import diphoton\n"
        "from hepgen.samples.production import Production\n"
        "class Recipe:\n"
        "    SAMPLES, EVENTS_PER_BLOCK = ('sim',), 30\n"
        "    generate_block = staticmethod(diphoton.generate_block)\n"
        "if __name__ == '__main__':\n"
        "    one, two = ([block for block, _ in Production('x', Recipe, 80, 3, n).blocks()] for n in (1, 2))\n"
        "    same = all(ak.array_equal(a, b) for a, b in zip(one, two, strict=True))\n"
        "    print([len(block) for block in one], same, ak.array_equal(one[0], one[1]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.split("\n")[0] == "[30, 30, 20] True False"


@pytest.mark.usefixtures("_pythia", "_small_blocks")
def test_progress_counts_every_block_of_both_files(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    samples.make("diphoton", 100, 1, tmp_path, processes=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(60, 200), (100, 200), (160, 200), (200, 200)]
    events = read(tmp_path / "sim.root")
    assert len(np.unique(events.eventNumber)) == 100


@pytest.mark.usefixtures("_pythia", "_small_blocks")
def test_nothing_is_left_when_a_production_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = diphoton.generate_block

    def fails_at_data(sample: str, *arguments: int) -> object:
        if sample == "data":
            raise OSError(28, "No space left on device")
        return generate(sample, *arguments)

    monkeypatch.setattr(diphoton, "generate_block", fails_at_data)
    with pytest.raises(OutputError, match="No space left on device; choose a folder"):
        samples.make("diphoton", 10, 1, tmp_path, processes=1)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data.root").write_text("mine")
    with pytest.raises(OutputError, match=r"data\.root exists already; remove it"):
        samples.make("diphoton", 10, 1, tmp_path)
    assert (tmp_path / "data.root").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("higgs", 10, 1), "there is no sample 'higgs'; choose one of: diphoton"),
        (("diphoton", 0, 1), "number of events is 0"),
        (("diphoton", 10, -1), "the seed is -1"),
        (("diphoton", 10, 2**63), "the seed is 9223372036854775808"),
    ],
)
def test_wrong_requests_are_refused(tmp_path: Path, arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        samples.make(*arguments, tmp_path)
    with pytest.raises(UsageError, match="number of processes is 0"):
        samples.make("diphoton", 10, 1, tmp_path, processes=0)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def without(module: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module, None)
        yield


def test_without_pythia_the_pip_line_is_named(tmp_path: Path) -> None:
    with without("pythia8mc"), pytest.raises(MissingDependency, match=r"pip install 'hepgen\[pythia\]'"):
        samples.make("diphoton", 10, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_efficiency_follows_its_formula() -> None:
    pt, eta = np.array([22.0, 1e3, 1e3, 1e3, 1e3]), np.array([0.6, 0.1, 1.45, -1.45, 2.4])
    # ripple: (1 + cos(2 pi eta / 0.4)) / 2 is 0 at 0.6, 1/2 at 0.1; gaps are many widths away from both
    wanted = np.array([0.5, 1 - 0.15 / 2, 0, 0, 0]) * 0.90 * np.array([1, 1 - 0.30 * np.exp(-0.5 * 2.5**2), 0, 0, 0])
    found = DATA.efficiency(pt, eta)
    np.testing.assert_allclose(found[[0, 1, 4]], wanted[[0, 1, 4]], rtol=3e-4)
    np.testing.assert_allclose(found[2], 0.15 * 0.90 * (1 - 0.15 * (1 + np.cos(2 * np.pi * 1.45 / 0.4)) / 2), rtol=1e-9)
    assert found[3] == found[2]
    assert SIMULATION.efficiency(np.array([1e3]), np.array([CRACK[0]])) == pytest.approx(0.92)


def test_response_has_the_stated_scale_and_width() -> None:
    rng = np.random.default_rng(5)
    for eta, scale, constant in ((0.5, 1.004 + 0.003 * 0.5, 0.018), (2.0, 0.982 + 0.003 * 2.0, 0.030)):
        pt = np.full(200_000, 60.0)
        ratio = DATA.measured_pt(pt, np.full_like(pt, eta), rng) / pt
        width = scale * np.sqrt(0.14**2 / (60 * np.cosh(eta)) + constant**2)
        assert ratio.mean() == pytest.approx(scale, abs=4 * width / np.sqrt(len(pt)))
        assert ratio.std() == pytest.approx(width, rel=0.01)
