from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

from hepgen import bench
from hepgen.bench import mmd
from hepgen.bench.scaling import scan
from hepgen.errors import BackendError, HepgenError, UsageError
from hepgen.kernels import dispatch


def test_rows_are_what_the_json_promises():
    rows = bench.run("mmd", sizes=[300, 200], peers=["torch"], repeats=3, threads=1)
    assert json.loads(json.dumps(rows)) == rows
    assert all(tuple(row) == bench.KEYS for row in rows)
    backends = dispatch.available("mmd2", "cpu")
    assert {(r["case"], r["backend"], r["peer"], tuple(r["shape"])) for r in rows} == {
        (case, name, "torch", (n, n, 6)) for case in ("value", "gradient") for name in backends for n in (300, 200)
    }
    for row in rows:
        assert row["threads"] == 1
        assert row["throughput"] == pytest.approx(3 * row["shape"][0] ** 2 / row["seconds"])
        assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"])
        assert (row["isa"] is None) == (row["backend"] != "cpp")
    assert bench.table(rows).row_count == len(rows)


def test_a_machine_bound_by_memory():
    """The ceiling of a case that moves bytes alone is the memory bandwidth; nothing is faster than it, and what sleeps is far from it."""
    case = bench.Case("mmd2", "value", "mmd", (1,), 1.0, "pairs/s", 0.0, lambda: [time.sleep(0.02)][:0], {}, 1e-3, moved=1e6)
    (row,) = bench._measure(case, ["reference"], 1, 1)
    assert row["ceiling_share"] is None if dispatch.core() is None else 0 < row["ceiling_share"] < 0.1


def test_peers_with_another_answer_are_timed_and_not_compared():
    calls = []
    case = bench.Case(
        "mmd2", "value", "mmd", (1,), 1.0, "pairs/s", 1.0, lambda: [np.ones(1)], {}, 1e-3,
        unlike={"other": lambda: calls.append(time.sleep(0.02)) or [np.zeros(1)]},
    )  # fmt: skip
    (row,) = bench._measure(case, ["reference"], 1, 2)
    assert row["peer"] == "other"
    assert row["ratio"] > 1
    assert len(calls) == 3  # two rounds, and the one that does not count


def test_quantiles_hold_the_median():
    (row,) = bench.run("mmd", sizes=[200], backends=["reference"], peers=[], repeats=5)[:1]
    low, middle, high = row["quantiles"]
    assert low <= middle == row["seconds"] <= high


@pytest.mark.parametrize(("value", "want"), [(1.5e10, "15 Gpairs/s"), (2e6, "2 Mpairs/s"), (3200.0, "3.2 kpairs/s"), (7.0, "7 pairs/s")])
def test_throughput_reads_well(value, want):
    assert bench.throughput({"throughput": value, "unit": "pairs/s"}) == want


def test_scan_goes_along_each_axis(monkeypatch):
    monkeypatch.setattr(mmd, "SCAN", {"sizes": (50, 100), "features": (1, 3), "size": 80})
    found = scan("mmd", backends=["reference"], threads=2, repeats=1)
    shapes = {axis: [(at, row["case"], tuple(row["shape"]), row["threads"]) for at, row in points] for axis, points in found.items()}
    cases = ("value", "gradient")
    assert shapes["rows"] == [(n, case, (n, n, 6), 2) for n in (50, 100) for case in cases]
    assert shapes["features"] == [(d, case, (80, 80, d), 2) for d in (1, 3) for case in cases]
    assert shapes["threads"] == [(t, case, (80, 80, 6), t) for t in (1, 2) for case in cases]


def test_without_peers():
    rows = bench.run("mmd", sizes=[100], backends=["reference"], peers=[], repeats=1)
    assert [(r["peer"], r["peer_seconds"], r["ratio"]) for r in rows] == [(None, None, None)] * 2


def test_wrong_answers_are_not_timed(monkeypatch):
    monkeypatch.setattr(mmd, "_with_cdist", lambda sigma, x, y: x.sum() * 0 + 0.5)
    with pytest.raises(HepgenError, match="bench mmd value: backend .* and peer torch differ by"):
        bench.run("mmd", sizes=[100], peers=["torch"], repeats=1)


def test_nan_is_a_wrong_answer():
    case = bench.Case("mmd2", "value", "mmd", (1,), 1.0, "pairs/s", 1.0, list, {}, 1e-3)
    with pytest.raises(HepgenError, match="a and b differ"):
        bench._compare(case, {"a": [np.array([1.0, 2.0])], "b": [np.array([1.0, np.nan])]})


def test_quiet_keeps_standard_output_clean(capfd):
    with bench.quiet():
        print("from python")
        os.write(1, b"from a compiler\n")
    print("the result")
    out, err = capfd.readouterr()
    assert out == "the result\n"
    assert "from python" in err
    assert "from a compiler" in err


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"op": "sort"}, UsageError, "no benchmark of 'sort': choose one of .*mmd"),
        ({"sizes": [0]}, UsageError, "positive"),
        ({"backends": ["cuda"], "sizes": [10], "peers": []}, BackendError, "mmd2 has no backend 'cuda' here"),
        ({"peers": ["numpy"]}, UsageError, "no peer 'numpy'"),
        ({"threads": 0}, UsageError, "positive"),
        ({"features": -1}, UsageError, "positive"),
    ],
)
def test_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        bench.run(**arguments)
