"""The losses of adversarial fits, from the discriminator's outputs z before any sigmoid.

E[l] is mean(w l) for signed event weights w of mean one over their whole sample, as in `RatioLoss`. A generated object has the weight of
the event that it was generated for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepgen.errors import UsageError
from hepgen.kernels import backend


class AdversarialLoss(nn.Module, ABC):
    """What the two players minimise.

    Attributes
    ----------
    label_noise
        The labels are drawn uniformly from [0, label_noise] for generated and [1 - label_noise, 1] for real objects.
    penalty
        Factor of `gradient_penalty` in the discriminator's loss, which whoever holds the discriminator adds.
    clip
        Largest parameter of the discriminator, to which whoever holds it clips them all after its steps; 0 does not.
    """

    def __init__(self, label_noise: float = 0.0, penalty: float = 0.0, clip: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_noise <= 0.5:
            raise UsageError(f"label_noise must lie between 0 and 0.5, not {label_noise}")
        if not (penalty >= 0 and clip >= 0):
            raise UsageError(f"the gradient penalty and the clipping must be at least 0, not penalty={penalty}, clip={clip}")
        self.label_noise, self.penalty, self.clip = float(label_noise), float(penalty), float(clip)

    def discriminator(
        self,
        real: Tensor,
        generated: Tensor,
        real_weights: Tensor | None = None,
        generated_weights: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The discriminator's loss.

        Parameters
        ----------
        real, generated
            Its outputs (..., n) and (..., m).
        real_weights, generated_weights
            Signed, of those shapes and of mean one over their samples; None for one each.
        generator
            What the label noise is drawn from; there is none without it.
        """
        real_terms = self.real_terms(real, self._noise(real, generator))
        generated_terms = self.generated_terms(generated, self._noise(generated, generator))
        return _mean(real_terms, real_weights) + _mean(generated_terms, generated_weights)

    def generator(self, generated: Tensor, weights: Tensor | None = None) -> Tensor:
        """The generator's loss of the discriminator's outputs (..., m) for what it generated, with signed weights (..., m)."""
        return _mean(self.generator_terms(generated), weights)

    def _noise(self, z: Tensor, generator: torch.Generator | None) -> Tensor | None:
        if generator is None or not self.label_noise:
            return None
        return torch.rand(z.shape, generator=generator, dtype=z.dtype, device=z.device).mul_(self.label_noise)

    @abstractmethod
    def real_terms(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """The discriminator's loss of real objects whose labels are 1 - noise, element by element."""

    @abstractmethod
    def generated_terms(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """The discriminator's loss of generated objects whose labels are the noise, element by element."""

    @abstractmethod
    def generator_terms(self, z: Tensor) -> Tensor:
        """The generator's loss, element by element."""

    def extra_repr(self) -> str:
        """What its class does not say."""
        return f"label_noise={self.label_noise}, penalty={self.penalty}, clip={self.clip}"


class CrossEntropyLoss(AdversarialLoss):
    """The losses of paper C, eq. 1, whose printed forms lack the minus signs, with d = sigmoid(z) and labels l.

        L_d = -1/2 E[l ln d + (1 - l) ln(1 - d)]  over real and over generated objects, summed,    L_g = -E[ln d(g)]

    Each of the two samples counts one half, as in the paper, where they are of one size. The generator's loss is the one that does
    not saturate.
    """

    def __init__(self, label_noise: float = 0.15, penalty: float = 0.0) -> None:
        super().__init__(label_noise, penalty)

    def real_terms(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `AdversarialLoss.real_terms`."""
        # -(1 - u) ln d - u ln(1 - d) = softplus(-z) + u z
        terms = F.softplus(-z)
        return 0.5 * (terms if noise is None else terms + noise * z)

    def generated_terms(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `AdversarialLoss.generated_terms`."""
        # -u ln d - (1 - u) ln(1 - d) = softplus(z) - u z
        terms = F.softplus(z)
        return 0.5 * (terms if noise is None else terms - noise * z)

    def generator_terms(self, z: Tensor) -> Tensor:
        """See `AdversarialLoss.generator_terms`."""
        return F.softplus(-z)


class LeastSquaresLoss(AdversarialLoss):
    """LSGAN (Mao et al. 2017, eq. 9): L_d = 1/2 E[(z - l)^2] over real and over generated objects, summed; L_g = 1/2 E[(z(g) - 1)^2]."""

    def real_terms(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `AdversarialLoss.real_terms`."""
        return 0.5 * (z - 1 if noise is None else z - 1 + noise).square()

    def generated_terms(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `AdversarialLoss.generated_terms`."""
        return 0.5 * (z if noise is None else z - noise).square()

    def generator_terms(self, z: Tensor) -> Tensor:
        """See `AdversarialLoss.generator_terms`."""
        return 0.5 * (z - 1).square()


class WassersteinLoss(AdversarialLoss):
    """WGAN: L_d = E[z(g)] - E[z], L_g = -E[z(g)], of a critic z that something must keep from growing steep.

    That is the penalty (Gulrajani et al. 2017, 10 there), or the clipping of its parameters (Arjovsky et al. 2017, to 0.01 there).
    """

    def __init__(self, penalty: float = 10.0, clip: float = 0.0) -> None:
        super().__init__(0.0, penalty, clip)

    def real_terms(self, z: Tensor, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002 - a critic has no labels
        """See `AdversarialLoss.real_terms`."""
        return -z

    def generated_terms(self, z: Tensor, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """See `AdversarialLoss.generated_terms`."""
        return z

    def generator_terms(self, z: Tensor) -> Tensor:
        """See `AdversarialLoss.generator_terms`."""
        return -z


LOSSES: dict[str, Callable[..., AdversarialLoss]] = {
    "gan": CrossEntropyLoss,
    "lsgan": LeastSquaresLoss,
    "wgan": partial(WassersteinLoss, penalty=0.0, clip=0.01),
    "wgan-gp": WassersteinLoss,
}


def adversarial_loss(name: str, **options: float) -> AdversarialLoss:
    """The loss called "gan" (of paper C), "lsgan", "wgan" or "wgan-gp", with options of its class."""
    if name not in LOSSES:
        raise UsageError(f"adversarial loss {name!r} is not known: choose one of {', '.join(LOSSES)}")
    try:
        return LOSSES[name](**options)
    except TypeError as error:
        raise UsageError(f"the adversarial loss {name!r} does not take these options: {error}") from error


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    generated: Tensor,
    weights: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """E[(norm(dz/dx) - 1)^2] at x = a real + (1 - a) generated, a uniform in [0, 1] (Gulrajani et al. 2017, eq. 3).

    Parameters
    ----------
    critic
        Objects (n, d) -> outputs (n,), each of which depends on its own object alone.
    real, generated
        Objects (n, d), row by row of the same events.
    weights
        Signed, (n,).
    generator
        What a is drawn from.
    """
    a = torch.rand(len(real), 1, generator=generator, dtype=real.dtype, device=real.device)
    x = (a * real + (1 - a) * generated.detach()).requires_grad_()
    with backend("reference"):  # the compiled networks have no second derivatives
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return _mean((slope.norm(dim=1) - 1).square(), weights)


def clip_weights(critic: nn.Module, largest: float) -> None:
    """Bring every parameter into [-largest, largest]."""
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.clamp_(-largest, largest)


def _mean(terms: Tensor, weights: Tensor | None) -> Tensor:
    return (terms if weights is None else weights * terms).mean(-1)
