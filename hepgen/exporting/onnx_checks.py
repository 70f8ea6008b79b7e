"""Run an ONNX file in onnxruntime and compare it with the model that it was made of, on 0, 1 and some hundred events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import OutputError
from hepgen.estimators.base import Matrix
from hepgen.estimators.reweighter import Reweighter
from hepgen.estimators.sim_to_data import SimToData
from hepgen.events.scaling_base import wrap_angle
from hepgen.exporting.packages import needed
from hepgen.exporting.twins import column_rows, in_float64, reweighter_in_float64, spread_rows
from hepgen.exporting.written import TOLERANCES, check_close, check_shape
from hepgen.kernels import philox
from hepgen.networks.frozen import FrozenMAF, FrozenMLP

Array = NDArray[Any]

#: What float64 arithmetic on columns may be off by, relative to 1 + |value|.
COLUMNS = 1e-12


class Runner:
    """An ONNX file as a function of named arrays."""

    def __init__(self, path: Path) -> None:
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each status, all below Exception only
            raise OutputError(f"onnxruntime cannot load the exported file ({_first_line(error)})") from error

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """Outputs by name."""
        names = [output.name for output in self.session.get_outputs()]
        try:
            return dict(zip(names, self.session.run(names, arrays), strict=True))
        except Exception as error:
            events = len(next(iter(arrays.values())))
            raise OutputError(f"onnxruntime cannot run the exported file on {events} events ({_first_line(error)})") from error

    def whole(self, arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        """Outputs by name, after the shapes were checked on 0, 1 and all events; `shapes` are those of one event."""
        found: dict[str, Array] = {}
        for count in (0, 1, len(next(iter(arrays.values())))):
            found = self(**{name: array[:count] for name, array in arrays.items()})
            for name, shape in shapes.items():
                check_shape(found[name], (count, *shape), name)
        return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


# --- networks --------------------------------------------------------------------------------------------------------------------


def check_network(path: Path, network: FrozenMLP) -> None:
    """Compare a perceptron."""
    x = spread_rows(network.widths[0]).astype(network.dtype)
    found = Runner(path).whole({"x": x}, {"y": (network.widths[-1],)})
    check_close(found["y"], in_float64(network)(x), network(x), TOLERANCES[network.dtype], "y")


def check_flow(path: Path, flow: FrozenMAF, *, inverse: bool) -> None:
    """Compare one direction of a flow."""
    given, wanted = ("z", "x") if inverse else ("x", "z")
    rows = spread_rows(flow.features + flow.context).astype(flow.dtype)
    x, context = rows[:, : flow.features], rows[:, flow.features :]
    arrays = {given: x, "context": context} if flow.context else {given: x}
    found = Runner(path).whole(arrays, {wanted: (flow.features,), "log_det": ()})
    exact, own = ((one.inverse if inverse else one.forward)(x, context) for one in (in_float64(flow), flow))
    for k, name in enumerate((wanted, "log_det")):
        check_close(found[name], exact[k], own[k], TOLERANCES[flow.dtype], name)


# --- models on columns -----------------------------------------------------------------------------------------------------------


def check_transform(path: Path, model: SimToData) -> None:
    """Compare the transform of a SimToData, first draws where it rejects."""
    coordinates, outputs = model.coordinates, len(model.features.outputs)
    matrix = column_rows(coordinates.inverse, coordinates.supports, model.features.periodic)
    keys = np.arange(len(matrix), dtype=np.uint64)[:, None]
    noise = philox.normal(keys, outputs, seed=model.seed)
    found = Runner(path).whole({"columns": matrix, "noise": noise}, {"transformed": (outputs,)})["transformed"]
    model_gives = model.transform_matrix(matrix, keys, outside="clip" if model.outside == "clip" else "keep")
    distance, allowed = np.abs(_apart(model, found, model_gives)), _allowed(model, matrix, noise) + COLUMNS * (1 + np.abs(model_gives))
    beyond = ~(distance <= allowed) & np.isfinite(model_gives)
    if beyond.any():
        row, column = np.argwhere(beyond)[0]
        raise OutputError(
            f"run on {len(matrix)} events, the exported file gives {model.features.outputs[column]} off by {distance[row, column]:.2g}, "
            f"and {allowed[row, column]:.2g} is allowed"
        )


def _apart(model: SimToData, one: Matrix, other: Matrix) -> Matrix:
    """Differences of output columns; of two angles in [-pi, pi] by the shorter way round."""
    difference = one - other
    round_the_cut = model.features.periodic[: one.shape[1]] & (np.abs(one) <= np.pi) & (np.abs(other) <= np.pi)
    difference[round_the_cut] = wrap_angle(difference[round_the_cut])
    return difference


def _allowed(model: SimToData, matrix: Matrix, noise: Matrix) -> Matrix:
    """How far the output columns move when the flow is off by its tolerance: a scaling back is steep where the data had a gap."""
    flow, coordinates, outputs = model._fitted(), model.coordinates, noise.shape[1]
    scaled = coordinates.forward(matrix)
    exact, own = (one.inverse(noise, scaled)[0] for one in (in_float64(flow), flow))
    size = 1 + np.abs(exact)
    known = np.isfinite(exact) & np.isfinite(own)
    off = float((np.abs(own - exact) / size)[known].max(initial=0.0))
    step = max(TOLERANCES[flow.dtype], 4 * off) * size
    ends = []
    for side in (-1, 1):
        moved = scaled.copy()
        moved[:, :outputs] += exact + side * step
        ends.append(coordinates.scaler.inverse(moved)[:, :outputs])
    width = np.abs(_apart(model, *ends))
    if coordinates.first is not None:
        others = coordinates.others[coordinates.others < outputs]
        width[:, others] += width[:, [coordinates.first]]
    return np.asarray(width)


def check_weights(path: Path, model: Reweighter, *, replicas: bool) -> None:
    """Compare the weights of a Reweighter, and those of its members, in units of the scale of its weights."""
    matrix = column_rows(model.scaler.inverse, model.scaler.supports, model.features.periodic)
    members = len(model.networks)
    shapes: dict[str, tuple[int, ...]] = {"weights": (), **({"replicas": (members,)} if replicas else {})}
    found = Runner(path).whole({"columns": matrix}, shapes)
    exact, own = reweighter_in_float64(model).weigh(matrix), model.weigh(matrix)
    unit = np.exp(model.log_scale)
    for name, column in (("weights", "nominal"), ("replicas", "replicas")):
        if name in found:
            tolerance = TOLERANCES[model.networks[0].dtype]
            check_close(found[name] / unit, exact.column(column) / unit, own.column(column) / unit, tolerance, name)
