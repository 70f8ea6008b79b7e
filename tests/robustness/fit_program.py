"""A small fit with a checkpoint after every step, run by test_killed.py: fit_program.py FOLDER LOSS. Its weights are printed as a hash.

Over ranks where torchrun, or who does the same, starts it.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch

from hepgen import ranks
from hepgen.estimators.flow_objectives import LogLoss, MDMMLoss
from hepgen.estimators.reweighter_fit import RatioObjective
from hepgen.losses import MMD, KLOfKDE
from hepgen.losses.ratio_loss import RatioLoss
from hepgen.networks import MAF, MLP, EnsembleMLP
from hepgen.optim import MDMM
from hepgen.training import Objective, Plan, Sample, train, train_ensemble


def fit(folder: Path, kind: str) -> Objective:
    torch.manual_seed(1)
    sim, data = torch.randn(1500, 2), 0.8 * torch.randn(1500, 2) + 0.2
    samples = {"sim": Sample(sim, torch.rand(1500)), "data": Sample(data)}
    options = {"checkpoint": folder / "fit.checkpoint", "checkpoint_seconds": 0.0}
    objective: Objective
    if kind == "ratio-ecd":
        objective = RatioObjective(EnsembleMLP([MLP(2, 1, (8, 8), "relu") for _ in range(2)]), RatioLoss("bce"), 0.1)
        train_ensemble(objective, samples, Plan(8, 100, (0.3, 0.1), optimizer="ecd", options={"nu": 1e-3}), [4, 5], **options)
    else:
        flow, kl = MAF(2, 2, blocks=2, hidden=(8,), shear=True), KLOfKDE(data, batch_size=100, points=64)
        objective = LogLoss(flow) if kind == "nll" else MDMMLoss(flow, kl, MMD(0.5), (1e-2, 1e-3), MDMM(1.015))
        train(objective, samples, Plan(8, 100), **options)
    return objective


def main() -> None:
    torch.set_num_threads(1)
    with ranks.joined():
        objective = fit(Path(sys.argv[1]), sys.argv[2])
    print(hashlib.sha256(b"".join(t.numpy().tobytes() for t in objective.state_dict().values())).hexdigest())


if __name__ == "__main__":
    main()
