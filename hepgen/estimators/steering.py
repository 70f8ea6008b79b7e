"""Steering a B-VAE: the principal components of its latent variables as a map of what it generates (paper D, sec. V and Fig. 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators.event_generator import BLOCK, EventGenerator
from hepgen.estimators.generator_models.base import NOISE, event_numbers
from hepgen.estimators.generator_models.vae import BVAE
from hepgen.estimators.pt_order import order_by_pt
from hepgen.events import schema as schema_named
from hepgen.kernels import philox

if TYPE_CHECKING:
    import awkward as ak

Matrix = NDArray[np.float64]


class Steering:
    """The principal components of the latent means of events, and events from places given in them.

    Coordinates are in standard deviations of the component: (0, 0) is the middle of the events, (1, 0) one deviation along the first.
    Saved models are enough: torch is not needed.

    Parameters
    ----------
    model
        A fitted `EventGenerator` of "bvae".
    events
        The events to find the components of, as for `EventGenerator.fit`; those that the model has learnt from, with their weights, where
        None.

    Attributes
    ----------
    mean : (latent,) float64
    components : (latent, latent) float64
        Orthogonal unit vectors in rows, that of the largest variance first; the largest entry of each is positive.
    deviations : (latent,) float64
        Standard deviation of the latent means along each.
    """

    def __init__(self, model: EventGenerator, events: Any = None) -> None:
        if model.model != "bvae":
            raise UsageError(f"steering is for model='bvae', not {model.model!r}: the others encode no events")
        self.model, self.vae = model, cast(BVAE, model._fitted(model.sampler))
        latents, shares = (self.vae.mu.astype(np.float64), self.vae.shares) if events is None else (self._encoded(events), None)
        latents = latents[np.isfinite(latents).all(axis=1)]
        if len(latents) < 2:
            raise InputError(f"{len(latents)} of the events have objects as they were learnt: principal components need two at least")
        self.mean = np.average(latents, axis=0, weights=shares)
        variances, vectors = np.linalg.eigh(np.atleast_2d(np.cov(latents.T, aweights=shares, ddof=0)))
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))]
        self.components = (vectors * np.sign(largest)).T[::-1].copy()
        self.deviations = np.sqrt(np.maximum(variances[::-1], 0.0))

    def __repr__(self) -> str:
        first, second = (*self.explained, 0.0)[:2]
        return f"Steering({self.model!r}, {first:.0%} and {second:.0%} of the variance in the first two components)"

    @property
    def explained(self) -> Matrix:
        """The share of the variance of the latent means in each component, (latent,)."""
        variances = np.square(self.deviations)
        return np.asarray(variances / variances.sum())

    def locate(self, events: Any) -> Matrix:
        """The coordinates of events.

        Returns
        -------
        (n, latent) float64
            NaN where an event has a set of objects that was not learnt, 0 along a component without variance.

        Raises
        ------
        InputError
            A column is missing, not finite or outside the support of its scaling.
        """
        along = (self._encoded(events) - self.mean) @ self.components.T
        scale = np.where(self.deviations > 0, self.deviations, np.inf)
        return np.asarray(along / scale)

    def generate(self, coordinates: ArrayLike, *, seed: int | None = None) -> ak.Array:
        """Events at coordinates.

        Parameters
        ----------
        coordinates : (n, k) float
            Of the first k components.
        seed
            The other components are those of latents drawn from the prior of the model; 0 where None, so that events differ by their
            coordinates alone.

        Returns
        -------
        ak.Array
            (n,) events as `EventGenerator.sample` gives them.
        """
        given = np.asarray(coordinates, dtype=np.float64)
        if given.ndim != 2 or not 1 <= given.shape[1] <= len(self.mean) or not np.isfinite(given).all():
            raise UsageError(f"coordinates of shape {given.shape} must be finite, (n, k) with k at least 1 and at most {len(self.mean)}")
        along = np.zeros((len(given), len(self.mean)))
        if seed is not None:
            keys = event_numbers(len(given), 0)
            noise = philox.normal(keys, self.vae.latent, seed=seed, stream=NOISE)
            along = (self.vae.draw(noise, keys, seed) - self.mean) @ self.components.T
        along[:, : given.shape[1]] = given * self.deviations[: given.shape[1]]
        return self._decoded(self.mean + along @ self.components)

    def polar(self, n_radii: int = 8, n_angles: int = 8, *, radii: tuple[float, float] = (0.1, 2.5)) -> Matrix:
        """Places on circles in the first two components, (n_radii n_angles, 2): circle by circle outwards, by angle from 0 on each."""
        if n_radii < 1 or n_angles < 1 or len(self.mean) < 2:
            raise UsageError("a polar grid has at least one radius and one angle, and its model two latents or more")
        r, angle = np.meshgrid(np.linspace(*radii, n_radii), 2 * np.pi * np.arange(n_angles) / n_angles, indexing="ij")
        return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=-1).reshape(-1, 2)

    def grid(self, n_radii: int = 8, n_angles: int = 8, *, radii: tuple[float, float] = (0.1, 2.5), seed: int | None = None) -> ak.Array:
        """Events on a polar grid of the first two components (paper D, Fig. 9).

        Parameters
        ----------
        n_radii, n_angles
            Equal steps of the radius, and of the angle over a whole turn.
        radii
            The smallest and the largest, in standard deviations. (The paper's, 0.1 and 3.5, are in units of its latent space.)
        seed
            As for `generate`.

        Returns
        -------
        ak.Array
            (n_radii n_angles,) events in the order of `polar`.
        """
        return self.generate(self.polar(n_radii, n_angles, radii=radii), seed=seed)

    def _encoded(self, events: Any) -> Matrix:
        """Latent means of events, (n, latent), NaN where an event has a set of objects that was not learnt."""
        matrix, present = self.model.features.extract_optional(self.model.as_records(events))
        index = self.model._fitted(self.model.presence).index(present)
        known, latents = np.flatnonzero(index >= 0), np.full((len(matrix), self.vae.latent), np.nan)
        for start in range(0, len(known), BLOCK):
            own = known[start : start + BLOCK]
            rows = self.vae.presence.encode(self.model.coordinates.forward(matrix[own], present[own]), index[own])
            latents[own] = self.vae.encode(rows)[0]
        return latents

    def _decoded(self, latents: Matrix) -> ak.Array:
        model = self.model
        patterns = model._fitted(model.presence).patterns
        scaled, index = self.vae.presence.decode(self.vae.decode(latents))
        values = order_by_pt(model.coordinates.inverse(scaled, patterns[index]), model.ordered)
        events = model._fitted(model.assembly).build(values, patterns, model._behavior, index=index)
        return schema_named(str(model.schema)).flatten(events) if model.branches else events
