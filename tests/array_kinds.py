"""One array of events in every form it may come in, and what of it was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import awkward as ak

KINDS = ("eager", "virtual", "typetracer", "length-0", "length-1", "dask")


def columns_by_node(form: Any, path: tuple[str, ...] = ()) -> dict[str, str]:
    """Dotted column of every node of a form with keys; of lists and options that of what is inside, or of the collection."""
    found = {form.form_key: ".".join(path)} if form.form_key else {}
    if form.is_record:
        for name, content in zip(form.fields, form.contents, strict=True):
            found |= columns_by_node(content, (*path, name))
    elif hasattr(form, "content"):
        found |= columns_by_node(form.content, path)
    return found


def virtual(events: ak.Array) -> tuple[ak.Array, set[str]]:
    """The same events, read when asked for, and the set that then holds the columns that were."""
    form, length, container = ak.to_buffers(events)
    columns, read = columns_by_node(form), set[str]()

    def reader(key: str) -> Callable[[], Any]:
        def give() -> Any:
            read.add(columns[key.partition("-")[0]])
            return container[key]

        return give

    lazy = ak.from_buffers(form, length, {key: reader(key) for key in container}, behavior=events.behavior, attrs=events.attrs)
    return lazy, read


def typetracer(events: ak.Array) -> tuple[ak.Array, Callable[[], set[str]]]:
    """Events of which only the type is known, and a function that says which columns were touched."""
    form = events.layout.form_with_key("node{id}")
    columns = columns_by_node(form)
    array, report = ak.typetracer.typetracer_with_report(form, behavior=events.behavior, attrs=events.attrs, highlevel=True)
    return array, lambda: {columns[key] for key in report.data_touched}


def dask(events: ak.Array, partitions: int = 3) -> Any:
    """The same events as a collection of dask-awkward."""
    import dask_awkward

    return dask_awkward.from_awkward(events, npartitions=partitions, behavior=events.behavior, attrs=events.attrs)
