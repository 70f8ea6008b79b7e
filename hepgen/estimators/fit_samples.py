"""From the rows of a fit to the samples that the training loop draws from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hepgen.estimators.disk_rows import mapped, slices
from hepgen.estimators.fit_rows import FitRows
from hepgen.training import Sample

Matrix = NDArray[np.float64]


def training_sample(rows: FitRows, forward: Callable[[Matrix], Matrix], folder: Path | None = None) -> Sample:
    """Scaled rows and signed weights, brought to a mean of one, in float32; on disk where the rows are.

    Parameters
    ----------
    forward
        From (n, d) in GeV and rad to the columns a network sees.
    folder
        Of the file on disk; that for temporary files where None.
    """
    if not rows.on_disk:
        return sample_of(forward(rows.matrix), rows.weights)
    mean = rows.mean_weight()

    def own(shape: tuple[int, ...], of: Callable[[slice], Any]) -> torch.Tensor:
        return torch.from_numpy(mapped(map(of, slices(*rows.matrix.shape)), shape, np.float32, folder))

    own_weights = rows.weights
    values = own((rows.matrix.shape[1],), lambda part: forward(rows.matrix[part]))
    return Sample(values, None if own_weights is None else own((), lambda part: own_weights[part] / mean), on_disk=True)


def sample_of(matrix: Matrix, weights: Matrix | None) -> Sample:
    """Scaled rows (n, d) and signed weights (n,), brought to a mean of one, in float32."""
    mean_one = None if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))
    return Sample(torch.from_numpy(matrix.astype(np.float32)), mean_one)
