"""How the GPU backends of :mod:`hepgen.kernels.mmd` see its kernel: in parts whose Gaussians share their distances.

All of it stays on the device: nothing here looks at a bandwidth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hepgen.errors import UsageError

_MOST_ROWS = 1 << 30  # rows are counted in 32 bits
_EQUAL = 1e-12  # relative, of bandwidths that count as proportional


def check_rows(points: Tensor) -> None:
    """Refuse more rows than the kernels count."""
    if points.shape[0] >= _MOST_ROWS:
        raise UsageError(f"a sample on a GPU may have fewer than 2^30 rows, got {points.shape[0]}: split it")


class Parts(NamedTuple):
    """Parts of a kernel that is a mean of Gaussians; the number of parts depends on shapes alone.

    Attributes
    ----------
    sigma : (parts, features) tensor of float64
        The widest bandwidth of each part; (parts, 1), one part for each feature, with per_feature.
    ratios : (parts, bandwidths) tensor of float64, or None for one bandwidth
        Of the widest to each, those in use first.
    counts : (parts,) tensor of int32, or None where all are in use
        How many are; 0 for a part without any.
    """

    sigma: Tensor
    ratios: Tensor | None
    counts: Tensor | None


def parts_of(sigma: Tensor, per_feature: bool) -> Parts:
    """Return the parts of a kernel with bandwidths sigma (bandwidths, features).

    Rows made from one number each (a bandwidth of shape (S, 1)) are known to be proportional; others are compared on the device, and
    then there are as many parts as rows, some of them empty.
    """
    if per_feature:
        widest = sigma.amax(0)
        return Parts(widest[:, None], (widest / sigma).T.contiguous() if len(sigma) > 1 else None, None)
    if len(sigma) == 1:
        return Parts(sigma.contiguous(), None, None)
    if sigma.shape[1] == 1 or sigma.stride(1) == 0:
        widest = sigma.amax(0, keepdim=True)
        return Parts(widest.contiguous(), (widest[:, 0] / sigma[:, 0])[None], None)
    return _compared(sigma)


def _compared(sigma: Tensor) -> Parts:
    count, rows = len(sigma), torch.arange(len(sigma), device=sigma.device)
    # same[s, t]: row s is proportional to row t
    stretched = (sigma[:, :1] / sigma[:, 0])[:, :, None] * sigma
    same = ((sigma[:, None] - stretched).abs() <= _EQUAL * sigma[:, None]).all(2)
    first = torch.where(same, rows, count).amin(1)
    member = first == rows[:, None]
    widest = sigma.gather(0, torch.where(member, sigma[:, 0], -1.0).argmax(1)[:, None].expand_as(sigma))
    order = (~member).to(torch.int8).argsort(dim=1, stable=True)
    ratios = (widest[:, :1] / sigma[:, 0]).gather(1, order)
    return Parts(widest, ratios, member.sum(1, dtype=torch.int32))
