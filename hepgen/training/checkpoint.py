"""Checkpoints: the whole state of a fit in one file, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from hepgen.errors import OutputError, UsageError

VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path` and move it there, so that a kill at any moment leaves a whole checkpoint."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"the checkpoint {path} cannot be written ({error.strerror}): choose another folder") from error


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
