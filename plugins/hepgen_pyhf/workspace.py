"""A pyhf workspace that is known to be one: checked against pyhf's schema, with its digest, written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyhf

from hepgen.errors import InputError, UsageError
from hepgen.events.writing import beside, check_output, writing
from hepgen_pyhf.report import Report

#: pyhf's defaults and cabinetry's: polynomials within one standard deviation, straight lines (histosys) and powers (normsys) beyond
INTERPOLATION = {"histosys": {"interpcode": "code4p"}, "normsys": {"interpcode": "code4"}}


@dataclass(frozen=True)
class Workspace:
    """A checked pyhf workspace.

    Attributes
    ----------
    spec
        What pyhf, its command line and cabinetry read: ``pyhf.Workspace(spec)``, ``cabinetry.model_utils.model_and_data(spec)``.
    digest
        ``pyhf.utils.digest(spec)``, sha256 of the JSON with sorted keys: the same for equal workspaces, and after writing and reading.
    report
        What was treated, folded and left out on the way; empty for a workspace that was read.
    """

    spec: dict[str, Any]
    digest: str
    report: Report = field(default_factory=Report)

    @property
    def poi(self) -> str:
        """Name of the parameter of interest."""
        return str(self.spec["measurements"][0]["config"]["poi"])

    def model(self) -> Any:
        """Return a new pyhf.Model of the first measurement."""
        return pyhf.Workspace(self.spec, validate=False).model(measurement_index=0, modifier_settings=INTERPOLATION, validate=False)

    def data(self, model: Any) -> list[float]:
        """Return the observations in the order of the model's channels, with the auxiliary data behind them."""
        found: list[float] = pyhf.Workspace(self.spec, validate=False).data(model)
        return found

    def write(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the workspace as JSON; the file appears under its name only when it is whole.

        Raises
        ------
        OutputError
            Where the file exists (and not `overwrite`) or cannot be written.
        """
        target = check_output(Path(path), overwrite)
        temporary = beside(target)
        with writing(target):
            try:
                temporary.write_text(json.dumps(self.spec, indent=2, allow_nan=False) + "\n", encoding="utf-8")
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        return target


def checked(spec: dict[str, Any], report: Report) -> Workspace:
    """Return a workspace after pyhf has checked it against its schema and built its model; UsageError with what pyhf says."""
    try:
        pyhf.schema.validate(spec, "workspace.json", allow_tensors=False)
        found = Workspace(spec, pyhf.utils.digest(spec), report)
        found.data(found.model())
    except _refusals() as error:
        raise UsageError(f"pyhf refuses the workspace: {_first_line(error)}; see its parameters, names and bins") from error
    return found


def read(path: str | os.PathLike[str]) -> Workspace:
    """Read a workspace from a JSON file, whoever wrote it, and check it.

    Raises
    ------
    InputError
        Where the file is missing, is no JSON, or no workspace for pyhf.
    """
    try:
        spec = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from error
    try:
        return checked(spec, Report())
    except UsageError as error:
        raise InputError(f"{path} is no workspace: {error}") from error


def _refusals() -> tuple[type[Exception], ...]:
    names = ("InvalidSpecification", "InvalidModel", "InvalidModifier", "InvalidNameReuse", "InvalidMeasurement", "InvalidPdfData")
    # KeyError, ValueError, IndexError, TypeError, AttributeError: what pyhf's own code makes of a spec that fits the schema and no model
    found: list[type[Exception]] = [getattr(pyhf.exceptions, name) for name in names]
    return (*found, KeyError, ValueError, IndexError, TypeError, AttributeError)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
