"""A processor that weights simulated events by a saved reweighter."""

from __future__ import annotations

from typing import Any

import awkward as ak

from hepgen.histograms import SAMPLES
from hepgen_coffea.processor import Fill, ModelProcessor, Weights


class ReweightProcessor(ModelProcessor):
    """Fill histograms of simulation as it is and as a saved `hepgen.Reweighter` weights it, and of data beside it.

    Parameters
    ----------
    model_path, histograms, options
        See `ModelProcessor`; `seed` is not used.

    Notes
    -----
    The categories of the axis "dataset" are "simulation" and "reweighted", or "data"; those of "variation" are "nominal", and
    "reweighterUp" and "reweighterDown" from the scatter of the ensemble.
    """

    variations = True

    def apply(self, events: ak.Array, weights: Weights | None, identity: Any, fill: Fill) -> int:
        """See `ModelProcessor.apply`."""
        del identity
        fill(SAMPLES[1], events, weights)
        factors = self.model.variations(events)
        names = {"nominal": "nominal", "up": "reweighterUp", "down": "reweighterDown"}
        fill("reweighted", events, {names[name]: factor if weights is None else weights * factor for name, factor in factors.items()})
        return int(self.model.features.to_matrix(events)[1].sum())
