"""Processors that tests send to workers: here, where a worker can import them."""

from __future__ import annotations

import os
import sys
from typing import Any

import awkward as ak
from hepgen_coffea import ModelProcessor

from hepgen.estimators import cache


class Recorder(ModelProcessor):
    """Returns every transformed event, and which process had loaded the model how often, with torch or without."""

    def apply(self, events: ak.Array, weights: Any, identity: Any, fill: Any) -> int:
        moved, counts = self.model.transform_counted(events, identity=identity)
        self.moved = {
            (int(number), tuple(ak.to_numpy(photons.pt).tobytes().hex() for photons in (event,)))
            for number, event in zip(ak.to_numpy(moved.eventNumber), moved.photon, strict=True)
        }
        return counts.transformed

    def process(self, events: ak.Array) -> dict[str, Any]:
        found = super().process(events)
        for result in found.values():
            result["moved"] = self.moved
            result["processes"] = {(os.getpid(), cache.loads(self.sha256), "torch" in sys.modules)}
            result["chunks"] = 1
        return found


class Smeared(ModelProcessor):
    """Fills events that are transformed and then shifted."""

    def apply(self, events: ak.Array, weights: Any, identity: Any, fill: Any) -> int:
        moved, counts = self.model.transform_counted(events, identity=identity)
        moved["x"] = moved.x + 1
        fill("harder", moved, weights)
        return counts.transformed


class JetProcessor(ModelProcessor):
    """Fills jets that a model of single jets has transformed."""

    def apply(self, events: ak.Array, weights: Any, identity: Any, fill: Any) -> int:
        jets = self.model(events.Jet, rho=events.fixedGridRhoFastjetAll, identity=events)
        fill("transformed", ak.with_field(events, jets, "Jet"), weights)
        return len(events)
