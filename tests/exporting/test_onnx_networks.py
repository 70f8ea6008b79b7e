"""Networks and flows in ONNX against their frozen twins: exactly the arithmetic in float64, its rounding in float32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hepgen.errors import UsageError
from hepgen.exporting import export, export_onnx, onnx_model
from hepgen.networks import FrozenMAF

FLOWS = [
    {"features": d, "context": c, "hidden": hidden, "permutation": permutation, "activation": activation, "shear": shear}
    for (d, c, shear), hidden, (permutation, activation) in product(
        [(1, 0, False), (3, 0, False), (1, 2, True), (4, 6, True), (5, 2, False)],
        [(7,), (3, 9, 12)],
        [("reverse", "relu"), ("random", "tanh"), ("none", "elu")],
    )
]


def arrays(flow: FrozenMAF, n: int, given: str) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    widths = {given: flow.features, **({"context": flow.context} if flow.context else {})}
    return {name: rng.normal(0, 1.5, (n, width)).astype(flow.dtype) for name, width in widths.items()}


@pytest.mark.parametrize("options", FLOWS, ids=str)
def test_a_flow_in_float64_is_the_same(options: dict[str, Any], new_flow: Any, run: Any, tmp_path: Path) -> None:
    flow = new_flow(torch.float64, **options)
    files = {part: export_onnx(flow, tmp_path / f"{part}.onnx", part=part) for part in ("forward", "inverse")}
    for n in (0, 1, 60):
        for part, given, wanted in (("forward", "x", "z"), ("inverse", "z", "x")):
            rows = arrays(flow, n, given)
            found = run(files[part], **rows)
            exact, log_det = getattr(flow, part)(rows[given], rows.get("context"))
            assert found[wanted].shape == exact.shape
            np.testing.assert_allclose(found[wanted], exact, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(found["log_det"], log_det, rtol=1e-12, atol=1e-12)
            if part == "inverse":
                again = {"x": found["x"], **{name: array for name, array in rows.items() if name == "context"}}
                back = run(files["forward"], **again)
                np.testing.assert_allclose(back["z"], rows["z"], rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(back["log_det"], -found["log_det"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("part", ["forward", "inverse"])
@pytest.mark.parametrize("options", FLOWS[-6:], ids=str)
def test_a_flow_in_float32_rounds_as_hepgen_does(options: dict[str, Any], part: str, new_flow: Any, run: Any, tmp_path: Path) -> None:
    flow, exact = new_flow(torch.float32, **options), new_flow(torch.float64, **options)
    given, wanted = ("z", "x") if part == "inverse" else ("x", "z")
    rows = arrays(flow, 500, given)
    found = run(export_onnx(flow, tmp_path / "flow.onnx", part=part), **rows)
    right, _ = getattr(exact, part)(rows[given], rows.get("context"))
    own, _ = getattr(flow, part)(rows[given], rows.get("context"))
    assert found[wanted].dtype == np.float32
    error, its_own = (np.abs((values - right) / (1 + np.abs(right))).max() for values in (found[wanted], own))
    assert error <= max(2e-6, 3 * its_own)


def test_a_row_does_not_see_its_neighbours_nor_their_nan(new_flow: Any, run: Any, tmp_path: Path) -> None:
    flow = new_flow(features=4, context=3, hidden=(16, 16), permutation="reverse", activation="relu")
    path = export_onnx(flow, tmp_path / "flow.onnx", part="inverse")
    rows = arrays(flow, 50, "z")
    whole = run(path, **rows)["x"]
    rows["z"][7] = np.nan
    found = run(path, **rows)["x"]
    assert np.isnan(found[7]).all()
    others = np.arange(50) != 7
    np.testing.assert_allclose(found[others], whole[others], rtol=1e-6)


def test_hidden_units_are_computed_once_and_masked_weights_are_not_stored(new_flow: Any) -> None:
    flow = new_flow(features=6, context=6, hidden=(48, 48), permutation="reverse", activation="relu", blocks=2)
    sizes = {}
    for part in ("forward", "inverse"):
        graph = onnx_model(flow, part=part).graph
        constants = {constant.name: constant for constant in graph.initializer}
        weights = [constants[node.input[1]] for node in graph.node if node.op_type == "Gemm"]
        sizes[part] = sum(int(np.prod(weight.dims)) for weight in weights)
    # block by block: of (48, 6), (48, 48) and (12, 48) about half is left, and all of the context's (48, 6)
    assert sizes["forward"] == 2 * (48 * 6 + 48 * 48 + 12 * 48 + 48 * 6)
    kept = {"first": 8 * (1 + 2 + 3 + 4 + 5), "second": 8 * 8 * 21, "last": 2 * 8 * 21, "context": 48 * 6}
    assert sizes["inverse"] == 2 * sum(kept.values())


def test_the_size_of_the_papers_flow(new_flow: Any, tmp_path: Path) -> None:
    flow = new_flow(noise=0.02, features=6, context=6, hidden=(128, 128), permutation="reverse", activation="relu", shear=True, blocks=10)
    assert export_onnx(flow, tmp_path / "f.onnx", part="forward").stat().st_size < 850_000
    assert export_onnx(flow, tmp_path / "i.onnx", part="inverse").stat().st_size < 600_000


@pytest.mark.parametrize(
    ("hidden", "activation", "output", "shortcuts"),
    [
        ((16, 8), "relu", "linear", False),
        ((16, 8), "tanh", "sigmoid", False),
        ((16, 8), "elu", "linear", False),
        ((16, 8, 16, 8, 16), "elu", "tanh", True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_perceptron(
    hidden: Any, activation: str, output: str, shortcuts: bool, dtype: Any, new_network: Any, run: Any, tmp_path: Path
) -> None:
    options = {"hidden": hidden, "activation": activation, "output": output, "shortcuts": shortcuts}
    network = new_network(dtype, inputs=4, outputs=3, **options)
    path = export(network, "onnx", tmp_path / "n.onnx")
    rows = np.random.default_rng(1).normal(0, 3, (200, 4)).astype(network.dtype)
    for n in (0, 1, 200):
        found = run(path, x=rows[:n])["y"]
        assert found.dtype == network.dtype
        assert found.shape == (n, 3)
        np.testing.assert_allclose(found, network(rows[:n]), **({"atol": 1e-6} if dtype == torch.float32 else {"atol": 1e-14}))


def test_a_linear_map_of_one_layer(new_network: Any, run: Any, tmp_path: Path) -> None:
    network = new_network(torch.float64, inputs=2, outputs=1, hidden=())
    rows = np.array([[1.0, 2.0], [np.nan, 0.0]])
    np.testing.assert_allclose(run(export_onnx(network, tmp_path / "n.onnx"), x=rows)["y"], network(rows), rtol=1e-14)


def test_what_the_file_says_of_itself(new_flow: Any, new_network: Any) -> None:
    options = {"features": 2, "context": 0, "hidden": (5,), "permutation": "reverse", "activation": "relu"}
    model = onnx_model(new_flow(**options))
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["model"], said["part"], said["opset"]) == ("FrozenMAF", "forward", "17")
    assert len(said["sha256"]) == 64
    assert model.opset_import[0].version == 17
    assert [dimension.dim_param for dimension in model.graph.input[0].type.tensor_type.shape.dim] == ["n", ""]
    assert onnx_model(new_flow(**options)).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    other = {entry.key: entry.value for entry in onnx_model(new_network(inputs=2, outputs=1)).metadata_props}
    assert (other["model"], other["part"]) == ("FrozenMLP", "network")


def test_refusals(new_flow: Any, new_network: Any) -> None:
    flow = new_flow(features=2, context=0, hidden=(5,), permutation="none", activation="relu")
    with pytest.raises(UsageError, match="a FrozenMAF has no part 'transform' to export: choose one of forward, inverse"):
        onnx_model(flow, part="transform")
    with pytest.raises(UsageError, match="a FrozenMAF has no replicas"):
        onnx_model(flow, replicas=True)
    with pytest.raises(UsageError, match="a dict has no ONNX form: it can be made of a SimToData, Reweighter, FrozenMAF, FrozenMLP"):
        onnx_model({})


def test_the_hash_is_that_of_the_weights(new_flow: Callable[..., FrozenMAF]) -> None:
    options = {"features": 2, "context": 0, "hidden": (5,), "permutation": "none", "activation": "relu"}
    flows = new_flow(**options), new_flow(**options), new_flow(noise=0.3, **options)
    first, again, other = ({entry.key: entry.value for entry in onnx_model(flow).metadata_props}["sha256"] for flow in flows)
    assert first == again != other
