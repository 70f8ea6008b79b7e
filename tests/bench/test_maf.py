from __future__ import annotations

import pytest

from hepgen import bench
from hepgen.bench import maf as bench_maf
from hepgen.errors import HepgenError, UsageError
from hepgen.kernels import dispatch


def test_every_case_and_backend_is_measured():
    rows = bench.run("maf", sizes=[40], peers=[], repeats=1, threads=1)
    backends = dispatch.available("maf_forward", "cpu")
    assert [(row["case"], row["backend"]) for row in rows] == [(case, b) for case in bench_maf.STANDARD_SIZES for b in backends]
    assert all(row["shape"] == [40, 6, 6] and row["unit"] == "events/s" and row["throughput"] > 0 for row in rows)


@pytest.mark.parametrize("peer", ["zuko", "nflows"])
def test_answers_agree_with_the_peers(peer):
    pytest.importorskip(peer)
    rows = bench.run("maf", sizes=[30], backends=["reference"], peers=[peer], repeats=1, threads=1)  # bench.run compares before it times
    assert [row["peer"] for row in rows] == [peer] * 4


def test_a_wrong_answer_is_not_timed(monkeypatch):
    pytest.importorskip("zuko")
    monkeypatch.setattr(bench_maf._Zuko, "log_prob", lambda self, x, context: x.sum(1))
    with pytest.raises(HepgenError, match="bench maf log-density: .* and peer zuko differ by"):
        bench.run("maf", sizes=[30], backends=["reference"], peers=["zuko"], repeats=1)


def test_unknown_peer():
    with pytest.raises(UsageError, match="no peer 'normflows' for maf: choose from zuko, nflows"):
        bench.run("maf", sizes=[30], peers=["normflows"])


def test_useful_flops_by_hand():
    # one block of the benchmark's flow: 128 units spread over degrees 0 ... 5, (22, 21, 21, 22, 21, 21) of each
    counts = [22, 21, 21, 22, 21, 21]
    stops = [sum(counts[: i + 1]) for i in range(6)]
    products = 6 * 128 + sum(g * n for g, n in enumerate(counts)) + sum(n * s for n, s in zip(counts, stops, strict=True)) + 2 * sum(stops)
    assert bench_maf.useful_flops(6, 6, (128, 128), 1) == 2 * products
