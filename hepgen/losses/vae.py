"""The loss of a variational autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from hepgen.errors import UsageError
from hepgen.losses.likelihood import weighted_mean

if TYPE_CHECKING:
    from hepgen.networks.vae import Reconstruction


def vae_loss(
    x: Tensor, reconstruction: Reconstruction, b: float, weights: Tensor | None = None, *, full_mse: bool = False
) -> dict[str, Tensor]:
    """Weigh how well events are reconstructed against how far their latents are from normal ones (paper D, eq. 13).

        loss = mean[(1 - B) MSE + B KL]
        MSE  = mean over columns of (x - x')^2
        KL   = sum over latents of (mu^2 + sigma^2 - 1 - log sigma^2) / 2

    Parameters
    ----------
    x : (n, columns) tensor
        Scaled events.
    reconstruction : Reconstruction
        What `hepgen.networks.VAE` made of them.
    b : float
        B, in [0, 1]: 1e-6 for top pairs, 3e-6 for the two-body decay and the Z boson in the paper.
    weights : (n,) tensor, optional
        Signed event weights; the mean is sum(w l) / sum(w).
    full_mse : bool
        Leave out the (1 - B) of the MSE, as the paper does in its two-stage VAE.

    Returns
    -------
    dict of scalars
        "loss", and its parts "mse" and "kl" without their factors and gradients.

    Raises
    ------
    UsageError
        If B is not in [0, 1].
    """
    if not 0 <= b <= 1:
        raise UsageError(f"the factor B of the KL divergence lies between 0 and 1, not at {b}")
    mu, log_var = reconstruction.mu, reconstruction.log_var
    mse = (x - reconstruction.values).square().mean(1)
    kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1)
    loss = (mse if full_mse else (1 - b) * mse) + b * kl
    return {
        "loss": weighted_mean(loss, weights),
        "mse": weighted_mean(mse.detach(), weights),
        "kl": weighted_mean(kl.detach(), weights),
    }
