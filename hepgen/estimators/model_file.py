"""The model file: safetensors with a JSON document in its header, a checksum over both, and nothing that runs on loading."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen import __version__
from hepgen.errors import InputError, ModelFileError, OutputError, UsageError

FORMAT = 1
ESTIMATORS = {"SimToData": "hepgen.estimators.sim_to_data"}


def write_model(
    path: str | Path, estimator: str, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], *, overwrite: bool = False
) -> Path:
    """Write a model whole or not at all.

    Parameters
    ----------
    path
        The file, by custom ending in ``.hepgen``.
    estimator
        Name of the class that reads it.
    document
        JSON-able settings, features, scaling and record.
    tensors
        Named arrays.
    overwrite
        Replace an existing file.

    Raises
    ------
    OutputError
        When the file exists already or cannot be written.
    """
    from safetensors.numpy import save

    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already: choose another name, or pass overwrite=True (--overwrite)")
    text = json.dumps({"estimator": estimator, "hepgen": __version__, **document})
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    content = save(arrays, {"format": str(FORMAT), "document": text, "sha256": _checksum(text, arrays)})
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        if beside.parent.is_dir():
            beside.unlink(missing_ok=True)
        raise OutputError(
            f"the model cannot be written to {path} ({error.strerror}): choose a folder that exists and can be written"
        ) from error
    return path


def read_model(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The document and the arrays of a model file, checked against its checksum.

    Raises
    ------
    InputError
        When there is no such file.
    ModelFileError
        When it is cut short, altered, of a newer format, or not a hepgen model.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no model file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            newer = _format(path, header)
            arrays = {} if newer else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{path} is not a hepgen model, or it is damaged: {_kind(path)}") from error
    if newer:
        raise ModelFileError(
            f"{path} has model format {header['format']}, and this hepgen {__version__} reads up to {FORMAT}: update hepgen"
        )
    if header.get("sha256") != _checksum(header.get("document", ""), arrays):
        raise ModelFileError(f"{path} was altered after it was written (its checksum does not match): fetch or fit it again")
    document: dict[str, Any] = json.loads(header["document"])
    return document, arrays


def load(path: str | Path) -> Any:
    """Load a saved model: the estimator that wrote it, ready to transform.

    Parameters
    ----------
    path
        A file written by ``model.save``.

    Raises
    ------
    InputError
        When there is no such file.
    ModelFileError
        When the file is cut short, altered, of a newer format, or not a hepgen model (a pickle is never opened).
    """
    document, tensors = read_model(path)
    name = document.get("estimator")
    if name not in ESTIMATORS:
        raise ModelFileError(f"{path} holds a {name!r}, which this hepgen {__version__} does not know: update hepgen")
    estimator = getattr(importlib.import_module(ESTIMATORS[name]), name)
    try:
        return estimator.from_document(document, tensors)
    except (KeyError, TypeError, UsageError, RuntimeError) as error:
        raise ModelFileError(f"{path} does not hold a whole {name}: {error}") from error


def _format(path: Path, header: Mapping[str, str]) -> bool:
    """Whether the file is of a newer format; a ModelFileError where it is no hepgen model."""
    if "format" not in header or "document" not in header or not header["format"].isdigit():
        raise ModelFileError(f"{path} is a safetensors file, but not a hepgen model")
    return int(header["format"]) > FORMAT


def _checksum(document: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(document.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80" or start == b"PK\x03\x04":
        return "it looks like a pickle or a torch file, which hepgen does not open, because that would run its code"
    return "the file is cut short or is something else"
