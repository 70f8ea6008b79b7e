from __future__ import annotations

import pytest

from hepgen import bench
from hepgen.bench import ecd as bench_ecd
from hepgen.errors import HepgenError, UsageError
from hepgen.kernels import dispatch


def test_every_case_backend_and_peer_is_measured(monkeypatch):
    monkeypatch.setattr(bench_ecd, "LARGE", ((30, 30),) * 10)
    rows = bench.run("ecd", repeats=1, threads=1)
    backends = dispatch.available("ecd_step", "cpu")
    assert [(row["case"], row["backend"], row["peer"]) for row in rows] == [
        (case, b, peer) for case in ("small", "large") for b in backends for peer in ("published", "torch-adam")
    ]
    assert rows[0]["shape"] == [17_089, 8]
    assert all(row["unit"] == "parameters/s" and row["throughput"] == pytest.approx(row["shape"][0] / row["seconds"]) for row in rows)


def test_large_is_what_it_says():
    (case,) = bench_ecd.cases([10_000_000], [])
    assert case.name == "large"
    assert sum(rows * columns for rows, columns in bench_ecd.LARGE) == 10_000_000
    assert len(bench_ecd.LARGE) == 10
    assert case.moved == 7 * 4 * 10_000_000


def test_wrong_answers_are_not_timed(monkeypatch):
    monkeypatch.setattr(bench_ecd.Published, "step", lambda self, loss: None)
    with pytest.raises(HepgenError, match="bench ecd small: .* and peer published differ by"):
        bench.run("ecd", sizes=[100], peers=["published"], repeats=1)


def test_unknown_peer():
    with pytest.raises(UsageError, match="no peer 'sgd' for ecd: choose from torch-adam, published"):
        bench.run("ecd", sizes=[30], peers=["sgd"])
