"""Checkpoints: the whole state of a fit in one file, written whole or not at all."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from hepgen.errors import OutputError, UsageError
from hepgen.whole_files import locked, write_whole

VERSION = 1


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Within the block no other fit writes the checkpoint `path`; see `hepgen.whole_files.locked`.

    Raises
    ------
    UsageError
        Another fit holds it.
    """
    with ExitStack() as stack:
        try:
            alone = stack.enter_context(locked(path))
        except OSError as error:
            raise _cannot_write(path, error) from error
        if not alone:
            raise UsageError(f"another fit is writing the checkpoint {path}: wait for it, or name another folder")
        yield


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"the checkpoint {path} cannot be written ({error.strerror}): choose another folder")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path` and move it there, so that a kill at any moment leaves a whole checkpoint."""
    content = io.BytesIO()  # torch's own writer hides that a disk is full behind an error of its own
    torch.save({"version": VERSION, **state}, content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getbuffer())
    except OSError as error:
        raise _cannot_write(path, error) from error


def load_checkpoint(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The state at `path`, None where there is none; refused where it belongs to another fit."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UsageError(f"the checkpoint {path} cannot be read: remove it to start the fit anew") from error
    if state.get("version") != VERSION or state.get("fingerprint") != fingerprint:
        raise UsageError(f"the checkpoint {path} belongs to a fit with other events or settings: remove it, or name another folder")
    return state
