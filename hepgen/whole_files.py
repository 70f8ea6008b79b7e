"""Files that appear under their name whole or not at all, however the writing ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write `content` beside `path`, let it reach the disk, and move it there.

    Raises
    ------
    OSError
        It cannot be written; what was at `path` is there still, and nothing beside it.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
