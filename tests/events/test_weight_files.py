from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepgen.errors import InputError, OutputError, UsageError
from hepgen.events.weight_files import read_metadata, read_weights, write_weights


def nano(n: int, seed: int = 1) -> ak.Array:
    """Events with NanoAOD's numbers, every triplet once, in no order."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(n)
    lumi = (1 + numbers // 10).astype(np.uint32)
    return ak.Array(
        {"run": np.full(n, 7, dtype=np.uint32), "luminosityBlock": lumi, "event": (numbers % 10).astype(np.uint64), "x": rng.normal(size=n)}
    )


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, ak.Array, np.ndarray, np.ndarray]:
    events = nano(95)
    rng = np.random.default_rng(2)
    weights, replicas = rng.normal(1, 0.3, 95), rng.normal(1, 0.3, (95, 4))
    path = write_weights(tmp_path / "weights.parquet", events, weights, replicas=replicas, normalisation="sim", model_sha256="ab" * 32)
    return path, events, weights, replicas


def test_weights_come_back_to_their_events_in_any_order(written: Any) -> None:
    path, events, weights, replicas = written
    order = np.random.default_rng(3).permutation(95)
    assert np.array_equal(read_weights(path, events[order]), weights[order])
    assert np.array_equal(read_weights(path, events[order], replicas=True), replicas[order])
    some = order[:20]
    assert np.array_equal(read_weights(path, events[some], strict=False), weights[some])
    assert read_weights(path, events[:0], strict=False).shape == (0,)
    columns = {name: ak.to_numpy(events[name]) for name in ("run", "luminosityBlock", "event")}
    assert np.array_equal(read_weights(path, columns), weights)
    assert np.array_equal(read_weights(path, np.stack(list(columns.values()), axis=1)), weights)
    structured = np.zeros(95, dtype=[(name, np.int64) for name in columns])
    for name, column in columns.items():
        structured[name] = column
    assert np.array_equal(read_weights(path, structured[order]), weights[order])


@given(keys=st.lists(st.tuples(st.integers(0, 2**63), st.integers(0, 3)), unique=True, max_size=30), data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_key_finds_its_weight(tmp_path_factory: pytest.TempPathFactory, keys: list[tuple[int, int]], data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("keys") / "w.parquet"
    table = np.array(keys, dtype=np.uint64).reshape(-1, 2)
    weights = {key: float(number) for number, key in enumerate(keys)}
    write_weights(path, table, list(weights.values()), names=("event", "run"))
    asked = data.draw(st.permutations(keys))[: data.draw(st.integers(0, len(keys)))]
    found = read_weights(path, np.array(asked, dtype=np.uint64).reshape(-1, 2), strict=False)
    assert found.tolist() == [weights[key] for key in asked]


def test_the_metadata_say_what_the_weights_are(written: Any, tmp_path: Path) -> None:
    path, _, weights, _ = written
    metadata = read_metadata(path)
    assert metadata.pop("sha256") == json.loads(pq.read_schema(path).metadata[b"hepgen"])["sha256"]
    assert metadata == {
        "format": 1,
        "hepgen": "0.1.0",
        "keys": ["run", "luminosityBlock", "event"],
        "events": 95,
        "sum_of_weights": weights.sum(),
        "replicas": 4,
        "normalisation": "sim",
        "model_sha256": "ab" * 32,
        "includes_event_weights": False,
    }
    table = pq.read_table(path)  # by any reader of Parquet
    assert table.column_names == ["run", "luminosityBlock", "event", "weight", "replicas"]
    assert table.column("weight").to_pylist() == weights.tolist()
    other = write_weights(tmp_path / "other.parquet", {"event": [1, 2]}, [1.0, 2.0], includes_event_weights=True)
    assert read_metadata(other)["includes_event_weights"] is True


def test_events_that_do_not_fit_are_refused_with_the_first_of_them(written: Any) -> None:
    path, events, _, _ = written
    lost = ak.concatenate([events[:4], nano(120)[:3]])
    lost = ak.with_field(lost, np.r_[np.asarray(events.run[:4]), 8, 8, 8].astype(np.uint32), "run")
    lumi, event = lost.luminosityBlock[4], lost.event[4]
    with pytest.raises(
        InputError, match=rf"no weight for 3 of 7 events, the first of which is run 8, luminosityBlock {lumi}, event {event}: take"
    ):
        read_weights(path, lost, strict=False)
    with pytest.raises(
        InputError, match=rf"has weights of 93 other events, the first of which is run 7, luminosityBlock {events.luminosityBlock[2]}"
    ):
        read_weights(path, events[:2])
    double = ak.concatenate([events, events[[5, 9]]])
    first = min((5, 9))
    with pytest.raises(
        InputError,
        match=rf"2 of the 97 events that are asked for have the key of another one, the first run 7, .* event {events.event[first]}: leave",
    ):
        read_weights(path, double)


def test_other_key_columns_are_refused(written: Any, tmp_path: Path) -> None:
    path, events, weights, _ = written
    atlas = ak.Array({"runNumber": events.luminosityBlock, "eventNumber": events.event})
    with pytest.raises(InputError, match="names its events by run, luminosityBlock, event, and these are named by runNumber, eventNumber"):
        read_weights(path, atlas)
    with pytest.raises(InputError, match="and these are named by 2 columns: give the same columns"):
        read_weights(path, np.zeros((95, 2), dtype=int))
    with pytest.raises(InputError, match="carry no run and event numbers: pass a mapping"):
        read_weights(path, events[["x"]])
    # a record around the numbers is no other name
    path = write_weights(tmp_path / "atlas.parquet", atlas, weights)
    assert np.array_equal(read_weights(path, ak.Array({"EventInfo": atlas})), weights)
    assert read_metadata(path)["keys"] == ["runNumber", "eventNumber"]


def test_what_was_asked_of_the_file_must_be_so(written: Any, tmp_path: Path) -> None:
    path, events, weights, _ = written
    assert np.array_equal(read_weights(path, events, normalisation="sim", model_sha256="ab" * 32), weights)
    with pytest.raises(InputError, match="has the normalisation 'sim', and 'data' was asked for"):
        read_weights(path, events, normalisation="data")
    with pytest.raises(InputError, match="has the model_sha256 'abab.*', and 'cd' was asked for"):
        read_weights(path, events, model_sha256="cd")
    plain = write_weights(tmp_path / "plain.parquet", events, weights)
    with pytest.raises(InputError, match="holds no replicas"):
        read_weights(plain, events, replicas=True)


def test_damaged_files_are_refused(written: Any, tmp_path: Path) -> None:
    path, events, _, _ = written
    content = path.read_bytes()
    short = tmp_path / "short.parquet"
    for length in (0, 3, len(content) // 2, len(content) - 1):
        short.write_bytes(content[:length])
        with pytest.raises(InputError, match="is cut short, damaged or not Parquet"):
            read_weights(short, events)
    with pytest.raises(InputError, match="there is no weight file .*nowhere"):
        read_weights(tmp_path / "nowhere", events)
    table = pq.read_table(path)
    strange = tmp_path / "strange.parquet"
    pq.write_table(table.replace_schema_metadata(None), strange)
    with pytest.raises(InputError, match="is Parquet, but not a weight file"):
        read_weights(strange, events)


def changed(table: pa.Table, name: str, value: Any) -> pa.Table:
    metadata = json.loads(table.schema.metadata[b"hepgen"])
    return table.replace_schema_metadata({b"hepgen": json.dumps({**metadata, name: value}).encode()})


def test_altered_files_are_refused(written: Any, tmp_path: Path) -> None:
    path, events, weights, _ = written
    table, altered = pq.read_table(path), tmp_path / "altered.parquet"
    moved = weights.copy()
    moved[[3, 4]] = moved[[4, 3]]
    columns = table.set_column(3, "weight", pa.array(moved))
    for other in (columns, table.slice(1), changed(table, "normalisation", "data"), changed(table, "includes_event_weights", True)):
        pq.write_table(other, altered)
        with pytest.raises(InputError, match="was altered after it was written"):
            read_weights(altered, events)
    for other in (table.drop_columns("weight"), table.drop_columns("replicas"), changed(table, "keys", ["run", "lumi"])):
        pq.write_table(other, altered)
        with pytest.raises(InputError, match="its columns are not what its metadata say"):
            read_weights(altered, events)
    pq.write_table(changed(table, "format", 9), altered)
    with pytest.raises(InputError, match="has weight format 9, and this hepgen .* reads up to 1: update hepgen"):
        read_weights(altered, events)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.parquet"
    keys = {"run": np.array([1, 1, 2, 1]), "event": np.array([5, 6, 5, 6])}
    with pytest.raises(InputError, match="1 of the 4 events have the key of another one, the first run 1, event 6: leave one of each"):
        write_weights(path, keys, np.ones(4))
    with pytest.raises(InputError, match="2 weights are NaN or inf, the first of event 8: leave these events out"):
        write_weights(path, {"event": [7, 8, 9]}, [1.0, np.nan, np.inf])
    with pytest.raises(InputError, match=r"there are 3 keys and weights of shape \(2,\)"):
        write_weights(path, {"event": [7, 8, 9]}, [1.0, 2.0])
    with pytest.raises(InputError, match=r"there are 2 keys and weights of shape \(3, 2\)"):
        write_weights(path, {"event": [7, 8]}, [1.0, 2.0], replicas=np.ones((3, 2)))
    with pytest.raises(InputError, match="columns of the keys must be one or more of one length"):
        write_weights(path, {"run": [1], "event": [7, 8]}, [1.0, 2.0])
    with pytest.raises(UsageError, match="what names an event must be integers, not float64"):
        write_weights(path, {"event": [0.5, 1.5]}, [1.0, 2.0])
    with pytest.raises(UsageError, match="keys that are an array of 1 columns need names="):
        write_weights(path, np.arange(3), np.ones(3))
    with pytest.raises(UsageError, match="give one row of integers an event, and one name a column"):
        write_weights(path, np.arange(3), np.ones(3), names=("run", "event"))
    with pytest.raises(UsageError, match="columns of keys are named weight: give each a name of its own"):
        write_weights(path, {"weight": [1]}, [1.0])
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(tmp_path / "w.parquet", {"event": [1]}, [1.0])
    with pytest.raises(OutputError, match="exists already"):
        write_weights(path, {"event": [1]}, [2.0])
    write_weights(path, {"event": [1]}, [2.0], overwrite=True)
    assert read_weights(path, [1]).tolist() == [2.0]

    def full(table: Any, where: Path) -> None:
        Path(where).write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OutputError, match="cannot be written: No space left on device; nothing was left"):
        write_weights(path, {"event": [1]}, [3.0], overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.parquet"]
    assert read_weights(path, [1]).tolist() == [2.0]
