"""A Reweighter applied to files: new branches, and weight files found again by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

import hepgen
from hepgen import samples
from hepgen.applying import apply_file, weigh_files
from hepgen.errors import InputError, UsageError
from hepgen.estimators.cache import file_sha256
from hepgen.events import Writer, chunks, open_info, read
from hepgen.events.weight_files import read_metadata, read_weights

COLUMNS = [f"photon[{i}].{name}" for i in (0, 1) for name in ("pt", "eta")]
FILES = samples.packaged("diphoton")


@pytest.fixture(scope="module")
def ratio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = hepgen.Reweighter(hepgen.Features(COLUMNS), ensemble=3, hidden=(8,), schema="atlas-open-data")
    sim, data = (read(FILES[role], entry_stop=1500) for role in ("sim", "data"))
    model.fit(sim, data, epochs=2, batch_size=250, progress=False)
    return model.save(tmp_path_factory.mktemp("models") / "ratio.hepgen")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events of which some lack the second photon."""
    path, source = tmp_path_factory.mktemp("few") / "few.root", FILES["sim_independent"]
    raw = next(chunks(source, chunk_size=400)).raw
    kept = np.where(np.arange(400) % 7 == 0, 1, 2)
    for name in [name for name in raw.fields if name.startswith("photon_") and raw[name].ndim > 1]:
        raw[name] = raw[name][ak.local_index(raw[name]) < kept]
    raw["photon_n"] = ak.values_astype(ak.num(raw.photon_pt), np.uint32)
    with Writer(path, like=open_info(source)) as out:
        out.extend(raw)
    return path


@pytest.mark.parametrize("options", [{}, {"chunk_size": 33}, {"workers": 1}])
def test_weights_become_branches_of_the_file(ratio: Path, few: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    model, out = hepgen.load(ratio), tmp_path / "out.root"
    done = apply_file(model, few, out, progress=False, **options)
    events = read(few)
    w, dw = model.weights(events, uncertainty=True)
    two = ak.to_numpy(ak.num(events.photon)) == 2
    assert (done.events, done.transformed, done.untouched) == (400, int(two.sum()), int((~two).sum()))
    with uproot.open(few) as before, uproot.open(out) as after:
        old, new = before["mini"].arrays(), after["mini"].arrays()
    assert new.fields == [*old.fields, "hepgen_weight", "hepgen_weight_up", "hepgen_weight_down"]
    assert all(ak.array_equal(new[name], old[name]) for name in old.fields)
    assert np.array_equal(ak.to_numpy(new.hepgen_weight), w)
    np.testing.assert_allclose(new.hepgen_weight_up, np.where(two, w + dw, 1.0), rtol=1e-12)
    np.testing.assert_allclose(new.hepgen_weight_down, np.where(two, np.maximum(w - dw, 0), 1.0), rtol=1e-12)
    assert np.all(ak.to_numpy(new.hepgen_weight)[~two] == 1)
    with pytest.raises(InputError, match="have a branch hepgen_weight already"):
        apply_file(model, out, tmp_path / "again.root", progress=False)
    assert not (tmp_path / "again.root").exists()


def test_a_weight_file_is_read_back_by_key(ratio: Path, few: Path, tmp_path: Path) -> None:
    model = hepgen.load(ratio)
    path = weigh_files(model, few, tmp_path / "weights.parquet", replicas=True, progress=False)
    said, events = read_metadata(path), read(few)
    assert (said["keys"], said["events"], said["replicas"]) == (["runNumber", "eventNumber"], 400, 3)
    assert (said["model_sha256"], said["normalisation"]) == (file_sha256(ratio), "sim")
    order = np.random.default_rng(1).permutation(400)
    assert np.array_equal(read_weights(path, events[order], model_sha256=file_sha256(ratio)), model.weights(events)[order])
    assert np.array_equal(read_weights(path, events, replicas=True), model.weights(events, replicas=True))
    with pytest.raises(UsageError, match="holds no NaN"):
        weigh_files(model, few, tmp_path / "nan.parquet", invalid="nan", progress=False)
    nameless = tmp_path / "nameless.root"
    with uproot.open(few) as file, uproot.recreate(nameless) as copy:
        raw = file["mini"].arrays([name for name in open_info(few).branches if "Number" not in name])
        copy.mktree("mini", {name: raw[name].type.content for name in raw.fields if name != "photon_n"}, counter_name=lambda _: "photon_n")
        copy["mini"].extend({name: raw[name] for name in raw.fields if name != "photon_n"})
    with pytest.raises(InputError, match="has no run and event numbers to find weights by"):
        weigh_files(model, nameless, tmp_path / "none.parquet", progress=False)


@pytest.mark.parametrize(("name", "wanted"), [("a.parquet", "Parquet"), ("a.root", "TTree"), ("a", "TTree")])
def test_the_name_of_the_output_says_its_format(ratio: Path, few: Path, tmp_path: Path, name: str, wanted: str) -> None:
    apply_file(hepgen.load(ratio), few, tmp_path / name, progress=False)
    assert open_info(tmp_path / name).format == wanted


@pytest.mark.parametrize(("name", "wanted"), [("b.root", "TTree"), ("b", "Parquet")])
def test_a_parquet_file_stays_one_unless_the_name_says_otherwise(ratio: Path, few: Path, tmp_path: Path, name: str, wanted: str) -> None:
    with Writer(tmp_path / "few.parquet") as out:
        out.extend(next(chunks(few)).raw)
    apply_file(hepgen.load(ratio), tmp_path / "few.parquet", tmp_path / name, schema="atlas-open-data", progress=False)
    assert open_info(tmp_path / name).format == wanted
