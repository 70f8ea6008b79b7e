"""The one face of all exports."""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import Any

from hepgen.errors import UsageError

_WRITERS = {
    "onnx": ("hepgen.exporting.to_onnx", "export_onnx"),
    "correctionlib": ("hepgen.exporting.to_correctionlib", "export_correctionlib"),
}


def export(model: Any, kind: str, path: str | os.PathLike[str], *, overwrite: bool = False, **options: Any) -> Path:
    """Write a model for programs without hepgen, after running the exported file and comparing it with the model.

    Parameters
    ----------
    model
        For "onnx" a SimToData, Reweighter, FrozenMAF or FrozenMLP; for "correctionlib" a Reweighter.
    kind : {"onnx", "correctionlib"}
    path
        The file to write.
    overwrite
        Replace an existing file.
    options
        Those of `export_onnx` or `export_correctionlib`.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    UsageError
        The kind or an option is not known, or the model cannot be exported so; the sentence says why.
    OutputError
        The file exists or cannot be written, or does not give what the model gives; nothing is left under that name.
    MissingDependency
        onnx, onnxruntime or correctionlib is not installed.
    """
    if kind not in _WRITERS:
        raise UsageError(f"there is no export to {kind!r}: choose one of {', '.join(_WRITERS)}")
    module, name = _WRITERS[kind]
    write = getattr(importlib.import_module(module), name)
    known = [key for key, parameter in inspect.signature(write).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"the export to {kind} has no option {unknown[0]!r}: it has {', '.join(known)}")
    written: Path = write(model, path, overwrite=overwrite, **options)
    return written
