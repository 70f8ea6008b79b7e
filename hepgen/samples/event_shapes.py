"""Thrust of the particles of an event, exact in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hepgen.errors import InputError

Floats = npt.NDArray[np.float64]

PARALLEL = 1e-12
PAIRS_AT_ONCE = 20_000


def thrust(momenta: npt.ArrayLike, counts: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the thrust of events and its axis.

    .. math:: T = \\max_{\\hat n} \\sum_i |p_i \\cdot \\hat n| / \\sum_i |p_i|

    (Farhi, Phys. Rev. Lett. 39 (1977) 1587). The maximum is that of ``|sum_i s_i p_i|`` over all signs s, and the signs that reach it
    are those of the two sides of a plane, which may be turned until it holds one of the momenta. For each momentum, the others
    are sorted by their angle around it, and the plane goes once around: all signs are tried in O(n^2 log n). Momenta on one line or
    in one plane need no special care.

    Parameters
    ----------
    momenta : (k, 3)
        px, py, pz [GeV] of the particles of all events, one event after the other.
    counts : (n,) int
        How many particles each event has; their sum is k.

    Returns
    -------
    values : (n,) float64
        Between 1/2 and 1; NaN for an event without momentum.
    axes : (n, 3) float64
        Unit vectors with z >= 0; NaN where the thrust is.

    Raises
    ------
    InputError
        Where the shapes do not fit each other, or a momentum is not finite.
    """
    p = np.asarray(momenta, dtype=np.float64)
    sizes = np.asarray(counts, dtype=np.int64)
    if p.ndim != 2 or p.shape[1] != 3 or sizes.ndim != 1 or sizes.sum() != len(p):
        raise InputError(f"thrust takes momenta (k, 3) and counts that sum to k, not {p.shape} and counts that sum to {sizes.sum()}")
    if not np.isfinite(p).all():
        raise InputError("thrust takes finite momenta: remove the particles with a momentum that is NaN or infinite")
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    values, axes = np.full(len(sizes), np.nan), np.full((len(sizes), 3), np.nan)
    # events of about one size together, filled up with momenta of zero, which change nothing
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    while len(order):
        together = max(1, PAIRS_AT_ONCE // int(sizes[order[-1]]) ** 2)
        events, order = order[-together:], order[:-together]
        place = np.arange(sizes[events].max())
        inside = place < sizes[events, None]
        padded = np.zeros((*inside.shape, 3))
        padded[inside] = p[(first[events, None] + place)[inside]]
        values[events], axes[events] = _padded_thrust(padded)
    return values, axes


def _padded_thrust(p: Floats) -> tuple[Floats, Floats]:
    """Thrust (b,) and axes (b, 3) of `p`, (b, n, 3), in which rows may be zero."""
    norms = np.sqrt((p**2).sum(axis=-1))
    best = _longest_sum(p, norms)
    length, total = np.sqrt((best**2).sum(axis=-1)), norms.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        axes = np.where(best[:, 2:] < 0, -1.0, 1.0) * best / length[:, None]
        return length / total, axes


def _longest_sum(p: Floats, norms: Floats) -> Floats:
    """The longest of the vectors ``sum_i s_i p_i``, (b, 3), over all signs s."""
    across, up = _perpendicular(p)
    x, y = across @ p.swapaxes(1, 2), up @ p.swapaxes(1, 2)  # (b, i, k): momentum k in the plane on which momentum i stands
    beside = np.hypot(x, y) > PARALLEL * norms[:, None, :]
    along = np.where(p @ p.swapaxes(1, 2) < 0, -1.0, 1.0)
    parallel = np.where(beside, 0.0, along) @ p  # momentum i and those on its line, (b, i, 3)

    angle = np.arctan2(y, x)
    flipped = np.where(angle < 0, -1.0, 1.0) * beside
    order = np.argsort(np.where(angle < 0, angle + np.pi, angle), axis=-1)
    halves = np.take_along_axis(flipped[..., None] * p[:, None], order[..., None], axis=2)  # (b, i, k, 3), angles in [0, pi)
    turned = halves.sum(axis=2, keepdims=True) - 2.0 * np.cumsum(halves, axis=2)

    along_each = np.einsum("bikx,bix->bik", turned, parallel)
    length2 = np.einsum("bikx,bikx->bik", turned, turned) + (parallel**2).sum(axis=-1)[:, :, None] + 2.0 * np.abs(along_each)
    b, n = norms.shape
    i, k = np.divmod(length2.reshape(b, -1).argmax(axis=1), n)
    event = np.arange(b)
    side = np.where(along_each[event, i, k] < 0, -1.0, 1.0)
    return np.asarray(turned[event, i, k] + side[:, None] * parallel[event, i], dtype=np.float64)


def _perpendicular(p: Floats) -> tuple[Floats, Floats]:
    """Two unit vectors, each (b, n, 3), that stand on each of the momenta `p` and on one another."""
    least = np.abs(p).argmin(axis=-1)
    across = np.cross(p, np.eye(3)[least])
    norm = np.sqrt((across**2).sum(axis=-1, keepdims=True))
    across = np.where(norm > 0, across / np.where(norm > 0, norm, 1.0), np.array([1.0, 0.0, 0.0]))
    up = np.cross(p, across)
    norm = np.sqrt((up**2).sum(axis=-1, keepdims=True))
    return across, np.where(norm > 0, up / np.where(norm > 0, norm, 1.0), np.array([0.0, 1.0, 0.0]))
