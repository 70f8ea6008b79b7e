from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest

from hepgen import ranks
from hepgen.estimators.fit_rows import of_all_ranks


@pytest.fixture
def three_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which every one gives the same."""
    monkeypatch.setattr(ranks, "count", lambda: 3)
    monkeypatch.setattr(ranks, "objects", lambda mine: [mine] * 3)


@pytest.mark.usefixtures("three_ranks")
def test_events_of_every_kind_are_put_one_after_the_other() -> None:
    jets = ak.Array([[1.0, 2.0], [], [3.0]])
    rows, weights = of_all_ranks({"x": np.arange(3.0), "jets": jets}, [1, 2, -1])
    assert isinstance(rows["x"], np.ndarray)
    assert rows["x"].tolist() == [0.0, 1.0, 2.0] * 3
    assert rows["jets"].to_list() == jets.to_list() * 3
    assert weights.tolist() == [1, 2, -1] * 3
    structured = np.array([(1, 2.0)], dtype=[("n", "i4"), ("x", "f8")])
    given: list[Any] = [np.eye(2), ak.Array([{"x": 1}]), structured]
    for one in given:
        rows, weights = of_all_ranks(one, None)
        assert weights is None
        assert type(rows) is type(one)
        assert rows.tolist() == one.tolist() * 3
