from __future__ import annotations

from pathlib import Path

import pytest

from hepgen.errors import InputError, UsageError
from hepgen.study import Study

GOOD = """
output = "out"
[sim]
files = ["sim.root"]
schema = "flat"
[data]
files = ["data.root"]
[features]
paths = ["x", "y"]
"""

COMPARE = """
task = "compare"
output = "out"
[sample]
files = ["ttbar.root"]
schema = "flat"
[features]
paths = ["x", "y"]
[generate]
events = 1000
train = 100
[models.gmm]
model = "gmm"
components = 5
[models."maf-1.0"]
model = "maf"
hidden = [8, 8]
epochs = 3
batch_size = 50
"""


def study(tmp_path: Path, text: str) -> Study:
    (tmp_path / "study.toml").write_text(text)
    return Study.from_file(tmp_path / "study.toml")


def test_a_minimal_study_has_the_defaults_of_the_estimator(tmp_path: Path) -> None:
    plan = study(tmp_path, GOOD)
    model = plan.estimator()
    assert model.loss == "mdmm"
    assert model.features.outputs == ("x", "y")
    assert model.schema == "flat"
    assert plan.out == tmp_path / "out"
    assert model.selection is None
    assert plan.seed == 1


def test_selection_by_name_or_by_cuts(tmp_path: Path) -> None:
    named = study(tmp_path, GOOD + '[selection]\nname = "diphoton"').estimator()
    own = study(tmp_path, GOOD + '[fit_selection]\ncuts = [{expression = "x", minimum = 1}]').estimator()
    assert named.selection is not None
    assert named.fit_selection == named.selection
    assert len(named.selection) == 6
    assert own.selection is None
    assert own.fit_selection is not None
    assert own.fit_selection.cuts[0].label == "x >= 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("[data]\nfiles", "[data]\nfile"), r"data\.files?: "),
        (GOOD.replace('output = "out"', ""), "output: field required"),
        (GOOD + "[fit]\nepochs = 0", "fit.epochs: input should be greater than or equal to 1"),
        (GOOD + "[fit]\nepoch = 3", "fit.epoch: extra inputs are not permitted"),
        (GOOD + "[selection]", "selection: give either a name or cuts"),
        (GOOD + "output = [", "is not a TOML file"),
        ("folder = 'x'\n" + GOOD, "'folder' is not an entry"),
        ("task = 'dance'\n" + GOOD, "task: input should be 'sim_to_data'"),
        (GOOD.replace("[data]", "[sample]"), r"the task 'sim_to_data' needs the section \[data\]"),
        (GOOD + "[models.A]\nmodel = 'gmm'", r"the task 'sim_to_data' has no section \[models\]: it has sim, data"),
        (COMPARE.replace("[sample]", "[sim]"), r"the task 'compare' needs the section \[sample\]"),
        (COMPARE[: COMPARE.index("[models")], r"the task 'compare' needs the section \[models\]"),
        (COMPARE + "[fit]\nepochs = 3", r"the task 'compare' has no section \[fit\]: it has sample, generate, models"),
        (COMPARE.replace("[models.gmm]", "[models.'G/mm']"), "'G/mm' is no label"),
        (COMPARE.replace("[models.gmm]", "[models.reference]"), "'reference' is no label"),
        (COMPARE.replace("train = 100", "train = 1"), "generate.train: input should be greater than or equal to 2"),
        (COMPARE.replace("train = 100", 'train = 100\nobservables = "all"'), "generate.observables"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        study(tmp_path, text)


def test_unknown_settings_of_the_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no setting 'depth'"):
        study(tmp_path, GOOD + "[model]\ndepth = 3").estimator()


def test_a_comparison_has_a_generator_for_each_table(tmp_path: Path) -> None:
    plan = study(tmp_path, COMPARE)
    made = plan.generators()
    assert [(label, model.model, options) for label, (model, options) in made.items()] == [
        ("gmm", "gmm", {}),
        ("maf-1.0", "maf", {"epochs": 3, "batch_size": 50}),
    ]
    assert made["gmm"][0].settings.components == 5
    assert made["maf-1.0"][0].settings.hidden == (8, 8)
    assert made["gmm"][0].schema == "flat"
    assert plan.generate.observables == "features"
    with pytest.raises(UsageError, match="a comparison has many models, not one to fit: use hepgen compare"):
        plan.estimator()
    with pytest.raises(UsageError, match="the task 'sim_to_data' compares no generators: use hepgen fit"):
        study(tmp_path, GOOD).generators()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("components = 5", "component = 5", "models.gmm: EventGenerator has no setting 'component'"),
        ('model = "gmm"', 'model = "gumm"', "models.gmm: model 'gumm' is not known"),
        ("components = 5", 'components = "5"', "models.gmm: "),
        ("epochs = 3", "epochs = 0", "models.maf-1.0: epochs must be a whole number of at least 1, got 0"),
        ('paths = ["x", "y"]', 'paths = ["x"]\ncomputed = ["abs(x)"]', "computed columns cannot be generated"),
    ],
)
def test_what_a_generator_does_not_know_is_named_with_its_label(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in COMPARE
    with pytest.raises(UsageError, match=message):
        study(tmp_path, COMPARE.replace(old, new, 1)).generators()


def test_a_missing_study_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no study file .*none\.toml"):
        Study.from_file(tmp_path / "none.toml")
