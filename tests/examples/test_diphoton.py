"""The worked analysis: what goes into its likelihood, and a signal that was put in comes out."""

from __future__ import annotations

from pathlib import Path

import hepgen_pyhf
import hist
import numpy as np
import pytest

import hepgen
from hepgen import samples
from hepgen.events import read, read_histograms
from hepgen.variations import band, templates

diphoton = pytest.importorskip("hepgen.examples.diphoton", reason="the analysis runs in coffea and pyhf")
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")  # raised inside pyhf
FILES = samples.packaged("diphoton")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    found = []
    columns = [f"photon[{i}].{name}" for i in (0, 1) for name in ("pt", "eta", "phi")]
    for seed in (1, 2):
        model = hepgen.SimToData(hepgen.Features(columns), loss="nll", schema="atlas-open-data", blocks=3, hidden=(32, 32))
        sim, data = (read(FILES[role], entry_stop=3000) for role in ("sim", "data"))
        model.fit(sim, data, epochs=4, batch_size=500, seed=seed, progress=False)
        found.append(model.save(folder / f"{seed}.hepgen"))
    return found


@pytest.fixture(scope="module")
def filled(models: list[Path]) -> hist.Hist:
    return diphoton.fill(FILES["sim_independent"], FILES["data"], *models)


def test_every_template_is_what_plain_numpy_gives(models: list[Path], filled: hist.Hist) -> None:
    selection, events = hepgen.Selection.named("diphoton"), read(FILES["sim_independent"])
    weights = hepgen.events.schema("atlas-open-data").weight(events)

    def spectrum(array: object) -> np.ndarray:
        passed = selection.mask(array)
        photon = array.photon[passed]
        pt, eta, phi = (np.stack([np.asarray(photon[name][:, i], dtype=float) for i in (0, 1)]) for name in ("pt", "eta", "phi"))
        mass = np.sqrt(2 * pt[0] * pt[1] * (np.cosh(eta[0] - eta[1]) - np.cos(phi[0] - phi[1])))
        return np.histogram(mass, diphoton.AXIS.edges, weights=weights[passed])[0]

    nominal, other = (spectrum(hepgen.load(path).transform(events)) for path in models)
    found = templates(diphoton.mirrored(filled, "flow"), "background")
    for variation, wanted in (("nominal", nominal), ("flowUp", other), ("flowDown", 2 * nominal - other)):
        np.testing.assert_allclose(found[variation].values(), wanted, rtol=1e-6, atol=1e-6)
    signal = templates(diphoton.mirrored(filled, "flow"), "signal")
    assert sorted(signal) == ["energy_scaleDown", "energy_scaleUp", "nominal"]
    np.testing.assert_allclose(signal["nominal"].values(), spectrum(events), rtol=1e-6, atol=1e-6)
    centres = diphoton.AXIS.centers
    means = {name: np.average(centres, weights=template.values()) for name, template in signal.items()}
    assert means["energy_scaleDown"] < means["nominal"] < means["energy_scaleUp"]


def test_a_signal_that_is_in_the_data_is_found(filled: hist.Hist) -> None:
    scaled = diphoton.expected(filled, 100.0)
    assert band(scaled, "signal").nominal.sum() == pytest.approx(100)
    assert band(scaled, "background").nominal.sum() == pytest.approx(band(scaled, "data").nominal.sum())
    # the expectation itself as data: three times the signal on the background
    likelihood = diphoton.workspace(scaled)
    model = likelihood.model()
    parameters = model.config.suggested_init()
    parameters[model.config.poi_index] = 3.0
    value, error = hepgen_pyhf.fit(likelihood, list(model.expected_data(parameters)))["mu"]
    assert value == pytest.approx(3.0, abs=0.02)
    assert 0.1 < error < 1.5


def test_the_whole_analysis_leaves_its_files(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diphoton, "SCAN", (0.05, 3.0, 20.0))
    result = diphoton.run(FILES["sim_independent"], FILES["data"], *models, tmp_path / "higgs", signal_events=150.0)
    assert all(path.stat().st_size > 0 for path in result.files)
    again = hepgen_pyhf.read(tmp_path / "higgs" / "workspace.json")
    assert again.digest == result.workspace.digest
    assert 0 <= result.cls_of_one <= 1
    stored = read_histograms(tmp_path / "higgs" / "diphoton.root")["SR"]
    assert band(stored, "signal").nominal.sum() == pytest.approx(150)
