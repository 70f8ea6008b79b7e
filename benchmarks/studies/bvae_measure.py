"""What the study of paper D measures of generated events."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
from bvae_models import COLUMNS, Result
from numpy.typing import NDArray

from hepgen import Features
from hepgen.estimators import EventGenerator
from hepgen.events import read
from hepgen.metrics import copies_of, delta, delta_by_size, delta_of, fit_delta_extrapolation, physicality, ttbar_observables

Floats = NDArray[np.float64]
M = 100.0  # of the decaying particle of two_body, GeV
HOLES = {"eta": ("jet1.eta", "jet2.eta"), "phi": ("jet1.phi", "jet2.phi")}
LIMITS = {"eta": (-2.5, 2.5), "phi": (-np.pi, np.pi)}


class Sample(NamedTuple):
    """Events to learn from, and the others."""

    training: ak.Array
    reference: ak.Array


def load(folder: Path, train: int, most: int | None) -> Sample:
    """Read events.root; the first `train` events are learnt from, and at most `most` others are the reference."""
    events = read(folder / "events.root")
    if len(events) <= train:
        raise ValueError(f"{folder} has {len(events)} events: give --train fewer than that")
    return Sample(events[:train], events[train:][:most])


def matrix(part: str, events: Any) -> Floats:
    """The columns of a part, zero where absent, as in the paper."""
    found, present = Features(COLUMNS[part]).extract_optional(events)
    return np.where(present, found, 0.0)


def draw(model: EventGenerator, n: int, seed: int) -> tuple[ak.Array, float]:
    """Events of a model and how many of them a second."""
    began = time.perf_counter()
    events = model.sample(n, seed=seed + 1000)
    return model.as_records(events), n / (time.perf_counter() - began)


def pairs(reference: Any, events: Any) -> Result:
    """delta and delta_OF."""
    mc, new = ttbar_observables(reference), ttbar_observables(events)
    found = delta(mc.matrix, new.matrix, names=mc.names)
    n = min(len(mc.matrix), len(new.matrix))
    holes = {name: delta_of(mc.columns(*two)[:n], new.columns(*two)[:n], limits=LIMITS[name]).to_dict() for name, two in HOLES.items()}
    return {"delta": found.value, "error": found.error, "floor": found.floor, "holes": holes}


def ttbar(sample: Sample, events: Any, most: int) -> Result:
    """All figures of one model of ttbar."""
    training, reference, made = (matrix("ttbar", part) for part in (sample.training, sample.reference, events))
    angles = [k for k, name in enumerate(COLUMNS["ttbar"]) if name.endswith("phi")]
    n = min(len(training), len(reference))
    near = copies_of(training[:n], made, reference[:n], angles=angles, most=most)
    broken = physicality(made, COLUMNS["ttbar"])
    second = COLUMNS["ttbar"].index("Lepton[1].pt")
    shares = {name: float((x[:, second] > 0).mean()) for name, x in (("two_leptons", made), ("two_leptons_reference", reference))}
    return {**pairs(sample.reference, events), **shares, "copies": near.to_dict(), "broken": broken.fraction}


def ideal(sample: Sample, points: int) -> Result:
    """Training events against the reference, and eq. 24 from the reference against itself."""
    x = ttbar_observables(sample.reference)
    top = len(x.matrix) // 2
    found = delta_by_size(x.matrix, [top * (k + 1) // points for k in range(points)], names=x.names)
    fit = fit_delta_extrapolation(found.events, found.value, found.error)
    return {
        **pairs(sample.reference, sample.training),
        "sizes": {name: values.tolist() for name, values in found._asdict().items()},
        "extrapolated": [len(x.matrix), *fit.at(len(x.matrix))],
    }


def two_body(x: Floats) -> Result:
    """How well the conservation laws hold, of columns (n, 10)."""
    one, two = x[:, :5], x[:, 5:]
    shell = [np.abs(p[:, 0] ** 2 - (p[:, 1:4] ** 2).sum(axis=1) - p[:, 4] ** 2) < 0.01 * M**2 for p in (one, two)]
    momentum = np.linalg.norm(one[:, 1:4] + two[:, 1:4], axis=1)
    energy = np.abs(one[:, 0] + two[:, 0] - M)
    return {
        "on shell": float((shell[0] & shell[1]).mean()),
        "momentum, median [GeV]": float(np.median(momentum)),
        "momentum, 99 % [GeV]": float(np.quantile(momentum, 0.99)),
        "energy, median [GeV]": float(np.median(energy)),
    }


def z_ll(x: Floats) -> Result:
    """Pairs of leptons and the mass of the pair, of columns (n, 16)."""
    p = x.reshape(len(x), 4, 4)
    there = np.any(p != 0, axis=2)
    electrons, muons = there[:, :2], there[:, 2:]
    exactly = (electrons.all(axis=1) & ~muons.any(axis=1)) | (muons.all(axis=1) & ~electrons.any(axis=1))
    total = p.sum(axis=1)
    mass = np.sqrt(np.maximum(total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(axis=1), 0))
    low, middle, high = np.quantile(mass, (0.16, 0.5, 0.84))
    squares = np.abs(p[..., 0] ** 2 - (p[..., 1:] ** 2).sum(axis=2))[there]
    return {
        "one pair": float(exactly.mean()),
        "electrons": float(electrons.all(axis=1).mean()),
        "pair mass, median [GeV]": float(middle),
        "pair mass, 68 % [GeV]": float((high - low) / 2),
        "lepton m^2, median [GeV^2]": float(np.median(squares)),
    }


def speed(model: EventGenerator, n: int) -> Result:
    """Events a second of columns and of records; the first call, which compiles, is not counted."""
    model.sample(1000)
    found = {}
    for name, draws in (("columns", model.sample_matrix), ("events", model.sample)):
        began = time.perf_counter()
        draws(n)
        found[name] = n / (time.perf_counter() - began)
    return found
