"""The packages that exporting needs, each imported only where it is used."""

from __future__ import annotations

import importlib
from typing import Any

from hepgen.errors import MissingDependency


def needed(name: str) -> Any:
    """The module `name`.

    Raises
    ------
    MissingDependency
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependency(f"exporting needs the package {name}: pip install 'hepgen[export]'") from error
