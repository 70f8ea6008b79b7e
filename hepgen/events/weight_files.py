"""Weights published apart from their events: a Parquet file with the key of every event, read back by key and never by position."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hepgen import __version__
from hepgen.errors import InputError, UsageError
from hepgen.events.identity import identity, identity_columns
from hepgen.events.writing import beside, check_output, writing

FORMAT = 1
_METADATA = b"hepgen"
_WEIGHT, _REPLICAS = "weight", "replicas"

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


class _Keyed(NamedTuple):
    """Keys (n, k) and the names of their columns, None where nobody named them."""

    values: Keys
    names: tuple[str, ...] | None


def write_weights(
    path: str | Path,
    keys: Any,
    weights: npt.ArrayLike,
    *,
    replicas: npt.ArrayLike | None = None,
    names: Sequence[str] | None = None,
    normalisation: str | None = None,
    model_sha256: str | None = None,
    includes_event_weights: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write one weight an event, with what names the event, to a Parquet file; it appears under its name only when it is whole.

    The metadata of the file, JSON under the name "hepgen", say which hepgen and model made the weights, how they are normalised and
    whether they include the event's own weight, and hold a checksum over all of it; see `read_metadata`.

    Parameters
    ----------
    path
        A new file.
    keys : n events
        Events that carry run and event numbers (see `hepgen.events.identity`); a mapping of names to columns of integers (n,); or
        integers (n,) or (n, k), with `names`.
    weights : (n,) float
        Finite.
    replicas : (n, E) float, optional
        Weights of the members of an ensemble.
    names
        Of the columns of keys that are a plain array.
    normalisation
        What the weights sum to, as "sim" or "data" of `hepgen.Reweighter`, or any word that readers are to ask for.
    model_sha256
        Of the model file, see `hepgen.estimators.cache.file_sha256`.
    includes_event_weights
        Whether the event's own weight is multiplied in.
    overwrite
        Replace an existing file.

    Raises
    ------
    InputError
        Two events have one key, a weight is not finite, or the lengths differ.
    UsageError
        Keys that are no integers, or have no names.
    OutputError
        The file exists already or cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = check_output(path, overwrite)
    keyed = _keyed(keys, names)
    if keyed.names is None:
        raise UsageError(f"keys that are an array of {keyed.values.shape[1]} columns need names=, such as ('run', 'event')")
    if {_WEIGHT, _REPLICAS} & set(keyed.names) or len(set(keyed.names)) < len(keyed.names):
        raise UsageError(
            f"the columns of keys are named {', '.join(keyed.names)}: give each a name of its own, not 'weight' nor 'replicas'"
        )
    columns = {_WEIGHT: _finite(weights, (len(keyed.values),), keyed)}
    if replicas is not None:
        size = np.shape(replicas)[1:] or (1,)
        columns[_REPLICAS] = _finite(replicas, (len(keyed.values), *size), keyed)
    _refuse_doubles(_codes(keyed.values), keyed, "events")
    metadata = {
        "format": FORMAT,
        "hepgen": __version__,
        "keys": list(keyed.names),
        "events": len(keyed.values),
        "sum_of_weights": float(columns[_WEIGHT].sum()),
        "replicas": 0 if replicas is None else columns[_REPLICAS].shape[1],
        "normalisation": normalisation,
        "model_sha256": model_sha256,
        "includes_event_weights": bool(includes_event_weights),
    }
    metadata["sha256"] = _checksum(metadata, keyed.values, columns)
    arrays: dict[str, Any] = {name: pa.array(column) for name, column in zip(keyed.names, keyed.values.T, strict=True)}
    arrays[_WEIGHT] = pa.array(columns[_WEIGHT])
    if replicas is not None:
        arrays[_REPLICAS] = pa.FixedSizeListArray.from_arrays(pa.array(columns[_REPLICAS].ravel()), columns[_REPLICAS].shape[1])
    table = pa.table(arrays).replace_schema_metadata({_METADATA: json.dumps(metadata).encode()})
    temporary = beside(target)
    try:
        with writing(target):
            pq.write_table(table, temporary)
            check_output(target, overwrite)
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def read_weights(
    path: str | Path,
    keys: Any,
    *,
    strict: bool = True,
    replicas: bool = False,
    normalisation: str | None = None,
    model_sha256: str | None = None,
) -> Floats:
    """Read the weights of events, which are found by their keys, in whatever order.

    Parameters
    ----------
    path
        A file of `write_weights`.
    keys : n events
        As in `write_weights`; a plain array needs no names.
    strict
        Refuse a file that holds other events besides; False reads the weights of a chunk or a selection.
    replicas
        Give the weights of the members, (n, E).
    normalisation, model_sha256
        What the file must say of itself; nothing is asked of it by default.

    Returns
    -------
    (n,) or (n, E) float64

    Raises
    ------
    InputError
        There is no such file, or it is cut short, altered or no weight file; its keys, normalisation or model are others; an event has no
        weight in it, or a key is there twice; with `strict`, it has weights of other events.
    """
    metadata, stored, columns = _read(path)
    for name, wanted in (("normalisation", normalisation), ("model_sha256", model_sha256)):
        if wanted is not None and metadata[name] != wanted:
            raise InputError(f"{path} has the {name} {metadata[name]!r}, and {wanted!r} was asked for: take the file that belongs to it")
    if replicas and not metadata["replicas"]:
        raise InputError(f"{path} holds no replicas: write it with replicas=, or read the weights alone")
    asked = _keyed(keys, None)
    if _leaves(asked.names) not in (None, _leaves(stored.names)) or asked.values.shape[1] != stored.values.shape[1]:
        found = ", ".join(asked.names or (f"{asked.values.shape[1]} columns",))
        raise InputError(f"{path} names its events by {', '.join(metadata['keys'])}, and these are named by {found}: give the same columns")
    rows = _rows(str(path), stored, asked._replace(names=stored.names), strict=strict)
    return columns[_REPLICAS if replicas else _WEIGHT][rows]


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read what a weight file says of itself, after checking it.

    Returns
    -------
    dict
        "hepgen" (version), "keys" (names), "events", "sum_of_weights", "replicas" (number), "normalisation", "model_sha256",
        "includes_event_weights", "format" and "sha256" (of the content).

    Raises
    ------
    InputError
        There is no such file, or it is cut short, altered or no weight file.
    """
    return _read(path)[0]


def _read(path: str | Path) -> tuple[dict[str, Any], _Keyed, dict[str, Floats]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no weight file {path}")
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is cut short, damaged or not Parquet: fetch or write it again") from error
    content = (table.schema.metadata or {}).get(_METADATA)
    if content is None:
        raise InputError(f"{path} is Parquet, but not a weight file: write it with hepgen.events.weight_files.write_weights")
    try:
        metadata: dict[str, Any] = json.loads(content)
        newer = int(metadata["format"]) > FORMAT
        keyed, columns = (_Keyed(np.empty((0, 0), np.uint64), ()), {}) if newer else _columns(table, metadata)
        altered = not newer and metadata.pop("sha256") != _checksum(metadata, keyed.values, columns)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged: its columns are not what its metadata say; fetch or write it again") from error
    if newer:
        raise InputError(
            f"{path} has weight format {metadata['format']}, and this hepgen {__version__} reads up to {FORMAT}: update hepgen"
        )
    if altered:
        raise InputError(f"{path} was altered after it was written (its checksum does not match): fetch or write it again")
    return {**metadata, "sha256": json.loads(content)["sha256"]}, keyed, columns


def _columns(table: Any, metadata: Mapping[str, Any]) -> tuple[_Keyed, dict[str, Floats]]:
    names = tuple(metadata["keys"])
    values = [table.column(name).to_numpy().astype(np.uint64, casting="safe") for name in names]
    columns = {_WEIGHT: np.asarray(table.column(_WEIGHT).to_numpy(), dtype=np.float64)}
    if metadata["replicas"]:
        flat = table.column(_REPLICAS).combine_chunks().flatten().to_numpy()
        columns[_REPLICAS] = np.asarray(flat, dtype=np.float64).reshape(table.num_rows, metadata["replicas"])
    return _Keyed(np.stack(values, axis=1), names), columns


def _checksum(metadata: Mapping[str, Any], keys: Keys, columns: Mapping[str, Floats]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for array in (keys, *(columns[name] for name in sorted(columns))):
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _keyed(keys: Any, names: Sequence[str] | None) -> _Keyed:
    """The keys of events, of a mapping of columns, or of an array."""
    if isinstance(keys, Mapping):
        columns = {str(name): np.asarray(column) for name, column in keys.items()}
        lengths = {name: column.shape for name, column in columns.items()}
        if not columns or len(set(lengths.values())) > 1:
            raise InputError(f"the columns of the keys must be one or more of one length, not {lengths}")
        return _Keyed(np.stack([_integers(column) for column in columns.values()], axis=1), tuple(columns))
    fields = getattr(keys, "fields", None) or getattr(getattr(keys, "dtype", None), "names", None)
    if fields:
        found = identity(keys)
        if found is None:
            raise InputError("the events carry no run and event numbers: pass a mapping of names to columns of integers as keys")
        return _Keyed(found, identity_columns(name for field in fields for name in _dotted(keys, field)))
    array = np.asarray(keys)
    array = _integers(array[:, None] if array.ndim == 1 else array)
    if array.ndim != 2 or not array.shape[1] or (names is not None and len(names) != array.shape[1]):
        raise UsageError(f"the keys have shape {array.shape}: give one row of integers an event, and one name a column")
    return _Keyed(array, None if names is None else tuple(map(str, names)))


def _dotted(events: Any, field: str) -> list[str]:
    """A column, or those of the record it is."""
    return [f"{field}.{inner}" for inner in getattr(events[field], "fields", ())] or [field]


def _integers(column: npt.NDArray[Any]) -> Keys:
    if column.dtype.kind not in "iu" and column.size:
        raise UsageError(f"what names an event must be integers, not {column.dtype}")
    return np.ascontiguousarray(column.astype(np.uint64))


def _finite(values: npt.ArrayLike, shape: tuple[int, ...], keyed: _Keyed) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"there are {shape[0]} keys and weights of shape {array.shape}: give one row for each key")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim))))
    if len(bad):
        raise InputError(
            f"{len(bad)} weights are NaN or inf, the first of {_name(keyed, bad[0])}: leave these events out or give them a weight"
        )
    return array


def _leaves(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names without the records they are in: EventInfo.runNumber and runNumber are one."""
    return None if names is None else tuple(name.rpartition(".")[2] for name in names)


def _codes(keys: Keys) -> npt.NDArray[np.int64]:
    """One number for each different row."""
    codes = np.zeros(len(keys), dtype=np.int64)
    for column in keys.T:
        values, inverse = np.unique(column, return_inverse=True)
        _, codes = np.unique(codes * max(len(values), 1) + inverse, return_inverse=True)
    return codes.astype(np.int64)


def _refuse_doubles(codes: npt.NDArray[np.int64], keyed: _Keyed, what: str) -> None:
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    double = counts > 1
    if double.any():
        extra, name = int((counts[double] - 1).sum()), _name(keyed, first[double].min())
        raise InputError(f"{extra} of the {len(codes)} {what} have the key of another one, the first {name}: leave one of each")


def _rows(path: str, stored: _Keyed, asked: _Keyed, *, strict: bool) -> npt.NDArray[np.int64]:
    """The row of the file of every event that is asked for."""
    n, codes = len(stored.values), _codes(np.concatenate([stored.values, asked.values]))
    _refuse_doubles(codes[:n], stored, f"rows of {path}")
    _refuse_doubles(codes[n:], asked, "events that are asked for")
    where = np.full(int(codes.max(initial=-1)) + 1, -1, dtype=np.int64)
    where[codes[:n]] = np.arange(n)
    rows = where[codes[n:]]
    lost = np.flatnonzero(rows < 0)
    if len(lost):
        raise InputError(
            f"{path} has no weight for {len(lost)} of {len(rows)} events, the first of which is {_name(asked, lost[0])}: "
            "take the file that was written for these events"
        )
    if strict and n > len(rows):
        others = np.setdiff1d(np.arange(n), rows)
        raise InputError(
            f"{path} has weights of {len(others)} other events, the first of which is {_name(stored, others[0])}: "
            "give all events of the file, or strict=False for some of them"
        )
    return rows


def _name(keyed: _Keyed, row: int) -> str:
    names = keyed.names or tuple(f"key {column}" for column in range(keyed.values.shape[1]))
    return ", ".join(f"{name} {value}" for name, value in zip(names, keyed.values[row], strict=True))
