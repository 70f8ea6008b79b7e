"""How an op's throughput changes with the number of rows, of features and of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hepgen import bench
from hepgen.kernels.dispatch import cores


def scan(
    op: str, *, sizes: Sequence[int] | None = None, backends: Sequence[str] | None = None, threads: int | None = None, repeats: int = 3
) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Measure an op along each axis, without peers.

    Parameters
    ----------
    op : str
        One of ``hepgen.bench.OPS``.
    sizes : sequence of int, optional
        Numbers of rows; the op's own range by default.
    backends : sequence of str, optional
        The fastest one that there is by default.
    threads : int, optional
        For the scans in rows and features, and the most for that in threads; all cores by default.
    repeats : int
        Rounds for each point.

    Returns
    -------
    dict
        "rows", "features" and "threads" to pairs of the position on that axis and a measurement of ``hepgen.bench.run``. An op
        without features of its own has none.
    """
    module = bench.module(op)
    most = threads or cores()
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < most] + [most]

    def rows(**options: Any) -> list[dict[str, Any]]:
        found = bench.run(op, backends=backends, peers=[], repeats=repeats, **options)
        fastest = backends or [found[0]["backend"]]
        return [row for row in found if row["backend"] in fastest]

    at = [module.SCAN["size"]]
    return {
        "rows": [(n, row) for n in sizes or module.SCAN["sizes"] for row in rows(sizes=[n], threads=most)],
        "features": [(d, row) for d in module.SCAN["features"] for row in rows(sizes=at, features=d, threads=most)],
        "threads": [(t, row) for t in counts for row in rows(sizes=at, threads=t)],
    }
