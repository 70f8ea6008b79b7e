from __future__ import annotations

import json
import os

import numpy as np
import pytest

from hepgen import bench, bench_mmd
from hepgen.errors import BackendError, HepgenError, UsageError
from hepgen.kernels import dispatch


def test_rows_are_what_the_json_promises():
    rows = bench.run("mmd", sizes=[300, 200], peers=["torch"], repeats=3, threads=1)
    assert json.loads(json.dumps(rows)) == rows
    assert all(tuple(row) == bench.KEYS for row in rows)
    backends = dispatch.available("mmd2")
    assert {(r["case"], r["backend"], r["peer"], tuple(r["shape"])) for r in rows} == {
        (case, name, "torch", (n, n, 6)) for case in ("value", "gradient") for name in backends for n in (300, 200)
    }
    for row in rows:
        assert row["threads"] == 1
        assert row["throughput"] == pytest.approx(3 * row["shape"][0] ** 2 / row["seconds"])
        assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"])
        assert (row["isa"] is None) == (row["backend"] != "cpp")
    assert bench.table(rows).row_count == len(rows)


def test_without_peers():
    rows = bench.run("mmd", sizes=[100], backends=["reference"], peers=[], repeats=1)
    assert [(r["peer"], r["peer_seconds"], r["ratio"]) for r in rows] == [(None, None, None)] * 2


def test_wrong_answers_are_not_timed(monkeypatch):
    monkeypatch.setattr(bench_mmd, "_with_cdist", lambda x, y: x.sum() * 0 + 0.5)
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
    ],
)
def test_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        bench.run(**arguments)
