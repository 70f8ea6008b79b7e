from __future__ import annotations

import json

import pytest

from hepgen.bench import fastest
from hepgen.kernels import dispatch, preferences


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEPGEN_CACHE", str(tmp_path / "cache"))
    preferences.fastest.cache_clear()
    yield tmp_path / "cache" / "backends.json"
    preferences.fastest.cache_clear()


def test_winners_of_cards_and_ops_stay_beside_each_other(cache):
    assert preferences.fastest("A") == {}
    assert preferences.keep("A", {"mmd2": "triton"}) == cache
    preferences.keep("B", {"mmd2": "cuda"})
    preferences.keep("A", {"kde": "cuda"})
    assert preferences.fastest("A") == {"mmd2": "triton", "kde": "cuda"}
    assert json.loads(cache.read_text())["B"] == {"mmd2": "cuda"}
    assert [path.name for path in cache.parent.iterdir()] == ["backends.json"]


@pytest.mark.parametrize("content", ["", "[1]", '{"A": 3}'])
def test_what_is_no_record_is_ignored(cache, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert preferences.fastest("A") == {}
    assert preferences.keep("A", {"kde": "cuda"}) == cache
    assert preferences.fastest("A") == {"kde": "cuda"}


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEPGEN_CACHE", str(tmp_path / "file"))
    assert preferences.keep("A", {"kde": "cuda"}) is None


def test_the_choice_follows(cache, monkeypatch):
    monkeypatch.setattr(dispatch, "_has_gpu", lambda: True)
    monkeypatch.setattr(dispatch, "_card", lambda: "A")
    monkeypatch.setattr(dispatch, "_availability", lambda op, name: (True, ""))
    monkeypatch.setattr(dispatch, "_devices", dispatch._NATIVE.__getitem__)
    monkeypatch.delenv("HEPGEN_BACKEND", raising=False)
    assert dispatch.choose("mmd2", device="cuda") == "cuda"
    preferences.keep("A", {"mmd2": "triton", "kde": "cpp"})  # a backend that takes no such tensors is not followed
    assert [dispatch.choose(op, device="cuda") for op in ("mmd2", "kde", "maf_nll")] == ["triton", "cuda", "cuda"]
    assert dispatch.choose("mmd2") == "cpp"


def test_the_fastest_over_all_cases_of_an_op():
    def row(case, backend, n, seconds):
        return {"case": case, "backend": backend, "shape": [n], "seconds": seconds}

    rows = [
        row("value", "cuda", 1, 1.0),
        row("value", "triton", 1, 3.0),
        row("gradient", "cuda", 1, 4.0),
        row("gradient", "triton", 1, 1.0),
    ]
    rows += [row("binned", "cuda", 1, 2.0), row("binned", "cuda", 1, 2.0), row("binned", "triton", 1, 3.0)]  # a row for each peer
    assert fastest(rows, {"value": "mmd2", "gradient": "mmd2", "binned": "kde"}) == {"mmd2": "triton", "kde": "cuda"}
