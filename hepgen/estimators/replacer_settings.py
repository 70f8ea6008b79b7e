"""What an ObjectReplacer can be: its models, their settings and how they are trained by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hepgen.events import Angle, Chain, Features, Quantile, Scaler

if TYPE_CHECKING:
    from hepgen.training import Plan

#: Models, and the networks of those that are adversarial.
MODELS = {"maf": None, "gan": "convolutional", "gan-dense": "dense"}
EPOCHS, GAN_EPOCHS, BATCH_SIZE = 60, 200, 1024
#: First and last learning rate of an adversarial pair, along half a cosine: the paper's for LAMB; of Adam a wide dense pair bears less.
GAN_RATES = {"lamb": (1e-3, 0.0), "adam": (2e-4, 0.0), "sgd": (1e-3, 0.0)}


@dataclass(frozen=True)
class ReplacerSettings:
    """The network.

    Attributes
    ----------
    blocks, hidden, permutation, activation
        The flow; see `hepgen.networks.MAF`. `hidden` is that of the dense pair too; the convolutional one has its own shape.
    latent, dropout, label_noise
        Normal variables of the generator, dropout of the discriminator, and the largest distance of its labels from 0 and 1.
    optimizer
        Of generator and discriminator: "lamb", "adam" or "sgd"; by default "lamb" for the convolutional pair, "adam" for the dense one.
    copies, validate_every
        Objects generated for each event of the figure of merit, and epochs from one to the next.
    restarts
        Times an adversarial fit that failed starts again, with another seed.
    relative_angles
        Learn angles relative to the first one of the condition.
    validation
        Share of the events that picks the best epoch.
    transfer_networks
        Ratio networks that make the transfer from control to signal region a function of the condition; 0 for one factor.
    """

    blocks: int = 8
    hidden: tuple[int, ...] = (128, 128)
    permutation: Literal["reverse", "random", "none"] = "reverse"
    activation: Literal["relu", "tanh", "elu"] = "relu"
    latent: int = 32
    dropout: float = 0.2
    label_noise: float = 0.15
    optimizer: Literal["lamb", "adam", "sgd"] | None = None
    copies: int = 10
    validate_every: int = 5
    restarts: int = 2
    relative_angles: bool = True
    validation: float = 0.1
    transfer_networks: int = 0


def new_plan(
    model: str,
    s: ReplacerSettings,
    epochs: int | None,
    batch_size: int | None,
    seed: int,
    learning_rate: tuple[float, float] | None,
    patience: int | None,
) -> Plan:
    """How a model is trained, with its own defaults where None is given; see `ObjectReplacer.fit`."""
    from hepgen.training import Plan

    size = BATCH_SIZE if batch_size is None else batch_size
    if not MODELS[model]:
        rates = learning_rate or Plan.learning_rate
        return Plan(EPOCHS if epochs is None else epochs, size, rates, validation=s.validation, patience=patience, seed=seed)
    optimizer = s.optimizer or ("lamb" if MODELS[model] == "convolutional" else "adam")
    return Plan(
        GAN_EPOCHS if epochs is None else epochs,
        size,
        learning_rate or GAN_RATES[optimizer],
        optimizer=optimizer,
        # as Radford et al. 2015: with the momentum of 0.9 a generator soon stands in a corner of the box, where tanh has no slope left
        options={} if optimizer == "sgd" else {"betas": (0.5, 0.999)},
        clip_norm=None,
        schedule="cosine",
        validate_every=s.validate_every,
        validation=s.validation,
        seed=seed,
    )


def uniform_quantiles(features: Features) -> Scaler:
    """Quantiles to a uniform for every column, after Angle for periodic ones. Unfitted."""
    scalings = [Chain([Angle(), Quantile(output="uniform")]) if angle else Quantile(output="uniform") for angle in features.periodic]
    return Scaler(scalings, features.names)
