"""The study of paper D in benchmarks/studies: its figures of merit by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

STUDIES = Path(__file__).resolve().parents[2] / "benchmarks" / "studies"


@pytest.fixture(autouse=True)
def _study_modules(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(STUDIES)


def test_conservation_laws_by_hand():
    import bvae_measure

    good = [np.hypot(30, 10), 30, 0, 0, 10, 100 - np.hypot(30, 10), -30, 0, 0, np.sqrt((100 - np.hypot(30, 10)) ** 2 - 900)]
    bad = [*good[:4], 20, *good[5:]]  # 10^2 - 20^2 is 3 % of M^2
    found = bvae_measure.two_body(np.array([good, good, good, bad]))
    assert found["on shell"] == 0.75
    assert found["momentum, median [GeV]"] == 0
    assert found["energy, median [GeV]"] == pytest.approx(0, abs=1e-12)


def test_pairs_of_leptons_by_hand():
    import bvae_measure

    pair, none = [45.5, 0, 0, 45.5, 45.5, 0, 0, -45.5], [0.0] * 8
    single = [*pair[:4], 0, 0, 0, 0]
    found = bvae_measure.z_ll(np.array([pair + none, none + pair, pair + pair, single + none]))
    assert found["one pair"] == 0.5
    assert found["electrons"] == 0.5
    assert bvae_measure.z_ll(np.array([pair + none]))["pair mass, median [GeV]"] == pytest.approx(91)


def test_only_what_exists_is_chosen(tmp_path, capsys):
    import bvae

    given = ["--samples", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        bvae.parse([*given, "--models", "nothing"])
    assert "not nothing" in capsys.readouterr().err
    assert bvae.parse([*given, "--quick"]).table == tmp_path / "bvae.md"
