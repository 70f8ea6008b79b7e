"""Points of importance sampling in scaled columns, with the density that they are drawn with: see `hepgen.estimators.integration`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.event_density import KNOWN
from hepgen.estimators.event_generator import EventGenerator
from hepgen.estimators.generator_models.base import NOISE, Sampler
from hepgen.estimators.generator_models.vae import BVAE
from hepgen.kernels import philox

Matrix = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Streams of the random numbers of one point, beside those of the models.
LATENT, DECODED = 10, 11
TERMS = 2**21  # Gaussians of the prior times points, held at once
ROWS = 4096  # whose derivatives are held at once
STEPS = 4  # of Gauss-Newton
REACH = 0.5  # of one step, in standard deviations of the latents
SHIFT = 0.01  # of the differences that derivatives are taken from, likewise


class Proposal:
    """Draws rows of scaled columns (n, k) with hidden variables (n, h), whose density together is known."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def draw(self, keys: Ints, seed: int) -> tuple[Matrix, Matrix]:
        """Rows and hidden variables of points with these numbers, (n,) one after the other."""
        return self.sampler.sample(len(keys), first=int(keys[0]), seed=seed), np.empty((len(keys), 0))

    def hidden(self, rows: Matrix, keys: Ints, seed: int) -> Matrix:
        """Hidden variables for rows that come from elsewhere, drawn as the integrand has them."""
        del keys, seed
        return np.empty((len(rows), 0))

    def log_density(self, rows: Matrix, hidden: Matrix) -> Matrix:
        """The logarithm of the density of rows and hidden variables, over that of the hidden variables in the integrand, (n,)."""
        del hidden
        return -self.sampler.anomaly(rows)


class Decoded(Proposal):
    """Latents z from the prior p, decoded to rows x with the noise of the columns; the integrand has z distributed as r(z | x).

    r is Gaussian, about the latents that x is decoded from best: where Gauss-Newton steps from what the encoder gives lead, of

        sum over columns ((x - decoder(z)) / s)^2 + (z - m)' P (z - m),        covariance (J' J + P)^-1,  J = d decoder / dz / s,

    m and P the mean and inverse covariance of the latents of the events. Then p(z) N(x; decoder(z), s^2) / r(z | x) hardly depends on z,
    and is the density of x. With as many latents as columns and s near 0 it is p(z) / abs det(d decoder / dz).
    """

    def __init__(self, vae: BVAE) -> None:
        super().__init__(vae)
        self.vae, settings = vae, vae.settings
        if settings.prior not in {"buffer", "kde", "normal"} or settings.beta <= 0:
            raise UsageError("a 'bvae' integrates with beta above 0 and the prior 'buffer', 'kde' or 'normal': see with_prior")
        self.noise = np.sqrt(len(vae.scale) * settings.beta / (2 * (1 - settings.beta))) * vae.scale
        means = vae.mu.astype(np.float64)
        if settings.prior == "normal":
            self.centres, self.widths, self.shares = np.zeros((1, vae.latent)), np.ones((1, vae.latent)), np.ones(1)
        else:
            kept = vae.shares > 0
            widths = np.full(means.shape, vae.prior["bandwidth"]) if settings.prior == "kde" else vae.sigma.astype(np.float64)
            self.centres, self.widths, self.shares = means[kept], widths[kept], vae.shares[kept]
        shares = self.shares[:, None]
        self.middle = (shares * self.centres).sum(axis=0)
        away = self.centres - self.middle
        covariance = (shares * away).T @ away + np.diag((shares * self.widths**2).sum(axis=0))
        self.precision, self.spread = np.linalg.inv(covariance), np.sqrt(np.diag(covariance))

    def draw(self, keys: Ints, seed: int) -> tuple[Matrix, Matrix]:
        """See `Proposal.draw`."""
        latents = self.vae.draw(philox.normal(keys, self.vae.latent, seed=seed, stream=NOISE), keys, seed)
        noise = philox.normal(keys, len(self.noise), seed=seed, stream=DECODED)
        return self.vae.decode(latents) + self.noise * noise, np.asarray(latents, dtype=np.float64)

    def hidden(self, rows: Matrix, keys: Ints, seed: int) -> Matrix:
        """See `Proposal.hidden`."""
        noise, found = philox.normal(keys, self.vae.latent, seed=seed, stream=LATENT), np.empty((len(rows), self.vae.latent))
        for start in range(0, len(rows), ROWS):
            own = slice(start, start + ROWS)
            mean, factor = self.about(rows[own])
            found[own] = mean + np.linalg.solve(factor.transpose(0, 2, 1), noise[own, :, None])[..., 0]
        return found

    def log_density(self, rows: Matrix, hidden: Matrix) -> Matrix:
        """See `Proposal.log_density`."""
        found = log_normal(rows, self.vae.decode(hidden), self.noise) + self.log_prior(hidden)
        for start in range(0, len(rows), ROWS):
            own = slice(start, start + ROWS)
            mean, factor = self.about(rows[own])
            away = np.einsum("nkl,nk->nl", factor, hidden[own] - mean)
            # N(z; mean, (L L')^-1)
            found[own] -= log_normal(away, np.zeros(1), np.ones(1)) + np.log(np.einsum("nkk->nk", factor)).sum(axis=1)
        return found

    def about(self, rows: Matrix) -> tuple[Matrix, Matrix]:
        """Mean (n, latent) and lower triangular factor (n, latent, latent) of the inverse covariance of r(z | x) of rows (n, width)."""
        z = self.vae.encode(rows)[0]
        for _ in range(STEPS):
            slopes = self._slopes(z)
            gradient = np.einsum("nck,nc->nk", slopes, (rows - self.vae.decode(z)) / self.noise) + (self.middle - z) @ self.precision
            step = np.linalg.solve(self._curvature(slopes), gradient[..., None])[..., 0]
            z = z + step / np.maximum(np.abs(step / self.spread).max(axis=1, keepdims=True) / REACH, 1)
        return z, np.asarray(np.linalg.cholesky(self._curvature(self._slopes(z))), dtype=np.float64)

    def _curvature(self, slopes: Matrix) -> Matrix:
        return np.asarray(slopes.transpose(0, 2, 1) @ slopes + self.precision)

    def _slopes(self, z: Matrix) -> Matrix:
        """d decoder / dz over the noise, (n, width, latent), from central differences: any r is right, a near one good."""
        found = np.empty((len(z), len(self.noise), z.shape[1]))
        for k, shift in enumerate(np.diag(SHIFT * self.spread)):
            found[:, :, k] = (self.vae.decode(z + shift) - self.vae.decode(z - shift)) / (2 * shift[k] * self.noise)
        return found

    def log_prior(self, latents: Matrix) -> Matrix:
        """log sum_j share_j N(z_i; centre_j, widths_j^2), (n,)."""
        precision = self.widths**-2.0
        constant = np.log(self.shares) - np.log(self.widths).sum(axis=1) - 0.5 * self.vae.latent * math.log(2 * math.pi)
        # from the middle: squares of smaller numbers lose fewer digits
        centres, found = self.centres - self.middle, np.empty(len(latents))
        step = max(TERMS // len(centres), 1)
        for first in range(0, len(latents), step):
            z = latents[first : first + step] - self.middle
            squares = z**2 @ precision.T - 2 * z @ (centres * precision).T + (centres**2 * precision).sum(axis=1)
            found[first : first + step] = np.logaddexp.reduce(constant - 0.5 * squares, axis=1)
        return found


def log_normal(x: Matrix, mean: Matrix, sigma: Matrix) -> Matrix:
    """log N(x; mean, sigma^2) of rows (n, k) of independent columns, (n,)."""
    terms = np.square((x - mean) / sigma) + 2 * np.log(np.broadcast_to(sigma, x.shape)) + math.log(2 * math.pi)
    return np.asarray(-0.5 * terms.sum(axis=1))


def proposal(model: EventGenerator) -> Proposal:
    """What draws the points of a model; UsageError where their density is not known."""
    sampler = model._fitted(model.sampler)
    if model.model not in (*KNOWN, "bvae"):
        raise UsageError(f"model={model.model!r} has no density, so that its points have no weights: take one of bvae, {', '.join(KNOWN)}")
    if len(model._fitted(model.presence).patterns) > 1:
        raise UsageError("an integral has the same columns everywhere: fit a model of events that all have the same objects")
    return Decoded(sampler) if isinstance(sampler, BVAE) else Proposal(sampler)
