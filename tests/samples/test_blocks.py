"""A block is the same in whichever process it is made: production in parallel gives what one process gives."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

pytest.importorskip("pythia8mc", reason="Pythia 8 is not installed")
pytest.importorskip("fastjet", reason="fastjet is not installed")

CODE = """
import hashlib, importlib
for name in ("thrust", "jets"):
    recipe = importlib.import_module(f"hepgen.samples.{name}")
    recipe.BATCH = 30
    block, _ = recipe.generate_block("data", 9, 4, 10)
    print(hashlib.sha256(b"".join(block[field].to_numpy().tobytes() for field in block.fields)).hexdigest())
"""


def test_a_fresh_process_makes_the_same_blocks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    there = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120).stdout
    for name in ("thrust", "jets"):
        recipe = importlib.import_module(f"hepgen.samples.{name}")
        monkeypatch.setattr(recipe, "BATCH", 30)
        # another block first: nothing of it may stay
        recipe.generate_block("sim", 1, 0, 5)
    exec(CODE, {})
    assert capsys.readouterr().out == there
    assert len(there.split()) == 2
