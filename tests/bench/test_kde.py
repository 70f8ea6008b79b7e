from __future__ import annotations

import numpy as np
import pytest
import torch

from hepgen import bench
from hepgen.bench import kde as bench_kde
from hepgen.errors import HepgenError, UsageError
from hepgen.kernels import dispatch


def test_every_case_and_backend_is_measured():
    rows = bench.run("kde", sizes=[300], peers=[], repeats=1, threads=1)
    backends = dispatch.available("kde", "cpu")
    assert [(row["case"], row["backend"]) for row in rows] == [
        (case, b) for case in ("exact", "binned", "binned-gradient") for b in backends
    ]
    assert all(row["shape"] == [300, 6, 1024] and row["unit"] == "samples/s" and row["throughput"] > 0 for row in rows)


@pytest.mark.parametrize(("peer", "module"), [("KDEpy", "KDEpy"), ("scikit-learn", "sklearn"), ("scipy", "scipy"), ("torch", "torch")])
def test_answers_agree_with_the_peer(peer, module):
    pytest.importorskip(module)
    rows = bench.run("kde", sizes=[2000], peers=[peer], repeats=1, threads=1)  # bench.run compares before it times
    timed = {row["case"] for row in rows if row["peer"] == peer}
    assert timed == {case for case, peers in bench_kde._PEERS_OF.items() if peer in peers}


def test_a_wrong_answer_is_not_timed(monkeypatch):
    monkeypatch.setattr(bench_kde, "_scipy", lambda columns, points: np.zeros((len(points), len(columns))))
    with pytest.raises(HepgenError, match="bench kde exact: .* and peer scipy differ by"):
        bench.run("kde", sizes=[300], peers=["scipy"], backends=["reference"], repeats=1)


def test_unknown_peer():
    with pytest.raises(UsageError, match="no peer 'R' for kde: choose from KDEpy"):
        bench.run("kde", sizes=[30], peers=["R"])


def test_the_peers_make_the_density():
    x, points = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64), np.linspace(-1, 1, 5)
    b = bench_kde.BANDWIDTH
    want = np.exp(-0.5 * ((points[:, None, None] - x.numpy()) / b) ** 2).mean(1) / (b * np.sqrt(2 * np.pi))
    for peer in (bench_kde._scipy, bench_kde._sklearn):
        np.testing.assert_allclose(peer(x.T.numpy(), points), want, rtol=1e-5)
