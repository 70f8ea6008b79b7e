"""Run a file of correctionlib and compare it with the model or the histograms that it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import OutputError
from hepgen.estimators.reweighter import Reweighter
from hepgen.exporting.maps import Flow, checked_flow, expected
from hepgen.exporting.packages import needed
from hepgen.exporting.twins import SEED, column_rows, reweighter_in_float64
from hepgen.exporting.written import check_close, check_shape
from hepgen.variations import NOMINAL, VARIATION_AXIS

if TYPE_CHECKING:
    import hist

Array = NDArray[Any]

#: Distance from the weight in float64, relative to 1 + weight / scale: nine digits of a weight of a network.
TOLERANCE = 1e-7
#: Of a number in JSON, which correctionlib reads to the last digit but one.
ROUNDING = 1e-14


def check_weights(path: Path, model: Reweighter, *, name: str) -> None:
    """Compare the weights of a Reweighter on 0, 1 and some hundred events, inside and outside the range of the fit."""
    matrix = column_rows(model.scaler.inverse, model.scaler.supports, model.features.periodic)
    twin = reweighter_in_float64(model).weigh(matrix)
    own, unit = model.weigh(matrix), np.exp(model.log_scale)
    corrections = _load(path)
    correction = corrections.compound[name] if name in corrections.compound else corrections[name]
    several = correction.inputs[0].name == VARIATION_AXIS
    for variation in (NOMINAL, "up", "down") if several else (NOMINAL,):
        found = _whole(correction, (variation,) if several else (), matrix, variation)
        exact, given = (weighted.column(variation) / unit for weighted in (twin, own))
        check_close(found / unit, exact, given, TOLERANCE, f"the {variation} weight")


def check_maps(path: Path, histograms: Mapping[str, hist.Hist[Any]], *, flow: Flow, errors: bool) -> None:
    """Look up values in every map: either end and the centre of every bin, numbers inside, and outside as the flow declares."""
    corrections = _load(path)
    for name, histogram in histograms.items():
        axes = [axis for axis in histogram.axes if axis.name != VARIATION_AXIS]
        declared = checked_flow(axes, flow)
        rows = _map_rows([axis.edges for axis in axes])
        for variation in _variations(histogram, errors):
            wanted = expected(histogram, variation, rows, declared)
            inside = np.isfinite(wanted)
            given = () if variation is None else (variation,)
            found = _whole(corrections[name], given, rows[inside], f"the map '{name}'")
            if not np.allclose(found, wanted[inside], rtol=ROUNDING, atol=0):
                raise OutputError(f"looked up in correctionlib, the map '{name}' does not give the contents of its bins")
            for row in rows[~inside][:20]:
                _check_refused(corrections[name], (*given, *row.tolist()), name)


def _variations(histogram: hist.Hist[Any], errors: bool) -> tuple[str | None, ...]:
    if VARIATION_AXIS in [axis.name for axis in histogram.axes]:
        return tuple(histogram.axes[VARIATION_AXIS])
    return (NOMINAL, "up", "down") if errors else (None,)


def _map_rows(edges: list[Array]) -> Array:
    """Rows (n, axes) that meet every bin of every axis, and both sides."""
    rng = np.random.default_rng(SEED)
    columns = []
    for one in edges:
        span, widths = one[-1] - one[0], np.diff(one)
        # an edge itself may move by a rounding on its way through JSON
        inside = [one[:-1] + part * widths for part in (1e-9, 0.5, 1 - 1e-9)]
        outside = [one[0] - rng.uniform(0, span, 10), one[-1] + rng.uniform(0, span, 10)]
        columns.append(np.concatenate([*inside, rng.uniform(one[0], one[-1], 200), *outside]))
    longest = max(map(len, columns))
    return np.stack([np.resize(rng.permutation(column) if k else column, longest) for k, column in enumerate(columns)], axis=1)


def _check_refused(correction: Any, arguments: tuple[Any, ...], name: str) -> None:
    try:
        correction.evaluate(*arguments)
    except RuntimeError:
        return
    raise OutputError(f"looked up in correctionlib outside its bins, the map '{name}' gives a number and no error")


def _load(path: Path) -> Any:
    try:
        return needed("correctionlib").CorrectionSet.from_file(str(path))
    except RuntimeError as error:
        raise OutputError(f"correctionlib cannot load the exported file ({error})") from error


def _whole(correction: Any, before: tuple[str, ...], rows: Array, what: str) -> Array:
    """The values of all rows (n, d), after 0 rows and 1 gave as many; `before` are the inputs before the columns."""
    found = np.empty(0)
    for some in _parts(rows):
        try:
            found = np.asarray(correction.evaluate(*before, *some.T))
        except (RuntimeError, ValueError) as error:
            raise OutputError(f"correctionlib cannot run the exported file on {len(some)} events ({error})") from error
        check_shape(found, (len(some),), what)
    return found


def _parts(rows: Array) -> Iterator[Array]:
    for count in (0, 1, len(rows)):
        yield np.ascontiguousarray(rows[:count])
