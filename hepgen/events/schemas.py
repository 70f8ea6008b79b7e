"""What files of known experiments call things: branches seen as records in GeV, and changed columns put back as branches.

A schema maps branch names to paths ("photon_pt" -> photon.pt, in MeV). It never looks at values to decide on a layout, apart
from one check: the members of a collection must have the same number of objects in every event, and one that has not stays an
event-level field under its branch name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepgen.errors import InputError, UsageError
from hepgen.events.branches import (
    as_lists,
    finite,
    flat_values,
    join_option,
    map_floats,
    numbers,
    record_layout,
    same_lengths,
    split_option,
)
from hepgen.events.sources import near

Path = tuple[str, ...]


class Schema:
    """Branches of one experiment's files, seen as records; this one, "flat", leaves every branch as it is.

    Attributes
    ----------
    name : str
        The name `schema` and `read(schema=...)` know it by.
    trees : tuple of str
        The tree names its files use.
    """

    name = "flat"
    trees: tuple[str, ...] = ()
    _weight_names: tuple[str, ...] = ("weight", "event_weight", "EventWeight")

    def path(self, branch: str, branches: Iterable[str] = ()) -> Path:
        """Where a branch is seen: ("photon", "pt") or, at event level, ("mcWeight",). `branches` are all there are."""
        del branches
        return (branch,)

    def unit(self, branch: str) -> float:
        """Raw units in one GeV (1000 for a branch in MeV), 1 for what is no energy."""
        del branch
        return 1.0

    def always_record(self, collection: str) -> bool:
        """Whether a group is event-level even where all its members read are jagged."""
        del collection
        return False

    # -- names -------------------------------------------------------------------------------------------------------

    def branches(self, columns: Iterable[str], available: Iterable[str]) -> list[str]:
        """Branch names behind columns, in the order of `available`.

        Parameters
        ----------
        columns : iterable of str
            "photon.pt", "photon[0].pt", "photon_pt", "MET.pt", or "photon" for the whole collection.
        available : iterable of str
            The branches of the file.

        Raises
        ------
        InputError
            Where a column is not there, with the near names.
        """
        names = list(available)
        wanted: set[str] = set()
        paths = {name: self.path(name, names) for name in names}
        for column in columns:
            found = self._resolve(column, paths)
            if not found:
                raise InputError(f"there is no branch for the column '{column}': {near(column, [*names, *map('.'.join, paths.values())])}")
            wanted.update(found)
        return [name for name in names if name in wanted]

    @staticmethod
    def _resolve(column: str, paths: dict[str, Path]) -> list[str]:
        plain = re.sub(r"\[\d+\]", "", column)
        for name in (column, plain):
            if name in paths:
                return [name]
        return [name for name, path in paths.items() if ".".join(path) == plain or "_".join(path) == plain or path[0] == plain]

    def weight_columns(self, available: Iterable[str]) -> list[str]:
        """Branches (or top-level fields) that `weight` reads, of those available; empty where every weight is one."""
        names = list(available)
        return next(([name] for name in self._weight_names if name in names), [])

    def weight(self, raw: ak.Array) -> NDArray[np.float64]:
        """Weight of each event: the column weight, event_weight or EventWeight where there is one, else ones.

        Parameters
        ----------
        raw : ak.Array
            Events as branches or in record form, length n.

        Returns
        -------
        ndarray of float64, shape (n,)

        Raises
        ------
        InputError
            Where a weight is NaN or infinite.
        """
        columns = self.weight_columns(raw.fields)
        weights = np.ones(len(raw))
        for name in columns:
            weights *= numbers(raw, name)
        return finite(weights, columns)

    # -- values ------------------------------------------------------------------------------------------------------

    def view(self, raw: ak.Array, columns: Iterable[str] | None = None) -> ak.Array:
        """Events in record form, energies in GeV; nothing is copied but what changes its unit.

        Parameters
        ----------
        raw : ak.Array
            Branch-level events, length n.
        columns : iterable of str, optional
            Only these (see `branches`); all by default.

        Returns
        -------
        ak.Array
            Length n; dtypes as in the file; attrs["schema"] is the schema's name.
        """
        layout = record_layout(raw)
        names = list(layout.fields) if columns is None else self.branches(columns, layout.fields)
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in names:
            collection, *rest = self.path(name, layout.fields)
            groups.setdefault(collection, []).append((rest[0] if rest else "", name))
        fields: dict[str, Any] = {}
        for collection, members in groups.items():
            self._add(fields, layout, collection, members)
        return ak.Array(
            ak.contents.RecordArray(list(fields.values()), list(fields), length=layout.length),
            behavior=raw.behavior,
            attrs={**raw.attrs, "schema": self.name},
        )

    def _add(self, fields: dict[str, Any], layout: Any, collection: str, members: list[tuple[str, str]]) -> None:
        """One collection: a jagged record where all members are lists of equal lengths, else a record of its flat members."""
        contents = {name: self._to_gev(name, layout.content(name)) for _, name in members}
        grouped = [(field, name) for field, name in members if field]
        for field, name in members:
            if not field:
                fields[name] = contents[name]
        if not grouped:
            return
        if collection in fields:
            fields.update({name: contents[name] for _, name in grouped})
            return
        lists = {name: as_lists(contents[name]) for _, name in grouped}
        if self.always_record(collection) or any(item is None for item in lists.values()):
            fields[collection] = ak.contents.RecordArray([contents[n] for _, n in grouped], [f for f, _ in grouped], length=layout.length)
            return
        first = next((lists[name] for field, name in grouped if field in ("pt", "px")), lists[grouped[0][1]])
        inside = {field: lists[name].content for field, name in grouped if same_lengths(lists[name], first)}
        record = ak.contents.RecordArray(list(inside.values()), list(inside), length=first.content.length)
        fields[collection] = ak.contents.ListOffsetArray(first.offsets, record)
        fields.update({name: contents[name] for field, name in grouped if field not in inside})

    def _to_gev(self, name: str, layout: Any) -> Any:
        unit = self.unit(name)
        return layout if unit == 1.0 else map_floats(layout, lambda values: values / values.dtype.type(unit))

    def unview(self, raw: ak.Array, events: ak.Array, columns: Iterable[str]) -> ak.Array:
        """Branches with the changed columns of `events` put back, in the raw units and dtypes.

        A value that `events` left as `view` gave it keeps its raw bits, so that `unview(raw, view(raw), columns)` is `raw`.

        Parameters
        ----------
        raw : ak.Array
            Branch-level events, length n.
        events : ak.Array
            The same n events in record form, GeV, with the same number of objects.
        columns : iterable of str
            The changed columns (see `branches`).

        Returns
        -------
        ak.Array
            `raw` with these branches replaced: same fields, order, types.

        Raises
        ------
        InputError
            Where a column is missing, or its objects are not those of `raw`.
        """
        layout = record_layout(raw)
        if len(events) != len(raw):
            raise InputError(f"{len(events)} events cannot be put back into {len(raw)}: transform the same events that were read")
        contents = {name: layout.content(name) for name in layout.fields}
        for name in self.branches(columns, layout.fields):
            contents[name] = self._put_back(name, contents[name], self._column(events, name, layout.fields))
        return ak.Array(
            ak.contents.RecordArray(list(contents.values()), list(contents), length=layout.length), behavior=raw.behavior, attrs=raw.attrs
        )

    def _column(self, events: ak.Array, name: str, available: Sequence[str]) -> Any:
        path = self.path(name, available)
        if len(path) == 2 and path[0] in events.fields and path[1] in events[path[0]].fields:
            return events[path[0], path[1]].layout
        if name in events.fields:
            return events[name].layout
        raise InputError(f"the events have no column '{'.'.join(path)}' to write to the branch '{name}': keep it when transforming")

    def _put_back(self, name: str, old: Any, new: Any) -> Any:
        unit = self.unit(name)
        lists = as_lists(old)
        wanted = as_lists(new) if lists is not None else None
        if lists is not None and (wanted is None or not same_lengths(lists, wanted)):
            raise InputError(f"the objects of '{name}' are not those that were read: keep their number and order when transforming")
        gone, before_layout = split_option(old if lists is None else lists.content)
        lost, after_layout = split_option(new if wanted is None else wanted.content)
        none = np.zeros(0, bool)
        if not np.array_equal(np.flatnonzero(none if gone is None else gone), np.flatnonzero(none if lost is None else lost)):
            raise InputError(f"the column '{name}' has not its missing values where they were read: leave them in place when transforming")
        before, after = flat_values(before_layout, name), flat_values(after_layout, name)
        seen = before if unit == 1.0 else before / before.dtype.type(unit)
        same = after.astype(seen.dtype, copy=False) == seen
        if seen.dtype.kind == "f":
            same |= np.isnan(after) & np.isnan(seen)
        scaled = after.astype(np.float64) * unit if unit != 1.0 else after
        values = np.where(same, before, (np.rint(scaled) if before.dtype.kind in "iu" else scaled).astype(before.dtype))
        content = join_option(gone, ak.contents.NumpyArray(values))
        return content if lists is None else ak.contents.ListOffsetArray(lists.offsets, content)

    def flatten(self, events: ak.Array) -> ak.Array:
        """Branch-level events from record form (photon.pt -> photon_pt, in the raw units): what `view` undoes."""
        fields: dict[str, Any] = {}
        layout = record_layout(events)
        for field in layout.fields:
            for name, content in self._flat(field, layout.content(field)):
                fields[name] = content
        return ak.Array(ak.contents.RecordArray(list(fields.values()), list(fields), length=layout.length))

    def _flat(self, field: str, layout: Any) -> list[tuple[str, Any]]:
        layout = layout.project() if layout.is_indexed and not layout.is_option else layout
        if layout.is_record and not layout.is_tuple:
            names = [self.branch(field, sub) for sub in layout.fields]
            return [(name, self._from_gev(name, layout.content(sub))) for name, sub in zip(names, layout.fields, strict=True)]
        lists = as_lists(layout)
        if lists is not None and lists.content.is_record:
            names = [self.branch(field, sub) for sub in lists.content.fields]
            return [
                (name, self._from_gev(name, ak.contents.ListOffsetArray(lists.offsets, lists.content.content(sub))))
                for name, sub in zip(names, lists.content.fields, strict=True)
            ]
        return [(field, self._from_gev(field, layout))]

    def branch(self, collection: str, field: str) -> str:
        """The branch name of a member of a collection, as files of this schema have it."""
        return f"{collection}_{field}"

    def _from_gev(self, name: str, layout: Any) -> Any:
        unit = self.unit(name)
        return layout if unit == 1.0 else map_floats(layout, lambda values: values * values.dtype.type(unit))

    def __repr__(self) -> str:
        return f"<hepgen schema '{self.name}'>"


class AtlasOpenData(Schema):
    """ATLAS Open Data at 13 TeV (tree `mini`, MeV): photon_pt is seen as photon.pt, met_et as MET.pt, in GeV."""

    name = "atlas-open-data"
    trees = ("mini",)
    collections = ("lep", "photon", "jet", "tau", "largeRjet", "fatjet", "ditau")
    _met: ClassVar[dict[str, str]] = {"met_et": "pt", "met_phi": "phi", "met_et_syst": "pt_syst"}
    _mev = re.compile(r"(pt|E|m|et|e|mass|px|py|pz|ptcone\d+|etcone\d+|topoetcone\d+|pt_syst|et_syst|truth_?pt)")

    def path(self, branch: str, branches: Iterable[str] = ()) -> Path:
        """See `Schema.path`."""
        if branch in self._met:
            return ("MET", self._met[branch])
        collection, _, field = branch.partition("_")
        if field and field != "n" and collection != "ditau" and (collection in self.collections or f"{collection}_n" in branches):
            return (collection, field)
        return (branch,)

    def branch(self, collection: str, field: str) -> str:
        """See `Schema.branch`."""
        back = {seen: name for name, seen in self._met.items()}
        return back.get(field, f"met_{field}") if collection == "MET" else f"{collection}_{field}"

    def unit(self, branch: str) -> float:
        """See `Schema.unit`."""
        collection, _, field = branch.partition("_")
        known = collection in self.collections or collection == "met"
        return 1000.0 if known and self._mev.fullmatch(field) else 1.0

    def weight_columns(self, available: Iterable[str]) -> list[str]:
        """See `Schema.weight_columns`."""
        names = list(available)
        if "mcWeight" not in names:
            return []
        return [name for name in names if name in ("mcWeight", "channelNumber", "runNumber") or name.startswith("scaleFactor_")]

    def weight(self, raw: ak.Array) -> NDArray[np.float64]:
        """Weight of each event: mcWeight times every scaleFactor_* there is; one for an event of data.

        Files of data either lack mcWeight or hold zero there. An event counts as data where mcWeight is zero and channelNumber
        (the simulated sample's number) is absent, zero, or equal to runNumber; a simulated event with mcWeight = 0 weighs zero.
        The rule looks at one event at a time, so that it gives the same however a file is split.
        """
        names = self.weight_columns(raw.fields)
        if not names:
            return np.ones(len(raw))
        generator = numbers(raw, "mcWeight")
        channel = numbers(raw, "channelNumber") if "channelNumber" in names else np.zeros(len(raw))
        run = numbers(raw, "runNumber") if "runNumber" in names else channel
        data = (generator == 0) & ((channel == 0) | (channel == run))
        weights = generator.copy()
        factors = [name for name in names if name.startswith("scaleFactor_")]
        for name in factors:
            weights *= numbers(raw, name)
        return finite(np.where(data, 1.0, weights), ["mcWeight", *factors])


class NanoAOD(Schema):
    """CMS NanoAOD (tree `Events`, GeV): Photon_pt is seen as Photon.pt, MET_pt as MET.pt, HLT_x as HLT.x."""

    name = "nanoaod"
    trees = ("Events",)
    _weight_names = ("genWeight",)

    def path(self, branch: str, branches: Iterable[str] = ()) -> Path:
        """See `Schema.path`."""
        collection, _, field = branch.partition("_")
        return (collection, field) if collection and field and collection not in branches else (branch,)

    def weight(self, raw: ak.Array) -> NDArray[np.float64]:
        """Weight of each event: genWeight where there is one, ones for data."""
        return super().weight(raw)


class Physlite(Schema):
    """ATLAS PHYSLITE (tree `CollectionTree`, MeV): AnalysisPhotonsAuxDyn.pt is seen as Photons.pt, EventInfoAuxDyn.x as EventInfo.x."""

    name = "physlite"
    trees = ("CollectionTree",)
    _name = re.compile(r"(?P<analysis>Analysis)?(?P<collection>\w+?)(?P<aux>Aux(?:Dyn)?)\.(?P<field>.+)")
    _mev = re.compile(
        r"(pt|m|e|E|px|py|pz|mpx|mpy|sumet|rawPt|GenFilt(HT|HTinclNu|MET|PTZ)"
        r"|(pt|ptvar|et|topoet|neflow)(cone|isol)\d+\w*|core57cellsEnergyCorrection|cal(px|py|e|sumpt)|trk(px|py|e|sumpt)|jettrk(px|py|e|sumpt))"
    )

    def path(self, branch: str, branches: Iterable[str] = ()) -> Path:
        """See `Schema.path`."""
        del branches
        match = self._name.fullmatch(branch)
        return (match["collection"], match["field"].replace(".", "_")) if match else (branch,)

    def branch(self, collection: str, field: str) -> str:
        """See `Schema.branch`."""
        analysis = "Analysis" if collection.startswith(("Photons", "Electrons", "Muons", "Jets", "TauJets", "LargeRJets")) else ""
        return f"{analysis}{collection}AuxDyn.{field}"

    def unit(self, branch: str) -> float:
        """See `Schema.unit`."""
        match = self._name.fullmatch(branch)
        return 1000.0 if match and self._mev.fullmatch(match["field"]) else 1.0

    def always_record(self, collection: str) -> bool:
        """See `Schema.always_record`."""
        return collection in ("EventInfo", "xTrigDecision", "TrigConfKeys")

    def weight_columns(self, available: Iterable[str]) -> list[str]:
        """See `Schema.weight_columns`."""
        wanted = ("EventInfoAuxDyn.mcEventWeights", "EventInfoAuxDyn.PileupWeight_NOSYS")
        return [name for name in available if name in wanted]

    def weight(self, raw: ak.Array) -> NDArray[np.float64]:
        """Weight of each event: the first (nominal) of mcEventWeights times PileupWeight_NOSYS; ones for data, which has neither."""
        weights = np.ones(len(raw))
        info = raw["EventInfo"] if "EventInfo" in raw.fields else raw
        prefix = "" if "EventInfo" in raw.fields else "EventInfoAuxDyn."
        names = [prefix + name for name in ("mcEventWeights", "PileupWeight_NOSYS") if prefix + name in info.fields]
        for name in names:
            column = info[name]
            nominal = column if column.ndim == 1 else ak.fill_none(ak.firsts(column), 1.0)
            weights *= ak.to_numpy(nominal).astype(np.float64)
        return finite(weights, names)


_SCHEMAS: dict[str, Schema] = {item.name: item for item in (AtlasOpenData(), NanoAOD(), Physlite(), Schema())}


def schema(name: str | Schema) -> Schema:
    """The schema of that name: "atlas-open-data", "nanoaod", "physlite" or "flat".

    Raises
    ------
    UsageError
        For any other name.
    """
    if isinstance(name, Schema):
        return name
    if name not in _SCHEMAS:
        raise UsageError(f"there is no schema '{name}': choose one of {', '.join(_SCHEMAS)}, or leave it out to have it found")
    return _SCHEMAS[name]


def detect(tree_name: str, branch_names: Iterable[str]) -> Schema:
    """The schema a tree follows, by its name and branches; "flat" where none is recognised."""
    names = set(branch_names)
    if any("AuxDyn." in name for name in names):
        return _SCHEMAS["physlite"]
    objects = ("photon", "lep", "jet", "tau", "largeRjet")
    held = [item for item in objects if f"{item}_pt" in names]
    if held and (tree_name == "mini" or "mcWeight" in names or any(f"{item}_n" in names for item in held)):
        return _SCHEMAS["atlas-open-data"]
    counted = any(name[:1] == "n" and name[1:2].isupper() and f"{name[1:]}_pt" in names for name in names)
    if {"run", "luminosityBlock", "event"} <= names or (tree_name == "Events" and counted):
        return _SCHEMAS["nanoaod"]
    return _SCHEMAS["flat"]
