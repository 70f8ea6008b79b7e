"""A model that weights events or objects, by an ensemble whose members differ: the face of it, for every kind of array."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators.base import Estimator, Invalid, Keys, Matrix
from hepgen.estimators.fit_rows import rows_of
from hepgen.estimators.ratio_arrays import Counts, Systematic, Weighted, counted, of_events, of_objects, per_event
from hepgen.estimators.ratio_checks import Closure, Reliability, ess, reliability
from hepgen.events import Scaler, Selection
from hepgen.events.adapter import is_dask
from hepgen.events.branches import record_layout
from hepgen.stages import stage

if TYPE_CHECKING:
    from hepgen.events import Schema


class Weigher(Estimator):
    """The face of models that weight; a subclass says what a matrix of features weighs.

    Attributes
    ----------
    scaler : Scaler
        Says which values the model has an answer for.
    selection : Selection or None
        Cuts on the events that were fitted, and that the checks look at.
    ensemble : int
        Number of members E.
    """

    scaler: Scaler
    selection: Selection | None
    ensemble: int

    @abstractmethod
    def weigh(self, matrix: Matrix) -> Weighted:
        """Weights of a feature matrix (n, d) in GeV and rad, all of it finite and in the support of the scaler."""

    # -- events ------------------------------------------------------------------------------------------------------

    def weights(self, events: Any, *, uncertainty: bool = False, replicas: bool = False, invalid: Invalid = "raise") -> Any:
        """Weight of every event, without its own event weight.

        Parameters
        ----------
        events
            n events: awkward array, eager, virtual, typetracer or of dask-awkward, records in GeV and rad, or the branches of a file of
            the model's schema as they are; a mapping of columns or a numpy structured array.
        uncertainty
            Give the scatter between the members too.
        replicas
            Give the weights of all members in place of their mean.
        invalid
            What an event with NaN, inf or a value outside the support of a scaling gets: an error, weight 1 ("identity"), or NaN ("nan").

        Returns
        -------
        w : (n,) float64
            Never negative, and NaN only with ``invalid="nan"``. 1 for an event without the objects.
        (w, dw)
            With `uncertainty`; dw (n,) is the sample standard deviation of the members, 0 for an event without the objects.
        (n, E)
            With `replicas`, whose mean is w.

        Numpy for events in memory; awkward arrays of a typetracer, and lazy ones of a dask-awkward collection.

        Raises
        ------
        InputError
            A column is missing or not finite.
        UsageError
            Both are asked for, or the uncertainty of one network.
        """
        names = self._asked(uncertainty, replicas)
        found = of_events(self, events, names, invalid)
        return found[names[0]] if len(names) == 1 else tuple(found[name] for name in names)

    def weights_counted(self, events: Any, *, invalid: Invalid = "raise", entry_start: int = 0) -> tuple[NDArray[np.float64], Counts]:
        """The weights (n,) of events in memory, and what was met on the way; errors count entries from `entry_start`."""
        if is_dask(events):
            raise UsageError("weights_counted takes events in memory: a dask-awkward collection has met nothing yet")
        found, counts = counted(self, events, ("nominal",), invalid, entry_start=entry_start)
        return found["nominal"], counts

    def rewrite(
        self, raw: Any, view: Schema, branches: Sequence[str], *, identity: Keys, seed: int | None, invalid: Invalid, entry_start: int
    ) -> tuple[Any, int]:
        """See `Estimator.rewrite`: the branches with hepgen_weight, and hepgen_weight_up and _down of an ensemble, behind them."""
        del identity, seed  # nothing is drawn
        names = {"nominal": "hepgen_weight"} | ({} if self.ensemble == 1 else {"up": "hepgen_weight_up", "down": "hepgen_weight_down"})
        with stage("kernel"):
            found, counts = counted(self, view.view(raw, columns=branches), tuple(names), invalid, entry_start=entry_start)
        taken = [name for name in names.values() if name in raw.fields]
        if taken:
            raise InputError(f"the events have a branch {taken[0]} already: apply the model to the file without it")
        layout = record_layout(raw)
        contents = [*layout.contents, *(ak.contents.NumpyArray(found[name]) for name in names)]
        fields = [*layout.fields, *names.values()]
        return ak.Array(ak.contents.RecordArray(contents, fields, length=layout.length), attrs=raw.attrs), counts.weighted

    def log_ratio(self, events: Any, *, invalid: Invalid = "raise") -> Any:
        """Log of the weight of every event, (n,) float64; see `weights`."""
        return of_events(self, events, ("log_ratio",), invalid)["log_ratio"]

    # -- objects -----------------------------------------------------------------------------------------------------

    def __call__(
        self, objects: Any, *, uncertainty: bool = False, replicas: bool = False, invalid: Invalid = "raise", **columns: Any
    ) -> Any:
        """Weight of every object, for a model whose features are fields of one object.

        Parameters
        ----------
        objects
            Awkward array of records in lists of any depth, such as ``events.Jet``: eager, virtual, typetracer or of dask-awkward.
        columns
            More columns of the features by name: one value an event, which is broadcast (``rho=events.Rho.fixedGridRhoAll``), one an
            object, or one for all.
        uncertainty, replicas, invalid
            As in `weights`.

        Returns
        -------
        Awkward array of float64 with the lists and the None of the objects, or a pair of them; `per_event` makes one weight an event of it.

        Raises
        ------
        InputError
            A column is missing or not finite, or has other events or lists than the objects.
        """
        names = self._asked(uncertainty, replicas)
        found = of_objects(self, objects, columns, names, invalid)
        return found[names[0]] if len(names) == 1 else tuple(found[name] for name in names)

    # -- for coffea --------------------------------------------------------------------------------------------------

    def variations(self, events: Any, *, invalid: Invalid = "raise", **columns: Any) -> dict[str, Any]:
        """Nominal weights, and up and down by the scatter of the members, ``max(w +- dw, 0)``: what coffea's ``Weights.add`` takes.

        Parameters
        ----------
        events
            As in `weights`; or objects in lists and `columns`, as in `__call__`.

        Returns
        -------
        dict of "nominal", "up", "down"
        """
        names = ("nominal", "up", "down")
        self._asked(uncertainty=True, replicas=False)
        if columns or getattr(events, "ndim", 1) > 1:
            return of_objects(self, events, columns, names, invalid)
        return of_events(self, events, names, invalid)

    def systematic(self, events: Any, *, invalid: Invalid = "raise", **columns: Any) -> Systematic:
        """The function that coffea asks for: ``add_systematic("reweighter", "UpDownSystematic", "weight", ratio.systematic(events))``.

        coffea calls it with a column of ones, from which the events cannot be found: it is therefore made of them.
        Parameters are those of `variations`.
        """
        return Systematic(self.variations(events, invalid=invalid, **columns))

    per_event = staticmethod(per_event)
    ess = staticmethod(ess)

    def _asked(self, uncertainty: bool, replicas: bool) -> tuple[str, ...]:
        if uncertainty and replicas:
            raise UsageError("the replicas have their own scatter: ask for uncertainty or for replicas")
        if uncertainty and self.ensemble == 1:
            raise UsageError("one network has no scatter: fit an ensemble of 2 or more for an uncertainty")
        return ("nominal", "uncertainty") if uncertainty else ("replicas",) if replicas else ("nominal",)

    # -- checks ----------------------------------------------------------------------------------------------------

    def closure(
        self, sim: Any, data: Any, sim_weights: ArrayLike | None = None, data_weights: ArrayLike | None = None, *, bins: Any = 40
    ) -> Closure:
        """Compare the features of simulation with data, before and after reweighting.

        Parameters
        ----------
        sim, data, sim_weights, data_weights
            As in `fit`; better events that were not fitted.
        bins
            See `hepgen.metrics.marginal_chi2`.
        """
        from hepgen.metrics import marginal_chi2

        (x, wx), (y, wy) = self._pair(sim, data, sim_weights, data_weights)
        weights = wx * self.weigh(x).nominal
        before, after = (marginal_chi2(x, y, self.features.names, bins, a_weights=w, b_weights=wy) for w in (wx, weights))
        sides = {"sim": wx, "reweighted": weights, "data": wy}
        return Closure(before, after, {n: float(w.sum()) for n, w in sides.items()}, {n: ess(w) for n, w in sides.items()})

    def reliability(
        self, sim: Any, data: Any, sim_weights: ArrayLike | None = None, data_weights: ArrayLike | None = None, *, bins: int = 20
    ) -> Reliability:
        """Compare the ratio predicted with the ratio found in events, in bins of the predicted one.

        Parameters
        ----------
        sim, data, sim_weights, data_weights
            As in `fit`; events that were not fitted, or the check is too kind.
        bins
            Bins of equal shares of the events, merged where they are poor.
        """
        (x, wx), (y, wy) = self._pair(sim, data, sim_weights, data_weights)
        return reliability(self.weigh(x).log_ratio, self.weigh(y).log_ratio, wx, wy, bins)

    def _pair(self, sim: Any, data: Any, sim_weights: ArrayLike | None, data_weights: ArrayLike | None) -> list[tuple[Matrix, Matrix]]:
        sides = ((sim, sim_weights, "sim"), (data, data_weights, "data"))
        found = [rows_of(self.features, events, weights, name, self.selection) for events, weights, name in sides]
        return [(rows, np.ones(len(rows)) if weights is None else weights) for rows, weights in found]
