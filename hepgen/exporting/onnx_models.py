"""The graph of each model that ONNX can hold: its ports, its operators, and what the file says about itself."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.reweighter import MOST_LOG_RATIO, MOST_SCALED, Reweighter
from hepgen.estimators.sim_to_data import DRAWS, STREAMS, SimToData
from hepgen.events import Features, Scaler
from hepgen.exporting.onnx_columns import broken_line, log_ratio, scale, unscale, wrap_angle
from hepgen.exporting.onnx_graph import Graph, Port, number
from hepgen.exporting.onnx_networks import flow_forward, flow_inverse, perceptron
from hepgen.histograms import unit
from hepgen.networks.frozen import FrozenMAF, FrozenMLP

DOUBLE = np.dtype(np.float64)


class Built(NamedTuple):
    """A graph and its ports; `about` goes into the metadata."""

    graph: Graph
    inputs: list[Port]
    outputs: dict[str, Port]
    about: dict[str, str]
    description: str


def about_features(features: Features) -> dict[str, str]:
    """Names, units and order of the columns, for the metadata of a file."""
    names = list(features.names)
    return {"features": json.dumps(names), "units": json.dumps([unit(name) for name in names])}


# --- networks --------------------------------------------------------------------------------------------------------------------


def build_network(network: FrozenMLP) -> Built:
    """x (n, inputs) -> y (n, outputs)."""
    g = Graph()
    inputs, outputs = network.widths[0], network.widths[-1]
    y = perceptron(g, network, "x")
    ports = [Port("x", network.dtype, inputs)], {y: Port("y", network.dtype, outputs)}
    return Built(g, *ports, {}, f"A perceptron of {len(network.layers)} layers, (n, {inputs}) to (n, {outputs}).")


def build_flow(flow: FrozenMAF, *, inverse: bool) -> Built:
    """x and context -> z and log_det, or z and context -> x and log_det."""
    g = Graph()
    given, found = ("z", "x") if inverse else ("x", "z")
    context = "context" if flow.context else None
    inputs = [Port(given, flow.dtype, flow.features), *([Port("context", flow.dtype, flow.context)] if flow.context else [])]
    out, log_det = flow_inverse(g, flow, given, context) if inverse else flow_forward(g, flow, given, context)
    outputs = {out: Port(found, flow.dtype, flow.features), str(log_det): Port("log_det", flow.dtype, None)}
    return Built(
        g, inputs, outputs, {}, f"A flow, {given} to {found} (n, {flow.features}), with log_det = log |det d{found}/d{given}| (n,)."
    )


# --- SimToData -------------------------------------------------------------------------------------------------------------------


def build_transform(model: SimToData, *, first_draw: bool) -> Built:
    """Columns (n, d) in GeV and rad and standard normal noise (n, outputs) -> columns (n, outputs).

    Raises
    ------
    UsageError
        The model rejects draws, and `first_draw` is not asked for; or it is not fitted.
    """
    rejects = model.outside == "reject" and model.selection is not None
    if rejects and not first_draw:
        raise UsageError(
            f"this model draws an event again, up to {DRAWS} times, until it passes the selection, and a graph has no such loop: "
            "pass first_draw=True to export the first draw alone, or export a model with outside='keep' or 'clip'"
        )
    features, g = model.features, Graph()
    outputs = len(features.outputs)
    moved = _transformed(g, model)
    about = {
        **about_features(features),
        "outputs": json.dumps(list(features.outputs)),
        "noise": f"hepgen.kernels.philox.normal(identity, {outputs}, seed={model.seed}, stream={STREAMS} * copy)",
        "seed": str(model.seed),
        "draw": "first" if rejects else "only",
        "outside": "keep" if rejects else model.outside,
    }
    ports = [Port("columns", DOUBLE, len(features)), Port("noise", DOUBLE, outputs)], {moved: Port("transformed", DOUBLE, outputs)}
    text = f"Simulated events to data-like ones: {', '.join(features.names)} in GeV and rad to new {', '.join(features.outputs)}."
    return Built(g, *ports, about, text)


def _transformed(g: Graph, model: SimToData) -> str:
    flow, coordinates, names = model._fitted(), model.coordinates, model.features.names
    outputs = len(model.features.outputs)
    columns = g.split("columns", [1] * len(names))
    if coordinates.first is not None:
        for k in coordinates.others:
            columns[k] = _turned(g, "Sub", columns[k], columns[coordinates.first])
    scaled = [scale(g, scaling, x, name) for scaling, x, name in zip(coordinates.scaler.scalings, columns, names, strict=True)]
    context = g.cast(g.join(scaled), flow.dtype)
    delta, _ = flow_inverse(g, flow, g.cast("noise", flow.dtype), context, log_det=False)
    steps = g.split(g.cast(delta, DOUBLE), [1] * outputs)
    found = [
        unscale(g, scaling, g.op("Add", x, step), name)
        for scaling, x, step, name in zip(coordinates.scaler.scalings, scaled, steps, names, strict=False)
    ]
    if coordinates.first is not None:
        for k in coordinates.others[coordinates.others < outputs]:
            found[k] = _turned(g, "Add", found[k], found[coordinates.first])
    result = g.join(found)
    return g.clip(result, *model.limits.T[:, None].copy()) if model.outside == "clip" else result


def _turned(g: Graph, kind: str, angle: str, by: str) -> str:
    """An angle from recoiling against another ("Sub"), or back ("Add"); see `hepgen.estimators.Coordinates`."""
    return wrap_angle(g, g.op(kind, g.op(kind, angle, by), number(math.pi)))


# --- Reweighter ------------------------------------------------------------------------------------------------------------------


def build_weights(model: Reweighter, *, replicas: bool) -> Built:
    """Columns (n, d) in GeV and rad -> weights (n,) and, where wanted, replicas (n, members)."""
    g = Graph()
    nominal, relative = _weights(g, model)
    outputs = {g.flat(nominal): Port("weights", DOUBLE, None)}
    if replicas:
        outputs[g.op("Mul", nominal, relative)] = Port("replicas", DOUBLE, len(model.networks))
    about = {**about_features(model.features), "loss": model.loss, "link": model.link, "members": str(len(model.networks))}
    inputs = [Port("columns", DOUBLE, len(model.features))]
    text = (
        f"Weights that make simulation look like data, from {', '.join(model.features.names)} in GeV and rad; event weights not included."
    )
    return Built(g, inputs, outputs, about, text)


def _weights(g: Graph, model: Reweighter) -> tuple[str, str]:
    """The nominal weight (n, 1), and the ratios of the members over their mean (n, members); see `Reweighter.weigh`."""
    scaled = g.cast(_scaled(g, model.scaler), model.networks[0].dtype)
    z = g.join([perceptron(g, network, scaled) for network in model.networks])
    logs = log_ratio(g, g.cast(z, DOUBLE), model.link)
    ratios = g.op("Exp", g.clip(logs, number(-MOST_LOG_RATIO), number(MOST_LOG_RATIO)))
    mean = g.op("ReduceMean", ratios, axes=[1], keepdims=1)
    log = g.op("Log", mean)
    if model.calibrator is not None:
        log = _calibrated(g, log, model.calibrator.x, model.calibrator.y)
    if model.clip is not None:
        log = g.clip(log, number(-math.inf), number(math.log(model.clip)))
    return g.op("Exp", g.op("Add", log, number(model.log_scale))), g.op("Div", ratios, mean)


def _scaled(g: Graph, scaler: Scaler) -> str:
    columns = g.split("columns", [1] * len(scaler))
    scaled = g.join([scale(g, scaling, x, name) for scaling, x, name in zip(scaler.scalings, columns, scaler.names, strict=True)])
    return g.clip(scaled, number(-MOST_SCALED), number(MOST_SCALED))


def _calibrated(g: Graph, log: str, x: NDArray[Any], y: NDArray[Any]) -> str:
    # -inf times a slope of zero would be NaN
    held = g.clip(log, number(x[0]), number(x[-1]))
    return broken_line(g, held, np.asarray(x, dtype=DOUBLE), np.asarray(y, dtype=DOUBLE), _FLAT)


_FLAT: Sequence[float] = (0.0, 0.0)
