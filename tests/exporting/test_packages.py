"""What exporting loads, and what it says of a package that is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import hist
import pytest

import hepgen.exporting
from hepgen.errors import MissingDependency
from hepgen.exporting import export, map_set


def test_names_are_lazy() -> None:
    code = (
        "import sys, hepgen.exporting; assert not {'numpy', 'awkward', 'onnx'} & set(sys.modules); "
        "import hepgen.exporting.to_onnx, hepgen.exporting.to_correctionlib; "
        "assert not {'torch', 'onnx', 'onnxruntime', 'correctionlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sorted(hepgen.exporting.__all__) == sorted(hepgen.exporting._LAZY)
    assert all(callable(getattr(hepgen.exporting, name)) for name in hepgen.exporting.__all__)
    with pytest.raises(AttributeError, match="module 'hepgen.exporting' has no attribute 'pmml'"):
        _ = hepgen.exporting.pmml  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_onnx_is_missing(package: str, new_ratio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"exporting needs the package {package}: pip install 'hepgen\[export\]'"):
        export(new_ratio(), "onnx", tmp_path / "w.onnx")
    assert list(tmp_path.iterdir()) == []


def test_correctionlib_is_missing_or_old(new_ratio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import correctionlib.schemav2

    with monkeypatch.context() as patch:
        patch.delattr(correctionlib.schemav2, "LWTNN")
        with pytest.raises(MissingDependency, match="this correctionlib has no LWTNN node: pip install 'correctionlib>=2.9'"):
            export(new_ratio(), "correctionlib", tmp_path / "w.json")
    monkeypatch.setitem(sys.modules, "correctionlib", None)
    with pytest.raises(MissingDependency, match="exporting needs the package correctionlib: pip install"):
        map_set({"sf": hist.Hist(hist.axis.Regular(2, 0, 1, name="x"))})
    assert list(tmp_path.iterdir()) == []
