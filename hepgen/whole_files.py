"""Files that appear under their name whole or not at all, however the writing ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether no other process holds the name `path`; if so this one does within the block, and the system lets go however it ends.

    Where a file system has no locks nothing can be known, and the answer is yes.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                yield False
                return
        yield True
