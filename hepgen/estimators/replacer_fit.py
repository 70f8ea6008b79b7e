"""How the flow of an ObjectReplacer is fitted: the part of it that needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepgen.networks import MAF
from hepgen.training import Batch, Objective, Plan, Sample, train

Matrix = NDArray[np.float64]


class ConditionalLogLoss(Objective):
    """-E log p(object | condition): the first columns of a row given the others."""

    def __init__(self, flow: MAF) -> None:
        super().__init__()
        self.flow = flow

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The log loss of one batch; weights have a mean of one over their whole sample, not over the batch."""
        rows, weights, d = batch["signal"].values, batch["signal"].weights, self.flow.features
        loss = self.flow.negative_log_likelihood(rows[:, :d].contiguous(), rows[:, d:].contiguous(), weights)
        return {"loss": loss if weights is None else loss * weights.mean()}


def fit_flow(
    scaled: Matrix,
    weights: Matrix | None,
    outputs: int,
    shape: tuple[int, Sequence[int], str, str],
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    progress: bool | None = None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Fit a flow to scaled rows (n, d), of which the first `outputs` columns are what it draws.

    Parameters
    ----------
    weights
        Signed (n,), or None.
    shape
        Blocks, hidden widths, permutation and activation; see `hepgen.networks.MAF`.
    checkpoint
        Folder for the checkpoint.

    Returns
    -------
    state, record
        The weights by name, and the training record.
    """
    torch.manual_seed(plan.seed)
    flow = MAF(outputs, scaled.shape[1] - outputs, *shape, seed=plan.seed)
    mean_one = None if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))
    sample = Sample(torch.from_numpy(scaled.astype(np.float32)), mean_one)
    file = checkpoint / "flow.checkpoint" if checkpoint is not None else None
    record = train(ConditionalLogLoss(flow), {"signal": sample}, plan, checkpoint=file, title="flow fit", progress=progress)
    return {name: tensor.detach().numpy() for name, tensor in flow.state_dict().items()}, record.to_dict()
