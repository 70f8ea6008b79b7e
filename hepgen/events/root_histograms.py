"""Histograms in ROOT files: TH1, TH2, TH3 with variances and flow bins, and the axes' names in a JSON beside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boost_histogram
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError, OutputError
from hepgen.events.sources import open_root, reading
from hepgen.events.writing import beside, check_output, writing
from hepgen.variations import SAMPLE_AXIS, VARIATION_AXIS, filled, split


def write_histograms(path: str | Path, histograms: Mapping[str, Any], *, overwrite: bool = False) -> list[Path]:
    """Write histograms as TH1D, TH2D or TH3D, and what ROOT cannot hold of their axes to `path` with the suffix .json.

    Values, variances and flow bins are exact. Both files appear under their names only when they are whole.

    A histogram whose first axes are "dataset" and "variation", with one to three more, is split into "name/sample/variation", such as
    SR/bkg/nominal and SR/bkg/reweighterUp: what cabinetry ({RegionPath}/{SamplePath}/{VariationPath}) and combine
    ($CHANNEL/$PROCESS/$SYSTEMATIC) ask for. A sample goes with nominal and the variations that it has (`hepgen.variations.templates`).

    Parameters
    ----------
    path : str or Path
        A .root file.
    histograms : mapping of str to hist.Hist
        "folder/name" to a histogram of one to three axes, beside dataset and variation, with Weight, Double or Int64 storage (Int64 is
        written as TH1D).
    overwrite : bool
        Replace existing files.

    Returns
    -------
    list of Path
        The ROOT file and the JSON file.

    Raises
    ------
    OutputError
        Where a file exists or cannot be written, a histogram has more axes or another storage than ROOT holds, or a sample or variation
        cannot be the name of a folder.
    UsageError
        A variation axis with a name that is no variation, or that lacks its other side.
    """
    import uproot

    target = Path(path)
    if target.suffix == ".json":
        raise OutputError(f"{target}: histograms go to a .root file, with a .json beside it: name the .root file")
    targets = [check_output(target, overwrite), check_output(target.with_suffix(".json"), overwrite)]
    parts = {name: _parts(name, histogram) for name, histogram in histograms.items()}
    checked: dict[str, Any] = {}
    for key, one in [(_key(name, part), one) for name, found in parts.items() for part, one in found.items()]:
        if key in checked:
            raise OutputError(f"two histograms would be written as '{key}': name one of them otherwise")
        checked[key] = _to_root(key, one)
    forms = {name: _form(histogram, parts[name]) for name, histogram in histograms.items()}
    temporary = [beside(item) for item in targets]
    with ExitStack() as undo, writing(target):
        for item in temporary:
            undo.callback(item.unlink, missing_ok=True)
        with uproot.recreate(temporary[0]) as file:
            for name, histogram in checked.items():
                file[name] = histogram
        temporary[1].write_text(json.dumps(forms, indent=1))
        for item, final in zip(reversed(temporary), reversed(targets), strict=True):
            os.replace(item, final)
    return targets


def read_histograms(path: str | Path) -> dict[str, Any]:
    """Read every TH1, TH2 and TH3 of a file as hist.Hist, with the axes of the JSON beside it where there is one.

    Returns
    -------
    dict of str to hist.Hist
        "folder/name" to a histogram with Weight storage where the file holds variances of weighted fills, else Double. What was split when
        it was written is the one histogram again; without the JSON it comes as the parts that ROOT knows.

    Raises
    ------
    InputError
        Where the file is missing or damaged, or the JSON beside it belongs to other histograms.
    """
    beside_it = Path(path).with_suffix(".json")
    found: dict[str, Any] = {}
    with open_root(str(path)) as file:
        for name, kind in file.classnames(recursive=True, cycle=False).items():
            if kind.startswith(("TH1", "TH2", "TH3")):
                with reading(str(path)):
                    found[name] = file[name]
        try:
            forms = json.loads(beside_it.read_text()) if beside_it.is_file() else {}
        except (ValueError, OSError) as error:
            raise InputError(f"{beside_it} cannot be read as the axes of {path}: move it away to read the histograms without it") from error
        whole = {name: form.get("parts", [""]) for name, form in forms.items() if "parts" in form or name in found}
        used = {_key(name, part) for name, parts in whole.items() for part in parts}
        plain = {name: stored.to_hist() for name, stored in found.items() if name not in used}
        return plain | {name: _restore(name, found, forms[name], beside_it) for name in whole}


def _parts(name: str, histogram: Any) -> dict[str, Any]:
    """What is written of a histogram: itself under no name of its own, or its templates as "sample/variation"."""
    import hist

    names = [axis.name for axis in histogram.axes]
    if names[:2] != [SAMPLE_AXIS, VARIATION_AXIS] or len(names) < 3:
        return {"": histogram}
    for position, axis in enumerate(histogram.axes[:2]):
        bad = [category for category in axis if not category or set(category) & set("/;")]
        if bad:
            raise OutputError(f"the {axis.name} {bad[0]!r} of '{name}' cannot be the name of a folder: rename it without / and ;")
        if axis.traits.overflow and filled(histogram[{position: hist.overflow}]):
            raise OutputError(f"the {axis.name} axis of '{name}' has entries outside its categories: book it with growth=True")
    return split(histogram)


def _key(name: str, part: str) -> str:
    return f"{name}/{part}" if part else name


def _to_root(name: str, histogram: Any) -> Any:
    """The TH1D, TH2D or TH3D of a histogram; built here since uproot leaves out all flow bins where one axis has none."""
    import hist
    from uproot.writing import identify

    kind = histogram.storage_type
    if not 1 <= histogram.ndim <= 3:
        raise OutputError(f"the histogram '{name}' has {histogram.ndim} axes and ROOT holds 1 to 3: project it before writing")
    if kind not in (hist.storage.Weight, hist.storage.Double, hist.storage.Int64, hist.storage.AtomicInt64, hist.storage.Unlimited):
        raise OutputError(f"the histogram '{name}' has {kind.__name__} storage, which a ROOT histogram does not hold: use Weight storage")
    values = _with_flow(histogram.values(flow=True), histogram.axes)
    variances = _with_flow(histogram.variances(flow=True), histogram.axes) if kind is hist.storage.Weight else None
    axes = {f"f{letter}axis": _root_axis(f"{letter.lower()}axis", axis) for letter, axis in zip("XYZ", histogram.axes, strict=False)}
    spread = values if variances is None else variances
    make = (identify.to_TH1x, identify.to_TH2x, identify.to_TH3x)[histogram.ndim - 1]
    return make(
        fName=None,
        fTitle=getattr(histogram, "label", None) or "",
        data=values.T.reshape(-1).astype(">f8"),
        fEntries=float(np.sum(values)),
        fSumw2=None if variances is None else variances.T.reshape(-1).astype(">f8"),
        **_moments(values[_INSIDE[: histogram.ndim]], spread[_INSIDE[: histogram.ndim]], [_centres(axis) for axis in histogram.axes]),
        **axes,
    )


_INSIDE = (slice(1, -1),) * 3


def _with_flow(contents: Any, axes: Any) -> NDArray[np.float64]:
    """Contents with an underflow and an overflow bin on every axis, zero where the axis has none."""
    width = [(0 if axis.traits.underflow else 1, 0 if axis.traits.overflow else 1) for axis in axes]
    return np.pad(np.asarray(contents, dtype=np.float64), width)


def _centres(axis: Any) -> NDArray[np.float64]:
    return np.arange(axis.size) + 0.5 if axis.traits.discrete and not axis.traits.ordered else np.asarray(axis.centers, dtype=np.float64)


def _moments(values: Any, variances: Any, centres: list[Any]) -> dict[str, float]:
    """ROOT's running sums, from bin centres: sums of w, of w^2, and of w times products of coordinates."""
    letters = "xyz"[: len(centres)]
    grid = dict(zip(letters, np.meshgrid(*centres, indexing="ij"), strict=True))
    found = {"fTsumw": float(values.sum()), "fTsumw2": float(variances.sum())}
    for letter in letters:
        found[f"fTsumw{letter}"] = float((values * grid[letter]).sum())
        found[f"fTsumw{letter}2"] = float((values * grid[letter] ** 2).sum())
    for one, other in (pair for pair in ("xy", "xz", "yz") if set(pair) <= set(letters)):
        found[f"fTsumw{one}{other}"] = float((values * grid[one] * grid[other]).sum())
    return found


def _root_axis(name: str, axis: Any) -> Any:
    import hist
    from uproot.writing import identify

    category = isinstance(axis, hist.axis.StrCategory | hist.axis.IntCategory)
    regular = isinstance(axis, hist.axis.Regular) and axis.transform is None
    edges = np.arange(axis.size + 1.0) if category else np.asarray(axis.edges, dtype=np.float64)
    return identify.to_TAxis(
        fName=name,
        fTitle=getattr(axis, "label", None) or getattr(axis, "name", None) or "",
        fNbins=axis.size,
        fXmin=float(edges[0]),
        fXmax=float(edges[-1]),
        fXbins=np.array([], ">f8") if regular or category else edges.astype(">f8"),
        fLabels=identify._fLabels_maybe_categorical(axis, boost_histogram) if category else None,
    )


def _form(histogram: Any, parts: Mapping[str, Any]) -> Any:
    """The histogram in uhi's form without its contents: axes and kind of storage; and its parts, where it was split."""
    from uhi.io.json import default

    form = json.loads(json.dumps(histogram, default=default))
    form["storage"] = {"type": form["storage"]["type"]}
    return form if "" in parts else {**form, "parts": list(parts)}


def _restore(name: str, found: Mapping[str, Any], form: Any, source: Path) -> Any:
    """The histogram that was written as `name`, put together from what the file has."""
    import hist

    parts = form.get("parts", [""])
    missing = [_key(name, part) for part in parts if _key(name, part) not in found]
    if missing:
        raise InputError(f"{source} names '{missing[0]}', which the ROOT file does not hold: move it away to read without it")
    weighted = form.get("storage", {}).get("type") == "weighted"
    try:
        axes = _axes(form)
        places = [tuple(axis.index(category) for axis, category in zip(axes, part.split("/"), strict=False) if part) for part in parts]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source} does not describe '{name}': move it away to read the histograms without it") from error
    result = hist.Hist(*axes, storage=hist.storage.Weight() if weighted else hist.storage.Double())
    view: Any = result.view(flow=True)
    for part, place in zip(parts, places, strict=True):
        stored = found[_key(name, part)]
        inner = axes[len(place) :]
        if not _same_bins(inner, stored):
            raise InputError(f"{source} describes other bins of '{name}' than the ROOT file holds: move it away to read without it")
        inside = tuple(slice(0 if a.traits.underflow else 1, a.size + (2 if a.traits.overflow else 1)) for a in inner)
        if weighted:
            view["value"][place], view["variance"][place] = stored.values(flow=True)[inside], stored.variances(flow=True)[inside]
        else:
            view[place] = stored.values(flow=True)[inside]
    return result


def _axes(form: Any) -> Any:
    import hist
    from uhi.io.json import object_hook

    bare = {key: value for key, value in form.items() if key != "parts"}
    return hist.Hist(json.loads(json.dumps({**bare, "storage": _empty(form["axes"])}), object_hook=object_hook)).axes


def _same_bins(axes: Any, stored: Any) -> bool:
    shape = [axis.size + 2 for axis in axes]
    return shape == list(stored.values(flow=True).shape) and all(map(_same_edges, axes, stored.to_hist().axes))


def _same_edges(one: Any, other: Any) -> bool:
    return bool(one.traits.discrete or np.allclose(one.edges, other.edges, rtol=1e-12, atol=0))


def _empty(axes: list[dict[str, Any]]) -> dict[str, Any]:
    """An empty content of the shape of uhi axes, since a histogram in that form must have one."""
    shape = []
    for axis in axes:
        bins = axis.get("bins") or (len(axis["edges"]) - 1 if "edges" in axis else len(axis.get("categories", [])))
        flow = axis.get("flow", False) + axis.get("underflow", False) + axis.get("overflow", False)
        shape.append(2 if axis["type"] == "boolean" else bins + flow)
    return {"type": "double", "values": np.zeros(shape).tolist()}
