"""What an EventGenerator can be: its models, their settings and how they are trained by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hepgen.training import Plan

#: The models, and the module of `hepgen.estimators.generator_models` that each is in.
MODELS = {
    "bvae": "vae",
    "maf": "flow",
    "flow-matching": "flow_matching",
    "kde": "density",
    "gmm": "density",
    "smearing": "smearing",
    "lsgan": "gan",
    "wgan": "gan",
    "wgan-gp": "gan",
    "mmd-gan": "gan",
    "dijet-gan": "gan",
}
#: Scaling, relative angles and masses, where not given; see `EventCoordinates`.
COORDINATES: dict[str, tuple[str, bool, bool]] = {
    **dict.fromkeys(("bvae", "maf", "flow-matching", "kde", "gmm"), ("normal", True, True)),
    **dict.fromkeys(("lsgan", "wgan", "wgan-gp", "mmd-gan", "dijet-gan"), ("uniform", True, True)),
    # a smearing by so many percent is one of the columns themselves
    "smearing": ("max-abs", False, False),
}
PRIORS = ("buffer", "normal", "kde", "gmm", "two-stage")


@dataclass(frozen=True)
class GeneratorSettings:
    """The model.

    Attributes
    ----------
    relative_angles, masses
        See `EventCoordinates`; as is best for the model where None.
    components
        Gaussians of "gmm", and of the prior "gmm".
    bandwidth
        Of "kde" and of the prior "kde"; by cross-validation where None.
    smearing
        Relative standard deviation of "smearing": 0.05 for 5 %.
    hidden, blocks, permutation, activation
        The networks: widths of the hidden layers, as is usual for the model where None; for "maf" see `hepgen.networks.MAF`.
    steps
        Of "flow-matching", of the Runge-Kutta method of fourth order from noise to event.
    dropout, discriminator_steps
        Of an adversarial fit: dropout of the discriminator, and its steps for one of the generator; as is usual for the loss where None.
    restarts
        Times an adversarial fit that stops being finite starts again, with another seed.
    beta
        B of "bvae": its loss is (1 - B) times the squared error and B times the divergence.
    prior
        Of "bvae", what latent variables are drawn from: "buffer", "normal", "kde", "gmm" or "two-stage".
    alpha, gamma
        Of the buffer: the variance is multiplied by alpha where sigma < 0.05, and gamma is added to sigma; a number, or one per latent.
    second_beta
        B of the second stage of the prior "two-stage".
    validation
        Share of the events that picks the best epoch.
    """

    relative_angles: bool | None = None
    masses: bool | None = None
    components: int = 100
    bandwidth: float | None = None
    smearing: float = 0.05
    hidden: tuple[int, ...] | None = None
    blocks: int = 8
    permutation: Literal["reverse", "random", "none"] = "reverse"
    activation: Literal["relu", "tanh", "elu"] = "relu"
    steps: int = 8
    dropout: float | None = None
    discriminator_steps: int | None = None
    restarts: int = 2
    beta: float = 1e-6
    prior: Literal["buffer", "normal", "kde", "gmm", "two-stage"] = "buffer"
    alpha: float = 1.0
    gamma: float | tuple[float, ...] = 0.05
    second_beta: float = 1e-3
    validation: float = 0.1


def checked_settings(model: str, latent: int, given: dict[str, Any]) -> GeneratorSettings:
    """The settings given by name; UsageError for those that do not exist or make no sense."""
    from hepgen.errors import UsageError

    if model not in MODELS:
        raise UsageError(f"model {model!r} is not known: choose one of {', '.join(MODELS)}")
    unknown = sorted(set(given) - set(GeneratorSettings.__dataclass_fields__))
    if unknown:
        raise UsageError(f"EventGenerator has no setting {unknown[0]!r}: it has {', '.join(GeneratorSettings.__dataclass_fields__)}")
    for name in ("hidden", "gamma"):
        if isinstance(given.get(name), list | tuple):
            given = given | {name: tuple(given[name])}
    s = GeneratorSettings(**given)
    gammas = s.gamma if isinstance(s.gamma, tuple) else (s.gamma,)
    if s.prior not in PRIORS:
        raise UsageError(f"prior={s.prior!r} is not known: choose one of {', '.join(PRIORS)}")
    if latent < 1 or s.components < 1 or s.steps < 1 or s.restarts < 0:
        raise UsageError("latent, components and steps must be at least 1, and restarts at least 0")
    if not (s.smearing >= 0 and s.alpha >= 0 and min(gammas) >= 0 and (s.bandwidth is None or s.bandwidth > 0)):
        raise UsageError("smearing, alpha and gamma must be at least 0, and a bandwidth positive")
    if not (0 <= s.beta < 1 and 0 <= s.second_beta <= 1):
        raise UsageError(f"beta must be at least 0 and below 1, not beta={s.beta}, second_beta={s.second_beta}")
    if len(gammas) not in (1, latent):
        raise UsageError(f"gamma has {len(gammas)} values, and there are {latent} latents: give one, or one for each")
    return s


def flow_plan(model: str, s: GeneratorSettings, epochs: int | None, batch_size: int | None, seed: int) -> Plan:
    """How "maf" and "flow-matching" are trained."""
    from hepgen.training import Plan

    if model == "maf":
        return Plan(epochs or 60, batch_size or 1024, validation=s.validation, patience=10, seed=seed)
    return Plan(epochs or 100, batch_size or 1024, (1e-3, 0.0), optimizer="adam", schedule="cosine", validation=s.validation, seed=seed)


def gan_plan(model: str, s: GeneratorSettings, epochs: int | None, batch_size: int | None, seed: int) -> Plan:
    """How an adversarial pair is trained: the optimiser and rates of the paper of its loss, without much momentum."""
    from hepgen.training import Plan

    kinds: dict[str, tuple[str, tuple[float, float], dict[str, Any]]] = {
        "lsgan": ("adam", (2e-4, 0.0), {"betas": (0.5, 0.999)}),
        "wgan": ("rmsprop", (5e-5, 5e-5), {}),
        "wgan-gp": ("adam", (2e-4, 0.0), {"betas": (0.0, 0.9)}),
        "mmd-gan": ("adam", (2e-4, 0.0), {"betas": (0.5, 0.999)}),
        "dijet-gan": ("lamb", (1e-3, 0.0), {"betas": (0.5, 0.999)}),
    }
    optimizer, rates, options = kinds[model]
    return Plan(
        epochs or 100,
        batch_size or 1024,
        rates,
        optimizer=optimizer,
        options=options,
        clip_norm=None,
        schedule="cosine",
        validate_every=min(5, epochs or 5),
        validation=s.validation,
        seed=seed,
    )


#: Stages of Adam and of SGD with Nesterov momentum, and the epochs of each, of paper D for top pairs.
STAGES = ((4, 240), (4, 120))


def vae_plan(s: GeneratorSettings, epochs: int | None, batch_size: int | None, seed: int) -> Plan:
    """How "bvae" is trained: the paper's stages, whose epochs are shortened in proportion where `epochs` in all are given."""
    from hepgen.training import Plan, halving_stages

    adam, sgd = STAGES
    if epochs is not None:
        full = sum(stages * length for stages, length in STAGES)
        adam, sgd = ((stages, max(round(length * epochs / full), 1)) for stages, length in STAGES)
    stages = halving_stages(adam=adam, sgd=sgd)
    total = sum(stage.epochs for stage in stages)
    return Plan(total, batch_size or 1024, stages=stages, validation=s.validation, seed=seed)
