"""Disks that are full and folders that cannot be written: a sentence, nothing half-written, and what was there before stays."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepgen import Features, Reweighter
from hepgen.applying import apply_file
from hepgen.errors import OutputError
from hepgen.events import write
from hepgen.training import Batch, Objective, Plan, Sample, train


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts a small disk")
    yield from mounted(tmp_path / "disk", "size=256k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o500)
        yield folder
        return
    yield from mounted(tmp_path / "closed", "ro,size=256k")


class Wide(Objective):
    """A fit whose checkpoint has a size that one may choose."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(numbers))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (batch["rows"].values - self.at[0]).square().mean() + self.at.square().mean()}


def fit(file: Path, numbers: int) -> None:
    rows = {"rows": Sample(torch.arange(40.0)[:, None])}
    train(Wide(numbers), rows, Plan(3, 5), checkpoint=file, checkpoint_seconds=0)


def test_a_checkpoint_that_does_not_fit(small_disk: Path, tried: Callable) -> None:
    fit(small_disk / "small", 10)
    before = (small_disk / "small").read_bytes()
    with pytest.raises(OutputError, match=r"the checkpoint .* cannot be written \(No space left on device\)"):
        fit(small_disk / "large", 200_000)
    assert (small_disk / "small").read_bytes() == before
    assert not [path.name for path in small_disk.iterdir() if path.name.endswith(".part")]
    tried(full_disk="checkpoint", lost=0)


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_an_output_that_does_not_fit(suffix: str, small_disk: Path, tmp_path: Path, tried: Callable) -> None:
    x = np.random.default_rng(1).normal(size=100_000)
    write(tmp_path / "in.root", {"x": x})
    model = Reweighter(Features(["x"]), ensemble=1, hidden=(4,))
    model.fit(ak.Array({"x": x[:500]}), ak.Array({"x": x[:500] + 0.1}), epochs=1, progress=False)
    out = small_disk / f"out{suffix}"
    with pytest.raises(OutputError, match="No space left on device"):
        apply_file(model, tmp_path / "in.root", out, progress=False, workers=1)
    assert not out.exists()
    model.save(small_disk / "model.hepgen")  # the half-written file is gone, and there is room again
    tried(full_disk=f"apply to {suffix}", lost=0)


def test_a_folder_that_cannot_be_written(read_only: Path, tmp_path: Path, tried: Callable) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        fit(read_only / "fit", 10)
    x = np.random.default_rng(1).normal(size=1000)
    model = Reweighter(Features(["x"]), ensemble=1, hidden=(4,))
    model.fit(ak.Array({"x": x}), ak.Array({"x": x + 0.1}), epochs=1, progress=False)
    with pytest.raises(OutputError, match="cannot be written"):
        model.save(read_only / "model.hepgen")
    write(tmp_path / "in.root", {"x": x})
    with pytest.raises(OutputError):
        apply_file(model, tmp_path / "in.root", read_only / "out.root", progress=False)
    tried(read_only="checkpoint, model, apply", lost=0)


def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable) -> None:
    import time

    fit(tmp_path / "straight", 10)
    jumps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e9 * (-1) ** next(jumps))
    fit(tmp_path / "jumping", 10)
    straight, jumping = (torch.load(tmp_path / name, weights_only=True) for name in ("straight", "jumping"))
    assert torch.equal(straight["objective"]["at"], jumping["objective"]["at"])
    assert all(epoch["seconds"] >= 0 for record in jumping["records"] for epoch in record["epochs"])
    tried(clock="forwards and back a milliard seconds at every look", lost=0)
