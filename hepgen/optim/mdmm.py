"""Modified Differential Method of Multipliers (Platt and Barr 1987; sim-to-data paper, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MDMM(nn.Module):
    """Minimise L1 under the constraint L2 <= epsilon.

    ``L = L1 - lambda (epsilon - L2) + delta (epsilon - L2)^2``, with gradient descent in the weights and gradient ascent in
    lambda. Lambda is kept >= 0: an inequality's multiplier. The damping acts only while the constraint is violated or held
    by a positive multiplier, so that a loss far below epsilon is not pulled back up to it.

    Parameters
    ----------
    epsilon
        Upper bound of L2.
    damping
        delta, in units of L1 over L2 squared.
    rate
        Step size of the ascent in lambda.
    """

    multiplier: Tensor

    def __init__(self, epsilon: float, *, damping: float = 1.0, rate: float = 1e-2) -> None:
        super().__init__()
        self.epsilon, self.damping, self.rate = float(epsilon), float(damping), float(rate)
        self.register_buffer("multiplier", torch.zeros((), dtype=torch.float64))

    def forward(self, primary: Tensor, secondary: Tensor) -> Tensor:
        """The Lagrangian of the two losses, whose gradient the optimiser descends."""
        slack = self.epsilon - secondary
        held = (slack < 0) | (self.multiplier > 0)
        return (
            primary - self.multiplier.to(primary.dtype) * slack + self.damping * torch.where(held, slack.square(), torch.zeros_like(slack))
        )

    @torch.no_grad()
    def ascend(self, secondary: Tensor) -> None:
        """One step of lambda along dL/dlambda = L2 - epsilon, kept at or above zero."""
        self.multiplier.add_(self.rate * (secondary.detach().double() - self.epsilon)).clamp_min_(0)
