"""The study of Energy Conserving Descent in benchmarks/studies: its figures of merit, its surrogates, and that it resumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot

STUDIES = Path(__file__).resolve().parents[2] / "benchmarks" / "studies"
TINY = {
    "threads": 1, "trainings": 2, "epochs": 2, "draws": 1, "scan-events": 500, "scan-epochs": 1, "eta-factors": 1, "floor-draws": 20,
    "jets-n": 500, "jets-test": 200, "jets-trainings": 2, "jets-epochs": 2, "flow-epochs": 1, "auc-events": 200,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _study_modules(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(STUDIES)


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_mae_by_hand():
    import ecd_thrust

    data = np.array([0.5, 0.25, 0.25])
    reweighted = np.array([0.4, 0.30, 0.30])
    assert ecd_thrust.mae(reweighted, data, kept=2) == pytest.approx((0.1 + 0.05) / 0.75)
    assert ecd_thrust.mae(data, data, kept=2) == 0


def test_spectrum_is_of_all_events_and_all_weight():
    import ecd_thrust

    thrust = np.array([0.99, 0.99, 0.60, 0.96])
    counts = ecd_thrust.spectrum(thrust)
    assert counts.sum() == pytest.approx(1)
    assert counts[0] == pytest.approx(0.5)
    assert ecd_thrust.spectrum(thrust, np.array([1.0, 1.0, 2.0, 4.0]))[0] == pytest.approx(2 / 8)


def test_floor_of_equal_samples_is_that_of_counting():
    import ecd_thrust

    bins, n = 5, 40_000
    fine = np.full(bins * ecd_thrust.FINE, 1 / (bins * ecd_thrust.FINE))
    value, spread = ecd_thrust.floor(fine, fine, n, n // 4, draws=20_000, seed=1, kept=bins)
    p = 1 / bins
    expected = bins * np.sqrt(2 / np.pi) * np.sqrt(p * (1 - p) * (1 / n + 4 / n))
    assert value == pytest.approx(expected, rel=0.01)
    assert 0 < spread < value


def test_floor_falls_with_the_root_of_the_events():
    import ecd_thrust

    rng = np.random.default_rng(2)
    sim, data = (rng.dirichlet(np.full(ecd_thrust.BINS * ecd_thrust.FINE, 20.0)) for _ in range(2))
    small, large = (ecd_thrust.floor(sim, data, n, n, draws=2000, seed=3)[0] for n in (10_000, 160_000))
    assert small / large == pytest.approx(4, rel=0.05)


def test_closure_by_hand():
    import ecd_thrust

    spectrum = [0.10] * ecd_thrust.KEPT
    sample = {"data": [0.12] * ecd_thrust.KEPT, "sim": [0.06] * ecd_thrust.KEPT, "events": {"data test": 1200}}
    found = {
        "spectra": [[0.09] * ecd_thrust.KEPT, [0.11] * ecd_thrust.KEPT],
        "ensemble": {"spectrum": spectrum, "statistical_error": [0.0] * ecd_thrust.KEPT},
    }
    row = ecd_thrust.closure(found, sample)[0]
    assert row["before"] == pytest.approx(0.5)
    assert row["statistical"] * 0.12 == pytest.approx(0.01)
    assert row["pull"] == pytest.approx(-2)
    assert row["band"] * 0.12 == pytest.approx(np.sqrt(2) * 0.01)


def test_scatter_and_quotient():
    import ecd_runs

    value, error = ecd_runs.scatter(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    assert value == pytest.approx(0.5)
    assert error > 0
    assert ecd_runs.quotient((3.0, 0.3), (2.0, 0.2)) == pytest.approx((1.5, 1.5 * np.sqrt(0.02)))


def test_surrogates_know_the_ratio_of_two_gaussians(tmp_path):
    import ecd_jets

    rng = np.random.default_rng(4)
    shift = 0.5
    rows = [rng.normal(mean, 1.0, size=(4000, 2)) for mean in (0.0, shift)]
    sim, data = (ecd_jets.fit_flow(x, 10, 5 + k, tmp_path / f"{k}.checkpoint", "flow") for k, x in enumerate(rows))
    test = ecd_jets.draw(sim, 5000, rng)
    found, exact = ecd_jets.log_ratio(sim, data, test), shift * test.sum(axis=1) - shift**2
    assert test.mean(axis=0) == pytest.approx([0, 0], abs=0.15)
    assert np.abs(found - exact).mean() < 0.5 * np.abs(exact).mean()
    assert np.exp(found).mean() == pytest.approx(1, abs=5 * np.exp(found).std() / len(found) ** 0.5)  # of the flows, exactly


def test_errors_drop_the_largest_as_the_published_code():
    import ecd_jets

    found = ecd_jets.errors(np.array([[1.5], [301.0]]), np.log([1.0, 1.0]))
    assert found["mae"] == [pytest.approx((0.5 + 300) / 2)]
    assert found["mae_below"] == [pytest.approx(0.5)]
    assert found["dropped"] == [1]


def test_a_training_that_fails_is_noted(tmp_path):
    import ecd_runs
    import ecd_thrust

    from hepgen import Features

    rng = np.random.default_rng(6)
    sim, data = (ecd_thrust.as_events(rng.normal(mean, 1.0, 400)) for mean in (0.0, 0.5))
    training = ecd_runs.Training("ecd", (8,), 0.0, 100, 2, patience=2, trainings=2, seed=1, F0=0.9)  # the loss lies below F0
    fitted = ecd_runs.fit(training, Features(["thrust"]), sim, data, tmp_path)
    assert len(fitted.failed) == 2
    assert fitted.ratios(np.zeros((3, 1))).shape == (3, 0)


def test_results_are_kept_and_belong_to_their_settings(tmp_path):
    import study_runs

    from hepgen.errors import InputError

    store = study_runs.Store(tmp_path, ["a"])
    assert store.get("a", "x", {"n": 1}, lambda _: {"value": 1}) == {"value": 1}
    assert store.get("a", "x", {"n": 1}, lambda _: {"value": 2}) == {"value": 1}
    assert store.get("a", "x", {"n": 2}, lambda _: {"value": 3}) == {"value": 3}
    assert store.get("b", "x", {"n": 1}, lambda _: {"value": 4}) is None
    store.sample("thrust", {"events": 1})
    assert store.sample("thrust", None) == {"events": 1}
    with pytest.raises(InputError, match="another thrust sample"):
        store.sample("thrust", {"events": 2})


def samples(folder: Path) -> list[str]:
    """Events with the columns of the samples, not their distributions."""
    rng = np.random.default_rng(7)
    for name, shift in (("sim", 0.0), ("data", 0.1)):
        for sample in ("thrust", "jets"):
            (folder / sample).mkdir(exist_ok=True)
        n = 3000
        with uproot.recreate(folder / "thrust" / f"{name}.root") as file:
            thrust = 1 - 0.5 * rng.beta(1.2 + shift, 6, n)
            file["events"] = {"thrust": thrust.astype(np.float32), "pass_reco": rng.random(n) < 0.9}
        z = rng.normal(shift, 1.0, (n, 6))
        with uproot.recreate(folder / "jets" / f"{name}.root") as file:
            file["events"] = {
                "jet_m": np.exp(3 + 0.5 * z[:, 0]).astype(np.float32),
                "jet_mult": np.round(np.exp(3 + 0.3 * z[:, 1])).astype(np.float32) + 1,
                "jet_width": np.exp(-2 + 0.5 * z[:, 2]).astype(np.float32),
                "jet_ln_rho": (-7 + 2 * z[:, 3]).astype(np.float32),
                "jet_tau21": (0.7 + 0.1 * z[:, 4]).astype(np.float32),
                "jet_pt": np.exp(5.3 + 0.3 * z[:, 5]).astype(np.float32),
            }
    return ["--thrust", str(folder / "thrust"), "--jets", str(folder / "jets")]


@pytest.mark.filterwarnings("ignore")  # of what the peers import
def test_the_whole_study_runs_and_a_second_run_fits_nothing(tmp_path, capsys):
    import ecd

    given = samples(tmp_path)
    out = ["--out", str(tmp_path / "out"), "--quick", *(f"--{name}={value}" for name, value in TINY.items())]
    assert ecd.main([*given, *out]) > 0
    text = (tmp_path / "out" / "ecd_study.md").read_text(encoding="utf-8")
    for heading in ("claims", "Table I)", "closure", "Scans", "Table III", "Peers"):
        assert heading in text.replace("##", "")
    for method in ("Adam tuned, deep", "ECD paper text", "histogram"):
        assert f"| {method} |" in text
    assert (tmp_path / "out" / "figure1.png").stat().st_size > 1000
    assert (tmp_path / "out" / "figure2.png").stat().st_size > 1000
    result = json.loads(next((tmp_path / "out" / "results").glob("thrust-adam-tuned-*.json")).read_text(encoding="utf-8"))["result"]
    assert len(result["mae"]) == 2

    capsys.readouterr()
    assert ecd.main([*given, *out]) == 0
    assert "trainings: 2 ..." not in capsys.readouterr().out
    assert ecd.main(out) == 0  # the report alone, without the samples
    assert (tmp_path / "out" / "ecd_study.md").read_text(encoding="utf-8").count("| mlc |") == text.count("| mlc |")


def test_own_eta_is_what_the_reweighter_takes(tmp_path):
    from dataclasses import replace

    import ecd_runs
    import ecd_thrust

    from hepgen import Features

    rng = np.random.default_rng(8)
    sim, data = (ecd_thrust.as_events(rng.normal(mean, 1.0, n)) for mean, n in ((0.0, 500), (0.5, 770)))
    default = ecd_runs.Training("ecd", (8, 16), 0.0, 100, 2, patience=2, trainings=1, seed=1)
    by_hand = replace(default, eta=ecd_runs.own_eta(default, 1, 770))
    losses = [ecd_runs.fit(t, Features(["thrust"]), sim, data, tmp_path / str(t.eta)).members[0]["best_valid"] for t in (default, by_hand)]
    assert losses[0] == losses[1]
