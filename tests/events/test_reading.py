"""Reading TTree, RNTuple and Parquet files, against uproot and pyarrow used directly; and what bad files are answered with."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from hepgen.errors import InputError, UsageError
from hepgen.events.reading import chunks, open_info, read
from hepgen.events.schemas import schema

RNTUPLE = "Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root"


def events_of(n: int, seed: int = 1) -> dict[str, ak.Array]:
    """A small sample in the layout of ATLAS Open Data."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, n)
    lists = {
        "photon_pt": rng.exponential(5e4, counts.sum()).astype(np.float32),
        "photon_eta": rng.normal(0, 1, counts.sum()).astype(np.float32),
        "photon_isTightID": rng.random(counts.sum()) > 0.5,
    }
    return {
        "eventNumber": ak.Array(np.arange(n, dtype=np.int64)),
        "mcWeight": ak.Array(rng.normal(1, 1, n).astype(np.float32)),
        "photon_n": ak.Array(counts.astype(np.int32)),
        **{name: ak.unflatten(ak.Array(values), counts) for name, values in lists.items()},
    }


def make_tree(path: Path, data: dict[str, ak.Array], baskets: int = 3, tree: str = "mini") -> Path:
    types = {name: column[:0].layout.form.type for name, column in data.items()}
    n = len(next(iter(data.values())))
    with uproot.recreate(path) as file:
        out = file.mktree(tree, types, counter_name=lambda name: f"{name.partition('_')[0]}_n")
        for part in np.array_split(np.arange(n), baskets) if n else []:
            out.extend({name: column[part[0] : part[-1] + 1] for name, column in data.items()})
    return path


def make_rntuple(path: Path, data: dict[str, ak.Array], clusters: int = 3) -> Path:
    n = len(next(iter(data.values())))
    whole = ak.Array(data)
    with uproot.recreate(path) as file:
        out = file.mkrntuple("mini", ak.to_packed(whole[:0]).layout.form)
        for part in np.array_split(np.arange(n), clusters) if n else []:
            out.extend(whole[part])
    return path


def make_parquet(path: Path, data: dict[str, ak.Array]) -> Path:
    pq.write_table(ak.to_arrow_table(ak.Array(data), extensionarray=False, list_to32=True), path, row_group_size=17)
    return path


MAKERS = {"ttree": make_tree, "rntuple": make_rntuple, "parquet": make_parquet}


@pytest.fixture(params=list(MAKERS))
def sample(request, tmp_path):
    data = events_of(100)
    suffix = "parquet" if request.param == "parquet" else "root"
    return MAKERS[request.param](tmp_path / f"sim.{suffix}", data), ak.Array(data)


def equal(one: ak.Array, other: ak.Array) -> bool:
    return one.fields == other.fields and all(
        one[name].type == other[name].type and ak.array_equal(one[name], other[name], equal_nan=True) for name in one.fields
    )


@pytest.mark.parametrize("size", [1, 7, 34, 1000])
def test_chunks_give_every_event_once_whatever_their_size(sample, size):
    path, expected = sample
    found = list(chunks(path, chunk_size=size))
    assert all(1 <= len(chunk) <= size and len(chunk) == len(chunk.raw) for chunk in found)
    assert [chunk.entry_start for chunk in found] == [0, *[chunk.entry_stop for chunk in found[:-1]]]
    assert found[-1].entry_stop == 100
    assert {chunk.file for chunk in found} == {str(path)}
    assert equal(ak.concatenate([chunk.raw for chunk in found]), expected)


def test_info(sample):
    path, expected = sample
    info = open_info(path)
    assert (info.entries, info.schema, list(info.branches), info.skipped) == (100, "atlas-open-data", expected.fields, {})
    assert info.format == {".parquet": "Parquet"}.get(path.suffix, info.format)
    if info.format == "TTree":
        assert info.counters == dict.fromkeys(["photon_pt", "photon_eta", "photon_isTightID"], "photon_n")
        assert info.branches["photon_pt"] == "float[]"


def test_read_is_the_view_of_the_branches(sample):
    path, expected = sample
    events = read(path)
    assert events.attrs == {"schema": "atlas-open-data", "files": [str(path)]}
    assert equal(events.photon, schema("atlas-open-data").view(expected).photon)
    assert ak.all(events.photon.pt == expected.photon_pt / np.float32(1000))
    assert events.eventNumber.tolist() == list(range(100))


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (30, 40), (95, None), (-5, None), (10, 10), (None, -90), (60, 1000)])
def test_read_a_slice(sample, start, stop):
    path, expected = sample
    events = read(path, entry_start=start, entry_stop=stop)
    assert events.eventNumber.tolist() == list(range(100))[slice(start, stop)]
    assert ak.all(events.photon.eta == expected.photon_eta[slice(start, stop)])


def test_columns_by_either_name_in_file_order(sample):
    path, expected = sample
    (chunk,) = chunks(path, columns=["photon.pt", "mcWeight"])
    assert equal(chunk.raw, expected[["mcWeight", "photon_pt"]])
    events = read(path, columns=["photon_eta"])
    assert (events.fields, events.photon.fields) == (["photon"], ["eta"])


def test_schema_by_name_and_unknown(sample):
    path, _ = sample
    assert read(path, schema="flat").fields[-1] == "photon_isTightID"
    with pytest.raises(UsageError, match="no schema 'delphes': choose one of"):
        read(path, schema="delphes")


def test_several_files_globs_and_slices(tmp_path):
    parts = [events_of(n, seed) for seed, n in enumerate((10, 0, 25))]
    for i, part in enumerate(parts):
        make_tree(tmp_path / f"sim{i}.root", part, baskets=2)
    expected = ak.concatenate([ak.Array(parts[0]), ak.Array(parts[2])])
    for paths in (tmp_path / "sim?.root", str(tmp_path / "*.root"), [tmp_path / f"sim{i}.root" for i in range(3)]):
        events = read(paths, schema="flat")
        assert equal(events, expected)
        assert len(events.attrs["files"]) == 3
    assert read(tmp_path / "*.root", entry_start=8, entry_stop=12).eventNumber.tolist() == [8, 9, 0, 1]
    assert [len(chunk) for chunk in chunks(tmp_path / "*.root", chunk_size=20)] == [10, 0, 20, 5]


def test_files_of_other_branches_or_types(tmp_path):
    data = events_of(10)
    first = make_tree(tmp_path / "a.root", data)
    less = make_tree(tmp_path / "b.root", {name: column for name, column in data.items() if name != "mcWeight"})
    more = make_tree(tmp_path / "c.root", {**data, "XSection": data["mcWeight"]})
    double = make_tree(tmp_path / "d.root", {**data, "mcWeight": ak.values_astype(data["mcWeight"], np.float64)})
    with pytest.raises(InputError, match=r"b\.root lacks mcWeight, unlike .*a\.root: choose common branches"):
        read([first, less])
    with pytest.raises(InputError, match=r"c\.root has besides XSection, unlike"):
        list(chunks([first, more]))
    with pytest.raises(InputError, match=r"d\.root: the branch 'mcWeight' is float64 here and float32 in .*a\.root"):
        read([first, double])
    assert len(read([first, less, more], columns=["photon.pt"])) == 30


@pytest.mark.parametrize("kind", list(MAKERS))
def test_no_entries_have_the_fields_and_types(tmp_path, kind):
    data = events_of(0)
    path = MAKERS[kind](tmp_path / ("sim.parquet" if kind == "parquet" else "sim.root"), data)
    assert open_info(path).entries == 0
    (chunk,) = chunks(path)
    assert len(chunk) == 0
    assert equal(chunk.raw, ak.Array(data))
    events = read(path)
    assert len(events) == 0
    assert events.photon.fields == ["pt", "eta", "isTightID"]


# -- bad input -----------------------------------------------------------------------------------------------------------


def test_missing_files(tmp_path):
    make_tree(tmp_path / "signal.root", events_of(3))
    with pytest.raises(InputError, match=r"signl\.root does not exist: did you mean signal\.root\?"):
        read(tmp_path / "signl.root")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        list(chunks(tmp_path / "nowhere" / "x.root"))
    with pytest.raises(InputError, match=r"no file matches .*data\*\.root"):
        read(str(tmp_path / "data*.root"))
    with pytest.raises(InputError, match="is a folder: name a file"):
        open_info(tmp_path)
    with pytest.raises(UsageError, match="no input file was given"):
        read([])


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("keep", ["half", "all but 1", "all but 60", "20 bytes"])
def test_files_cut_short(tmp_path, kind, keep):
    good = MAKERS[kind](tmp_path / ("sim.parquet" if kind == "parquet" else "sim.root"), events_of(2000))
    content = good.read_bytes()
    size = {"half": len(content) // 2, "all but 1": len(content) - 1, "all but 60": len(content) - 60, "20 bytes": 20}[keep]
    bad = tmp_path / f"cut{good.suffix}"
    bad.write_bytes(content[:size])
    with pytest.raises(InputError, match=r"cut\.\w+ (is cut short|cannot be read: it is damaged or cut short)"):
        read(bad)


def test_damaged_inside(tmp_path):
    path = tmp_path / "sim.root"
    make_tree(path, events_of(5000), baskets=1)
    with uproot.open(path) as file:
        start = int(file["mini/photon_pt"].member("fBasketSeek")[0])
    content = bytearray(path.read_bytes())
    content[start + 100 : start + 400] = b"\xff" * 300
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"sim\.root cannot be read: it is damaged or cut short"):
        read(path)


def test_other_kinds_of_file(tmp_path):
    text, empty = tmp_path / "notes.root", tmp_path / "empty.root"
    text.write_text("pt eta phi\n1 2 3\n")
    empty.touch()
    with pytest.raises(InputError, match=r"notes\.root is neither a ROOT nor a Parquet file"):
        read(text)
    with pytest.raises(InputError, match=r"empty\.root is empty \(0 bytes\)"):
        read(empty)
    with uproot.recreate(tmp_path / "hist.root") as file:
        file["h"] = np.histogram([1.0, 2.0])
    with pytest.raises(InputError, match="has no TTree and no RNTuple"):
        read(tmp_path / "hist.root")


def test_missing_tree_and_branch(sample):
    path, _ = sample
    with pytest.raises(InputError, match=r"has no tree 'minni': (did you mean 'mini'|a Parquet file holds one table)"):
        read(path, tree="minni")
    with pytest.raises(InputError, match=r"sim\.\w+: there is no branch for the column 'photon_Pt': did you mean 'photon_pt'"):
        list(chunks(path, columns=["photon_Pt"]))


def test_several_trees(tmp_path):
    with uproot.recreate(tmp_path / "two.root") as file:
        for name in ("left", "right"):
            file.mktree(name, {"x": np.arange(3.0)})
    with pytest.raises(InputError, match=r"has several trees \(left, right\): say which with tree="):
        read(tmp_path / "two.root")
    assert read(tmp_path / "two.root", tree="right").x.tolist() == [0, 1, 2]


def test_chunk_size_must_be_positive(sample):
    with pytest.raises(UsageError, match="chunk_size must be at least 1, not 0"):
        chunks(sample[0], chunk_size=0)


def test_no_handle_is_left_open(sample, tmp_path):
    path, _ = sample
    list(chunks(path))
    next(iter(chunks(path, chunk_size=3)))  # given up half way
    read(path)
    open_info(path)
    with pytest.raises(InputError):
        read(path, tree="other")
    cut = tmp_path / f"cut{path.suffix}"
    cut.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError):
        read(cut)
    held = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue  # the descriptor of the listing itself
    assert not [name for name in held if name.startswith(str(tmp_path))]


def test_memory_is_that_of_a_chunk_not_of_the_file(tmp_path):
    def peak(n: int) -> int:
        path = make_tree(tmp_path / f"{n}.root", events_of(n), baskets=n // 2000)
        for _ in chunks(path, chunk_size=2000):  # caches of uproot and awkward are filled once
            break
        tracemalloc.start()
        assert sum(len(chunk) for chunk in chunks(path, chunk_size=2000)) == n
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(80_000) < 1.5 * peak(8_000)


# -- real files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tree", "entries", "kind", "found"),
    [
        ("uproot-Zmumu.root", "events", 2304, "TTree", "flat"),
        ("uproot-HZZ.root", "events", 2421, "TTree", "flat"),
        ("nano_dy.root", "Events", 40, "TTree", "nanoaod"),
        ("nano_dimuon.root", "Events", 40, "TTree", "nanoaod"),
        ("PHYSLITE_example.root", "CollectionTree", 100, "TTree", "physlite"),
        (RNTUPLE, "Events", 1000, "RNTuple", "nanoaod"),
    ],
)
def test_real_files_are_known(shared_data, name, tree, entries, kind, found):
    info = open_info(shared_data / name)
    assert (info.tree, info.entries, info.format, info.schema) == (tree, entries, kind, found)


@pytest.mark.parametrize(("name", "size"), [("uproot-Zmumu.root", 1000), ("uproot-HZZ.root", 700), (RNTUPLE, 300), ("nano_dy.root", 15)])
def test_real_files_chunk_by_chunk(shared_data, name, size):
    found = ak.concatenate([chunk.raw for chunk in chunks(shared_data / name, chunk_size=size)])
    with uproot.open(shared_data / name) as file:
        tree = file["Events" if "Events" in file else "events"]
        expected = tree.arrays()
    assert set(found.fields) == {field for field in expected.fields if field != "_collection0"}
    for field in found.fields:
        assert found[field].type == expected[field].type
        assert ak.array_equal(found[field], expected[field], equal_nan=True)


def test_nanoaod_view(shared_data):
    events = read(shared_data / "nano_dy.root", columns=["Electron", "MET", "event", "nElectron"])
    with uproot.open(shared_data / "nano_dy.root") as file:
        pt, met = (file["Events"][name].array() for name in ("Electron_pt", "MET_pt"))
    assert ak.array_equal(events.Electron.pt, pt)
    assert ak.array_equal(events.MET.pt, met)
    assert ak.num(events.Electron).tolist() == events.nElectron.tolist()


def test_physlite_view_in_gev(shared_data):
    path = shared_data / "PHYSLITE_example.root"
    events = read(path, columns=["Photons", "EventInfo.runNumber", "EventInfo.mcEventWeights"])
    with uproot.open(path) as file:
        pt = file["CollectionTree"]["AnalysisPhotonsAuxDyn.pt"].array()
    assert ak.num(events.Photons).tolist() == ak.num(pt).tolist()
    assert ak.all(events.Photons.pt == pt / np.float32(1000))
    assert schema("physlite").weight(events).tolist() == ak.firsts(events.EventInfo.mcEventWeights).tolist()


def test_physlite_says_what_it_cannot_read(shared_data, caplog):
    path = shared_data / "PHYSLITE_example.root"
    found = list(chunks(path, chunk_size=60))
    info = open_info(path)
    assert "483 of its branches cannot be read and are left out" in caplog.text
    assert found[0].skipped == found[1].skipped == info.skipped
    assert len(info.skipped) == 483
    assert "cannot be deserialised" in info.skipped["AnalysisPhotonsAux."]
    assert found[0].raw.fields == list(info.branches)
    with pytest.raises(InputError, match=r"the branch 'AnalysisPhotonsAux\.' cannot be read \(objects of type .*leave it out"):
        list(chunks(path, columns=["AnalysisPhotonsAux."]))
    with uproot.open(path) as file:
        tree = file["CollectionTree"]
        for name in ("xTrigDecisionAux.smk", "AnalysisJetsAuxDyn.EnergyPerSampling", "MET_TruthAuxDyn.name"):
            expected = tree[name].array()
            assert ak.array_equal(ak.concatenate([chunk.raw[name] for chunk in found]), expected)


def test_parquet_columns_that_may_be_none(tmp_path):
    table = pa.table({"photon_pt": pa.array([[1.0], None, [], [2.0]]), "mass": pa.array([1.0, None, 3.0, 4.0])})
    pq.write_table(table, tmp_path / "x.parquet")
    first, second = chunks(tmp_path / "x.parquet", chunk_size=2)
    assert first.raw.tolist() == [{"photon_pt": [1.0], "mass": 1.0}, {"photon_pt": None, "mass": None}]
    assert second.raw.tolist() == [{"photon_pt": [], "mass": 3.0}, {"photon_pt": [2.0], "mass": 4.0}]
    assert str(first.raw.type.content) == str(second.raw.type.content) == "{photon_pt: option[var * ?float64], mass: ?float64}"
