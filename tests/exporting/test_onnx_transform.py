"""The whole transform of a SimToData in ONNX against `transform_matrix`, with the noise that hepgen draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hepgen
from hepgen.errors import OutputError, UsageError
from hepgen.estimators import SimToData
from hepgen.estimators.model_file import from_content
from hepgen.events.scalings import Angle, Chain, Identity, Log, LogitRange, MaxAbs, Quantile, Scaler, Standard, wrap_angle
from hepgen.exporting import export, export_onnx, onnx_checks, onnx_model, onnx_models
from hepgen.exporting.onnx_networks import flow_inverse
from hepgen.kernels import philox


def noise(model: SimToData, matrix: Any, **options: Any) -> tuple[Any, Any]:
    """Identities and the noise that hepgen draws for them."""
    keys = np.arange(len(matrix), dtype=np.uint64)[:, None] + 10**12
    return keys, philox.normal(keys, 6, seed=model.seed, **options)


def apart(found: Any, expected: Any) -> Any:
    """Differences relative to 1 + |value|, angles by the shorter way round."""
    difference = found - expected
    difference[:, [2, 5]] = wrap_angle(difference[:, [2, 5]])
    return np.abs(difference) / (1 + np.abs(expected))


def other_scaler() -> Scaler:
    angle = Chain([Angle(), Quantile(100)])
    return Scaler([Log(), Standard(), angle, Chain([LogitRange(0, 1e4), Standard()]), MaxAbs(), Chain([Angle(), Identity()]), Quantile(20)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu", "permutation": "reverse"},
        {"activation": "tanh", "permutation": "random", "outside": "clip"},
        {"activation": "elu", "permutation": "none", "shear": False, "relative_angles": False},
        {"scaler": other_scaler},
    ],
)
def test_it_is_what_the_model_gives(
    options: dict[str, Any], dtype: torch.dtype, new_transform: Any, matrix: Any, run: Any, tmp_path: Path
) -> None:
    model = new_transform(dtype, **{name: value() if value is other_scaler else value for name, value in options.items()})
    path = export_onnx(model, tmp_path / "t.onnx")
    keys, drawn = noise(model, matrix)
    for n in (0, 1, len(matrix)):
        found = run(path, columns=matrix[:n], noise=drawn[:n])["transformed"]
        assert found.dtype == np.float64
        assert found.shape == (n, 6)
        distance = apart(found, model.transform_matrix(matrix[:n], keys[:n]))
        assert distance.max(initial=0) < (1e-9 if dtype == torch.float64 else 1e-3)
        assert np.median(distance) < 1e-6 if n > 1 else True
        assert (np.abs(found[:, [2, 5]]) <= np.pi).all()
    if model.outside == "clip":
        assert (found >= model.limits[:, 0]).all()
        assert (found <= model.limits[:, 1]).all()


def test_a_fitted_model_and_its_copies(fitted: SimToData, matrix: Any, run: Any, tmp_path: Path) -> None:
    path = fitted.export("onnx", tmp_path / "t.onnx")
    keys, drawn = noise(fitted, matrix, stream=64)
    found = run(path, columns=matrix, noise=drawn)["transformed"]
    distance = apart(found, fitted.transform_matrix(matrix, keys, copy=1))
    assert distance.max() < 1e-4
    # the quantile lines of seven columns are most of it
    assert path.stat().st_size < 200_000


def test_rows_that_are_not_numbers_stay_alone(fitted: SimToData, matrix: Any, run: Any, tmp_path: Path) -> None:
    path = export_onnx(fitted, tmp_path / "t.onnx")
    _, drawn = noise(fitted, matrix)
    whole = run(path, columns=matrix, noise=drawn)["transformed"]
    broken = matrix.copy()
    broken[5, 0], broken[6, 3] = np.nan, np.inf
    found = run(path, columns=broken, noise=drawn)["transformed"]
    rest = np.setdiff1d(np.arange(len(matrix)), [5, 6])
    assert np.isnan(found[5]).any()
    np.testing.assert_allclose(found[rest], whole[rest], rtol=1e-5, atol=1e-5)


def test_a_model_that_rejects(fitted: SimToData, matrix: Any, run: Any, tmp_path: Path) -> None:
    model = from_content(fitted.to_bytes(), "a copy")
    model.outside = "reject"
    # nothing to reject by
    assert export_onnx(model, tmp_path / "any.onnx").is_file()
    model.selection = hepgen.Selection.from_dict({"cuts": [{"expression": "photon[0].pt", "minimum": 60.0}]})
    with pytest.raises(UsageError, match="draws an event again, up to 20 times.*pass first_draw=True"):
        model.export("onnx", tmp_path / "t.onnx")
    assert not (tmp_path / "t.onnx").exists()
    path = model.export("onnx", tmp_path / "t.onnx", first_draw=True)
    keys, drawn = noise(model, matrix)
    assert apart(run(path, columns=matrix, noise=drawn)["transformed"], fitted.transform_matrix(matrix, keys)).max() < 1e-4
    assert _said(onnx_model(model, first_draw=True))["draw"] == "first"


def test_what_the_file_says_of_itself(fitted: SimToData) -> None:
    said = _said(onnx_model(fitted))
    assert json.loads(said["features"]) == list(fitted.features.names)
    assert json.loads(said["outputs"]) == list(fitted.features.outputs)
    assert json.loads(said["units"]) == ["GeV", "", "rad", "GeV", "", "rad", "GeV"]
    assert said["noise"] == "hepgen.kernels.philox.normal(identity, 6, seed=4, stream=64 * copy)"
    assert (said["model"], said["part"], said["draw"], said["outside"]) == ("SimToData", "transform", "only", "keep")
    assert said["hepgen"] == hepgen.__version__
    assert onnx_model(fitted).SerializeToString() == onnx_model(fitted).SerializeToString()


def test_its_flow_alone(fitted: SimToData, matrix: Any, run: Any, tmp_path: Path) -> None:
    flow, scaled = fitted.flow, fitted.coordinates.forward(matrix)
    assert flow is not None
    _, drawn = noise(fitted, matrix)
    z, context = drawn.astype(np.float32), scaled.astype(np.float32)
    found = run(export_onnx(fitted, tmp_path / "i.onnx", part="inverse"), z=z, context=context)
    np.testing.assert_allclose(found["x"], flow.inverse(z, context)[0], rtol=1e-5, atol=1e-5)
    back = run(export_onnx(fitted, tmp_path / "f.onnx", part="forward"), x=found["x"], context=context)
    np.testing.assert_allclose(back["z"], z, rtol=1e-4, atol=1e-4)
    assert json.loads(_said(onnx_model(fitted, part="forward"))["features"]) == list(fitted.features.names)


def _said(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


# --- the check before a file is written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["flow", "angle", "tail"])
def test_a_graph_that_is_wrong_is_not_written(wrong: str, fitted: SimToData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if wrong == "flow":

        def nudged(g: Any, flow: Any, z: str, context: Any, **options: Any) -> Any:
            x, log_det = flow_inverse(g, flow, z, context, **options)
            return g.op("Mul", x, np.float32(1.0003)), log_det

        monkeypatch.setattr(onnx_models, "flow_inverse", nudged)
    elif wrong == "angle":
        monkeypatch.setattr(onnx_models, "wrap_angle", lambda g, x: x)
    else:
        line = onnx_models.unscale

        def flat(g: Any, scaling: Any, y: str, name: str) -> Any:
            return line(g, scaling, g.clip(y, np.float64(-3), np.float64(3)), name)

        monkeypatch.setattr(onnx_models, "unscale", flat)
    with pytest.raises(
        OutputError, match=r"t.onnx was not written: run on \d+ events, the exported file gives photon\[.\].* off by .* is allowed"
    ):
        export_onnx(fitted, tmp_path / "t.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_does_not_run_is_not_written(fitted: SimToData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(onnx_checks.Runner):
        def __init__(self, path: Path) -> None:
            path.write_bytes(path.read_bytes()[:1000])
            super().__init__(path)

    monkeypatch.setattr(onnx_checks, "Runner", Broken)
    with pytest.raises(OutputError, match="t.onnx was not written: onnxruntime cannot load the exported file"):
        export_onnx(fitted, tmp_path / "t.onnx")
    assert list(tmp_path.iterdir()) == []


def test_files_in_the_way(fitted: SimToData, tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    path.write_text("mine")
    with pytest.raises(OutputError, match="t.onnx exists already"):
        export(fitted, "onnx", path)
    assert path.read_text() == "mine"
    assert export(fitted, "onnx", path, overwrite=True).read_bytes() != b"mine"
    with pytest.raises(OutputError, match="there is no folder"):
        export(fitted, "onnx", tmp_path / "none" / "t.onnx")
    assert list(tmp_path.iterdir()) == [path]


def test_refusals(fitted: SimToData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not fitted"):
        onnx_model(SimToData(fitted.features))
    with pytest.raises(UsageError, match="a SimToData has no part 'weights' to export: choose one of transform, forward, inverse"):
        onnx_model(fitted, part="weights")
    with pytest.raises(UsageError, match="there is no export to 'pmml': choose one of onnx, correctionlib"):
        fitted.export("pmml", tmp_path / "t")
    with pytest.raises(UsageError, match="the export to onnx has no option 'opset': it has part, first_draw"):
        fitted.export("onnx", tmp_path / "t.onnx", opset=12)
    with pytest.raises(UsageError, match="a SimToData cannot be written for correctionlib"):
        fitted.export("correctionlib", tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []
