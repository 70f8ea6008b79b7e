"""How much the tests of this folder try: little by default, and as much as docs/robustness.md says with HEPGEN_ROBUSTNESS=full."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

FULL = os.environ.get("HEPGEN_ROBUSTNESS") == "full"


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
