"""Put an export under its name, after it was run and found right; else an error, and nothing is left. What names the model in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import OutputError
from hepgen.estimators.model_file import sha256_of
from hepgen.events.writing import beside, check_output, writing
from hepgen.networks.frozen import FrozenMAF, FrozenMLP

Array = NDArray[Any]

#: Distance of an export from the arithmetic of the model in float64, relative to 1 + |value|, that its precision must reach; where the
#: model's own float32 is farther than a quarter of it, four times that.
TOLERANCES = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}


def digest(model: Any) -> str:
    """Sha256 of the model's file; of the weights of a bare network."""
    if not isinstance(model, FrozenMAF | FrozenMLP):
        return sha256_of(model.to_bytes())
    found = hashlib.sha256()
    for name, array in sorted(model.state.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def write_checked(path: str | os.PathLike[str], content: bytes, suffix: str, check: Callable[[Path], None], *, overwrite: bool) -> Path:
    """Write `content` beside `path`, call `check` with that file, and rename it.

    Raises
    ------
    OutputError
        `path` exists (and not `overwrite`) or cannot be written, or what `check` raises; nothing is left under that name.
    """
    target = check_output(Path(path), overwrite)
    temporary = beside(target)
    temporary = temporary.with_name(temporary.name + suffix)  # correctionlib tells a packed file by its name
    try:
        with writing(target), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            check(temporary)
        except OutputError as error:
            raise OutputError(f"{target} was not written: {error}") from error
        with writing(target):
            check_output(target, overwrite)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def check_shape(found: Array, shape: tuple[int, ...], what: str) -> None:
    """OutputError where an output of the exported file has another shape."""
    if found.shape != shape:
        raise OutputError(f"run on {shape[0]} events, the exported file gives {what} of shape {found.shape} in place of {shape}")


def check_close(found: Array, exact: Array, own: Array, tolerance: float, what: str) -> None:
    """OutputError where an output is farther from `exact` than allowed.

    Parameters
    ----------
    found, exact, own
        Arrays of one shape: of the exported file, of the model in float64, and of the model as it is. Where the last two are not finite,
        the first need not be.
    tolerance
        Allowed distance relative to 1 + |exact|; four times the largest of the model's own, where that is more.
    """
    known = np.isfinite(exact) & np.isfinite(own)
    size = 1 + np.abs(exact[known])
    distance, its_own = (np.abs(values[known] - exact[known]) / size for values in (found, own))
    allowed = max(tolerance, 4 * float(its_own.max(initial=0.0)))
    worst = float(distance.max(initial=0.0)) if np.isfinite(found[known]).all() else np.inf
    if not worst <= allowed:
        raise OutputError(
            f"run on {len(exact)} events, the exported file gives {what} that is off by {worst:.2g}, and {allowed:.2g} is allowed"
        )
