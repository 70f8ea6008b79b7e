"""What an export is compared with: events inside and outside the range of the fit, and the model in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.estimators.base import Matrix
from hepgen.estimators.reweighter import Reweighter
from hepgen.networks.frozen import FrozenMAF, FrozenMLP

#: Events of the comparison, and their random numbers.
EVENTS, SEED = 300, 20_260_101


def in_float64(network: Any) -> Any:
    """The same frozen network with its weights, and so its arithmetic, in float64."""
    state = {name: array if name == "orders" else array.astype(np.float64) for name, array in network.state.items()}
    if isinstance(network, FrozenMLP):
        return FrozenMLP(state, activation=network.activation, output=network.output, shortcuts=network.shortcuts)
    return FrozenMAF(state, activation=network.activation, shear=network.shear, bound=network.bound)


def spread_rows(columns: int) -> Matrix:
    """Rows (n, columns) of standard normal numbers, of numbers between 0 and 1, and of normal ones three times as wide."""
    rng = np.random.default_rng(SEED)
    shape = (EVENTS // 3, columns)
    return np.concatenate([rng.normal(0, 1, shape), rng.uniform(0, 1, shape), rng.normal(0, 3, shape)])


def column_rows(inverse: Any, supports: Any, periodic: NDArray[np.bool_]) -> Matrix:
    """Feature rows (n, d) that scale to `spread_rows`, some angles at the cut; `inverse` and `supports` are those of the scaler."""
    matrix = inverse(spread_rows(len(periodic)))
    matrix[:4, periodic] = np.array([-np.pi, np.pi, np.float32(np.pi), np.nextafter(np.pi, 0)])[:, None]
    return np.asarray(matrix[(supports(matrix) & np.isfinite(matrix)).all(axis=1)])


def reweighter_in_float64(model: Reweighter) -> Reweighter:
    """The same Reweighter with networks in float64."""
    twin = object.__new__(type(model))  # a copy by copy.copy would come from the cache of loaded models
    twin.__dict__.update(model.__dict__)
    twin.networks = [in_float64(network) for network in model.networks]
    return twin
