from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hepgen.errors import OutputError
from hepgen.estimators import disk_rows
from hepgen.estimators.disk_rows import mapped, shuffled_rows, slices


def in_parts(rows: NDArray[np.float64], *sizes: int) -> Iterator[NDArray[np.float64]]:
    start = 0
    for size in (*sizes, len(rows)):
        yield rows[start : start + size]
        start += size


def numbered(n: int) -> NDArray[np.float64]:
    return np.arange(2.0 * n).reshape(n, 2)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_rows, "BUCKET_BYTES", 1 << 10)


@pytest.mark.usefixtures("small_buckets")
def test_all_rows_are_there_once_in_an_order_that_the_seed_draws_whatever_the_parts(tmp_path: Path) -> None:
    rows = numbered(1000)
    one = shuffled_rows(in_parts(rows), 2, 1000, (1,), tmp_path)
    two = shuffled_rows(in_parts(rows, 1, 0, 333), 2, 1000, (1,))
    other = shuffled_rows(in_parts(rows), 2, 1000, (2,))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    for found in (one, other):
        assert np.array_equal(np.sort(found[:, 0]), rows[:, 0])
        assert np.array_equal(found[:, 1], found[:, 0] + 1)
    assert list(tmp_path.iterdir()) == []  # the file has no name


@pytest.mark.usefixtures("small_buckets")
def test_every_place_is_as_likely_for_every_row() -> None:
    rows = numbered(96)
    places = np.zeros((96, 4))
    for seed in range(400):
        found = shuffled_rows([rows], 2, 300, (seed,))[:, 0].astype(int) // 2
        places[found, np.arange(96) // 24] += 1
    assert stats.chisquare(places.ravel()).pvalue > 1e-3
    # and neighbours are not kept together
    assert np.abs(np.diff(found)).mean() > 20


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows(n: int) -> None:
    assert shuffled_rows(in_parts(numbered(n)), 2, n, (1,)).shape == (n, 2)
    assert mapped([np.zeros(n)], (), np.float32).shape == (n,)


def test_parts_are_put_one_after_the_other_in_another_dtype(tmp_path: Path) -> None:
    found = mapped([np.ones((3, 2)), np.zeros((0, 2)), np.full((2, 2), 0.1)], (2,), np.float32, tmp_path / "new")
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 1]] * 3 + [[np.float32(0.1)] * 2] * 2


def test_slices_cover_all() -> None:
    parts = list(slices(10_000_001, 7))
    assert (parts[0].start, parts[-1].stop) == (0, 10_000_001)
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    assert max(part.stop - part.start for part in parts) * 7 * 8 <= 32 << 20
    assert list(slices(0, 7)) == []


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk_rows.tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match="cannot be kept in .* \\(No space left on device\\): give another folder"):
        mapped([np.ones(3)], (), np.float32)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="give another folder"):
        shuffled_rows([], 2, 0, (1,), tmp_path / "file" / "rows")
