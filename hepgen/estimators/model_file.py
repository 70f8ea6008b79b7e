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
from hepgen.whole_files import write_whole

FORMAT = 1
ESTIMATORS = {
    "EventGenerator": "hepgen.estimators.event_generator",
    "ObjectReplacer": "hepgen.estimators.object_replacer",
    "Reweighter": "hepgen.estimators.reweighter",
    "SimToData": "hepgen.estimators.sim_to_data",
}


def pack(estimator: str, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The content of a model file: named arrays, and the JSON-able settings, features, scaling and record of the class `estimator`."""
    from safetensors.numpy import save

    text = json.dumps({"estimator": estimator, "hepgen": __version__, **document})
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    content = save(arrays, {"format": str(FORMAT), "document": text, "sha256": _checksum(text, arrays)})
    # safetensors puts the metadata in another order each time, and one model has one sha256
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def write_model(path: str | Path, content: bytes, *, overwrite: bool = False) -> Path:
    """Write what `pack` made, whole or not at all.

    Raises
    ------
    OutputError
        When the file exists already (and not `overwrite`) or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already: choose another name, or pass overwrite=True (--overwrite)")
    try:
        write_whole(path, content)
    except OSError as error:
        raise OutputError(
            f"the model cannot be written to {path} ({error.strerror}): choose a folder that exists and can be written"
        ) from error
    return path


def read_content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a model file.

    Raises
    ------
    InputError
        When there is no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no model file {path}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the model file {path} cannot be read: {error.strerror}") from error


def sha256_of(content: bytes) -> str:
    """The sha256 of the bytes of a model file, 64 hexadecimal digits: what names a model."""
    return hashlib.sha256(content).hexdigest()


def unpack(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The document and the arrays of a model file, checked against its checksum; `name` is the file's, for errors.

    Raises
    ------
    ModelFileError
        When it is cut short, altered, of a newer format, or not a hepgen model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        header = _header(content)
        newer = _newer(name, header)
        arrays = {} if newer else load_arrays(content)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFileError(f"{name} is not a hepgen model, or it is damaged: {_kind(content)}") from error
    if newer:
        raise ModelFileError(
            f"{name} has model format {header['format']}, and this hepgen {__version__} reads up to {FORMAT}: update hepgen"
        )
    if header.get("sha256") != _checksum(header.get("document", ""), arrays):
        raise ModelFileError(f"{name} was altered after it was written (its checksum does not match): fetch or fit it again")
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
    return from_content(read_content(path), os.fspath(path))


def from_content(content: bytes, name: str) -> Any:
    """The estimator of a model file's bytes; `name` is the file's. Errors as in `load`."""
    document, tensors = unpack(content, name)
    kind = document.get("estimator")
    if kind not in ESTIMATORS:
        raise ModelFileError(f"{name} holds a {kind!r}, which this hepgen {__version__} does not know: update hepgen")
    if not isinstance(document.get("schema"), str | None):
        raise ModelFileError(f"{name} does not hold a whole {kind}: its schema is no name")
    estimator = getattr(importlib.import_module(ESTIMATORS[kind]), kind)
    try:
        model = estimator.from_document(document, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError, RuntimeError) as error:
        raise ModelFileError(f"{name} does not hold a whole {kind}: {error}") from error
    model.remember(os.path.abspath(name), content)
    return model


def _header(content: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file: eight bytes of length, then a JSON document."""
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= len(content) - 8:
        raise ValueError("the header is cut short")
    header: dict[str, Any] = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    return header


def _newer(name: str, header: Mapping[str, str]) -> bool:
    """Whether the file is of a newer format; a ModelFileError where it is no hepgen model."""
    if "format" not in header or "document" not in header or not header["format"].isdigit():
        raise ModelFileError(f"{name} is a safetensors file, but not a hepgen model")
    return int(header["format"]) > FORMAT


def _checksum(document: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(document.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _kind(content: bytes) -> str:
    if content[:1] == b"\x80" or content[:4] == b"PK\x03\x04":
        return "it looks like a pickle or a torch file, which hepgen does not open, because that would run its code"
    return "the file is cut short or is something else"
