"""Run by test_ranks.py on every rank: losses and gradients over ranks beside those of one process, or whole fits. Prints JSON."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from hepgen import ranks
from hepgen.errors import FitInterrupted
from hepgen.estimators.flow_objectives import FlowObjective, KLLoss, LogLoss, MDMMLoss, MMDLoss
from hepgen.estimators.reweighter_fit import RatioObjective
from hepgen.losses import MMD, KLOfKDE
from hepgen.losses.ratio_loss import RatioLoss
from hepgen.networks import MAF, MLP, EnsembleMLP
from hepgen.optim import MDMM
from hepgen.training import Batch, Objective, Plan, Sample, train, train_ensemble
from hepgen.training.loop import _Fit

ROWS = 240
KINDS = (
    "nll",
    "nll-weighted",
    "kl",
    "kl-weighted",
    "mmd",
    "mmd-weighted",
    "mmd-feature-weighted",
    "mdmm",
    "mdmm-weighted",
    "ratio",
    "ratio-weighted",
)


def generate(self: FlowObjective, batch: Batch) -> Tensor:
    """As ever, with the noise of the batch."""
    sim = batch["sim"].values
    delta, _ = self.flow.inverse(batch["noise"].values, sim)
    return sim[:, : self.flow.features] + delta


def whole_batch(weighted: bool, members: int | None) -> dict[str, Sample]:
    numbers = torch.Generator().manual_seed(1)
    shape = (ROWS, 3) if members is None else (members, ROWS, 3)
    sim, data, noise = (torch.randn(shape, generator=numbers, dtype=torch.float64) for _ in range(3))
    weights = [torch.rand(shape[:-1], generator=numbers, dtype=torch.float64) * 2 - 0.4 if weighted else None for _ in range(2)]
    return {"sim": Sample(0.8 * sim + 0.2, weights[0]), "data": Sample(data, weights[1]), "noise": Sample(noise)}


def part(samples: dict[str, Sample], members: int | None) -> dict[str, Sample]:
    rows = ranks.split(ROWS)
    cut = (lambda t: t[rows]) if members is None else (lambda t: t[:, rows])
    return {name: Sample(cut(s.values), None if s.weights is None else cut(s.weights)) for name, s in samples.items()}


def objective(kind: str, samples: dict[str, Sample]) -> Objective:
    torch.manual_seed(2)
    if kind.startswith("ratio"):
        return RatioObjective(EnsembleMLP([MLP(3, 1, (8, 8), "relu") for _ in range(2)]).double(), RatioLoss("bce"))
    flow, data = MAF(3, 3, blocks=2, hidden=(12,), activation="tanh", shear=True).double(), samples["data"]
    if kind.startswith("nll"):
        return LogLoss(flow)
    mmd = MMD(1.5, per_feature="feature" in kind)
    kl = KLOfKDE(data.values, bandwidth=torch.full((3,), 0.3, dtype=torch.float64), points=64)
    if kind.startswith("mmd"):
        return MMDLoss(flow, mmd)
    return KLLoss(flow, kl) if kind.startswith("kl") else MDMMLoss(flow, kl, mmd, (1e-2, 1e-3), MDMM(1.015))


def value_and_gradient(made: Objective, samples: dict[str, Sample], members: int | None) -> list[Tensor]:
    fit = object.__new__(_Fit)
    fit.objective, fit.told, fit.interrupted = made, lambda: False, False
    losses = made.losses(Batch(samples, (1,) * (members or 1), tuple(range(members or 1))))
    made.zero_grad()
    losses["loss"].sum().backward()
    parameters = list(made.parameters())
    if ranks.count() > 1:
        losses = fit._reduce(parameters, losses)
    return [losses["loss"].detach().clone(), *(p.grad.clone() for p in parameters if p.grad is not None)]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)) for a, b in zip(ours, theirs, strict=True))


def fitted(kind: str, optimizer: str, folder: Path, epochs: int) -> dict[str, float | bool]:
    """A fit in float32: whether all ranks end with the same weights, and its validation loss."""
    samples = {name: Sample(s.values.float(), s.weights) for name, s in whole_batch(False, None).items() if name != "noise"}
    made = objective(kind, whole_batch(False, None)).float()
    plan = Plan(epochs, 80, (0.3, 0.3) if optimizer == "ecd" else (1e-3, 1e-4), optimizer=optimizer)
    file = folder / f"{kind}-{optimizer}"
    if kind == "ratio":
        record = train_ensemble(made, samples, plan, [4, 5], checkpoint=file)[0]
    else:
        record = train(made, samples, plan, checkpoint=file)
    everybody = ranks.objects([t.numpy() for t in made.state_dict().values()])
    same = all((a == b).all() for other in everybody for a, b in zip(other, everybody[0], strict=True))
    return {"same": bool(same), "valid": record.best_valid}


def losses() -> dict[str, float]:
    """Largest relative difference of losses and gradients over ranks from those of one process."""
    own_generate, FlowObjective.generate = FlowObjective.generate, generate  # type: ignore[method-assign]
    wanted = {}
    for kind in KINDS:
        members = 2 if kind.startswith("ratio") else None
        samples = whole_batch("weighted" in kind, members)
        made = objective(kind, samples)
        wanted[kind] = samples, members, copy.deepcopy(made), value_and_gradient(made, samples, members)
    with ranks.joined():
        found = {kind: difference(value_and_gradient(m, part(s, n), n), expected) for kind, (s, n, m, expected) in wanted.items()}
        found["ranks"] = ranks.count()
        FlowObjective.generate = own_generate  # type: ignore[method-assign]
        return found if ranks.number() == 0 else {}


def fits(folder: Path, epochs: int) -> dict[str, dict[str, float | bool]]:
    with ranks.joined():
        found = {
            f"{k} {o}": fitted(k, o, folder, epochs) for k, o in (("nll", "rmsprop"), ("mdmm", "rmsprop"), ("nll", "ecd"), ("ratio", "ecd"))
        }
        return found if ranks.number() == 0 else {}


def endless(folder: Path) -> dict[str, bool]:
    """A fit that somebody stops."""
    samples = {name: Sample(s.values.float(), s.weights) for name, s in whole_batch(False, None).items() if name != "noise"}
    with ranks.joined():
        made = objective("mdmm", whole_batch(False, None)).float()
        try:
            train(made, samples, Plan(100_000, 80), checkpoint=folder / "fit", checkpoint_seconds=0.5)
        except FitInterrupted:
            return {"stopped": True}
    return {}


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    found = {"losses": losses, "fits": lambda: fits(folder, int(sys.argv[3])), "endless": lambda: endless(folder)}[what]()
    if found:
        print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
