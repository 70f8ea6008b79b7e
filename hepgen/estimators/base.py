"""What every model shares, whatever it does with events: its columns, who an event is, and how it is saved and sent to workers."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hepgen.errors import InputError, UsageError
from hepgen.estimators import cache
from hepgen.estimators.model_file import pack, sha256_of, write_model
from hepgen.events import EventStream, Features, identity
from hepgen.events import schema as schema_named
from hepgen.events.layouts import has_data

if TYPE_CHECKING:
    from hepgen.events import Schema

Matrix = NDArray[np.float64]
Keys = NDArray[np.uint64]
Invalid = Literal["raise", "identity", "nan"]


class Estimator(ABC):
    """A model of columns of events.

    Attributes
    ----------
    features : Features
        The columns.
    schema : str or None
        Name of the schema of the files it was fitted to.
    ship : {"path", "bytes"}
        How it is pickled. "path": the path and sha256 of its file, some hundred bytes, which a worker opens once per process; "bytes":
        the content of the file, for workers that do not see it. A model that was not saved, or was changed since, goes by its bytes.
    """

    features: Features
    schema: str | None = None
    ship: Literal["path", "bytes"] = "path"
    _source: tuple[str, str] | None = None

    # -- columns and identity ----------------------------------------------------------------------------------------

    def columns(self, available: Iterable[str]) -> set[str]:
        """Names of the columns that are read or written, identity apart, of those a file or array has."""
        return self.features.columns(list(available))

    def _branches(self, events: Any) -> list[str]:
        """The branches to see as records, where events are as a file of the model's schema has them: in its units, not in GeV."""
        names = list(getattr(events, "fields", []))
        if self.schema in {None, "flat"} or any(events[name].fields for name in names):
            return []
        return schema_named(str(self.schema)).branches(self.columns(names), names)

    def as_records(self, events: Any) -> Any:
        """Events as records in GeV and rad, also where they are as a file of the model's schema has them."""
        if isinstance(events, EventStream):
            raise UsageError("a stream is for the fit of SimToData and Reweighter: read its files by hepgen.events.read instead")
        branches = self._branches(events)
        return schema_named(str(self.schema)).view(events, columns=branches) if branches else events

    # -- files -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def rewrite(
        self, raw: Any, view: Schema, branches: Sequence[str], *, identity: Keys, seed: int | None, invalid: Invalid, entry_start: int
    ) -> tuple[Any, int]:
        """The branches of a file (n events) as the model leaves them, and how many events it has an answer for.

        Parameters
        ----------
        raw : ak.Array, records of branches
        view, branches : the schema of the file, and the branches that `columns` asks for
        identity, seed, invalid, entry_start : see `Transformer.transform_counted`
        """

    # -- saving ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """The weights, by name."""

    @classmethod
    @abstractmethod
    def from_document(cls, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The model that `document` and `tensors` describe."""

    def to_bytes(self) -> bytes:
        """The content of the file that `save` writes."""
        return pack(type(self).__name__, self.document(), self.tensors())

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the model to one file of safetensors and JSON, whole or not at all; see `hepgen.load`.

        Raises
        ------
        OutputError
            When the file exists already (and not `overwrite`) or cannot be written.
        UsageError
            When the model is not fitted.
        """
        content = self.to_bytes()
        written = write_model(Path(path), content, overwrite=overwrite)
        self.remember(os.path.abspath(written), content)
        return written

    def export(self, kind: str, path: str | os.PathLike[str], *, overwrite: bool = False, **options: Any) -> Path:
        """Write the model for programs without hepgen, checked against it before it is written; see `hepgen.exporting.export`.

        Parameters
        ----------
        kind : {"onnx", "correctionlib"}
        """
        from hepgen.exporting import export

        return export(self, kind, path, overwrite=overwrite, **options)

    def remember(self, path: str, content: bytes) -> None:
        """Note the file that holds this model as it is now."""
        self._source = (path, sha256_of(content))
        self._saved = json.dumps(self.document())

    def changed(self) -> None:
        """Note that the model is not the one of its file, nor of the cache, any more."""
        self._source = None
        cache.forget(self)

    def __reduce__(self) -> tuple[Any, ...]:
        source = self._source
        if self.ship == "path" and source is not None and self._saved == json.dumps(self.document()) and os.path.isfile(source[0]):
            return cache.cached, source
        content = self.to_bytes()
        return cache.cached_content, (content, sha256_of(content))


def event_keys(events: Any, given: ArrayLike | str | None, length: int) -> Keys:
    """Who the events are, (n, k): the key of their random numbers.

    Parameters
    ----------
    events : n events
    given
        Integers (n,) or (n, k); the name of a field; "entry" for the position in `events`; events that carry run and event numbers; or
        None for those of `events` themselves, or of the NanoEvents that they were taken from.
    length : int
        n.

    Raises
    ------
    InputError
        The events carry no identity and none is given, or it is not made of one row of integers per event.
    """
    keys: Any
    if given is None:
        keys = _found(events, length)
    elif isinstance(given, str):
        keys = np.arange(length) if given == "entry" else _integers(events[given])
    else:
        keys = identity(given) if getattr(given, "fields", None) else _integers(given)
    if keys is None:
        raise InputError(
            "the events carry no run and event numbers for the random numbers to follow: pass identity= an array of integers, "
            "the events that have them, the name of a field, or 'entry' for the position in the array"
        )
    keys = keys[:, None] if keys.ndim == 1 else keys
    if keys.ndim != 2 or len(keys) != length:
        raise InputError(f"the identity has shape {keys.shape}, and there are {length} events: give one row of integers per event")
    if keys.dtype.kind not in "iu":
        raise InputError(f"the identity of an event must be made of integers, not of {keys.dtype}")
    return np.ascontiguousarray(keys.astype(np.uint64))


def _found(events: Any, length: int) -> Keys | None:
    keys = identity(events) if getattr(events, "ndim", 1) == 1 else None
    if keys is not None:
        return keys
    original = original_events(events)
    keys = None if original is None else identity(original)
    if keys is not None and len(keys) != length:
        raise InputError(
            f"there are {length} events left of the {len(keys)} that were read: pass the selected events as identity=, for their numbers"
        )
    return keys


def original_events(array: Any) -> Any:
    """The events that objects of coffea's NanoEvents were taken from, as they were before any selection; None for other arrays."""
    attrs = getattr(getattr(array, "_meta", array), "attrs", None) or {}
    if "@original_array" in attrs:
        return attrs["@original_array"]
    return attrs["@events_factory"].events() if "@events_factory" in attrs else None


def _integers(given: Any) -> Any:
    import awkward as ak

    if isinstance(given, ak.Array) and not has_data(given.layout):
        ak.typetracer.touch_data(given)
        return np.zeros((0, 1), dtype=np.uint64)
    return np.asarray(given)
