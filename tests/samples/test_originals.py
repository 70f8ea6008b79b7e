"""The published arrays: read as events with the columns of our stand-ins, and refused with one sentence where they do not fit."""

from __future__ import annotations

import gzip
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from hepgen import events
from hepgen.errors import InputError
from hepgen.samples import originals, read_aleph, read_jets, read_ttb

Arrays = dict[str, np.ndarray]

ALEPH: Arrays = {
    "data_vals_reco": np.array([0.91, 0.72, 0.99]),
    "data_pass_reco": np.array([1.0, 0.0, 1.0]),
    "MC_vals_reco": np.array([0.95, -999.0, np.nan, 0.81]),
    "MC_pass_reco": np.array([True, False, False, True]),
    "MC_vals_truth": np.array([0.96, 0.88, 0.77, 0.80], dtype=np.float32),
    "MC_pass_truth": np.array([1, 1, 0, 1]),
}
X = np.arange(30.0).reshape(5, 6)
JETS: Arrays = {
    "X_trn": X,
    "y_trn": np.array([0, 1, 1, 0, 1]),
    "X_tst": X[:3] + 100,
    "y_tst": np.array([1.0, 0.0, 1.0], dtype=np.float32),
    "lr_tst": np.array([1.0, np.e, 0.0]),
}
# MET, MET phi; E, pT, eta, phi of four jets and two leptons, in MeV
ONE_LEPTON = """54321.5 -1.25
 200000 100000 1.3 3.0  110000 80000 -0.8 -1.5  60000 50000.5 0.6 0.25  41000 40000 0.1 2.0
 65000 60000 -0.4 1.0  0 0 0 0"""
TWO_LEPTONS = """12000 3.1
 130000 120000 -0.4 0.0  95000 90000 0.3 1.5  71000 70000 0.1 -2.0  22000 21000 -0.2 -3.0
 31000 30000 0.2 2.5  46000 45000 -0.2 -0.5"""


def lines(*events: str, end: str = " ") -> str:
    """Lines as in ttb.csv: a space after each number, the last one too."""
    return "".join(" ".join(event.split()) + end + "\n" for event in events)


def written(folder: Path, arrays: Arrays, **changed: np.ndarray | None) -> Path:
    for name, array in (arrays | changed).items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return folder


def test_aleph(tmp_path: Path) -> None:
    sim, data = read_aleph(written(tmp_path, ALEPH))
    assert sim.fields == ["runNumber", "eventNumber", "weight", "thrust", "pass_reco", "thrust_truth", "pass_truth"]
    assert data.fields == sim.fields[:5]
    assert sim.thrust.tolist() == np.float32([0.95, -999, -999, 0.81]).tolist()
    assert sim.pass_reco.tolist() == [True, False, False, True]
    assert sim.thrust_truth.tolist() == np.float32([0.96, 0.88, 0.77, 0.80]).tolist()
    assert sim.pass_truth.tolist() == [True, True, False, True]
    assert data.thrust.tolist() == np.float32([0.91, 0.72, 0.99]).tolist()
    assert data.pass_reco.tolist() == [True, False, True]
    assert data.eventNumber.tolist() == [1, 2, 3]
    assert sim.weight.tolist() == [1] * 4
    assert sim.runNumber[0] != data.runNumber[0]


def test_aleph_has_the_columns_and_types_of_the_stand_in(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
    from hepgen.samples import thrust

    sim, data = read_aleph(written(tmp_path, ALEPH))
    for original, sample in ((sim, "sim"), (data, "data")):
        ours, _ = thrust.generate_block(sample, 1, 0, 3)
        assert original.type.content == ours.type.content


def test_aleph_without_truth(tmp_path: Path) -> None:
    shorter = {"MC_vals_truth": np.array([0.9]), "MC_pass_truth": np.array([1])}
    folder = written(tmp_path, ALEPH, **shorter)
    with pytest.raises(InputError, match=r"MC_vals_truth\.npy has 1 events and .*MC_vals_reco\.npy 4: .* truth=False"):
        read_aleph(folder)
    assert read_aleph(folder, truth=False).sim.fields == ["runNumber", "eventNumber", "weight", "thrust", "pass_reco"]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("MC_pass_reco", None, r"there is no file .*MC_pass_reco\.npy: give the folder"),
        ("data_vals_reco", np.ones(4), r"data_pass_reco\.npy has 3 rows and .*data_vals_reco\.npy 4: they must be the same events"),
        ("data_pass_reco", np.array([1, 2, 0]), r"data_pass_reco\.npy holds other numbers than 0 and 1"),
        ("MC_vals_reco", np.array([np.nan, 1, 1, 1]), r"MC_vals_reco\.npy holds a thrust that is NaN or infinite in an event that passes"),
        ("MC_vals_reco", np.ones((4, 2)), r"MC_vals_reco\.npy has the shape \(4, 2\): it must hold one number"),
        ("MC_vals_truth", np.array(["a", "b", "c", "d"]), r"MC_vals_truth\.npy is no array of numbers"),
    ],
)
def test_aleph_that_does_not_fit_is_refused(tmp_path: Path, name: str, array: np.ndarray | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_aleph(written(tmp_path, ALEPH, **{name: array}))


def test_columns_of_one_column_are_read(tmp_path: Path) -> None:
    sim, _ = read_aleph(written(tmp_path, ALEPH, MC_vals_reco=ALEPH["MC_vals_reco"][:, None]))
    assert sim.thrust.ndim == 1


def test_jets(tmp_path: Path) -> None:
    found = read_jets(written(tmp_path, JETS))
    assert found.sim.fields == ["runNumber", "eventNumber", "weight", *originals.JET_COLUMNS]
    assert found.sim.jet_m.tolist() == [0, 18]
    assert found.data.jet_m.tolist() == [6, 12, 24]
    assert found.data.jet_pt.tolist() == [11, 17, 29]
    for k, name in enumerate(("jet_m", "jet_mult", "jet_width", "jet_ln_rho", "jet_tau21", "jet_pt")):
        assert found.test[name].tolist() == (X[:3, k] + 100).tolist()
    assert found.test_is_data.tolist() == [True, False, True]
    np.testing.assert_allclose(found.log_ratio, [0, 1, -np.inf], rtol=1e-15)
    runs = [set(part.runNumber.tolist()) for part in (found.sim, found.data, found.test)]
    assert runs == [{1}, {2}, {3}]


def test_jets_have_the_columns_and_types_of_the_stand_in(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
    pytest.importorskip("fastjet", reason="fastjet is not installed")
    from hepgen.samples import jets

    ours, _ = jets.generate_block("sim", 1, 0, 3)
    sim = read_jets(written(tmp_path, JETS)).sim
    assert ours[sim.fields].type.content == sim.type.content


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("lr_tst", None, r"there is no file .*lr_tst\.npy"),
        ("lr_tst", np.ones(2), r"lr_tst\.npy has 2 rows and .*X_tst\.npy 3: they must be the same events"),
        ("lr_tst", np.array([1, -0.5, 2]), r"lr_tst\.npy holds a ratio that is negative or NaN: .* not its logarithm"),
        ("y_trn", np.ones(6), r"y_trn\.npy has 6 rows and .*X_trn\.npy 5"),
        ("y_trn", np.full(5, 0.5), r"y_trn\.npy holds other numbers than 0 and 1"),
        ("X_tst", np.ones((3, 4)), r"X_tst\.npy has the shape \(3, 4\): it must be \(events, 6\): m, M, w, ln rho, tau21, pT"),
        ("X_trn", np.full((5, 6), np.inf), r"X_trn\.npy holds an observable that is NaN or infinite"),
        ("X_trn", np.array([{}] * 5), r"X_trn\.npy cannot be read as an array of numbers"),
    ],
)
def test_jets_that_do_not_fit_are_refused(tmp_path: Path, name: str, array: np.ndarray | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_jets(written(tmp_path, JETS, **{name: array}))


def test_a_file_that_is_cut_short_and_a_missing_folder(tmp_path: Path) -> None:
    path = written(tmp_path, JETS) / "X_trn.npy"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"X_trn\.npy cannot be read as an array of numbers"):
        read_jets(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"X_trn\.npy cannot be read as an array of numbers"):
        read_jets(tmp_path)
    with pytest.raises(InputError, match=r"there is no folder .*gone"):
        read_aleph(tmp_path / "gone")


def test_they_are_written_and_read_as_files_of_a_study(tmp_path: Path) -> None:
    sim, _ = read_aleph(written(tmp_path, ALEPH))
    path = events.write(tmp_path / "sim.root", sim, tree="events")
    again = events.read(path)
    assert again.fields == sim.fields
    for name in sim.fields:
        assert ak.array_equal(again[name], sim[name], dtype_exact=True)


def ttb(folder: Path, text: str) -> Path:
    path = folder / "ttb.csv"
    path.write_text(text)
    return path


def test_ttb(tmp_path: Path) -> None:
    found = read_ttb(ttb(tmp_path, lines(ONE_LEPTON, TWO_LEPTONS)))
    assert found.event.tolist() == [1, 2]
    assert found.genWeight.tolist() == [1, 1]
    assert found.MET_pt.tolist() == np.float32([54.3215, 12]).tolist()
    assert found.MET_phi.tolist() == np.float32([-1.25, 3.1]).tolist()
    assert found.nJet.tolist() == [4, 4]
    assert found.Jet_E[0].tolist() == [200, 110, 60, 41]
    assert found.Jet_pt.tolist() == np.float32([[100, 80, 50.0005, 40], [120, 90, 70, 21]]).tolist()
    assert found.Jet_eta[1].tolist() == np.float32([-0.4, 0.3, 0.1, -0.2]).tolist()
    assert found.Jet_phi[0].tolist() == np.float32([3.0, -1.5, 0.25, 2.0]).tolist()
    assert found.nLepton.tolist() == [1, 2]
    # in the order of the file
    assert found.Lepton_pt.tolist() == [[60], [30, 45]]
    assert found.Lepton_E.tolist() == [[65], [31, 46]]
    assert ak.flatten(found.Lepton_eta).tolist() == np.float32([-0.4, 0.2, -0.2]).tolist()
    assert ak.flatten(found.Lepton_phi).tolist() == [1, 2.5, -0.5]


def test_ttb_has_the_branches_and_types_of_the_stand_in(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
    pytest.importorskip("fastjet", reason="fastjet is not installed")
    from hepgen.samples import ttbar

    ours, _ = ttbar.generate_block("events", 1, 0, 3)
    found = read_ttb(ttb(tmp_path, lines(ONE_LEPTON)))
    assert found.type.content == ours.type.content
    assert found.run[0] != ours.run[0]


@pytest.mark.parametrize("end", ["", " ", " 0 ", " 17"])
def test_ttb_may_have_a_trailing_column_and_be_compressed(tmp_path: Path, end: str) -> None:
    wanted = read_ttb(ttb(tmp_path, lines(ONE_LEPTON, TWO_LEPTONS)))
    path = tmp_path / "part.csv.gz"
    path.write_bytes(gzip.compress(lines(ONE_LEPTON, TWO_LEPTONS, end=end).encode()))
    assert ak.array_equal(read_ttb(path), wanted, dtype_exact=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"ttb\.csv holds no events: give the path of ttb\.csv"),
        (lines("1 2 3", "4 5 6"), r"ttb\.csv has 3 numbers in each line: it must have 26, MET, MET phi, j1 E, j1 pT, "),
        (lines(ONE_LEPTON, "1 2 3"), r"ttb\.csv cannot be read as lines of 26 numbers with spaces between them: .*row 2"),
        (lines(ONE_LEPTON).replace(" ", ","), r"ttb\.csv cannot be read as lines of 26 numbers with spaces between them"),
        (
            lines(TWO_LEPTONS, ONE_LEPTON.replace("54321.5", "nan")),
            r"line 2 of .*ttb\.csv is no event: its numbers must be finite, in the order MET",
        ),
        # pT before E, and the missing momentum at the end
        (lines(TWO_LEPTONS.replace("130000 120000", "120000 130000")), r"line 1 of .*ttb\.csv is no event"),
        (lines(" ".join([*ONE_LEPTON.split()[2:], "54321.5", "-1.25"])), r"line 1 of .*ttb\.csv is no event"),
        (lines(ONE_LEPTON.replace("41000 40000", "41 40")), r"line 1 of .*ttb\.csv has a jet with pT below 1000: it must be in MeV"),
    ],
)
def test_ttb_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_ttb(ttb(tmp_path, text))


def test_ttb_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*gone\.csv: give the path of ttb\.csv"):
        read_ttb(tmp_path / "gone.csv")
    path = tmp_path / "ttb.csv"
    path.write_bytes(bytes(range(128, 256)) * 9)
    with pytest.raises(InputError, match=r"ttb\.csv cannot be read as lines of 26 numbers"):
        read_ttb(path)
    with pytest.raises(InputError, match=r"cannot be read as lines of 26 numbers"):
        read_ttb(tmp_path)
    path = tmp_path / "cut.csv.gz"
    path.write_bytes(gzip.compress(lines(*[ONE_LEPTON] * 50).encode())[:-20])
    with pytest.raises(InputError, match=r"cut\.csv\.gz cannot be read as lines of 26 numbers"):
        read_ttb(path)


def test_ttb_is_written_and_read_as_a_file_of_a_study(tmp_path: Path) -> None:
    found = read_ttb(ttb(tmp_path, lines(ONE_LEPTON, TWO_LEPTONS)))
    again = events.read(events.write(tmp_path / "ttb.root", found, tree="Events"))
    assert again.attrs["schema"] == "nanoaod"
    assert again.Jet.pt.tolist() == found.Jet_pt.tolist()
    assert again.MET.phi.tolist() == found.MET_phi.tolist()
    assert again.Lepton.E.tolist() == found.Lepton_E.tolist()
