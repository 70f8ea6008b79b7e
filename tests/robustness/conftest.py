"""How much the tests of this folder try: little by default, and as much as docs/robustness.md says with HEPGEN_ROBUSTNESS=full."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hepgen

FULL = os.environ.get("HEPGEN_ROBUSTNESS") == "full"


def put_first(file: str) -> None:
    """Take the compiled core from a file: `make robustness` names one that was built with sanitizers."""
    spec = importlib.util.spec_from_file_location("hepgen._core", file)
    assert spec is not None
    assert spec.loader is not None
    hepgen._core = sys.modules["hepgen._core"] = importlib.util.module_from_spec(spec)  # type: ignore[attr-defined]
    spec.loader.exec_module(sys.modules["hepgen._core"])


if "HEPGEN_ROBUSTNESS_CORE" in os.environ:
    put_first(os.environ["HEPGEN_ROBUSTNESS_CORE"])


@pytest.fixture(scope="session")
def times() -> Callable[[int, int], int]:
    """Of two numbers the first in a short run, the second in a full one."""
    return lambda short, full: full if FULL else short


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep what a test tried and found: a line of the table, in the file that HEPGEN_ROBUSTNESS_TABLE names."""

    def keep(**found: object) -> None:
        print(request.node.name, found)
        if file := os.environ.get("HEPGEN_ROBUSTNESS_TABLE"):
            with Path(file).open("a", encoding="utf-8") as table:
                table.write(json.dumps({"test": request.node.name, **found}) + "\n")

    return keep
