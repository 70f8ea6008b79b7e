"""The weights of a Reweighter in correctionlib against `Reweighter.weigh`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import correctionlib
import numpy as np
import pytest
import torch

from hepgen.errors import OutputError, UsageError
from hepgen.estimators.ratio_checks import Calibrator
from hepgen.estimators.reweighter import Reweighter
from hepgen.events.scalings import Angle, Chain, Identity, Log, MaxAbs, Scaler, Standard
from hepgen.exporting import correction_set, export, export_correctionlib, lwtnn
from hepgen.networks import FrozenMLP

BENT = Calibrator(np.array([-3.0, -0.5, 0.1, 2.0]), np.array([-2.0, -0.4, -0.4, 1.0]))
LINKS = [("bce", "sigmoid"), ("bce", "arctan"), ("mlc", "exp"), ("mlc", "square"), ("mlc", "relu")]


def other_scaler() -> Scaler:
    both = Chain([MaxAbs(), Standard()])
    return Scaler([both, Identity(), Angle(), Standard(), Chain([Standard(), MaxAbs()]), Chain([Chain([Angle()]), Standard()]), Standard()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "options",
    [{"loss": loss, "link": link} for loss, link in LINKS]
    + [
        {"calibrator": BENT, "activation": "tanh"},
        {"loss": "mlc", "link": "square", "calibrator": BENT, "clip": 1.2, "activation": "elu"},
        {"clip": 1.5, "scaler": other_scaler, "ensemble": 2},
    ],
)
def test_nominal_up_and_down(options: dict[str, Any], dtype: torch.dtype, new_ratio: Any, matrix: Any, tmp_path: Path) -> None:
    model = new_ratio(dtype, **{name: value() if value is other_scaler else value for name, value in options.items()})
    path = export(model, "correctionlib", tmp_path / "w.json")
    correction = correctionlib.CorrectionSet.from_file(str(path))["weight"]
    for n in (0, 1, len(matrix)):
        weighted = model.weigh(matrix[:n])
        for variation in ("nominal", "up", "down"):
            found = correction.evaluate(variation, *matrix[:n].T)
            tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
            np.testing.assert_allclose(found, weighted.column(variation), **tolerance)
    one = float(correction.evaluate("nominal", *matrix[3].tolist()))
    assert one == pytest.approx(model.weigh(matrix[3:4]).nominal[0], rel=1e-4)
    with pytest.raises(IndexError, match="Index not available in Category"):
        correction.evaluate("sideways", *matrix[3].tolist())


def test_one_network(new_ratio: Any, matrix: Any, tmp_path: Path) -> None:
    model = new_ratio(ensemble=1, calibrator=BENT, clip=2.0)
    path = model.export("correctionlib", tmp_path / "w.json.gz", name="photons", version=3, description="To data.")
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    correction = correctionlib.CorrectionSet.from_file(str(path))["photons"]
    np.testing.assert_allclose(correction.evaluate(*matrix.T), model.weigh(matrix).nominal, rtol=1e-4)
    assert correction.version == 3
    assert correction.description.startswith("To data. hepgen ")
    assert [(given.name, given.description) for given in correction.inputs][:2] == [
        ("photon[0].pt", "photon[0].pt [GeV]"),
        ("photon[0].eta", "photon[0].eta"),
    ]
    assert [given.type for given in correction.inputs] == ["real"] * 7


def test_members_add_up(new_ratio: Any, matrix: Any, tmp_path: Path) -> None:
    model = new_ratio(torch.float64)
    corrections = correctionlib.CorrectionSet.from_file(str(export_correctionlib(model, tmp_path / "w.json", layout="members")))
    weighted = model.weigh(matrix)
    np.testing.assert_allclose(corrections.compound["weight"].evaluate(*matrix.T), weighted.nominal, rtol=1e-10)
    shares = np.stack([corrections[f"weight_member{e}"].evaluate(*matrix.T) for e in range(3)], axis=1)
    np.testing.assert_allclose(3 * shares, weighted.replicas, rtol=1e-10)
    np.testing.assert_allclose(3 * shares.std(axis=1, ddof=1), weighted.column("uncertainty"), rtol=1e-8)
    assert len(corrections.compound["weight"].evaluate(*matrix[:0].T)) == 0


def test_without_variations(new_ratio: Any, matrix: Any, tmp_path: Path) -> None:
    model = new_ratio(torch.float64)
    path = export_correctionlib(model, tmp_path / "w.json", variations=False)
    correction = correctionlib.CorrectionSet.from_file(str(path))["weight"]
    np.testing.assert_allclose(correction.evaluate(*matrix.T), model.weigh(matrix).nominal, rtol=1e-10)
    assert path.stat().st_size < 0.4 * export_correctionlib(model, tmp_path / "all.json").stat().st_size


def test_members_that_agree_have_no_uncertainty(new_ratio: Any, matrix: Any, tmp_path: Path) -> None:
    model = new_ratio(torch.float64)
    model.networks = model.networks[:1] * 3
    correction = correctionlib.CorrectionSet.from_file(str(export_correctionlib(model, tmp_path / "w.json")))["weight"]
    # the sums of the blocks are added in orders of their own
    np.testing.assert_allclose(correction.evaluate("up", *matrix.T), correction.evaluate("down", *matrix.T), rtol=1e-12)


@pytest.mark.parametrize("options", [{"shortcuts": True}, {"output": "tanh"}])
def test_what_correctionlib_has_no_network_for(options: dict[str, Any], new_ratio: Any, tmp_path: Path) -> None:
    model = new_ratio(torch.float64)
    model.networks[1] = FrozenMLP(model.networks[1].state, activation="relu", **options)
    with pytest.raises(UsageError, match="neither shortcuts nor an output function: export the model to ONNX"):
        export_correctionlib(model, tmp_path / "w.json")


@pytest.mark.parametrize(("loss", "link"), LINKS)
def test_outputs_of_any_size_are_held_as_the_model_holds_them(loss: str, link: str, new_ratio: Any, matrix: Any, tmp_path: Path) -> None:
    model = new_ratio(torch.float64, loss=loss, link=link, ensemble=2)
    state = model.networks[0].state
    model.networks[0] = FrozenMLP({**state, "layers.2.weight": 400 * state["layers.2.weight"]}, activation="relu")
    correction = correctionlib.CorrectionSet.from_file(str(export_correctionlib(model, tmp_path / "w.json")))["weight"]
    for variation in ("nominal", "up", "down"):
        found = correction.evaluate(variation, *matrix.T)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, model.weigh(matrix).column(variation), rtol=1e-6, atol=1e-9)


def test_sizes(new_ratio: Any, tmp_path: Path) -> None:
    # a ratio network of 7-32-32-1: 1345 numbers of nine digits; a joined ensemble grows as the square of its members
    one = export_correctionlib(new_ratio(ensemble=1, hidden=(32, 32)), tmp_path / "one.json").stat().st_size
    four = export_correctionlib(new_ratio(ensemble=4, hidden=(32, 32)), tmp_path / "four.json", variations=False).stat().st_size
    parts = export_correctionlib(new_ratio(ensemble=4, hidden=(32, 32)), tmp_path / "parts.json", layout="members").stat().st_size
    assert one < 22_000
    assert 4 * one < four < 6 * one
    assert parts < 4.5 * one
    assert export_correctionlib(new_ratio(ensemble=1, hidden=(32, 32)), tmp_path / "one.json.gz").stat().st_size < 0.5 * one


def test_the_content_is_one_of_the_schema_and_always_the_same(new_ratio: Any, tmp_path: Path) -> None:
    model = new_ratio()
    content = correction_set(model)
    assert content["schema_version"] == 2
    correctionlib.schemav2.CorrectionSet.model_validate(content)
    assert content == correction_set(model)
    written = gzip.decompress(export_correctionlib(model, tmp_path / "w.json.gz").read_bytes())
    assert json.loads(written) == content


def test_wrong_weights_are_not_written(new_ratio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lwtnn._RATIOS, "sigmoid", "exp(1.001*z)")
    with pytest.raises(
        OutputError, match="w.json was not written: run on .* events, the exported file gives the nominal weight that is off"
    ):
        export_correctionlib(new_ratio(), tmp_path / "w.json")
    monkeypatch.setitem(lwtnn._RATIOS, "sigmoid", "exp(z")
    with pytest.raises(OutputError, match="correctionlib cannot load the exported file"):
        export_correctionlib(new_ratio(), tmp_path / "w.json")
    assert list(tmp_path.iterdir()) == []


def test_refusals(new_ratio: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the link 'cdf' has no formula in correctionlib that is right in the tails"):
        correction_set(new_ratio(link="cdf"))
    scaler = Scaler([Chain([Log(), Standard()]), *(Standard() for _ in range(6))])
    with pytest.raises(UsageError, match=r"the scaling Log of column 'photon\[0\].pt' does not fit into correctionlib"):
        correction_set(new_ratio(scaler=scaler))
    late = Scaler([*(Standard() for _ in range(6)), Chain([Standard(), Angle()])])
    with pytest.raises(UsageError, match="the scaling Angle of column 'mass"):
        correction_set(new_ratio(scaler=late))
    with pytest.raises(UsageError, match="the calibration has a point at infinity"):
        correction_set(new_ratio(calibrator=Calibrator(np.array([0.0, 1.0]), np.array([-np.inf, 1.0]))))
    with pytest.raises(UsageError, match="layout='stacked' is not known"):
        correction_set(new_ratio(), layout="stacked")  # type: ignore[arg-type]
    for options in ({"ensemble": 1}, {"clip": 2.0}, {"calibrator": BENT}):
        with pytest.raises(UsageError, match="layout='members' adds the weights of two members or more"):
            correction_set(new_ratio(**options), layout="members")
    with pytest.raises(UsageError, match="layout='members' has no up and down"):
        correction_set(new_ratio(), layout="members", variations=True)
    with pytest.raises(UsageError, match="one network has no scatter"):
        correction_set(new_ratio(ensemble=1), variations=True)
    with pytest.raises(UsageError, match="not fitted"):
        correction_set(Reweighter(new_ratio().features))
    with pytest.raises(OutputError, match="w.root is no name for correctionlib: let it end in .json or .json.gz"):
        export_correctionlib(new_ratio(), tmp_path / "w.root")
    (tmp_path / "w.json").write_text("mine")
    with pytest.raises(OutputError, match="w.json exists already"):
        export_correctionlib(new_ratio(), tmp_path / "w.json")
    assert [path.name for path in tmp_path.iterdir()] == ["w.json"]
