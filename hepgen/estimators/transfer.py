"""From the yield of a control region to that of the signal region: one factor with its error, or a function of the condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError
from hepgen.estimators.reweighter import Reweighter
from hepgen.events import Angle, Chain, Features, Scaler, Standard

Matrix = NDArray[np.float64]

#: Events of each region in a step of the networks' fit.
BATCH_SIZE = 500


class Transfer(NamedTuple):
    """Events of the signal region for each event of the control region."""

    factor: float
    error: float


def transfer_factor(signal: Matrix, control: Matrix) -> Transfer:
    """Ratio of the sums of two samples' weights, (n,) and (m,), with the error from both.

    Raises
    ------
    InputError
        A sum is not positive.
    """
    if not (control.sum() > 0 and signal.sum() > 0):
        raise InputError("the weights of a region sum to nothing: there is no transfer factor")
    factor = signal.sum() / control.sum()
    relative = np.hypot(*(np.sqrt((w**2).sum()) / w.sum() for w in (signal, control)))
    return Transfer(float(factor), float(factor * relative))


class ConditionTransfer:
    """T(c) = p(c | signal region) / p(c | control region) times the transfer factor, from an ensemble of ratio networks.

    The object is drawn from p(object | c) of the signal region; with T(c) the joint distribution of object and condition is that of the
    signal region too, not only the number of events.

    Parameters
    ----------
    columns
        Names of the columns c.
    periodic
        Which of them are angles.
    networks
        Number of ratio networks; see `hepgen.Reweighter`.
    """

    def __init__(self, columns: Sequence[str], periodic: Iterable[bool], networks: int) -> None:
        scalings = [Chain([Angle(), Standard()]) if angle else Standard() for angle in periodic]
        names = [f"c{number}" for number in range(len(columns))]  # what a path means in the events is settled before
        self.reweighter = Reweighter(Features([], computed=names), ensemble=networks, scaler=Scaler(scalings, names), normalise="data")

    def fit(
        self,
        control: tuple[Matrix, Matrix | None],
        signal: tuple[Matrix, Matrix | None],
        *,
        seed: int,
        checkpoint: Path | None,
        progress: bool | None,
        device: str = "cpu",
    ) -> ConditionTransfer:
        """Fit to the condition (n, c) and the weights (n,) of both regions."""
        (x, x_weights), (y, y_weights) = control, signal
        folder = None if checkpoint is None else checkpoint / "transfer"
        how: dict[str, Any] = {"batch_size": BATCH_SIZE, "seed": seed, "checkpoint": folder, "progress": progress, "device": device}
        self.reweighter.fit(self._events(x), self._events(y), x_weights, y_weights, **how)
        return self

    def weights(self, condition: Matrix) -> tuple[Matrix, Matrix]:
        """T (n,) of the condition (n, c) and the scatter of the networks around it; T of a value without an answer is NaN."""
        good = np.isfinite(condition).all(axis=1)
        nominal, scatter = np.full((2, len(condition)), np.nan)
        found = self.reweighter.weigh(condition[good])
        nominal[good] = found.nominal
        scatter[good] = found.column("uncertainty") if self.reweighter.ensemble > 1 else 0.0
        return nominal, scatter

    def _events(self, matrix: Matrix) -> ak.Array:
        return ak.Array({name: matrix[:, i] for i, name in enumerate(self.reweighter.features.computed)})

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays of the networks by name."""
        return self.reweighter.tensors()

    def document(self) -> dict[str, Any]:
        """What `from_document` needs besides the arrays, JSON-able."""
        return self.reweighter.document()

    @classmethod
    def from_document(cls, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> ConditionTransfer:
        """The fitted transfer that was saved."""
        transfer = cls.__new__(cls)
        transfer.reweighter = Reweighter.from_document(document, tensors)
        return transfer
