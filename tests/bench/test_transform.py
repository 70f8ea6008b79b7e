from __future__ import annotations

import pytest

from hepgen import bench
from hepgen.errors import UsageError
from hepgen.kernels import dispatch


def test_every_backend_writes_the_same_file():
    rows = bench.run("transform", sizes=[300], repeats=1, threads=1)  # bench.run compares before it times
    assert [(row["case"], row["backend"], row["shape"]) for row in rows] == [
        ("root-to-root", name, [300, 6]) for name in dispatch.available("maf_inverse", "cpu")
    ]
    assert all(row["unit"] == "events/s" for row in rows)


def test_there_is_no_peer():
    with pytest.raises(UsageError, match="no peer 'zuko' for transform"):
        bench.run("transform", sizes=[300], peers=["zuko"])
