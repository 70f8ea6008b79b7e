from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hepgen.errors import InputError, ModelFileError, OutputError
from hepgen.estimators.model_file import load, pack, read_content, unpack, write_model

TENSORS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2], dtype=np.int64)}
DOCUMENT = {"features": ["x"], "pi": 3.141592653589793, "nested": {"deep": [1, None, "ü"]}}


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    return unpack(read_content(path), str(path))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.hepgen", pack("SimToData", DOCUMENT, TENSORS))


def test_comes_back_as_it_was_written(model: Path) -> None:
    document, tensors = read_model(model)
    assert {name: document[name] for name in DOCUMENT} == DOCUMENT
    assert document["estimator"] == "SimToData"
    assert all(np.array_equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)


def test_one_model_has_one_content(model: Path) -> None:
    assert {pack("SimToData", DOCUMENT, TENSORS) for _ in range(20)} == {model.read_bytes()}
    assert load_file(model).keys() == TENSORS.keys()  # and safetensors reads it


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no model file .*nothing\.hepgen"):
        load(tmp_path / "nothing.hepgen")


def test_every_cut_is_refused(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    for length in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
        cut = tmp_path / "cut.hepgen"
        cut.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="cut short|damaged|not a hepgen model"):
            read_model(cut)


def test_every_changed_byte_is_refused_or_changes_nothing(model: Path, tmp_path: Path) -> None:
    content = bytearray(model.read_bytes())
    whole = read_model(model)
    generator = np.random.default_rng(1)
    changed = tmp_path / "changed.hepgen"
    for position in generator.choice(len(content), 300, replace=False):
        altered = content.copy()
        altered[position] ^= int(generator.integers(1, 256))
        changed.write_bytes(bytes(altered))
        try:
            document, tensors = read_model(changed)
        except ModelFileError:
            continue
        assert document == whole[0]
        assert all(np.array_equal(tensors[name], whole[1][name]) for name in TENSORS)


def test_an_altered_tensor_or_document_is_said_to_be_altered(model: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(model, framework="numpy") as file:
        header = file.metadata()
    tensors = load_file(model)
    tensors["a"][0, 0] += 1e-9
    save_file(tensors, tmp_path / "tensor.hepgen", header)
    save_file(TENSORS, tmp_path / "document.hepgen", {**header, "document": header["document"].replace("3.14", "3.15")})
    for name in ("tensor", "document"):
        with pytest.raises(ModelFileError, match="altered after it was written"):
            read_model(tmp_path / f"{name}.hepgen")


def test_a_newer_format_asks_for_a_newer_hepgen(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "new.hepgen", {"format": "2", "document": json.dumps({}), "sha256": "0"})
    with pytest.raises(ModelFileError, match="has model format 2, and this hepgen .* reads up to 1: update hepgen"):
        load(tmp_path / "new.hepgen")


def test_an_estimator_of_a_newer_hepgen_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "m.hepgen", pack("TimeMachine", DOCUMENT, TENSORS))
    with pytest.raises(ModelFileError, match="holds a 'TimeMachine'"):
        load(tmp_path / "m.hepgen")


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(Path(os.environ["HEPGEN_TEST_TRAP"])),)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    trap = tmp_path / "sprung"
    monkeypatch.setenv("HEPGEN_TEST_TRAP", str(trap))
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(_Trap()))
    torch.save({"a": torch.zeros(2)}, tmp_path / "m.pt")
    for name in ("m.pkl", "m.pt"):
        with pytest.raises(ModelFileError, match="looks like a pickle or a torch file, which hepgen does not open"):
            load(tmp_path / name)
    assert not trap.exists()


def test_another_safetensors_file_is_no_model(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "weights.safetensors")
    with pytest.raises(ModelFileError, match="not a hepgen model"):
        load(tmp_path / "weights.safetensors")


def test_a_model_that_lacks_a_part_is_refused(model: Path) -> None:
    with pytest.raises(ModelFileError, match="does not hold a whole SimToData"):
        load(model)


def test_outputs_that_exist_or_cannot_be_written(model: Path, tmp_path: Path) -> None:
    before, content = model.read_bytes(), pack("SimToData", {}, TENSORS)
    with pytest.raises(OutputError, match="exists already"):
        write_model(model, content)
    assert model.read_bytes() == before
    write_model(model, content, overwrite=True)
    with pytest.raises(OutputError, match="cannot be written to .*no/m.hepgen"):
        write_model(tmp_path / "no" / "m.hepgen", content)
    with pytest.raises(OutputError, match="cannot be written"):
        write_model(model / "below-a-file.hepgen", content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.hepgen"]
