"""Study files and model files that a stranger wrote: a sentence, no code that runs, no file outside, no memory by a forged size."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hepgen
from hepgen import Features, Reweighter
from hepgen.errors import HepgenError, ModelFileError
from hepgen.estimators.model_file import from_content, pack, unpack
from hepgen.study import Study

FULL = os.environ.get("HEPGEN_ROBUSTNESS") == "full"
EXAMPLES = settings(max_examples=3000 if FULL else 100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

KEYS = [
    "sim",
    "data",
    "sample",
    "features",
    "selection",
    "model",
    "fit",
    "evaluation",
    "generate",
    "output",
    "seed",
    "task",
    "files",
    "paths",
]
WORDS = st.sampled_from(
    [*KEYS, "computed", "loss", "epochs", "name", "cuts", "../../etc", "photon[0].pt", "__import__('os')", "nll", "reweight"]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), WORDS)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=5)), inner, max_size=4)),
    max_leaves=12,
)


def toml(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items() if inner is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner) for inner in value if inner is not None) + "]"
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), repr(value))
    return json.dumps(value)


def tried(content: bytes, folder: Path) -> None:
    (folder / "study.toml").write_bytes(content)
    before = sorted(folder.rglob("*"))
    try:
        study = Study.from_file(folder / "study.toml")
        study.estimator()
    except HepgenError as error:
        assert str(error).strip()  # noqa: PT017 - either is right
    assert sorted(folder.rglob("*")) == before


@EXAMPLES
@given(content=st.dictionaries(st.sampled_from(KEYS), TREES, max_size=8))
def test_study_files_of_any_content(content: dict[str, Any], tmp_path: Path) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in content.items() if value is not None)
    tried(text.encode("utf-8", "surrogatepass"), tmp_path)


@EXAMPLES
@given(content=st.binary(max_size=200))
def test_study_files_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    tried(content, tmp_path)


@pytest.fixture(scope="module")
def document() -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a small model."""
    x = np.random.default_rng(1).normal(size=500)
    model = Reweighter(Features(["x"]), ensemble=1, hidden=(4,))
    model.fit({"x": x}, {"x": x + 0.1}, epochs=1, progress=False)
    found, tensors = unpack(pack("Reweighter", model.document(), model.tensors()), "model")
    return found, tensors


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a document."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return (
        [at, *(path for key, value in inner for path in places(value, (*at, key)))]
        if at
        else [p for k, v in inner for p in places(v, (k,))]
    )


@EXAMPLES
@given(data=st.data())
def test_models_with_a_right_checksum_and_any_document(data: st.DataObject, document: tuple[dict[str, Any], dict[str, Any]]) -> None:
    whole, tensors = document
    forged = json.loads(json.dumps(whole))
    *path, last = data.draw(st.sampled_from(places(forged)))
    holder = forged
    for key in path:
        holder = holder[key]
    if data.draw(st.booleans()):
        del holder[last]
    else:
        holder[last] = data.draw(TREES.filter(lambda tree: "nan" not in json.dumps(tree).lower()))
    kind = forged.pop("estimator", None)
    try:
        model = from_content(pack(kind if isinstance(kind, str) else "none", forged, tensors), "model")
        model.log_ratio({"x": np.array([0.5])})
    except HepgenError as error:
        assert str(error).strip()  # noqa: PT017


@pytest.mark.parametrize("size", [2**20, 2**40, 2**62, 2**64 - 1])
def test_a_forged_header_takes_no_memory(size: int, tmp_path: Path, document: tuple[dict[str, Any], dict[str, Any]]) -> None:
    content = pack("Reweighter", *document)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name] |= {"shape": [size], "data_offsets": [0, 4 * size]}
    forged = json.dumps(header).encode()
    tracemalloc.start()
    for number, damaged in enumerate(
        (size.to_bytes(8, "little") + content[8:], len(forged).to_bytes(8, "little") + forged + content[8 + length :])
    ):
        file = tmp_path / f"{number}.hepgen"
        file.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            hepgen.load(file)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["os", "../../evil", "hepgen.cli", "Reweighter; import os", ""])
def test_a_model_names_no_class_but_ours(name: str, document: tuple[dict[str, Any], dict[str, Any]]) -> None:
    found, tensors = document
    with pytest.raises(ModelFileError, match="does not know"):
        from_content(pack(name, {key: value for key, value in found.items() if key != "estimator"}, tensors), "model")
