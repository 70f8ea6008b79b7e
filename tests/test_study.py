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
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        study(tmp_path, text)


def test_unknown_settings_of_the_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no setting 'depth'"):
        study(tmp_path, GOOD + "[model]\ndepth = 3").estimator()


def test_a_missing_study_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no study file .*none\.toml"):
        Study.from_file(tmp_path / "none.toml")
