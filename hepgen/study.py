"""The study file: what `hepgen fit study.toml` and `hepgen compare study.toml` read, checked before any work is done."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import awkward as ak
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hepgen.errors import InputError, UsageError
from hepgen.estimators import EventGenerator, Reweighter, SimToData
from hepgen.events import EventStream, Features, Selection, identity_columns, open_info, read, schema
from hepgen.events.sources import expand
from hepgen.events.streams import weight_columns, weights_of

Weights = NDArray[np.float64]
STREAMED_EVALUATION = 2_000_000  # events, where a study says nothing
#: Sections that a task needs, and those it knows nothing of.
FITTED, COMPARED = ("sim", "data"), ("sample", "generate", "models")
SECTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sim_to_data": (FITTED, COMPARED),
    "reweight": (FITTED, COMPARED),
    "compare": (COMPARED, (*FITTED, "fit_selection", "model", "fit", "evaluation")),
}
Which = Literal["sim", "data", "sample"]
# where the task has no such section, which is checked before any other is looked at
_ABSENT: Any = None
_LABEL = re.compile(r"[A-Za-z0-9][\w.+-]*")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SampleSection(_Section):
    """Files of one sample; `weights` is "auto" (the schema's), "none", or the name of a branch."""

    files: list[str] = Field(min_length=1)
    tree: str | None = None
    schema_name: str | None = Field(default=None, alias="schema")
    weights: str = "auto"


class FeaturesSection(_Section):
    """Paths to transform and computed columns to condition on; see `hepgen.Features`."""

    paths: list[str] = Field(min_length=1)
    computed: list[str] = []


class SelectionSection(_Section):
    """A selection known by name, or cuts of one's own; see `hepgen.Selection`."""

    name: str | None = None
    cuts: list[dict[str, Any]] = []

    @model_validator(mode="after")
    def _one(self) -> SelectionSection:
        if (self.name is None) == (not self.cuts):
            raise ValueError("give either a name or cuts")
        return self


class FitSection(_Section):
    """How the fit is run; see `hepgen.SimToData.fit` and `hepgen.Reweighter.fit`. What is not given is the estimator's own.

    With `stream` the events of the fit are read in parts and kept on disk, not in memory.
    """

    epochs: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: tuple[float, float] | None = None
    optimizer: str | None = None
    patience: int | None = Field(default=None, ge=1)
    device: str | None = None
    stream: bool = False


class EvaluationSection(_Section):
    """Samples to evaluate on, those of the fit by default; columns to fill histograms of besides the features (of a reweighting).

    At most so many `events` of each are read, from every file its share: of a streamed fit two million where nothing is said, else all.
    """

    sim: SampleSection | None = None
    data: SampleSection | None = None
    events: int | None = Field(default=None, ge=1000)
    variables: list[str] = []


class GenerateSection(_Section):
    """Of a comparison: events each model generates, events it learns from, and what is looked at.

    `observables` is "features", "ttbar" (`hepgen.metrics.ttbar_observables`) or a list of columns and expressions; `central` the share of
    the reference that the range of each observable holds, with as much below it as above.
    """

    events: int = Field(ge=2)
    train: int = Field(ge=2)
    observables: Literal["features", "ttbar"] | list[str] = "features"
    central: float = Field(default=0.998, gt=0, le=1)


class Study(_Section):
    """A whole study: the samples, the features, the model or models and the fit. Paths are relative to the study file.

    The tasks "sim_to_data" and "reweight" have [sim], [data], [model] and [fit]; "compare" has [sample], [generate] and a table for each
    model, [models.LABEL], of what `hepgen.EventGenerator` and its fit take.
    """

    task: Literal["sim_to_data", "reweight", "compare"] = "sim_to_data"
    output: str
    seed: int = 1
    sim: SampleSection = _ABSENT
    data: SampleSection = _ABSENT
    sample: SampleSection = _ABSENT
    generate: GenerateSection = _ABSENT
    features: FeaturesSection
    selection: SelectionSection | None = None
    fit_selection: SelectionSection | None = None
    model: dict[str, Any] = {}
    fit: FitSection = FitSection()
    evaluation: EvaluationSection = EvaluationSection()
    models: dict[str, dict[str, Any]] = {}
    folder: Path = Path()

    @model_validator(mode="after")
    def _sections(self) -> Study:
        needed, unknown = SECTIONS[self.task]
        missing = [name for name in needed if not getattr(self, name)]
        odd = [name for name in unknown if name in self.model_fields_set]
        if missing:
            raise ValueError(f"the task '{self.task}' needs the section [{missing[0]}]")
        if odd:
            raise ValueError(f"the task '{self.task}' has no section [{odd[0]}]: it has {', '.join(needed)}")
        bad = [label for label in self.models if not _LABEL.fullmatch(label) or label == "reference"]
        if bad:
            raise ValueError(f"'{bad[0]}' is no label: take letters, digits, '-', '_', '.' and '+', and another word than reference")
        return self

    @classmethod
    def from_file(cls, path: str | Path) -> Study:
        """Read and check a study file.

        Raises
        ------
        InputError
            When there is no such file.
        UsageError
            When it is not TOML, or an entry is missing, unknown or of the wrong kind; the sentence names it.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no study file {path}")
        try:
            return cls(**tomllib.loads(path.read_text(encoding="utf-8")), folder=path.parent)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not a TOML file: {error}") from error
        except TypeError as error:
            raise UsageError(f"{path}: 'folder' is not an entry of a study") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the study"
            raise UsageError(f"{path}: {where}: {_said(first['msg'])}") from error

    @property
    def out(self) -> Path:
        """The folder everything is written to."""
        return self.folder / self.output

    def estimator(self) -> SimToData | Reweighter:
        """The estimator that the study describes, not fitted."""
        if self.task == "compare":
            raise UsageError("a comparison has many models, not one to fit: use hepgen compare")
        columns = Features(self.features.paths, computed=self.features.computed)
        if self.task == "sim_to_data":
            cuts, fit_cuts = _cuts(self.selection), _cuts(self.fit_selection)
            return SimToData(columns, schema=self.schema_of_sim(), selection=cuts, fit_selection=fit_cuts, **self.model)
        if self.fit_selection is not None:
            raise UsageError("a reweighting is fitted to the events it is for: leave out [fit_selection]")
        options = self.model if self.fit.optimizer is None else {**self.model, "optimizer": self.fit.optimizer}
        return Reweighter(columns, schema=self.schema_of_sim(), selection=_cuts(self.selection), **options)

    def generators(self) -> dict[str, tuple[EventGenerator, dict[str, Any]]]:
        """The generators of a comparison by label, not fitted, and what of their tables their `fit` takes.

        Raises
        ------
        UsageError
            The study is none of that task, or a table holds what a generator does not know; the sentence names the label.
        """
        if self.task != "compare":
            raise UsageError(f"the task '{self.task}' compares no generators: use hepgen fit")
        if self.features.computed:
            raise UsageError("features.computed: computed columns cannot be generated; give them as generate.observables")
        view = self.schema_of("sample")
        made: dict[str, tuple[EventGenerator, dict[str, Any]]] = {}
        for label, given in self.models.items():
            options: dict[str, Any] = {name: given[name] for name in ("epochs", "batch_size") if name in given}
            settings = {name: value for name, value in given.items() if name not in options}
            for name, value in options.items():
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise UsageError(f"models.{label}: {name} must be a whole number of at least 1, got {value!r}")
            try:
                made[label] = EventGenerator(Features(self.features.paths), schema=view, **settings), options
            except (UsageError, TypeError) as error:
                raise UsageError(f"models.{label}: {error}") from error
        return made

    def fit_options(self) -> dict[str, Any]:
        """What of [fit] the estimator's `fit` takes."""
        given = {name: value for name, value in self.fit.model_dump(exclude={"stream"}).items() if value is not None}
        if self.task == "reweight":
            given.pop("optimizer", None)  # chosen with the estimator
        return given

    def schema_of_sim(self) -> str:
        """Name of the schema of the simulation, as given or as detected."""
        return self.schema_of("sim")

    def schema_of(self, which: Which) -> str:
        """Name of the schema of a sample, as given or as detected."""
        section = self._section(which)
        return section.schema_name or open_info(self._files(section)[0], section.tree).schema

    def load(
        self, which: Literal["sim", "data"], features: Features, *, evaluation: bool = False, share: tuple[int, int] = (0, 1)
    ) -> LoadedSample:
        """The events of a sample that hold the objects and pass the selection of the fit, or that of the evaluation; with their weights.

        Of the `share`: which of how many parts of the files.
        """
        section: SampleSection = (getattr(self.evaluation, which) if evaluation else None) or self._section(which)
        cuts = _cuts(self.selection if evaluation or self.fit_selection is None else self.fit_selection)
        more = self.evaluation.variables if evaluation else []
        if more:
            features = Features(features.outputs, computed=[*features.computed, *more])
        most = self.evaluation.events or (STREAMED_EVALUATION if self.fit.stream else None)
        return load_sample(
            self._files(section),
            features,
            cuts,
            tree=section.tree,
            schema_name=section.schema_name,
            weights=section.weights,
            share=share,
            most=most if evaluation else None,
        )

    def stream(self, which: Literal["sim", "data"], share: tuple[int, int] = (0, 1)) -> EventStream:
        """The events of a sample in parts; of the `share`: which of how many parts of the files."""
        section = self._section(which)
        return EventStream(self._files(section), section.tree, section.schema_name, section.weights).share(*share)

    def load_whole(self, features: Features) -> LoadedSample:
        """The events of a comparison that pass the selection, those that lack some of the objects too."""
        section = self._section("sample")
        options: dict[str, Any] = {"tree": section.tree, "schema_name": section.schema_name, "weights": section.weights}
        return load_sample(self._files(section), features, self.cuts(), **options, lacking=True)

    def cuts(self) -> Selection | None:
        """The selection that the events are used with."""
        return _cuts(self.selection)

    def _section(self, which: Which) -> SampleSection:
        section: SampleSection | None = getattr(self, which)
        if section is None:
            raise UsageError(f"the task '{self.task}' has no section [{which}]")
        return section

    def _files(self, section: SampleSection) -> list[str]:
        return [str(self.folder / file) for file in section.files]


def _said(message: str) -> str:
    """What pydantic says, as the end of a sentence."""
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _cuts(section: SelectionSection | None) -> Selection | None:
    """The selection that a section describes, if there is one."""
    if section is None:
        return None
    return Selection.named(section.name) if section.name is not None else Selection.from_dict({"cuts": section.cuts})


@dataclass(frozen=True)
class LoadedSample:
    """Events in GeV and rad that pass a selection, and their signed weights (n,); `read` counts the events before it."""

    events: ak.Array
    weights: Weights
    read: int


def load_sample(
    files: list[str],
    features: Features,
    selection: Selection | None = None,
    *,
    tree: str | None = None,
    schema_name: str | None = None,
    weights: str = "auto",
    lacking: bool = False,
    share: tuple[int, int] = (0, 1),
    most: int | None = None,
) -> LoadedSample:
    """Read the columns that features, selection, weights and identity need, and keep the events that pass.

    Parameters
    ----------
    files
        ROOT or Parquet files of one sample.
    features, selection
        What will be asked of the events.
    tree, schema_name
        Detected by default.
    weights
        "auto" (the schema's event weight), "none", or the name of a branch.
    lacking
        Keep events that lack some of the objects.
    share
        Which of how many equal parts of the entries to read.
    most
        Read so many entries at most, the first of every file in proportion to its length.

    Raises
    ------
    InputError
        A file, branch or value is not as it must be, or no event passes.
    """
    info = open_info(files[0], tree)
    view = schema(schema_name or info.schema)
    columns = set(features.columns(info.branches)) | set(identity_columns(info.branches, view))
    columns |= set(selection.columns(info.branches)) if selection is not None else set()
    columns |= weight_columns(view, info.branches, weights)
    options: dict[str, Any] = {"tree": tree, "schema": view, "columns": columns}
    entries = {file: open_info(file, tree).entries for file in expand(files)} if share[1] > 1 or most is not None else {}
    total = sum(entries.values())
    if most is not None and most < total:
        events = ak.concatenate([read(file, **options, entry_stop=math.ceil(n * most / total)) for file, n in entries.items()])
    else:
        part: dict[str, Any] = (
            {"entry_start": total * share[0] // share[1], "entry_stop": total * (share[0] + 1) // share[1]} if share[1] > 1 else {}
        )
        events = read(files, **options, **part)
    values = weights_of(view, events, weights)
    kept = np.ones(len(events), dtype=bool) if lacking else features.to_matrix(events)[1]
    if selection is not None:
        kept &= selection.mask(events)
    if not kept.any() and share[1] == 1:
        raise InputError(f"{files[0]}: of {len(events)} events none has the objects and passes the selection")
    return LoadedSample(events[kept], values[kept], len(events))
