"""More events than were simulated: a model learns a process from events and draws new ones of the same layout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators.base import Estimator, Invalid, Keys, Matrix
from hepgen.estimators.event_coordinates import EventCoordinates
from hepgen.estimators.fit_rows import of_all_ranks
from hepgen.estimators.generator_models import FitOptions, Rows, Sampler, family
from hepgen.estimators.generator_settings import COORDINATES, GeneratorSettings, checked_settings
from hepgen.estimators.pt_order import Ordered, order_by_pt, ordered_collections
from hepgen.events import Features, Scaler, Selection
from hepgen.events import schema as schema_named
from hepgen.events.assembly import Assembly
from hepgen.events.presence import Presence
from hepgen.kernels import threads
from hepgen.kernels.dispatch import thread_count

if TYPE_CHECKING:
    import awkward as ak

    from hepgen.events import Schema

BLOCK = 16_384  # events drawn at a time, by one thread: what a model makes of them stays small


class EventGenerator(Estimator):
    """Learn a process from events, and generate more of them with the right frequencies.

    (Otten, Caron, de Swart, van Beekveld, Hendriks, van Leeuwen, Podareanu, Ruiz de Austri and Verheyen: Event Generation and Statistical
    Sampling for Physics with Deep Generative Models and a Density Information Buffer, which has the B-VAE and most of the others.)

    Parameters
    ----------
    features
        Columns that make an event, such as ``Features(["Jet[0].pt", "Jet[0].eta", "Lepton[1].pt", "MET_pt", ...])``. An object may be
        absent from some events: it is then absent from as many of the generated ones, and only sets of objects occur that were learnt.
    model
        "bvae", a variational autoencoder with the density information buffer; "maf" or "flow-matching", flows; "kde" or "gmm", densities of
        the events; "smearing", the events themselves, smeared; "lsgan", "wgan", "wgan-gp", "mmd-gan" or "dijet-gan", adversarial pairs.
    latent
        Latent variables of "bvae" and of the adversarial ones.
    schema
        Name of the schema of the files; see `hepgen.events.schema`.
    selection
        Cuts on the events to fit.
    scaler
        A `hepgen.events.Scaler`, or one of "normal", "uniform" (quantiles), "standard", "max-abs"; as is best for the model where None.
    settings
        Any attribute of `GeneratorSettings` by name.

    Attributes
    ----------
    sampler : Sampler or None
        What draws scaled rows.
    presence : Presence or None
        Which columns are there together, and how often.
    record : dict
        How the fit went.
    """

    def __init__(
        self,
        features: Features,
        model: str = "bvae",
        latent: int = 20,
        *,
        schema: str | None = None,
        selection: Selection | None = None,
        scaler: Scaler | str | None = None,
        **settings: Any,
    ) -> None:
        self.features = features if isinstance(features, Features) else Features(features)
        if self.features.computed:
            raise UsageError(f"'{self.features.computed[0]}' is computed and cannot be generated: leave it out of the features")
        if self.features.picked:
            raise UsageError(f"the pick '{min(self.features.picked)}' has no meaning in generated events: give numbers in brackets")
        self.settings: GeneratorSettings = checked_settings(model, latent, settings)
        self.model, self.latent, self.schema, self.selection = model, latent, schema, selection
        default, relative, masses = COORDINATES[model]
        s = self.settings
        self.coordinates = EventCoordinates(
            self.features,
            default if scaler is None else scaler,
            relative_angles=relative if s.relative_angles is None else s.relative_angles,
            masses=masses if s.masses is None else s.masses,
        )
        self.sampler: Sampler | None = None
        self.presence: Presence | None = None
        self.assembly: Assembly | None = None
        self.ordered: list[Ordered] = []
        self.branches = False
        self.record: dict[str, Any] = {}
        self.seed = 1
        self._state: dict[str, NDArray[Any]] = {}
        self._behavior: Any = None

    def __repr__(self) -> str:
        state = "fitted" if self.sampler is not None else "not fitted"
        return f"EventGenerator({len(self.features)} columns, model={self.model!r}, {state})"

    # -- fitting ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        events: Any,
        weights: ArrayLike | None = None,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
        device: str = "cpu",
    ) -> EventGenerator:
        """Learn from events.

        Parameters
        ----------
        events
            Awkward arrays in GeV and rad, a mapping of columns, or branches of a file of the model's schema.
        weights
            Signed event weights (n,), or None for one each. Losses take them as they are; where events themselves are drawn (the buffer,
            "kde", "gmm", "smearing"), negative ones are spread over the nearest events first (`positive_weights`). Generated events have
            a weight of one each.
        epochs, batch_size
            Passes through the events, and events per step; as is usual for the model where None.
        seed
            Fixes the start, the order and, where `sample` is given no other, the events drawn.
        checkpoint
            Folder for checkpoints: a fit that was stopped goes on from there, to the same weights bit for bit.
        progress
            Show a progress bar (default: on a terminal).
        device
            Where to fit: "cpu", or "cuda" for a GPU. Its random numbers are others, and so are the weights; drawing events needs none.

        Raises
        ------
        InputError
            A column is missing or not finite, no event passes the selection, or weights sum to nothing, of all events or of those with
            the same objects.
        UsageError
            The columns leave out an element of a list, or all are constant.
        FitInterrupted
            Stopped by Ctrl-C after writing the checkpoint.
        """
        self.changed()
        events, weights = of_all_ranks(events, weights)
        records = self.as_records(events)
        matrix, present, own = self._rows(records, weights)
        self.presence = Presence.learn(present, own)
        self.assembly = Assembly.learn(_with_counters(records, events), self.features, self.presence.patterns)
        self._behavior, self.branches = getattr(records, "behavior", None), records is not events
        self.ordered = ordered_collections(self.features, matrix)
        self.coordinates.fit(matrix, present, own)
        self.seed = seed
        index = self.presence.index(present)
        rows = Rows(self.coordinates.forward(matrix, present), index, own, self._seen())
        options = FitOptions(epochs, batch_size, seed, Path(checkpoint) if checkpoint is not None else None, progress, device)
        state, record = family(self.model).fit(self.model, rows, self.settings, self.latent, options)
        self._take(state)
        self.record = json.loads(json.dumps({"events": len(rows), **record}))  # as it will be read back
        return self

    def _rows(self, records: Any, weights: ArrayLike | None) -> tuple[Matrix, NDArray[np.bool_], Matrix | None]:
        matrix, present = self.features.extract_optional(records)
        given = None if weights is None else np.asarray(weights, dtype=np.float64)
        if given is not None and given.shape != (len(matrix),):
            raise InputError(f"weights has shape {given.shape}, and there are {len(matrix)} events: give one weight per event")
        if given is not None and not np.isfinite(given).all():
            raise InputError(f"weights holds values that are not finite, the first at event {np.flatnonzero(~np.isfinite(given))[0]}")
        if self.selection is not None:
            passed = np.asarray(self.selection.mask(records))
            matrix, present, given = matrix[passed], present[passed], None if given is None else given[passed]
        if not len(matrix):
            raise InputError("no event passes the selection: nothing can be fitted")
        if given is not None and given.sum() <= 1e-9 * np.abs(given).sum():
            raise InputError(f"weights sum to {given.sum():.3g}: the sum of the weights must be positive")
        return matrix, present, given

    def _seen(self) -> Presence:
        """The patterns of the columns that are coordinates."""
        presence = self._fitted(self.presence)
        return Presence(presence.patterns[:, self.coordinates.varying], presence.shares)

    def _take(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._state = {name: np.ascontiguousarray(array) for name, array in state.items()}
        self.sampler = family(self.model).sampler(self.model, self._state, self._seen(), self.settings, self.latent)

    def with_prior(self, **settings: Any) -> EventGenerator:
        """The same "bvae" with another prior, alpha or gamma: the networks are not fitted again.

        Parameters
        ----------
        settings
            `prior`, `alpha`, `gamma`, `components`, `bandwidth` or `second_beta`, and `epochs`, `batch_size` of a second stage.
        """
        if self.model != "bvae":
            raise UsageError(f"with_prior is for model='bvae', not {self.model!r}")
        from hepgen.estimators.generator_models import vae

        self._fitted(self.sampler)
        options = FitOptions(settings.pop("epochs", None), settings.pop("batch_size", None), self.seed, None, None)
        allowed = {"prior", "alpha", "gamma", "components", "bandwidth", "second_beta"}
        if set(settings) - allowed:
            raise UsageError(f"with_prior has no setting {min(set(settings) - allowed)!r}: it has {', '.join(sorted(allowed))}")
        other = type(self).from_document(self.document(), self._state)
        other.settings = checked_settings(self.model, self.latent, asdict(replace(self.settings, **settings)))
        kept = {name: array for name, array in self._state.items() if not name.startswith("prior.")}
        prior, about = vae.fit_prior(kept, other.settings, options)
        other._take(kept | prior)
        other._behavior, other.record = self._behavior, json.loads(json.dumps({**self.record, **about}))
        return other

    def _fitted(self, part: Any) -> Any:
        if part is None:
            raise UsageError("this EventGenerator is not fitted: call fit, or load a saved model")
        return part

    # -- generating ------------------------------------------------------------------------------------------------

    def sample(self, n: int, *, seed: int | None = None, first: int = 0) -> ak.Array:
        """New events of the layout of those learnt from: records, lists, counters, names and dtypes.

        Parameters
        ----------
        n
            How many.
        seed
            Of the random numbers; the one of the fit where None.
        first
            Number of the first event. An event depends on the seed and its number and on nothing else: ``sample(100, first=50)`` are the
            last hundred of ``sample(150)``, bit for bit. Many events are drawn in parts that fit into memory this way.

        Returns
        -------
        ak.Array
            (n,) events with the columns of the features, and the counters of their lists where the events learnt from have them. A list
            holds the elements that are columns.

        Raises
        ------
        UsageError
            The model is not fitted, or n or first is negative.
        """
        assembly, presence = self._fitted(self.assembly), self._fitted(self.presence)
        values, index = self.sample_matrix(n, seed=seed, first=first)
        events = assembly.build(values, presence.patterns, self._behavior, index=index)
        return schema_named(str(self.schema)).flatten(events) if self.branches else events

    def sample_matrix(self, n: int, *, seed: int | None = None, first: int = 0) -> tuple[Matrix, NDArray[np.int64]]:
        """New events as the columns of the features, (n, d) in GeV and rad and NaN where absent, and their patterns (n,) of `presence`."""
        sampler, presence = self._fitted(self.sampler), self._fitted(self.presence)
        for name, number in (("n", n), ("first", first)):
            if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 0:
                raise UsageError(f"{name}={number!r} is no number of events: give 0 or more")
        seed = self.seed if seed is None else seed
        values, index = np.empty((n, len(self.features)), order="F"), np.empty(n, dtype=np.int64)

        def draw(start: int) -> None:
            own = slice(start, min(start + BLOCK, n))
            with threads(1):
                rows = sampler.sample(own.stop - start, first=first + start, seed=seed)
            scaled, index[own] = sampler.presence.decode(rows)
            values[own] = order_by_pt(self.coordinates.inverse(scaled, presence.patterns[index[own]]), self.ordered)

        starts = range(0, n, BLOCK)
        with ThreadPoolExecutor(min(thread_count(), len(starts)) or 1) as pool:
            for _ in pool.map(draw, starts):
                pass
        return values, index

    # -- anomalies -------------------------------------------------------------------------------------------------

    def anomaly(self, events: Any) -> Matrix:
        """How unlike the events learnt from others are.

        "bvae": the mean squared error of the reconstruction of the scaled columns; "maf", "flow-matching", "gmm" and "kde": minus the log
        density of the scaled columns, that of the set of objects included.

        Parameters
        ----------
        events : n events, as for `fit`

        Returns
        -------
        (n,) float64
            The larger, the less alike; inf where an event has a set of objects that was not learnt.

        Raises
        ------
        InputError
            A column is missing, not finite or outside the support of its scaling.
        UsageError
            The model is adversarial or "smearing", which have no such number.
        """
        sampler, presence = self._fitted(self.sampler), self._fitted(self.presence)
        matrix, present = self.features.extract_optional(self.as_records(events))
        index = presence.index(present)
        known, score = np.flatnonzero(index >= 0), np.full(len(matrix), np.inf)
        for start in range(0, max(len(known), 1), BLOCK):  # once for no events too: a model without a score says so
            own = known[start : start + BLOCK]
            score[own] = sampler.anomaly(sampler.presence.encode(self.coordinates.forward(matrix[own], present[own]), index[own]))
        return score

    # -- files -----------------------------------------------------------------------------------------------------

    def rewrite(
        self, raw: Any, view: Schema, branches: Sequence[str], *, identity: Keys, seed: int | None, invalid: Invalid, entry_start: int
    ) -> tuple[Any, int]:
        """See `Estimator.rewrite`: generated events replace no others."""
        del raw, view, branches, identity, seed, invalid, entry_start
        raise UsageError("an EventGenerator makes new events and changes none of a file: use its sample")

    # -- saving ----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Estimator.tensors`."""
        self._fitted(self.sampler)
        return {f"model.{name}": array for name, array in self._state.items()}

    def document(self) -> dict[str, Any]:
        """See `Estimator.document`."""
        return {
            "features": self.features.to_dict(),
            "model": self.model,
            "latent": self.latent,
            "schema": self.schema,
            "selection": None if self.selection is None else self.selection.to_dict(),
            "settings": asdict(self.settings),
            "coordinates": self.coordinates.to_dict(),
            "presence": self._fitted(self.presence).to_dict(),
            "layout": self._fitted(self.assembly).to_dict(),
            "ordered": [list(collection) for collection in self.ordered],
            "branches": self.branches,
            "seed": self.seed,
            "record": self.record,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> EventGenerator:
        """See `Estimator.from_document`."""
        features = Features.from_dict(document["features"])
        selection = None if document["selection"] is None else Selection.from_dict(document["selection"])
        model = cls(features, document["model"], document["latent"], schema=document["schema"], selection=selection, **document["settings"])
        model.coordinates = EventCoordinates.from_dict(features, document["coordinates"])
        model.presence = Presence.from_dict(document["presence"])
        if model.presence.columns != len(features):
            raise UsageError(f"the objects that events have are those of {model.presence.columns} columns, and there are {len(features)}")
        model.assembly = Assembly.from_dict(document["layout"], features)
        model.ordered = [Ordered(*collection) for collection in document["ordered"]]
        model.branches, model.seed, model.record = document["branches"], document["seed"], document["record"]
        model._take({name.removeprefix("model."): array for name, array in tensors.items()})
        return model


def _with_counters(records: Any, events: Any) -> Any:
    """Events as records, with the fields of the file that these were not made of: its counters are among them."""
    if records is events:
        return events
    import awkward as ak

    counters = {name: events[name] for name in events.fields if name not in records.fields and events[name].ndim == 1}
    return ak.zip({name: records[name] for name in records.fields} | counters, depth_limit=1)
