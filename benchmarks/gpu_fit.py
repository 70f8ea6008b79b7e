"""How long an epoch of SimToData takes on a GPU: the flow, losses and loop of the fit, on a million events of each sample.

    python benchmarks/gpu_fit.py [--events 1000000] [--device cuda] [--out FILE]

Needs torch alone, no awkward: the events are drawn as scaled columns. Steps are replayed from a CUDA graph, and taken one by one beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from hepgen.estimators.flow_objectives import FlowObjective, KLLoss, LogLoss, MDMMLoss, MMDLoss
from hepgen.kernels import kde_bandwidth
from hepgen.losses import MMD, KLOfKDE
from hepgen.networks import MAF
from hepgen.optim import MDMM
from hepgen.training import Plan, Sample, loop, train

COLUMNS, FLOORS = 6, (1e-3, 1e-4)
BATCH = {"nll": 4096, "kl": 25600, "mmd": 4096, "mdmm": 4096}  # as SimToData has them


def drawn(events: int) -> dict[str, Sample]:
    """Scaled columns of two samples that differ in mean, width and correlation."""
    generator = torch.Generator().manual_seed(1)
    sim, data = (torch.randn(events, COLUMNS, generator=generator) for _ in range(2))
    data = 0.9 * data + 0.2 * data.roll(1, dims=1) + 0.1
    return {"sim": Sample(sim), "data": Sample(data)}


def objective(loss: str, samples: dict[str, Sample], batch_size: int) -> FlowObjective:
    """A flow of the paper's size and a loss."""
    torch.manual_seed(1)
    flow, target = MAF(COLUMNS, COLUMNS, shear=True), samples["data"].values
    if loss == "nll":
        return LogLoss(flow)
    mmd = MMD(0.1 * 6.0**2)
    if loss == "mmd":
        return MMDLoss(flow, mmd)
    divergence = KLOfKDE(target, bandwidth=kde_bandwidth(target, "silverman", events=batch_size))
    return KLLoss(flow, divergence) if loss == "kl" else MDMMLoss(flow, divergence, mmd, FLOORS, MDMM(1.015))


def measured(loss: str, samples: dict[str, Sample], device: str, batch_size: int, *, replayed: bool) -> dict[str, Any]:
    """Seconds of the second of two epochs, the first of which makes what later ones find made."""
    fitted = objective(loss, samples, batch_size)
    fitted.capturable = replayed
    seconds: list[float] = []
    close = loop._Fit._close_epoch

    def closing(self: Any, taken: float) -> None:
        close(self, taken)  # the losses of the epoch are read here, which waits for the device
        seconds.append(time.perf_counter())

    loop._Fit._close_epoch = closing  # type: ignore[method-assign]
    try:
        train(fitted, samples, Plan(2, batch_size, device=device), progress=False)
    finally:
        loop._Fit._close_epoch = close  # type: ignore[method-assign]
    return {"loss": loss, "batch_size": batch_size, "replayed": replayed, "seconds": seconds[1] - seconds[0]}


def main() -> None:
    """Print a line per loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--losses", nargs="+", default=list(BATCH))
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    samples, rows = drawn(options.events), []
    print(f"{'loss':6} {'batch':>6} {'replayed':>9} {'s / epoch':>10}")
    for loss in options.losses:
        for replayed in (True, False) if options.device != "cpu" else (False,):
            row = measured(loss, samples, options.device, BATCH[loss], replayed=replayed)
            rows.append({**row, "events": options.events})
            print(f"{row['loss']:6} {row['batch_size']:6} {row['replayed']!s:>9} {row['seconds']:10.3f}", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
