"""Processors that change columns of events: simulation made to look like data, and objects of control-region events replaced."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np

from hepgen.errors import UsageError
from hepgen.histograms import SAMPLES
from hepgen_coffea.processor import Fill, ModelProcessor, Weights


class TransformProcessor(ModelProcessor):
    """Fill histograms of simulation as it is and as a saved model transforms it, and of data beside it.

    Parameters
    ----------
    model_path, histograms, options
        See `ModelProcessor`.
    copies
        Times that each event is transformed, with noise of its own each time and a weight of 1/copies: less scatter from the noise. The
        copies of an event are not independent, which the variances of the histograms do not know.

    Notes
    -----
    The categories of the axis "dataset" are "simulation" and "transformed", or "data".
    """

    #: categories of the events as they are and as they become
    samples: tuple[str, str] = SAMPLES[1:]

    def __init__(
        self, model_path: str | os.PathLike[str], histograms: Mapping[str, tuple[Any, Any]], *, copies: int = 1, **options: Any
    ) -> None:
        if copies < 1:
            raise UsageError(f"copies must be at least 1, not {copies}")
        super().__init__(model_path, histograms, **options)
        self.copies = copies

    def apply(self, events: ak.Array, weights: Weights | None, identity: Any, fill: Fill) -> int:
        """See `ModelProcessor.apply`."""
        before, after = self.samples
        fill(before, events, weights)
        each = self.weights_of_a_copy(events, np.ones(len(events)) if weights is None else weights)
        transformed = 0
        for copy in range(self.copies):
            moved, counts = self.model.transform_counted(events, seed=self.seed, identity=identity, copy=copy)
            fill(after, moved, each)
            transformed = counts.transformed
        return transformed

    def weights_of_a_copy(self, events: ak.Array, weights: Weights) -> Any:
        """Weights of the transformed events of one copy, one an event or a mapping of variations to them, from those of the events."""
        del events
        return weights / self.copies


class ReplaceProcessor(TransformProcessor):
    """Fill histograms of control-region events as they are and with their failing object replaced, scaled to the signal region.

    Parameters
    ----------
    model_path, histograms, copies, options
        See `TransformProcessor`; ten copies by default. Datasets named in ``data=`` are the signal region's.
    transfer
        Signal-region events for each control-region event, and its error: every replaced event weighs so much, and the histograms have
        the variations "transferUp" and "transferDown". By default the model's own, `hepgen.ObjectReplacer.transfer_weights`; 1 without
        error where it has none.

    Notes
    -----
    The categories of the axis "dataset" are "control region" and "replaced", or "data". Any model that transforms events can be used.
    """

    variations = True
    samples = ("control region", "replaced")

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        histograms: Mapping[str, tuple[Any, Any]],
        *,
        transfer: tuple[float, float] | None = None,
        copies: int = 10,
        **options: Any,
    ) -> None:
        if transfer is not None:
            factor, error = transfer
            if not 0 < factor < math.inf or not 0 <= error < math.inf:
                raise UsageError(f"transfer is a positive factor and its error, not {transfer}")
        super().__init__(model_path, histograms, copies=copies, **options)
        self.transfer = None if transfer is None else (float(transfer[0]), float(transfer[1]))

    def weights_of_a_copy(self, events: ak.Array, weights: Weights) -> dict[str, Weights]:
        """See `TransformProcessor.weights_of_a_copy`."""
        each = super().weights_of_a_copy(events, weights)
        transfer, error = self._transfers(events)
        return {
            "nominal": transfer * each,
            "transferUp": (transfer + error) * each,
            "transferDown": np.maximum(transfer - error, 0.0) * each,
        }

    def _transfers(self, events: ak.Array) -> tuple[Any, Any]:
        if self.transfer is not None:
            return self.transfer
        if hasattr(self.model, "transfer_weights"):
            weights: tuple[Any, Any] = self.model.transfer_weights(events)
            return weights
        return 1.0, 0.0
