"""Loops compiled by numba at their first use, so that importing hepgen.metrics does not import it; and threads that run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled, without the interpreter's lock; kept on disk where there is a folder for it."""
    import numba

    try:
        return numba.njit(function, cache=True, nogil=True)  # type: ignore[no-any-return]
    except RuntimeError:  # there is no folder to keep the compiled code in
        return numba.njit(function, nogil=True)  # type: ignore[no-any-return]


def in_threads(task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results of `task` for all items, in order, made by NUMBA_NUM_THREADS threads (one a core by default)."""
    import numba

    threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if threads == 1:
        return [task(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(task, items))
