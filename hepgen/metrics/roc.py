"""The area under the ROC curve and the curve itself for signed event weights, which scikit-learn refuses."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hepgen.metrics.checks import Float, checked_column, checked_weights, positive_integer


def _below(scores: Float, weights: Float, at: Float) -> Float:
    """Return the weight of `scores` below each value of `at`, ties counted half."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    running = np.concatenate([[0.0], np.cumsum(weights[order])])
    left, right = np.searchsorted(ordered, at, side="left"), np.searchsorted(ordered, at, side="right")
    return np.asarray((running[left] + running[right]) / 2, dtype=np.float64)


def weighted_auc(
    negative: ArrayLike, positive: ArrayLike, negative_weights: ArrayLike | None = None, positive_weights: ArrayLike | None = None
) -> tuple[float, float]:
    """Return the area under the ROC curve and its error, from ranks, with weights of either sign.

    AUC = sum_ij v_i w_j [s_i < t_j] / (sum v sum w), ties counted half: Mann-Whitney's U. Its error is DeLong's, with each event's
    placement weighted: var = sum v^2 (P_i - AUC)^2 / (sum v)^2 + sum w^2 (Q_j - AUC)^2 / (sum w)^2, where P_i is the weighted fraction
    of positives above s_i and Q_j that of negatives below t_j. With weights of both signs the area may leave [0, 1] and is not cut.

    Parameters
    ----------
    negative, positive : (n,), (m,) scores of the two classes, higher meaning more like `positive`
    negative_weights, positive_weights : event weights of either sign

    Returns
    -------
    (auc, error) floats
    """
    s, t = checked_column(negative, "the scores of the negative class"), checked_column(positive, "the scores of the positive class")
    v, w = (
        checked_weights(negative_weights, len(s), "the negative class"),
        checked_weights(positive_weights, len(t), "the positive class"),
    )
    v, w = v / v.sum(), w / w.sum()
    above = 1 - _below(t, w, s)
    below = _below(s, v, t)
    auc = float(w @ below)
    variance = float((v**2) @ (above - auc) ** 2 + (w**2) @ (below - auc) ** 2)
    return auc, float(np.sqrt(variance))


def roc_curve(
    negative: ArrayLike,
    positive: ArrayLike,
    negative_weights: ArrayLike | None = None,
    positive_weights: ArrayLike | None = None,
    *,
    points: int = 500,
) -> tuple[Float, Float]:
    """Return the ROC curve thinned to at most `points`: (false positive rate, true positive rate), each from 0 to 1.

    With weights of both signs a rate is a signed weight fraction and need not rise everywhere.

    Parameters
    ----------
    negative, positive, negative_weights, positive_weights : as in `weighted_auc`
    points : the largest number of points kept, at equal shares of the events of both classes together

    Returns
    -------
    fpr, tpr : (<= points,) float64
    """
    s, t = checked_column(negative, "the scores of the negative class"), checked_column(positive, "the scores of the positive class")
    v, w = (
        checked_weights(negative_weights, len(s), "the negative class"),
        checked_weights(positive_weights, len(t), "the positive class"),
    )
    count = max(positive_integer(points, "points"), 3)
    thresholds = np.unique(np.concatenate([s, t]))[::-1]
    if len(thresholds) > count - 1:
        thresholds = thresholds[np.unique(np.linspace(0, len(thresholds) - 1, count - 1).astype(int))]

    def selected(scores: Float, weights: Float) -> Float:
        order = np.argsort(scores, kind="stable")
        running = np.concatenate([[0.0], np.cumsum(weights[order])])
        rate = 1 - running[np.searchsorted(scores[order], thresholds, side="left")] / running[-1]
        return np.concatenate([[0.0], rate])

    return selected(s, v), selected(t, w)
