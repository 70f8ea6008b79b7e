"""The models of an EventGenerator: one module per family, each with `fit` and a `Sampler` that needs no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from hepgen.estimators.generator_models.base import FitOptions, Rows, Sampler
from hepgen.estimators.generator_settings import MODELS, GeneratorSettings
from hepgen.events.presence import Presence

__all__ = ["Family", "FitOptions", "Rows", "Sampler", "family"]

State = dict[str, NDArray[Any]]


class Family(Protocol):
    """The face of a module of models."""

    def fit(self, model: str, rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions) -> tuple[State, dict[str, Any]]:
        """Learn rows: the state, arrays by name, and the training record, JSON-able."""

    def sampler(
        self, model: str, state: Mapping[str, NDArray[Any]], presence: Presence, settings: GeneratorSettings, latent: int
    ) -> Sampler:
        """What draws rows from a state; UsageError where that is not one of the model."""


def family(model: str) -> Family:
    """The module that `model` is in."""
    return cast(Family, importlib.import_module(f"hepgen.estimators.generator_models.{MODELS[model]}"))
