"""The two-sample classifier of paper A: how well a small network tells two samples apart, on events it has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.metrics.checks import Float, checked_matrix, checked_weights, positive_integer
from hepgen.metrics.roc import roc_curve, weighted_auc

if TYPE_CHECKING:
    import torch

MINIMUM_EVENTS = 20


@dataclass(frozen=True)
class ClassifierAUC:
    """The area under the ROC curve on the held-out half with its error, the curve, and what it would be for samples that do not differ.

    `floor` is the same classifier on one sample with shuffled labels (None when it was not asked for). `epochs` is how many were trained,
    `best_epoch` the one kept; `events` are the held-out events of both samples that the area was measured on.
    """

    auc: float
    error: float
    fpr: Float
    tpr: Float
    events: tuple[int, int]
    epochs: int
    best_epoch: int
    floor: ClassifierAUC | None = None

    def to_dict(self) -> dict[str, Any]:
        """The numbers without the curve, of types that JSON has."""
        return {
            "value": self.auc,
            "error": self.error,
            "held_out_events": list(self.events),
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
        }


def classifier_auc(
    a: ArrayLike,
    b: ArrayLike,
    *,
    a_weights: ArrayLike | None = None,
    b_weights: ArrayLike | None = None,
    hidden: Sequence[int] = (32, 32),
    batch_size: int = 1000,
    epochs: int = 60,
    patience: int = 10,
    learning_rate: float = 3e-3,
    max_events: int | None = 200_000,
    floor: bool = True,
    seed: int = 1,
) -> ClassifierAUC:
    """Train a classifier of `a` against `b` and return the area under its ROC curve on events it has not seen (paper A, Fig. 3 right).

    The network is the paper's: two layers of 32 ReLU nodes, binary cross-entropy, batches of 1000 (Adam, the rate falling to zero along a
    cosine, is our choice; the paper does not say). Each sample is split into halves: one trains (a fifth of it picks the best epoch and
    stops early), the other measures. Columns are standardised on the training events; both samples count the same whatever their weights
    sum to. An area below 0.5 is reported as it is.

    Parameters
    ----------
    a, b : (n, d), (m, d) feature matrices, at least 20 events each; `b` is the reference (data)
    a_weights, b_weights : event weights of either sign
    hidden : widths of the hidden layers
    batch_size, epochs, patience, learning_rate : training; it stops after `patience` epochs without a better validation loss
    max_events : events of each sample used, drawn at random; None for all
    floor : also train on `b` against itself, with labels drawn at random: what no difference looks like
    seed : of the split, the first weights and the batches

    Returns
    -------
    ClassifierAUC : `auc` and `error` (DeLong, see `weighted_auc`), the ROC curve thinned to <= 500 points (fpr: fraction of `a`, tpr:
        fraction of `b`), `floor`.

    Raises
    ------
    InputError
        Too few events, different numbers of columns, NaN, mismatched or vanishing weights (also within one half).
    """
    x, y = checked_matrix(a, "the first sample"), checked_matrix(b, "the second sample")
    if x.shape[1] != y.shape[1]:
        raise InputError(f"the first sample has {x.shape[1]} columns, the second {y.shape[1]}: they must be the same features")
    for what, sample in (("first", x), ("second", y)):
        if len(sample) < MINIMUM_EVENTS:
            raise InputError(f"the {what} sample has {len(sample)} events: a classifier needs at least {MINIMUM_EVENTS}")
    wx, wy = checked_weights(a_weights, len(x), "the first sample"), checked_weights(b_weights, len(y), "the second sample")
    settings = _Settings(tuple(hidden), batch_size, epochs, patience, learning_rate, seed)
    rng = np.random.default_rng([seed, 0])
    found = _held_out(_draw(x, wx, max_events, rng), _draw(y, wy, max_events, rng), settings, rng)
    if not floor:
        return found
    return replace(found, floor=_floor(y, wy, max_events, settings))


def classifier_floor(
    sample: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    hidden: Sequence[int] = (32, 32),
    batch_size: int = 1000,
    epochs: int = 60,
    patience: int = 10,
    learning_rate: float = 3e-3,
    max_events: int | None = 200_000,
    seed: int = 1,
) -> ClassifierAUC:
    """Return what `classifier_auc` gives for one sample with shuffled labels: the floor that no perfect model can go below.

    Parameters and errors are those of `classifier_auc`; the sample is split at random into two classes of half its size.
    """
    x = checked_matrix(sample, "the sample")
    if len(x) < 2 * MINIMUM_EVENTS:
        raise InputError(f"the sample has {len(x)} events: the shuffled-data floor needs at least {2 * MINIMUM_EVENTS}")
    settings = _Settings(tuple(hidden), batch_size, epochs, patience, learning_rate, seed)
    return _floor(x, checked_weights(weights, len(x), "the sample"), max_events, settings)


@dataclass(frozen=True)
class _Settings:
    hidden: tuple[int, ...]
    batch_size: int
    epochs: int
    patience: int
    learning_rate: float
    seed: int

    def __post_init__(self) -> None:
        for option, value in (("batch_size", self.batch_size), ("epochs", self.epochs), ("patience", self.patience)):
            positive_integer(value, option)
        for width in self.hidden:
            positive_integer(width, "hidden")
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"learning_rate is {self.learning_rate!r}, expected a positive number")


def _draw(x: Float, w: Float, limit: int | None, rng: np.random.Generator) -> tuple[Float, Float]:
    order = rng.permutation(len(x))[:limit]
    return x[order], w[order]


def _floor(x: Float, w: Float, limit: int | None, settings: _Settings) -> ClassifierAUC:
    rng = np.random.default_rng([settings.seed, 1])
    drawn, weights = _draw(x, w, None if limit is None else 2 * limit, rng)
    half = len(drawn) // 2
    return _held_out((drawn[:half], weights[:half]), (drawn[half:], weights[half:]), settings, rng)


def _held_out(a: tuple[Float, Float], b: tuple[Float, Float], settings: _Settings, rng: np.random.Generator) -> ClassifierAUC:
    """Train on the first halves of two shuffled samples, measure on the second halves."""
    half_a, half_b = len(a[0]) // 2, len(b[0]) // 2
    parts = [part for (x, w), half in ((a, half_a), (b, half_b)) for part in ((x[:half], w[:half]), (x[half:], w[half:]))]
    train_a, test_a, train_b, test_b = parts
    halves = [f"the {half} half of the {sample} sample" for sample in ("first", "second") for half in ("training", "held-out")]
    for (_, w), what in zip(parts, halves, strict=True):
        checked_weights(w, len(w), what)
    x = np.concatenate([train_a[0], train_b[0]])
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    label = np.concatenate([np.zeros(half_a), np.ones(half_b)])
    weight = np.concatenate([_normalised(train_a[1]), _normalised(train_b[1])])
    # both classes weigh the same, and the mean weight is one
    weight *= len(x) / 2 / np.where(label == 0, half_a, half_b)
    order = rng.permutation(len(x))
    network, epochs, best = _train(((x - centre) / spread)[order], label[order], weight[order], settings)
    scores = [_score(network, (sample[0] - centre) / spread) for sample in (test_a, test_b)]
    auc, error = weighted_auc(scores[0], scores[1], test_a[1], test_b[1])
    fpr, tpr = roc_curve(scores[0], scores[1], test_a[1], test_b[1])
    return ClassifierAUC(auc, error, fpr, tpr, (len(test_a[0]), len(test_b[0])), epochs, best)


def _normalised(weights: Float) -> Float:
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def _network(columns: int, hidden: tuple[int, ...]) -> torch.nn.Sequential:
    import torch

    layers: list[torch.nn.Module] = []
    for width in hidden:
        layers += [torch.nn.Linear(columns, width), torch.nn.ReLU()]
        columns = width
    return torch.nn.Sequential(*layers, torch.nn.Linear(columns, 1))


def _train(x: Float, label: Float, weight: Float, settings: _Settings) -> tuple[torch.nn.Sequential, int, int]:
    """Return the network of the best validation epoch, the epochs trained and which was best (from 1)."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    valid = max(len(x) // 5, 1)
    columns = [torch.from_numpy(values.astype(np.float32)) for values in (x, label, weight)]
    train_x, train_y, train_w = (column[valid:] for column in columns)
    valid_x, valid_y, valid_w = (column[:valid] for column in columns)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = _network(x.shape[1], settings.hidden)
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
        best, best_epoch, kept, epoch = float("inf"), 0, _state(network), 0
        for epoch in range(1, settings.epochs + 1):
            for batch in torch.split(torch.randperm(len(train_x)), settings.batch_size):
                optimizer.zero_grad()
                loss = cross_entropy(network(train_x[batch])[:, 0], train_y[batch], weight=train_w[batch])
                loss.backward()
                optimizer.step()
            schedule.step()
            with torch.no_grad():
                value = float(cross_entropy(network(valid_x)[:, 0], valid_y, weight=valid_w))
            if value < best:
                best, best_epoch, kept = value, epoch, _state(network)
            elif epoch - best_epoch >= settings.patience:
                break
        network.load_state_dict(kept)
    return network, epoch, best_epoch


@contextmanager
def _one_thread() -> Iterator[None]:
    """So small a network gains nothing from more threads and loses much where cores are shared; one also gives the same sums everywhere."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _state(network: torch.nn.Sequential) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _score(network: torch.nn.Sequential, x: Float) -> NDArray[np.float64]:
    import torch

    with torch.no_grad():
        logits = network(torch.from_numpy(x.astype(np.float32)))[:, 0]
    return np.asarray(logits.numpy(), dtype=np.float64)
