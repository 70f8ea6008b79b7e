from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hepgen.errors import OutputError, UsageError
from hepgen.training import Batch, Objective, Plan, Sample, train
from hepgen.training.checkpoint import held_alone

HOLDER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from hepgen.training.checkpoint import held_alone
    with held_alone(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
""")


class Mean(Objective):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(()))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (batch["rows"].values - self.at).square().mean()}


def fit(file: Path) -> None:
    train(Mean(), {"rows": Sample(torch.arange(20.0)[:, None])}, Plan(2, 5), checkpoint=file)


def test_a_second_fit_to_a_checkpoint_is_refused_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "fit.checkpoint"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=r"another fit is writing the checkpoint .*fit.checkpoint: wait for it"):
        fit(file)
    assert not file.exists()
    holder.kill()
    holder.communicate()
    fit(file)
    assert file.exists()


def test_the_lock_ends_with_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with held_alone(tmp_path / "fit"):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the checkpoint .* cannot be written"):
        fit(tmp_path / "file" / "fit.checkpoint")
