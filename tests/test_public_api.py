from __future__ import annotations

import subprocess
import sys

import pytest

import hepgen


def test_public_names_are_frozen() -> None:
    assert hepgen.__all__ == ["EventGenerator", "Features", "ObjectReplacer", "Reweighter", "Selection", "SimToData", "__version__", "load"]
    assert all(getattr(hepgen, name) is not None for name in dir(hepgen))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hepgen.nothing


def test_import_is_light() -> None:
    heavy = ("torch", "awkward", "numpy", "coffea", "matplotlib", "triton", "uproot")
    script = f"import hepgen, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


@pytest.mark.parametrize("module", ["hepgen.events", "hepgen.kernels.philox"])
def test_rooms_that_do_not_need_torch_do_not_import_it(module: str) -> None:
    script = f"import {module}, sys; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"
