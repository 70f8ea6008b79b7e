from __future__ import annotations

import pytest

from hepgen import bench
from hepgen.bench import mlp as bench_mlp
from hepgen.errors import HepgenError, UsageError
from hepgen.kernels import dispatch


def test_every_case_and_backend_is_measured_beside_torch():
    rows = bench.run("mlp", sizes=[40], repeats=1, threads=1)
    peers = {name: ["torch"] if name.endswith("step") else ["torch", "torch-whole"] for name in bench_mlp.NETWORKS}
    expected = [(name, b, peer) for name in bench_mlp.NETWORKS for b in dispatch.available("mlp", "cpu") for peer in peers[name]]
    assert [(row["case"], row["backend"], row["peer"]) for row in rows] == expected
    assert all(row["unit"] == "events/s" and row["throughput"] > 0 for row in rows)
    assert rows[0]["shape"] == [40, 20, 128, 128, 128, 128, 128, 128, 26]


def test_a_wrong_answer_is_not_timed(monkeypatch):
    monkeypatch.setattr(bench_mlp, "mlp_reference", lambda x, weights: 1.01 * weights.layers[-1][1].expand(len(x), -1))
    with pytest.raises(HepgenError, match="bench mlp decoder: .* and peer torch differ by"):
        bench.run("mlp", sizes=[30], repeats=1)


def test_unknown_peer():
    with pytest.raises(UsageError, match="no peer 'jax' for mlp: choose from torch, torch-whole"):
        bench.run("mlp", sizes=[30], peers=["jax"])


def test_flops_by_hand():
    cases = {case.name: case for case in bench_mlp.cases([10], [])}
    products = 6 * 64 + 64 * 128 + 128 * 64 + 64
    assert cases["ratio"].flops == 2 * 10 * products
    assert cases["ratio-step"].flops == 2 * 10 * (3 * products - 6 * 64)
