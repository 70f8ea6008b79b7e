"""The sample gamma_jet as the study of paper C sees it: regions, columns, and what is made of a control region."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import vector
from numpy.typing import NDArray

from hepgen import Features, ObjectReplacer
from hepgen.events import Pick, read
from hepgen.events.picks import find_picks

Floats = NDArray[np.float64]

PICKS = {"fake": Pick("Photon", lowest="mvaID"), "other": Pick("Photon", highest="pt", besides="fake")}
TRUE_PICKS = {"fake": Pick("Photon", lowest="isPrompt"), "other": Pick("Photon", highest="isPrompt", besides="fake")}
GENERATE = [f"Photon[fake].{name}" for name in ("pt", "eta", "phi", "mvaID")]
_OTHER = [f"Photon[other].{name}" for name in ("pt", "eta", "phi", "mvaID")]
#: The paper's strategies. A generated column cannot be a condition, so that "partial" has the other photon in place of the object itself.
CONDITIONS = {"vanilla": [], "partial": _OTHER, "full": [*_OTHER, "count(Jet)", "PV.npvs"]}
#: What is looked at: the object, the rest of the event, and the pair.
COLUMNS = [*(name for name in (*GENERATE, *_OTHER) if not name.endswith("phi")), "count(Jet)", "PV.npvs"]
_PAIR = ["pt(Photon[fake], Photon[other])", "mass(Photon[fake], Photon[other])"]
LABELS = ("pT fake [GeV]", "eta fake", "ID fake", "pT prompt [GeV]", "eta prompt", "ID prompt", "jets", "vertices")


BRANCHES = [
    "run",
    "luminosityBlock",
    "event",
    "Photon_pt",
    "Photon_eta",
    "Photon_phi",
    "Photon_mvaID",
    "Photon_isPrompt",
    "nJet",
    "Jet_pt",
    "PV_npvs",
]


class Region(NamedTuple):
    """Events and where their objects are: numbers in the collection by the names of the picks."""

    events: ak.Array
    picked: dict[str, NDArray[Any]]

    def take(self, rows: slice) -> Region:
        """Some of the events."""
        return Region(self.events[rows], {name: found[rows] for name, found in self.picked.items()})

    def matrix(self) -> Floats:
        """`COLUMNS` and pTyy / myy, (n, 9), in GeV."""
        found, mask = Features([], computed=[*COLUMNS, *_PAIR]).bind(self.picked).to_matrix(self.events)
        if not mask.all():
            raise ValueError("an event of gamma_jet has not the two photons")
        return np.column_stack([found[:, :-2], found[:, -2] / found[:, -1]])


class Regions(NamedTuple):
    """Signal and control region, each in a part to fit and a part to look at, and more of the signal region for comparison."""

    fit: Region
    control_fit: Region
    test: Region
    control: Region
    again: Region


def load(folder: Path, events: int | None, test: int) -> Regions:
    """Read at most so many events of each region; `test` of them are kept from the fits, and `again` is a part of those of the fit."""
    signal, control = (read(folder / f"{name}.root", columns=BRANCHES)[:events] for name in ("sr", "cr"))
    sr, cr = Region(signal, find_picks(TRUE_PICKS, signal)), Region(control, find_picks(PICKS, control))
    cut = min(len(signal), len(control)) - test
    if cut < test:
        raise ValueError(f"{test} events to test with leave {cut} to fit: give more events or test fewer")
    fit, kept = slice(cut), slice(cut, cut + test)
    return Regions(sr.take(fit), cr.take(fit), sr.take(kept), cr.take(kept), sr.take(slice(test)))


def figure_columns(matrix: Floats) -> Floats:
    """What -2 ln Lambda is measured in, as in the paper: pT, abs(eta) and ID of the object, and pTyy / myy; (n, 9) -> (n, 4)."""
    return np.column_stack([matrix[:, 0], np.abs(matrix[:, 1]), matrix[:, 2], matrix[:, -1]])


class Made(NamedTuple):
    """Events with generated objects: `COLUMNS` and pTyy / myy (n, 9), weights (n,), and the number of the event each came from."""

    matrix: Floats
    weights: Floats
    events: NDArray[np.int64]


def replaced(model: ObjectReplacer, region: Region, copies: int, picks: dict[str, Pick]) -> Made:
    """The events of a region with the object drawn anew, `copies` times, with weights of 1 / copies."""
    model = copy(model)
    model.picks = picks  # in the signal region the truth says which object it is
    parts = [Region(model.transform(region.events, copy=number), region.picked).matrix() for number in range(copies)]
    n = len(region.events)
    return Made(np.concatenate(parts), np.full(copies * n, 1 / copies), np.tile(np.arange(n), copies))


def massless(columns: Floats) -> Any:
    """Vectors of pt, eta and phi (n, 3)."""
    return vector.array({**dict(zip(("pt", "eta", "phi"), columns.T, strict=True)), "mass": np.zeros(len(columns))})
