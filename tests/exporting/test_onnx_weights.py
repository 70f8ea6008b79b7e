"""The weights of a Reweighter in ONNX against `Reweighter.weigh`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hepgen.errors import OutputError, UsageError
from hepgen.estimators.ratio_checks import Calibrator
from hepgen.estimators.reweighter import Reweighter
from hepgen.exporting import export, export_onnx, onnx_model, onnx_models
from hepgen.losses.ratio import LINKS

BENT = Calibrator(np.array([-3.0, -0.5, 0.1, 2.0]), np.array([-2.0, -0.4, -0.4, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "options",
    [{"loss": loss, "link": link} for loss, links in LINKS.items() for link in links]
    + [
        {"calibrator": BENT, "activation": "tanh"},
        {"loss": "mlc", "link": "relu", "calibrator": BENT, "clip": 1.2, "activation": "elu"},
        {"ensemble": 1, "clip": 1.5},
    ],
    ids=str,
)
def test_it_is_what_the_model_gives(
    options: dict[str, Any], dtype: torch.dtype, new_ratio: Any, matrix: Any, run: Any, tmp_path: Path
) -> None:
    model = new_ratio(dtype, **options)
    path = export(model, "onnx", tmp_path / "w.onnx", replicas=True)
    for n in (0, 1, len(matrix)):
        found, expected = run(path, columns=matrix[:n]), model.weigh(matrix[:n])
        assert found["weights"].shape == (n,)
        assert found["replicas"].shape == (n, model.ensemble)
        for name, values in (("weights", expected.nominal), ("replicas", expected.replicas)):
            np.testing.assert_allclose(found[name], values, **({"rtol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}))
    if options.get("clip"):
        assert found["weights"].max() == pytest.approx(options["clip"] * np.exp(0.3))
    plain = run(export_onnx(model, tmp_path / "plain.onnx"), columns=matrix)
    assert list(plain) == ["weights"]
    np.testing.assert_allclose(plain["weights"], found["weights"], rtol=1e-12)


def test_values_far_beyond_the_fit_are_held_as_the_model_holds_them(new_ratio: Any, matrix: Any, run: Any, tmp_path: Path) -> None:
    model = new_ratio(torch.float64)
    far = matrix.copy()
    far[:, 0] = np.geomspace(1e2, 1e12, len(far))
    found = run(export_onnx(model, tmp_path / "w.onnx"), columns=far)["weights"]
    np.testing.assert_allclose(found, model.weigh(far).nominal, rtol=1e-9)
    assert np.isfinite(found).all()


def test_what_the_file_says_of_itself(new_ratio: Any) -> None:
    model = new_ratio(loss="bce", link="arctan")
    said = {entry.key: entry.value for entry in onnx_model(model).metadata_props}
    assert (said["model"], said["part"], said["loss"], said["link"], said["members"]) == ("Reweighter", "weights", "bce", "arctan", "3")
    assert json.loads(said["features"]) == list(model.features.names)


def test_wrong_weights_are_not_written(new_ratio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_models.log_ratio
    monkeypatch.setattr(onnx_models, "log_ratio", lambda g, z, link: g.op("Mul", right(g, z, link), np.float64(1.0001)))
    with pytest.raises(OutputError, match="w.onnx was not written: run on .* events, the exported file gives weights that is off by"):
        export_onnx(new_ratio(), tmp_path / "w.onnx")
    assert list(tmp_path.iterdir()) == []


def test_refusals(new_ratio: Any) -> None:
    with pytest.raises(UsageError, match="not fitted"):
        onnx_model(Reweighter(new_ratio().features))
    with pytest.raises(UsageError, match="a Reweighter has no part 'inverse' to export: choose one of weights"):
        onnx_model(new_ratio(), part="inverse")
