"""Writing: what is read back by uproot, pyarrow and coffea is what was given; and nothing is left after an error."""

from __future__ import annotations

import os
import resource
import warnings
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from hepgen.errors import InputError, OutputError, UsageError
from hepgen.events.reading import chunks, open_info, read
from hepgen.events.writing import Writer, write

RNTUPLE = "Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root"
FORMATS = ("ttree", "rntuple", "parquet")


def mini(n: int, seed: int = 1) -> ak.Array:
    rng = np.random.default_rng(seed)
    photons, jets = rng.integers(0, 4, n), rng.integers(0, 3, n)

    def lists(counts, values):
        return ak.unflatten(ak.Array(values), counts)

    return ak.Array(
        {
            "eventNumber": np.arange(n, dtype=np.uint64),
            "mcWeight": rng.normal(1, 1, n).astype(np.float32),
            "photon_n": photons.astype(np.uint32),
            "photon_pt": lists(photons, rng.exponential(5e4, photons.sum()).astype(np.float32)),
            "trigP": rng.random(n) > 0.5,
            "photon_isTightID": lists(photons, rng.random(photons.sum()) > 0.5),
            "jet_n": jets.astype(np.int16),
            "jet_pt": lists(jets, rng.exponential(5e4, jets.sum())),
            "jet_trueflav": lists(jets, rng.integers(-9, 9, jets.sum()).astype(np.int8)),
            "matrix": rng.normal(size=(n, 2, 3)).astype(np.float32),
        }
    )


def assert_equal(one: ak.Array, other: ak.Array, order: bool = True) -> None:
    assert one.fields == other.fields if order else set(one.fields) == set(other.fields)
    for name in one.fields:
        assert str(one[name].type) == str(other[name].type), name
        assert ak.array_equal(one[name], other[name], equal_nan=True, check_parameters=False), name


def all_of(path: Path) -> ak.Array:
    return ak.concatenate([chunk.raw for chunk in chunks(path)])


def put(path: Path, *parts: ak.Array, meanwhile=None, **options) -> Writer:
    """Write these chunks; `meanwhile` happens before the end."""
    with Writer(path, **options) as writer:
        for part in parts:
            writer.extend(part)
        if meanwhile is not None:
            meanwhile()
    return writer


def stop(error: type[BaseException] = KeyboardInterrupt) -> None:
    raise error("stop")


def out_name(tmp_path: Path, kind: str) -> Path:
    return tmp_path / ("out.parquet" if kind == "parquet" else "out.root")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [1, 37, 200])
def test_write_then_read_is_the_identity(tmp_path, kind, size):
    raw, out = mini(200), out_name(tmp_path, kind)
    with Writer(out, format=kind, tree="mini") as writer:
        for start in range(0, 200, size):
            writer.extend(raw[start : start + size])
    assert (writer.entries, writer.added) == (200, [])
    assert open_info(out).tree == "mini"
    assert_equal(all_of(out), raw)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_tree_as_uproot_sees_it(tmp_path):
    raw = mini(50)
    with Writer(tmp_path / "out.root", tree="mini") as writer:
        writer.extend(raw)
    with uproot.open(tmp_path / "out.root") as file:
        tree = file["mini"]
        assert tree.keys() == raw.fields
        counters = {name: tree[name].count_branch.name for name in raw.fields if tree[name].count_branch is not None}
        assert counters == {"photon_pt": "photon_n", "photon_isTightID": "photon_n", "jet_pt": "jet_n", "jet_trueflav": "jet_n"}
        assert tree["photon_n"].typename == "uint32_t"
        assert tree["jet_n"].typename == "int16_t"
        assert tree["photon_n"].array(library="np").tolist() == raw.photon_n.tolist()
        assert file.file.compression == uproot.ZSTD(1)


def test_parquet_as_pyarrow_sees_it(tmp_path):
    raw = mini(50)
    with Writer(tmp_path / "out.parquet") as writer:
        writer.extend(raw)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == raw.fields
    assert table["photon_pt"].to_pylist() == raw.photon_pt.tolist()


def test_baskets_grow_from_small_chunks(tmp_path):
    raw = mini(30_000)[["eventNumber"]]
    with Writer(tmp_path / "out.root") as writer:
        for start in range(0, 30_000, 500):
            writer.extend(raw[start : start + 500])
    with uproot.open(tmp_path / "out.root") as file:
        assert file["events/eventNumber"].num_baskets == 2
    assert all_of(tmp_path / "out.root").eventNumber.tolist() == list(range(30_000))


@pytest.mark.parametrize(
    ("branches", "counter"),
    [
        ({"nPhoton": "u4", "Photon_pt": None, "Photon_mva_ID": None}, "nPhoton"),
        ({"NJet": "i4", "Jet_Px": None, "Jet_E": None}, "NJet"),
        ({"largeRjet_n": "u4", "largeRjet_pt": None}, "largeRjet_n"),
    ],
)
def test_counter_by_name(tmp_path, branches, counter):
    counts = np.array([2, 0, 1])
    lists = ak.unflatten(ak.Array(np.arange(3.0)), counts)
    raw = ak.Array({name: lists if kind is None else counts.astype(kind) for name, kind in branches.items()})
    with Writer(tmp_path / "out.root") as writer:
        writer.extend(raw)
    assert writer.added == []
    with uproot.open(tmp_path / "out.root") as file:
        tree = file["events"]
        assert {tree[name].count_branch.name for name, kind in branches.items() if kind is None} == {counter}
    assert_equal(all_of(tmp_path / "out.root"), raw)


def test_counters_are_added_where_there_are_none(tmp_path):
    raw = ak.Array({"photon_pt": [[1.0, 2.0], []], "photon_eta": [[0.1, 0.2], []], "photon_hits": [[1], [2, 3]], "photon_n": [7, 7]})
    with Writer(tmp_path / "out.root") as writer:
        writer.extend(raw)
    assert writer.added == ["nphoton", "nphoton_hits"]
    back = all_of(tmp_path / "out.root")
    assert (back.nphoton.tolist(), back.nphoton_hits.tolist(), back.photon_n.tolist()) == ([2, 0], [1, 2], [7, 7])
    assert_equal(back[raw.fields], raw)


def test_counts_that_stop_fitting(tmp_path):
    first, second = ak.Array({"photon_n": [1], "photon_pt": [[1.0]]}), ak.Array({"photon_n": [3], "photon_pt": [[1.0]]})
    with pytest.raises(OutputError, match=r"out\.root: 'photon_n' is not the length of the lists it counts: use format='rntuple'"):
        put(tmp_path / "out.root", first, second)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([[[1.0], []], []], r"'tracks' \(var \* var \* float64\)"),
        ([["a", "b"], []], r"'tracks' \(var \* string\)"),
        ([1.0, None], r"'tracks' \(\?float64\)"),
        ([[1.0, None], []], r"'tracks' \(var \* \?float64\)"),
        ([{"x": 1}, {"x": 2}], r"'tracks' \(\{x: int64\}\)"),
    ],
)
def test_what_a_tree_cannot_hold(tmp_path, column, said):
    raw = ak.Array({"pt": [1.0, 2.0], "tracks": column})
    with (
        pytest.raises(OutputError, match=rf"out\.root: a TTree cannot hold the branch {said}: use format='rntuple'"),
        Writer(tmp_path / "out.root") as writer,
    ):
        writer.extend(raw)
    assert list(tmp_path.iterdir()) == []
    for kind in ("rntuple", "parquet"):
        out = out_name(tmp_path, kind)
        with Writer(out, format=kind) as writer:
            writer.extend(raw)
        assert all_of(out).tolist() == raw.tolist()


def test_what_an_rntuple_cannot_hold(tmp_path):
    raw = ak.Array({"pt": [1.0, 2.0], "when": np.array(["2020-01-01", "2021-01-01"], "datetime64[s]")})
    with (
        pytest.raises(OutputError, match=r"an RNTuple cannot hold the branch 'when' .*: use format='parquet'"),
        Writer(tmp_path / "out.root", format="rntuple") as writer,
    ):
        writer.extend(raw)
    assert list(tmp_path.iterdir()) == []


def test_one_string_an_event_fits_a_tree(tmp_path):
    raw = ak.Array({"Type": ["GT", "", "x" * 300], "E1": [1.0, 2.0, 3.0]})
    with Writer(tmp_path / "out.root") as writer:
        writer.extend(raw)
    assert writer.added == []
    assert_equal(all_of(tmp_path / "out.root"), raw)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_events_keep_the_branches(tmp_path, kind):
    raw, out = mini(5)[:0], out_name(tmp_path, kind)
    with Writer(out, format=kind) as writer:
        writer.extend(raw)
    assert open_info(out).entries == 0
    assert_equal(next(chunks(out)).raw, raw)


def test_sliced_and_masked_events(tmp_path):
    raw = mini(60)
    picked = raw[raw.trigP][::-1]
    with Writer(tmp_path / "out.root") as writer:
        writer.extend(picked)
    assert all_of(tmp_path / "out.root").tolist() == picked.tolist()


@pytest.mark.parametrize("kind", FORMATS)
def test_chunks_of_another_layout(tmp_path, kind):
    raw, out = mini(5), out_name(tmp_path, kind)
    with pytest.raises(OutputError, match=r"a chunk has other branches than the first \('trigP'\)"):
        put(out, raw, ak.without_field(raw, "trigP"), format=kind)
    with pytest.raises(OutputError, match=r"the branch 'mcWeight' is float64 here and float32 in the first chunk"):
        put(out, raw, ak.with_field(raw, np.zeros(5), "mcWeight"), format=kind)
    assert list(tmp_path.iterdir()) == []


# -- where it may be written ---------------------------------------------------------------------------------------------


def test_output_that_exists(tmp_path):
    out = write(tmp_path / "out.root", {"x": [1.0]})
    before = out.read_bytes()
    with pytest.raises(OutputError, match=r"out\.root exists already"):
        write(out, {"x": [2.0]})
    assert out.read_bytes() == before
    write(out, {"x": [2.0]}, overwrite=True)
    assert read(out).x.tolist() == [2.0]
    with pytest.raises(OutputError, match="is a folder: name a file in it"):
        write(tmp_path, {"x": [2.0]}, overwrite=True)


def test_output_that_appears_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out.root"
    with pytest.raises(OutputError, match="exists already"):
        put(out, mini(3), meanwhile=lambda: out.write_text("of someone else"))
    assert out.read_text() == "of someone else"
    assert [path.name for path in tmp_path.iterdir()] == ["out.root"]


def test_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match=r"there is no folder .*new; make it first"):
        Writer(tmp_path / "new" / "out.root")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "out.root", tmp_path / "file" / "deeper" / "out.root"):
        with pytest.raises(OutputError, match=r"cannot be written: .*file is a file, not a folder"):
            Writer(path)


def test_unknown_format(tmp_path):
    with pytest.raises(UsageError, match="no output format 'csv': choose one of ttree, rntuple, parquet"):
        Writer(tmp_path / "out.csv", format="csv")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_writing_leaves_nothing(tmp_path, kind, error):
    def interrupted() -> None:
        assert len(list(tmp_path.iterdir())) == 1
        stop(error)

    with pytest.raises(error, match="stop"):
        put(out_name(tmp_path, kind), mini(25_000)[["eventNumber"]], format=kind, meanwhile=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_overwriting_keeps_the_old_file(tmp_path):
    out = write(tmp_path / "out.root", {"x": [1.0]})
    with pytest.raises(KeyboardInterrupt, match="stop"):
        put(out, ak.Array({"x": [2.0]}), overwrite=True, meanwhile=stop)
    assert read(out).x.tolist() == [1.0]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("kind", FORMATS)
def test_full_disk(tmp_path, kind):
    raw = ak.Array({"noise": np.random.default_rng(1).normal(size=200_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written: .*; nothing was left under that name"):
            write(out_name(tmp_path, kind), raw, format=kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_no_chunk_at_all(tmp_path):
    with pytest.raises(OutputError, match="no events were given, not even a chunk of length 0"), Writer(tmp_path / "out.root"):
        pass
    with pytest.raises(OutputError, match="events without any branch"):
        write(tmp_path / "out.root", ak.Array([{}, {}]))
    assert list(tmp_path.iterdir()) == []


def test_no_handle_is_left_open(tmp_path):
    for kind in FORMATS:
        write(out_name(tmp_path, kind), mini(10), format=kind, overwrite=True)
    with pytest.raises(OutputError), Writer(tmp_path / "bad.root") as writer:
        writer.extend(ak.Array({"x": [["a"]]}))
    held = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")]
    assert not [name for name in held if name.startswith(str(tmp_path))]


# -- one call ------------------------------------------------------------------------------------------------------------


def test_write_of_what_read_gave_is_the_file(tmp_path):
    raw = mini(40)
    first = write(tmp_path / "a.root", raw, tree="mini")
    events = read(first)
    assert events.photon.fields == ["pt", "isTightID"]
    second = write(tmp_path / "b.root", events)
    assert open_info(second).tree == "mini"
    back = all_of(second)
    assert set(back.fields) == set(raw.fields)
    assert np.allclose(ak.flatten(back.photon_pt), ak.flatten(raw.photon_pt), rtol=2e-7)
    assert str(back.photon_pt.type) == str(raw.photon_pt.type)


def test_write_records_without_a_schema(tmp_path):
    events = ak.Array({"jet": [[{"pt": 1.0, "eta": 0.5}], []], "MET": [{"pt": 3.0}, {"pt": 4.0}]})
    with uproot.open(write(tmp_path / "out.root", events, tree="t")) as file:
        assert file["t"].arrays().tolist() == [
            {"njet": 1, "jet_pt": [1.0], "jet_eta": [0.5], "MET_pt": 3.0},
            {"njet": 0, "jet_pt": [], "jet_eta": [], "MET_pt": 4.0},
        ]


def test_write_columns_of_unequal_length(tmp_path):
    with pytest.raises(InputError, match="different lengths: x has 2, y has 3"):
        write(tmp_path / "out.root", {"x": [1, 2], "y": [1, 2, 3]})


# -- real files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uproot-Zmumu.root", "uproot-HZZ.root", RNTUPLE])
@pytest.mark.parametrize("kind", FORMATS)
def test_real_files_round_trip(shared_data, tmp_path, name, kind):
    source, out = shared_data / name, out_name(tmp_path, kind)
    info = open_info(source)
    with Writer(out, like=info, format=kind) as writer:
        for chunk in chunks(source, chunk_size=700):
            writer.extend(chunk.raw)
    assert (writer.added, open_info(out).tree) == ([], info.tree)
    # a TTree has a counter before the lists it counts; this RNTuple has it behind
    assert_equal(all_of(out), all_of(source), order=not (kind == "ttree" and name == RNTUPLE))


def test_compression_and_format_of_the_source_are_kept(shared_data, tmp_path):
    with Writer(tmp_path / "z.root", like=shared_data / "uproot-Zmumu.root") as writer:
        writer.extend(next(chunks(shared_data / "uproot-Zmumu.root")).raw)
    assert str(open_info(tmp_path / "z.root").compression) == "ZLIB(4)"
    with Writer(tmp_path / "r.root", like=shared_data / RNTUPLE) as writer:
        writer.extend(next(chunks(shared_data / RNTUPLE)).raw)
    assert open_info(tmp_path / "r.root").format == "RNTuple"


def test_nanoaod_reopens_in_coffea(shared_data, tmp_path):
    nanoevents = pytest.importorskip("coffea.nanoevents")
    columns = ["run", "luminosityBlock", "event", "genWeight", "MET", "nElectron", "Electron", "nPhoton", "Photon_pt", "Photon_eta"]
    columns += ["nJet", "Jet_pt", "Jet_mass", "nGenPart", "GenPart"]
    source, out = shared_data / "nano_dy.root", tmp_path / "nano.root"
    with Writer(out, like=source) as writer:
        for chunk in chunks(source, columns=columns, chunk_size=15):
            writer.extend(chunk.raw)
    assert writer.added == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cross references to collections that were left out
        old, new = (
            nanoevents.NanoEventsFactory.from_root({str(path): "Events"}, schemaclass=nanoevents.NanoAODSchema, mode="eager").events()
            for path in (source, out)
        )
    with uproot.open(out) as file:
        assert file["Events/nElectron"].typename == "uint32_t"
        assert file["Events"].keys().count("nElectron") == 1
    for collection, fields in {"Electron": ["pt", "phi", "charge"], "Jet": ["pt", "mass"], "Photon": ["pt", "eta"], "MET": ["pt"]}.items():
        for field in fields:
            assert ak.array_equal(new[collection, field], old[collection, field], check_parameters=False)
    assert ak.all(new.Electron.matched_gen.pdgId == old.Electron.matched_gen.pdgId)
    assert_equal(all_of(out), ak.concatenate([chunk.raw for chunk in chunks(source, columns=columns)]))


@pytest.mark.parametrize("kind", ["rntuple", "parquet"])
def test_physlite_round_trips_outside_a_tree(shared_data, tmp_path, kind):
    source, out = shared_data / "PHYSLITE_example.root", out_name(tmp_path, kind)
    columns = ["EventInfo", "Photons", "Jets", "METAssoc_AnalysisMETAux.overlapIndices", "MET_TruthAuxDyn.name"]
    with Writer(out, like=source, format=kind) as writer:
        for chunk in chunks(source, columns=columns, chunk_size=60):
            writer.extend(chunk.raw)
    expected = ak.concatenate([chunk.raw for chunk in chunks(source, columns=columns)])
    back = all_of(out)
    assert back.fields == expected.fields
    for name in expected.fields:  # names of C++ classes are not kept, their members are
        assert ak.array_equal(back[name], expected[name], equal_nan=True, check_parameters=False)
    with (
        pytest.raises(OutputError, match=r"a TTree cannot hold the branch '[\w.]+' .*: use format='rntuple'"),
        Writer(tmp_path / "tree.root", like=source, format="ttree") as writer,
    ):
        writer.extend(expected)
