"""Bandwidths for kernel density estimates of one-dimensional marginals, from the samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hepgen.errors import InputError, UsageError

RULES = ("silverman", "scott", "isj")
_QUANTILE_ROWS = 1 << 20  # quartiles need no more, and sorting is slow
_ISJ_BINS = 1 << 14
_ISJ_STAGES = 7  # the l of Botev et al.: five steps, from the 7th derivative down to the 2nd


def kde_bandwidth(samples: Tensor, rule: str = "silverman", weights: Tensor | None = None, *, events: float | None = None) -> Tensor:
    """Bandwidth of every feature's Gaussian kernel density estimate, as a standard deviation: what :func:`kde` takes.

    With sd the weighted standard deviation (unbiased, as scipy's) and n = (sum w)^2 / sum w^2 the effective number of
    samples, len(samples) without weights:

    - "silverman": 0.9 min(sd, IQR / 1.34) n^(-1/5), Silverman, Density Estimation (1986), eq. 3.31; R's ``bw.nrd0``. What scipy
      calls silverman is (4/3)^(1/5) sd n^(-1/5), and KDEpy's takes the min of sd and IQR / 1.349 in that.
    - "scott": sd n^(-1/5), as in scipy's ``gaussian_kde``.
    - "isj": improved Sheather-Jones, Botev, Grotowski and Kroese, Ann. Stat. 38 (2010) 2916, algorithm 1: the fixed point
      of the plug-in equations on a discrete cosine transform. No normal reference: right for several peaks, too.

    Parameters
    ----------
    samples : (n, F) tensor of float32 or float64
    rule : {"silverman", "scott", "isj"}
    weights : (n,) tensor, optional
        Signed weights.
    events : float, optional
        Replaces the effective number of samples where the density will be estimated from batches of another size.

    Returns
    -------
    (F,) tensor of the dtype of samples, without gradient
        In the units of the samples. 1 for a constant feature, NaN for one that holds NaN.

    Raises
    ------
    InputError
        If there are no samples, or "isj" finds no fixed point (few samples, or samples on a few values).
    UsageError
        If shapes do not fit or there is no such rule.
    """
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise UsageError(f"kde_bandwidth: samples must have shape (n, F), got {tuple(samples.shape)}")
    if weights is not None and weights.shape != samples.shape[:1]:
        raise UsageError(f"kde_bandwidth: weights must have shape ({samples.shape[0]},), got {tuple(weights.shape)}")
    if samples.dtype not in {torch.float32, torch.float64} or (weights is not None and weights.is_complex()):
        dtypes = f"{samples.dtype} and {None if weights is None else weights.dtype}"
        raise UsageError(f"kde_bandwidth: samples must be float32 or float64, and weights real, got {dtypes}")
    if rule not in RULES:
        raise UsageError(f"kde_bandwidth: rule must be one of {', '.join(RULES)}, got {rule!r}")
    if len(samples) == 0:
        raise InputError("kde_bandwidth needs at least one sample")
    x = samples.detach().double()
    w = None if weights is None else weights.detach().to(x)
    effective = float(len(x)) if w is None else float(w.sum() ** 2 / w.square().sum())
    count = effective if events is None else float(events)
    if rule == "isj":
        columns = x.cpu().numpy()
        given = np.ones(len(x)) if w is None else w.cpu().numpy()
        b = torch.tensor([_improved_sheather_jones(column, given, count) for column in columns.T], dtype=torch.float64)
        return b.to(samples)
    spread = _deviation(x, w, effective)
    factor = 1.0
    if rule == "silverman":
        low, high = _quartiles(x, w)
        quartile_spread = (high - low) / 1.34
        # many equal values: their quartiles may coincide
        spread = torch.where(quartile_spread > 0, torch.minimum(spread, quartile_spread), spread)
        factor = 0.9
    spread = torch.where(spread == 0, 1.0, spread)
    bandwidth: Tensor = factor * float(count**-0.2) * spread
    return bandwidth.to(samples.dtype)


def _deviation(x: Tensor, w: Tensor | None, effective: float) -> Tensor:
    mean = x.mean(0) if w is None else (w @ x) / w.sum()
    squares = (x - mean).square()
    variance = squares.mean(0) if w is None else (w @ squares) / w.sum()
    bias = 1 - 1 / effective
    return (variance / bias if bias > 0 else torch.zeros_like(variance)).clamp_min(0).sqrt()


def _quartiles(x: Tensor, w: Tensor | None) -> Tensor:
    """Return the (2, F) quartiles; the k-th smallest sample lies at the share of weight before it, half of its own included."""
    every = -(-len(x) // _QUANTILE_ROWS)
    x, w = x[::every], None if w is None else w[::every]
    levels = torch.tensor([0.25, 0.75], dtype=x.dtype, device=x.device)
    if w is None:
        ordered = x.sort(0).values
        place = levels * (len(x) - 1)
        left = place.long().clamp_max(max(len(x) - 2, 0))
        right = (left + 1).clamp_max(len(x) - 1)
        return torch.lerp(ordered[left], ordered[right], (place - left)[:, None])
    out = torch.empty(2, x.shape[1], dtype=x.dtype, device=x.device)
    for f, column in enumerate(x.T):
        ordered, order = column.sort()
        v = w[order]
        share = v.cumsum(0) - v / 2
        # signed weights: what is reached once stays reached
        share = ((share - share[0]) / (share[-1] - share[0])).cummax(0).values
        out[:, f] = torch.as_tensor(np.interp(levels.cpu(), share.cpu(), ordered.cpu()))
    return out


def _improved_sheather_jones(x: Any, w: Any, count: float) -> float:
    from scipy import fft, optimize

    if np.isnan(x).any():
        return math.nan
    low, high = float(x.min()), float(x.max())
    if low == high:
        return 1.0
    # wide margins: the cosine transform reflects the density at the ends of the grid
    length = 2 * (high - low)
    place = (x - (low - length / 4)) / length * _ISJ_BINS
    left = np.clip(np.floor(place - 0.5).astype(np.int64), 0, _ISJ_BINS - 2)
    t = place - 0.5 - left
    shares = np.bincount(left, w * (1 - t), _ISJ_BINS) + np.bincount(left + 1, w * t, _ISJ_BINS)
    frequencies = (np.pi * np.arange(1, _ISJ_BINS)) ** 2
    powers = (fft.dct(shares / w.sum())[1:] / 2) ** 2

    def distance(time: float) -> float:
        return time - _plug_in(time, count, frequencies, powers)

    # the smallest root: where the distance first changes its sign
    times = np.geomspace(1e-10, 0.1, 64)
    values = [distance(time) for time in times]
    for i in range(1, len(times)):
        if values[i - 1] < 0 <= values[i]:
            return length * math.sqrt(optimize.brentq(distance, times[i - 1], times[i], xtol=1e-16, rtol=1e-10))
    raise InputError("kde_bandwidth: improved Sheather-Jones finds no bandwidth for these samples: use 'silverman' or more samples")


def _plug_in(time: float, count: float, frequencies: Any, powers: Any) -> float:
    """xi gamma^[l](t) of Botev et al., eq. 31: the squared bandwidth, in grid lengths, that the density smoothed by t asks for."""

    def roughness(order: int, time: float) -> float:  # || d^order f ||^2 with f smoothed by t; the grid has length 1
        return 2 * float(np.sum(np.exp(order * np.log(frequencies) - frequencies * time) * powers))

    norm = roughness(_ISJ_STAGES, time)
    for order in range(_ISJ_STAGES - 1, 1, -1):
        odd = math.prod(range(1, 2 * order, 2))
        constant = (1 + 0.5 ** (order + 0.5)) / 3 * odd * math.sqrt(2 / math.pi)
        if norm == 0:  # all smoothed away
            return math.inf
        norm = roughness(order, (constant / (count * norm)) ** (2 / (3 + 2 * order)))
    return math.inf if norm == 0 else float((2 * count * math.sqrt(math.pi) * norm) ** -0.4)
