"""``hepgen bench`` at the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hepgen import bench, cli
from hepgen.bench import mmd


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(mmd, "PEERS", ())

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hepgen", "bench", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize(
    "asked",
    [
        ("mmd", "--sizes", "50,70"),
        ("mmd", "--sizes", "50", "70"),
        ("--sizes", "50", "--sizes", "70", "mmd"),
        ("--sizes", "50", "70", "mmd"),
    ],
)
def test_json_is_a_list_of_measurements(run, asked):
    code, out, _ = run(*asked, "--json", "--backends", "reference", "--threads", "1", "--repeats", "1")
    assert code == 0
    rows = json.loads(out)
    assert [(row["case"], row["shape"], row["threads"]) for row in rows] == [
        (case, [n, n, 6], 1) for n in (50, 70) for case in ("value", "gradient")
    ]
    assert all(list(row) == list(bench.KEYS) for row in rows)


def test_table(run):
    code, out, _ = run("mmd", "--sizes", "50", "--sizes", "70", "--backends", "reference", "--repeats", "1")
    assert code == 0
    assert "70x70x6" in out
    assert "pairs/s" in out


def test_plot_goes_to_the_folder_named(run, monkeypatch, tmp_path: Path):
    pytest.importorskip("mplhep")
    monkeypatch.setattr(mmd, "SCAN", {"sizes": (50,), "features": (2,), "size": 50})
    code, _, _ = run("mmd", "--sizes", "50", "--backends", "reference", "--repeats", "1", "--plot", "--out", str(tmp_path / "new"))
    assert code == 0
    assert (tmp_path / "new" / "bench-mmd.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sort",), "no benchmark of 'sort'"),
        (("mmd", "--sizes", "many"), "--sizes takes whole numbers, got many"),
        (("mmd", "--sizes", "-3"), "must be positive"),
        (("mmd", "--backends", "reference", "cuda", "--sizes", "10"), "has no backend 'cuda' here"),
    ],
)
def test_wrong_questions_get_a_sentence(run, arguments, words):
    code, out, err = run(*arguments)
    assert code in {1, 2}
    assert not out
    assert words in err
    assert err.count("\n") == 1
