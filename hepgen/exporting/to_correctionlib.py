"""Ratio networks and binned maps as files of correctionlib, which C++ and Python read without hepgen."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hepgen import __version__
from hepgen.errors import MissingDependency, OutputError, UsageError
from hepgen.estimators.reweighter import Reweighter
from hepgen.exporting.lwtnn import Node, affine, share_node, weight_node, wrapped
from hepgen.exporting.maps import Flow, column_description, map_correction
from hepgen.exporting.packages import needed
from hepgen.exporting.written import digest, write_checked
from hepgen.variations import VARIATION_AXIS

if TYPE_CHECKING:
    import hist

Content = dict[str, Any]
Layout = Literal["joined", "members"]


def export_correctionlib(
    model: Any,
    path: str | os.PathLike[str],
    *,
    name: str = "weight",
    version: int = 1,
    description: str | None = None,
    layout: Layout = "joined",
    variations: bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a Reweighter as a correction, after running it in correctionlib and comparing it with the model.

    Parameters
    ----------
    model : Reweighter
    path
        The file to write, ``.json`` or ``.json.gz``.
    name, version, description, layout, variations
        See `correction_set`.
    overwrite
        Replace an existing file.

    Returns
    -------
    Path
        The file written. correctionlib 2.9 or newer reads it.

    Raises
    ------
    OutputError
        The file exists or cannot be written, or it does not give what the model gives; nothing is left under that name.
    UsageError, MissingDependency
        See `correction_set`.
    """
    from hepgen.exporting.correction_checks import check_weights

    content = correction_set(model, name=name, version=version, description=description, layout=layout, variations=variations)
    return _written(path, content, partial(check_weights, model=model, name=name), overwrite)


def correction_set(
    model: Any,
    *,
    name: str = "weight",
    version: int = 1,
    description: str | None = None,
    layout: Layout = "joined",
    variations: bool | None = None,
) -> Content:
    """A Reweighter as the content of a CorrectionSet, schema 2, validated.

    Parameters
    ----------
    model : Reweighter
        With a link of a simple formula (not "cdf"), and columns scaled by Standard, MaxAbs or Identity, after Angle for angles.
    name, version, description
        Of the correction.
    layout : {"joined", "members"}
        "joined": one correction whose members are blocks of one network; with two members or more its first input is the string
        `variation`, "nominal", "up" or "down", where up and down are w (1 +- s), s the relative sample standard deviation of the
        members, and never negative. Its time and size grow as the square of the number of members. "members": a correction
        ``<name>_member<e>`` for each, which gives its weight over the number of members, and the compound correction `name`, their sum,
        the nominal weight: ten times as fast for ten members, without up and down, and for a model without calibration and clip.
    variations
        False leaves out up and down, and the input `variation`: a third of the size. By default "joined" has them.

    Raises
    ------
    UsageError
        The model is no Reweighter, not fitted, or something of it has no form in correctionlib: the sentence says what.
    MissingDependency
        correctionlib is not installed, or older than its networks.
    """
    if not isinstance(model, Reweighter):
        raise UsageError(
            f"a {type(model).__name__} cannot be written for correctionlib, which holds ratio networks (of a Reweighter) and binned maps: "
            "export it to onnx"
        )
    if layout not in ("joined", "members"):
        raise UsageError(f"layout={layout!r} is not known: choose joined or members")
    sha256 = digest(model)
    schema = _schema("LWTNN")
    text = description or "Weight that makes simulation look like data; the event's own weight is not included."
    about = {"version": version, "description": f"{text} hepgen {__version__}, model {sha256}."}
    build = _joined if layout == "joined" else _members
    return _validated(schema, build(model, name, about, variations), f"A hepgen Reweighter, {model.loss} with {model.link}.")


def _joined(model: Reweighter, name: str, about: Content, variations: bool | None) -> Content:
    if variations and len(model.networks) == 1:
        raise UsageError("one network has no scatter, and so no up and down: fit an ensemble of 2 or more, or pass variations=False")
    sides = ("nominal", "up", "down") if variations is not False and len(model.networks) > 1 else ()
    data = weight_node(model)
    if sides:
        items = [{"key": side, "value": data if side == "nominal" else weight_node(model, side)} for side in sides]
        data = {"nodetype": "category", "input": VARIATION_AXIS, "content": items}
    return {"corrections": [_correction(model, name, about, data, sides)]}


def _members(model: Reweighter, name: str, about: Content, variations: bool | None) -> Content:
    if len(model.networks) == 1 or model.calibrator is not None or model.clip is not None:
        raise UsageError("layout='members' adds the weights of two members or more, without calibration and clip: choose layout='joined'")
    if variations:
        raise UsageError("layout='members' has no up and down, which are not sums over the members: choose layout='joined' for them")
    parts = [_correction(model, f"{name}_member{e}", about, share_node(model, e)) for e in range(len(model.networks))]
    compound = {
        "name": name,
        "description": about["description"],
        "inputs": parts[0]["inputs"],
        "output": parts[0]["output"],
        "inputs_update": [],
        "input_op": "+",
        "output_op": "+",
        "stack": [part["name"] for part in parts],
    }
    return {"corrections": parts, "compound_corrections": [compound]}


def _correction(model: Reweighter, name: str, about: Content, data: Node, sides: tuple[str, ...] = ()) -> Content:
    columns = list(zip(model.features.names, model.scaler.scalings, strict=True))
    inputs = [{"name": VARIATION_AXIS, "type": "string", "description": f"one of {', '.join(sides)}"}] if sides else []
    inputs += [{"name": column, "type": "real", "description": column_description(column)} for column, _ in columns]
    for column, scaling in columns:
        if affine(scaling, column)[0]:
            data = wrapped(column, data)
    return {"name": name, **about, "inputs": inputs, "output": {"name": "weight", "type": "real"}, "data": data}


# --- maps ------------------------------------------------------------------------------------------------------------------------


def export_maps(
    histograms: Mapping[str, hist.Hist[Any]],
    path: str | os.PathLike[str],
    *,
    flow: Flow = "error",
    errors: bool = False,
    version: int = 1,
    description: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write histograms as binned corrections, after looking up values inside and outside every map in correctionlib.

    Parameters
    ----------
    histograms, flow, errors, version, description
        See `map_set`.
    path
        The file to write, ``.json`` or ``.json.gz``.
    overwrite
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    OutputError
        The file exists or cannot be written, or does not give the contents of the bins; nothing is left under that name.
    UsageError, InputError, MissingDependency
        See `map_set`.
    """
    from hepgen.exporting.correction_checks import check_maps

    content = map_set(histograms, flow=flow, errors=errors, version=version, description=description)
    return _written(path, content, partial(check_maps, histograms=histograms, flow=flow, errors=errors), overwrite)


def map_set(
    histograms: Mapping[str, hist.Hist[Any]],
    *,
    flow: Flow = "error",
    errors: bool = False,
    version: int = 1,
    description: str | None = None,
) -> Content:
    """Histograms as the content of a CorrectionSet, schema 2, validated.

    Parameters
    ----------
    histograms : mapping of name to hist.Hist
        One correction each, of the contents of the bins: scale factors or weights, not counts to be divided. One, two or three Regular or
        Variable axes, whose names are the inputs; a variation axis (see `hepgen.histograms.variation_axis`) becomes the string input
        `variation`, the first one. Flow bins are not used.
    flow : {"error", "clamp"} or number
        What a value outside the bins gets: an error, the content of the nearest bin, or this number. A circular axis goes round
        where it is the only one.
    errors
        Add the input `variation`, "nominal", "up" or "down", by the root of the variances.
    version
        Of the corrections.
    description
        Of the set.

    Raises
    ------
    UsageError
        A histogram has other axes, or no variances for `errors`; or the flow is not known.
    InputError
        A content is not finite.
    MissingDependency
        correctionlib is not installed.
    """
    if not histograms:
        raise UsageError("no histogram was given to write for correctionlib")
    schema = _schema("Binning")
    corrections = [map_correction(name, one, flow=flow, errors=errors, version=version) for name, one in histograms.items()]
    return _validated(schema, {"corrections": corrections}, description or f"Binned maps, hepgen {__version__}.")


# --- the file --------------------------------------------------------------------------------------------------------------------


def _schema(node: str) -> Any:
    needed("correctionlib")
    schema = needed("correctionlib.schemav2")
    if not hasattr(schema, node):
        raise MissingDependency(f"this correctionlib has no {node} node: pip install 'correctionlib>=2.9'")
    return schema


def _validated(schema: Any, content: Content, description: str) -> Content:
    whole = {"schema_version": 2, "description": description, **content}
    schema.CorrectionSet.model_validate(whole)
    return whole


def _written(path: str | os.PathLike[str], content: Content, check: Callable[[Path], None], overwrite: bool) -> Path:
    name = os.fspath(path)
    suffix = next((ending for ending in (".json", ".json.gz") if name.endswith(ending)), None)
    if suffix is None:
        raise OutputError(f"{name} is no name for correctionlib: let it end in .json or .json.gz")
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return write_checked(path, gzip.compress(text, mtime=0) if suffix == ".json.gz" else text, suffix, check, overwrite=overwrite)
