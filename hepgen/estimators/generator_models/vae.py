"""The B-VAE of paper D: a decoder of latent variables that are drawn from a prior, by default the density information buffer.

An event is its scaled columns, divided by their largest absolute values, and the columns that say which objects it has: what is decoded
says which are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.generator_models.base import NOISE, FitOptions, Matrix, Rows, Sampler, drawn, event_numbers, resampled
from hepgen.estimators.generator_models.density import correlated
from hepgen.estimators.generator_models.mixtures import bandwidth_by_validation, fit_mixture
from hepgen.estimators.generator_settings import GeneratorSettings
from hepgen.events.presence import Presence
from hepgen.kernels import philox
from hepgen.networks.frozen import FrozenMLP

State = dict[str, NDArray[Any]]

ACTIVATION = "elu"
NARROW = 0.05  # sigma below which alpha acts
BANDWIDTHS = np.geomspace(0.1, 10, 20)


def fit(model: str, rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions) -> tuple[State, dict[str, Any]]:
    """See `Family.fit`."""
    del model
    from hepgen.estimators.generator_models.vae_fit import fit_vae

    state, record = fit_vae(rows, settings, latent, options)
    prior, about = fit_prior(state, settings, options)
    return state | prior, record | about


def fit_prior(state: Mapping[str, NDArray[Any]], settings: GeneratorSettings, options: FitOptions) -> tuple[State, dict[str, Any]]:
    """What a prior needs beside the encodings of the events, which are in the state."""
    mu, shares = state["buffer.mu"].astype(np.float64), state["buffer.shares"]
    if settings.prior == "two-stage":
        from hepgen.estimators.generator_models.vae_fit import fit_second_stage

        return fit_second_stage(state, settings, options)
    if settings.prior == "gmm":
        found = fit_mixture(mu[resampled(shares, len(mu), options.seed)], min(settings.components, len(mu)), seed=options.seed)
        return {"prior.weights": found.weights, "prior.means": found.means, "prior.factors": found.factors}, {}
    if settings.prior == "kde":
        rows = mu[resampled(shares, len(mu), options.seed)]
        bandwidth = settings.bandwidth or bandwidth_by_validation(rows, BANDWIDTHS, seed=options.seed)
        return {"prior.bandwidth": np.array([bandwidth])}, {"bandwidth": bandwidth}
    return {}, {}


def sampler(model: str, state: Mapping[str, NDArray[Any]], presence: Presence, settings: GeneratorSettings, latent: int) -> Sampler:
    """See `Family.sampler`."""
    del model
    return BVAE(state, presence, settings, latent)


class BVAE(Sampler):
    """Latent variables from the prior through the decoder."""

    def __init__(self, state: Mapping[str, NDArray[Any]], presence: Presence, settings: GeneratorSettings, latent: int) -> None:
        self.encoder = FrozenMLP(_under(state, "encoder."), activation=ACTIVATION, shortcuts=True)
        self.decoder = FrozenMLP(_under(state, "decoder."), activation=ACTIVATION, output="tanh", shortcuts=True)
        self.scale, width = state["scale"], presence.width
        ends = (self.encoder.widths[0], self.encoder.widths[-1], self.decoder.widths[0], self.decoder.widths[-1], len(self.scale))
        if ends != (width, 2 * latent, latent, width, width):
            raise UsageError(f"encoder and decoder have not the {width} columns and {latent} latents of their settings")
        self.presence, self.latent, self.settings = presence, latent, settings
        self.draw = getattr(self, "_" + settings.prior.replace("-", "_"))
        self.mu, self.shares = state["buffer.mu"], state["buffer.shares"]
        self.sigma = smudged(state["buffer.sigma"], settings.alpha, settings.gamma)
        self.prior = _under(state, "prior.")
        second = _under(self.prior, "second.")
        self.second = FrozenMLP(second, activation=ACTIVATION, output="tanh") if second else None

    def sample(self, n: int, *, first: int, seed: int) -> Matrix:
        """See `Sampler.sample`."""
        keys = event_numbers(n, first)
        noise = philox.normal(keys, self.latent, seed=seed, stream=NOISE)
        return self.decode(self.draw(noise, keys, seed))

    def decode(self, latents: Matrix) -> Matrix:
        """Latents (n, latent) -> rows (n, width)."""
        return np.asarray(self.decoder(latents).astype(np.float64) * self.scale)

    def encode(self, rows: Matrix) -> tuple[Matrix, Matrix]:
        """Rows (n, width) -> mean and standard deviation of their latents, (n, latent) each."""
        found = self.encoder(rows / self.scale).astype(np.float64)
        return found[:, : self.latent], np.exp(0.5 * found[:, self.latent :])

    def anomaly(self, rows: Matrix) -> Matrix:
        """Mean squared difference of a row, scaled to 1, from what is decoded of the mean of its latents (paper D)."""
        return np.asarray(np.square((rows - self.decode(self.encode(rows)[0])) / self.scale).mean(axis=1))

    def _buffer(self, noise: Matrix, keys: NDArray[np.int64], seed: int) -> Matrix:
        event = drawn(self.shares, keys, seed)
        return self.mu[event] + self.sigma[event] * noise

    def _normal(self, noise: Matrix, keys: NDArray[np.int64], seed: int) -> Matrix:
        del keys, seed
        return noise

    def _kde(self, noise: Matrix, keys: NDArray[np.int64], seed: int) -> Matrix:
        return self.mu[drawn(self.shares, keys, seed)] + self.prior["bandwidth"] * noise

    def _gmm(self, noise: Matrix, keys: NDArray[np.int64], seed: int) -> Matrix:
        component = drawn(self.prior["weights"], keys, seed)
        return correlated(noise, component, self.prior["means"], self.prior["factors"])

    def _two_stage(self, noise: Matrix, keys: NDArray[np.int64], seed: int) -> Matrix:
        del keys, seed
        if self.second is None:
            raise UsageError("this model has no second stage: fit it with prior='two-stage'")
        return np.asarray(self.second(noise).astype(np.float64) * self.prior["scale"])


def smudged(sigma: Matrix, alpha: float, gamma: float | tuple[float, ...]) -> Matrix:
    """The standard deviations that the buffer draws with, (m, latent): sigma + gamma, the variance times alpha where sigma < 0.05."""
    narrow = sigma < NARROW
    smaller: Matrix = np.where(narrow, np.sqrt(alpha) * sigma, sigma) + np.asarray(gamma)
    return smaller


def _under(state: Mapping[str, NDArray[Any]], prefix: str) -> State:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
