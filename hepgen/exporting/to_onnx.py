"""Models as ONNX graphs, built from their frozen arrays: no torch, no tracing."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hepgen import __version__
from hepgen.errors import UsageError
from hepgen.estimators.reweighter import Reweighter
from hepgen.estimators.sim_to_data import SimToData
from hepgen.exporting import onnx_checks as checks
from hepgen.exporting.onnx_graph import OPSET
from hepgen.exporting.onnx_models import Built, about_features, build_flow, build_network, build_transform, build_weights
from hepgen.exporting.packages import needed
from hepgen.exporting.written import digest, write_checked
from hepgen.networks.frozen import FrozenMAF, FrozenMLP

#: What can be exported of each kind of model, the default first.
PARTS: dict[type, tuple[str, ...]] = {
    SimToData: ("transform", "forward", "inverse"),
    Reweighter: ("weights",),
    FrozenMAF: ("forward", "inverse"),
    FrozenMLP: ("network",),
}


def export_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    part: str | None = None,
    first_draw: bool = False,
    replicas: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a model as an ONNX file, after running it in onnxruntime and comparing it with the model.

    Parameters
    ----------
    model : SimToData, Reweighter, FrozenMAF or FrozenMLP
    path
        The file to write.
    part, first_draw, replicas
        See `onnx_model`.
    overwrite
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    OutputError
        The file exists or cannot be written, or it does not give what the model gives; nothing is left under that name.
    UsageError, MissingDependency
        See `onnx_model`.
    """
    needed("onnxruntime")
    content = onnx_model(model, part=part, first_draw=first_draw, replicas=replicas).SerializeToString(deterministic=True)
    check = _check(model, part or PARTS[_kind(model)][0], replicas)
    return write_checked(path, content, ".onnx", check, overwrite=overwrite)


def onnx_model(model: Any, *, part: str | None = None, first_draw: bool = False, replicas: bool = False) -> Any:
    """The ``onnx.ModelProto`` of a model; the number of events n is free, 0 and 1 included.

    Parameters
    ----------
    model : SimToData, Reweighter, FrozenMAF or FrozenMLP
    part
        Of a SimToData: "transform", from ``columns`` (n, d) float64 in GeV and rad and ``noise`` (n, outputs) float64, standard normal, to
        ``transformed`` (n, outputs) float64; or its flow on scaled columns, as of a FrozenMAF: "forward" (``x``, ``context`` to ``z``,
        ``log_det``) or "inverse" (``z``, ``context`` to ``x``, ``log_det``), in the dtype of the weights. Of a Reweighter: "weights", from
        ``columns`` to ``weights`` (n,). Of a FrozenMLP: "network", ``x`` to ``y``. The first of these by default.
    first_draw
        Of a SimToData with ``outside="reject"``: export the first draw alone, which the metadata say.
    replicas
        Of a Reweighter: give ``replicas`` (n, members) too.

    Raises
    ------
    UsageError
        The model is of another kind or not fitted, has no such part, or draws again (see `first_draw`).
    MissingDependency
        onnx is not installed.
    """
    kind = _kind(model)
    part = part or PARTS[kind][0]
    if part not in PARTS[kind]:
        raise UsageError(f"a {kind.__name__} has no part {part!r} to export: choose one of {', '.join(PARTS[kind])}")
    if replicas and kind is not Reweighter:
        raise UsageError(f"a {kind.__name__} has no replicas: ask for them of a Reweighter")
    needed("onnx")
    metadata = {"hepgen": __version__, "model": kind.__name__, "part": part, "sha256": digest(model), "opset": str(OPSET)}
    built = _built(model, part, first_draw, replicas)
    return built.graph.model(built.inputs, built.outputs, metadata | built.about, built.description)


def _kind(model: Any) -> type:
    for kind in PARTS:
        if isinstance(model, kind):
            return kind
    known = ", ".join(kind.__name__ for kind in PARTS)
    raise UsageError(f"a {type(model).__name__} has no ONNX form: it can be made of a {known}")


def _built(model: Any, part: str, first_draw: bool, replicas: bool) -> Built:
    match part:
        case "transform":
            return build_transform(model, first_draw=first_draw)
        case "weights":
            return build_weights(model, replicas=replicas)
        case "network":
            return build_network(model)
    built = build_flow(_flow(model), inverse=part == "inverse")
    if isinstance(model, FrozenMAF):
        return built
    return built._replace(about={**about_features(model.features), "coordinates": "x: change of scaled outputs; context: scaled columns"})


def _check(model: Any, part: str, replicas: bool) -> Callable[[Path], None]:
    match part:
        case "transform":
            return partial(checks.check_transform, model=model)
        case "weights":
            return partial(checks.check_weights, model=model, replicas=replicas)
        case "network":
            return partial(checks.check_network, network=model)
    return partial(checks.check_flow, flow=_flow(model), inverse=part == "inverse")


def _flow(model: Any) -> FrozenMAF:
    flow: FrozenMAF = model if isinstance(model, FrozenMAF) else model._fitted()
    return flow
