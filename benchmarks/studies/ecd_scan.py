"""The scans of the paper on thrust: equation 29 for Adam, the rescaled step and eta for ECD, each chosen by validation loss."""

from __future__ import annotations

from dataclasses import replace

import ecd_thrust
import numpy as np
from ecd_runs import Training, mean, own_eta
from ecd_thrust import Halves
from study_runs import Result, Store

STEPS = (0.1, 0.5, 1.0, 2.0)


def adam_draws(base: Training, draws: int, seed: int) -> dict[str, Training]:
    """Adam by default, and at random points: lr 10^-U(1, 5), beta1 = 1 - 10^-U(0.5, 3), beta2 = 1 - 10^-U(0.5, 4) (eq. 29)."""
    u = np.random.default_rng(seed).uniform((1.0, 0.5, 0.5), (5.0, 3.0, 4.0), size=(draws, 3))
    found = {"Adam default": replace(base, optimizer="adam")}
    for a, b, c in u:
        rate, betas = float(10**-a), (float(1 - 10**-b), float(1 - 10**-c))
        found[f"Adam lr {rate:.2e}, betas {betas[0]:.4f}, {betas[1]:.5f}"] = replace(
            base, optimizer="adam", learning_rate=rate, betas=betas
        )
    return found


def ecd_grid(base: Training, factors: list[float], events: int) -> dict[str, Training]:
    """ECD by default, and every rescaled step with eta as many times what `Reweighter` takes for this budget of steps."""
    found = {"ECD default": replace(base, optimizer="ecd")}
    for factor in factors:
        eta = factor * own_eta(base, 1, events)
        for step in STEPS:
            found[f"ECD dt {step:g}, eta x {factor:g}"] = replace(base, optimizer="ecd", learning_rate=step, eta=eta)
    return found


def scan(store: Store, halves: Halves | None, points: dict[str, Training], events: int) -> list[Result]:
    """One training at every point, all with the same seed and so the same split, best validation loss first; failed ones last."""
    found = ecd_thrust.run(store, halves, points, "scan", events)
    rows = [
        {
            "name": name,
            "failed": not result["best_valid"],
            "valid": result["best_valid"][0] if result["best_valid"] else float("inf"),
            "mae": result["mae"][0] if result["best_valid"] else float("nan"),
            "seconds": result["seconds"],
        }
        for name, result in found.items()
    ]
    return sorted(rows, key=lambda row: row["valid"])


def finalists(
    store: Store,
    halves: Halves | None,
    rows: list[Result],
    points: dict[str, Training],
    final: Training,
    best: int,
    *,
    events: int,
    all_events: int,
) -> list[Result]:
    """The best points trained again, in full: mean validation loss, lowest first, failed trainings last.

    `events` of the scan and `all_events` are those of the longer sample: eta of ECD goes with the budget of steps, as that of `Reweighter`
    does. Members of equal number have equal splits at every point.
    """
    chosen = {}
    for row in [row for row in rows if not row["failed"]][:best]:
        point = points[row["name"]]
        eta = point.eta and point.eta * own_eta(final, 1, all_events) / own_eta(point, 1, events)
        chosen[row["name"]] = replace(final, optimizer=point.optimizer, learning_rate=point.learning_rate, betas=point.betas, eta=eta)
    found = ecd_thrust.run(store, halves, chosen, "scan")
    ranked = [
        {
            "name": name,
            "valid": mean(result["best_valid"]).value,
            "mae": mean(result["mae"]).value,
            "failed": len(result["failed"]),
            "training": chosen[name],
        }
        for name, result in found.items()
        if result["best_valid"]
    ]
    return sorted(ranked, key=lambda row: (row["failed"], row["valid"]))


def coverage(rows: list[Result], default: Result) -> Result:
    """Best, median and worst of a scan, and the share of its points that beat a default trained like them."""
    points = [row for row in rows if not row["name"].endswith("default")]
    trained = [row for row in points if not row["failed"]]
    summary: Result = {"points": len(points), "failed": len(points) - len(trained), "seconds": sum(row["seconds"] for row in points)}
    for quantity in ("valid", "mae"):
        values = np.sort([row[quantity] for row in trained])
        if len(values):
            summary[quantity] = [float(values[0]), float(np.median(values)), float(values[-1])]
        summary[f"{quantity}_beats_default"] = float((values < default[quantity]).sum() / len(points)) if points else float("nan")
    return summary
