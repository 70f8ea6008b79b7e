"""How the B-VAE and its second stage are fitted: the part of it that needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepgen.estimators.fit_samples import sample_of
from hepgen.estimators.generator_models.base import FitOptions, Matrix, Rows
from hepgen.estimators.generator_settings import GeneratorSettings, vae_plan
from hepgen.losses import vae_loss
from hepgen.networks import VAE, latent_vae
from hepgen.training import Batch, Objective, Sample, train

if TYPE_CHECKING:
    from hepgen.training import Plan

State = dict[str, NDArray[Any]]

HIDDEN = (128,) * 6
ROWS = 65_536  # encoded at a time


class VaeObjective(Objective):
    """Reconstruction and divergence of a VAE; see `hepgen.losses.vae_loss`."""

    def __init__(self, vae: VAE, b: float, *, full_mse: bool = False) -> None:
        super().__init__()
        self.vae, self.b, self.full_mse = vae, b, full_mse

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch; weights have a mean of one over their whole sample, not over the batch."""
        rows, weights = batch["events"].values, batch["events"].weights
        found = vae_loss(rows, self.vae(rows, batch.generator), self.b, weights, full_mse=self.full_mse)
        return {"loss": found["loss"] if weights is None else found["loss"] * weights.mean()}


def fit_vae(rows: Rows, settings: GeneratorSettings, latent: int, options: FitOptions) -> tuple[State, dict[str, Any]]:
    """Fit encoder and decoder, and encode the events for the buffer. See `Family.fit`."""
    matrix = rows.matrix
    scale = np.abs(matrix).max(axis=0)
    plan = replace(vae_plan(settings, options.epochs, options.batch_size, options.seed), device=options.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        vae = VAE(matrix.shape[1], latent, settings.hidden or HIDDEN)
    record = _train(VaeObjective(vae, settings.beta), sample_of(matrix / scale, rows.weights), plan, options, "bvae")
    mu, sigma = _encoded(vae, matrix / scale)
    state = _state(vae) | {"scale": scale, "buffer.mu": mu, "buffer.sigma": sigma, "buffer.shares": rows.draws()}
    return state, {"plan": asdict(plan), **record}


def fit_second_stage(state: Mapping[str, NDArray[Any]], settings: GeneratorSettings, options: FitOptions) -> tuple[State, dict[str, Any]]:
    """Fit a VAE to latents drawn for the events, whose latents in turn are drawn from normal numbers. See `fit_prior`."""
    mu, sigma, shares = state["buffer.mu"], state["buffer.sigma"], state["buffer.shares"]
    noise = np.random.default_rng(options.seed).standard_normal(mu.shape)
    latents = mu + sigma * noise
    scale = np.abs(latents).max(axis=0)
    plan = replace(vae_plan(settings, options.epochs, options.batch_size, options.seed), device=options.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        vae = latent_vae(mu.shape[1])
    sample = sample_of(latents / scale, shares)
    record = _train(VaeObjective(vae, settings.second_beta, full_mse=True), sample, plan, options, "second stage")
    decoder = {f"prior.second.{name.removeprefix('decoder.')}": array for name, array in _state(vae).items() if name.startswith("decoder.")}
    return decoder | {"prior.scale": scale}, {"second_stage": record}


def _train(objective: VaeObjective, sample: Sample, plan: Plan, options: FitOptions, title: str) -> dict[str, Any]:
    file: Path | None = options.checkpoint / f"{title.replace(' ', '-')}.checkpoint" if options.checkpoint is not None else None
    return train(objective, {"events": sample}, plan, checkpoint=file, title=title, progress=options.progress).to_dict()


def _encoded(vae: VAE, scaled: Matrix) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation of the latents of every event, (n, latent) float32 each."""
    parts = []
    with torch.no_grad():
        for first in range(0, len(scaled), ROWS):
            mu, log_var = vae.encode(torch.from_numpy(scaled[first : first + ROWS].astype(np.float32)))
            parts.append((mu.numpy(), torch.exp(0.5 * log_var).numpy()))
    return np.concatenate([mu for mu, _ in parts]), np.concatenate([sigma for _, sigma in parts])


def _state(vae: VAE) -> State:
    return {name: tensor.detach().numpy() for name, tensor in vae.state_dict().items()}
