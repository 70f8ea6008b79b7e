"""Which backend was measured to be the fastest on a card: written by :mod:`hepgen.bench`, read by the automatic choice."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def file() -> Path:
    """``HEPGEN_CACHE/backends.json``, by default in ``~/.cache/hepgen``."""
    given = os.environ.get("HEPGEN_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hepgen"
    return base / "backends.json"


@functools.cache
def fastest(card: str) -> Mapping[str, str]:
    """Return op -> backend for a card, empty where nothing was measured; read once per process."""
    found = _read().get(card, {})
    return found if isinstance(found, dict) else {}


def keep(card: str, winners: Mapping[str, str]) -> Path | None:
    """Remember winners beside those of other ops and cards; None where nothing can be written there."""
    path, known = file(), _read()
    before = known.get(card, {})
    known[card] = {**(before if isinstance(before, dict) else {}), **winners}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as part:
            json.dump(known, part, indent=1)
        Path(part.name).replace(path)
    except OSError:
        return None
    fastest.cache_clear()
    return path


def _read() -> dict[str, object]:
    try:
        known = json.loads(file().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
