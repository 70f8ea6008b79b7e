"""Frozen networks against their torch twins in float64, and against the op that the twins call in float32."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from hepgen.errors import UsageError
from hepgen.kernels import backend
from hepgen.networks import MAF, MLP, FrozenMAF, FrozenMLP
from hepgen.networks.frozen import autoregressive_masks

FLOWS = [
    {"features": d, "context": c, "hidden": hidden, "permutation": permutation, "activation": activation, "shear": shear}
    for (d, c, shear), hidden, (permutation, activation) in product(
        [(1, 0, False), (3, 0, False), (4, 6, True), (5, 2, False)],
        [(7,), (16, 9, 12)],
        [("reverse", "relu"), ("random", "tanh"), ("none", "elu")],
    )
]


def numpy_state(module: torch.nn.Module) -> dict[str, Any]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def twins(options: dict[str, Any], dtype: torch.dtype) -> tuple[MAF, FrozenMAF]:
    torch.manual_seed(3)
    flow = MAF(blocks=3, **options).to(dtype)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return flow, FrozenMAF(numpy_state(flow), activation=options["activation"], shear=options["shear"])


@pytest.mark.parametrize("name", ["cpp", "reference"])
@pytest.mark.parametrize("options", FLOWS, ids=str)
def test_a_flow_is_its_twin_in_float64(options: dict[str, Any], name: str) -> None:
    flow, frozen = twins(options, torch.float64)
    rng = np.random.default_rng(1)
    x, context = rng.normal(size=(37, flow.features)), rng.normal(size=(37, flow.context)) if flow.context else None
    tensors = torch.from_numpy(x), None if context is None else torch.from_numpy(context)
    with backend("reference"), torch.no_grad():
        wanted = [(*flow.forward(*tensors),), (*flow.inverse(*tensors),)]
    with backend(name):
        found = [frozen.forward(x, context), frozen.inverse(x, context)]
        back, _ = frozen.inverse(found[0][0], context)
        log_prob = frozen.log_prob(x, context)
    for one, other in zip(found, wanted, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(back, x, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(log_prob, flow.log_prob(*tensors).detach().numpy(), rtol=1e-10)
    assert (frozen.features, frozen.context, frozen.hidden) == (flow.features, flow.context, tuple(options["hidden"]))


@pytest.mark.parametrize("n", [0, 1, 5, 300])
def test_a_flow_in_float32_gives_the_bits_of_its_op(n: int) -> None:
    flow, frozen = twins({**FLOWS[12], "features": 4, "context": 6, "shear": True}, torch.float32)
    rng = np.random.default_rng(2)
    z, context = rng.normal(size=(n, 4)).astype(np.float32), rng.normal(size=(n, 6)).astype(np.float32)
    with torch.no_grad():
        wanted = [tensor.numpy() for tensor in flow.inverse(torch.from_numpy(z), torch.from_numpy(context))]
    for a, b in zip(frozen.inverse(z.astype(np.float64), context.astype(np.float64)), wanted, strict=True):
        assert a.dtype == np.float32
        assert np.array_equal(a, b)


def test_masks_are_those_of_the_torch_network() -> None:
    made = MAF(5, 2, blocks=1, hidden=(11, 6)).mades[0]
    for layer, mask in enumerate(autoregressive_masks(5, 2, (11, 6))):
        assert np.array_equal(mask, getattr(made, f"mask{layer}").numpy())


@pytest.mark.parametrize("name", ["cpp", "reference"])
@pytest.mark.parametrize(("activation", "output"), [("relu", "linear"), ("tanh", "sigmoid"), ("elu", "linear"), ("elu", "tanh")])
@pytest.mark.parametrize(("hidden", "shortcuts"), [((), False), ((5,), True), ((16, 32, 16), False), ((16, 32, 16, 8, 16), True)])
def test_a_perceptron_is_its_twin(hidden: tuple[int, ...], shortcuts: bool, activation: str, output: str, name: str) -> None:
    torch.manual_seed(1)
    network = MLP(4, 3, hidden, activation, output, shortcuts=shortcuts).double()
    frozen = FrozenMLP(numpy_state(network), activation=activation, output=output, shortcuts=shortcuts)
    x = np.random.default_rng(1).normal(size=(29, 4))
    with backend(name):
        found = frozen(x)
        empty = frozen(x[:0])
    with backend("reference"), torch.no_grad():
        wanted = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)
    assert empty.shape == (0, 3)
    assert frozen.widths == (4, *hidden, 3)


def test_weights_that_are_no_network_are_refused() -> None:
    flow, _ = twins(FLOWS[12], torch.float32)
    state = numpy_state(flow)
    name = "blocks.1.layers.1.weight"
    for changed, sentence in (
        ({**state, name: state[name][:, :-1]}, "a layer of the network has a weight of shape"),
        ({**state, name: state[name].astype(np.float64)}, "must be all float32 or all float64, not float32, float64"),
        ({key: value for key, value in state.items() if not key.startswith("blocks.2.")}, r"no layer blocks\.2\.layers\.0\.weight"),
        ({**state, "orders": np.zeros_like(state["orders"])}, "block 0 of the flow has weights of shapes"),
        ({**state, "orders": state["orders"][0]}, r"have shape \(blocks, columns\), not"),
    ):
        with pytest.raises(UsageError, match=sentence):
            FrozenMAF(changed)
    with pytest.raises(UsageError, match="activation 'sine' is not known"):
        FrozenMAF(state, activation="sine")
    with pytest.raises(UsageError, match="a shear adds 5 columns of the context, and there are 2"):
        FrozenMAF(numpy_state(MAF(5, 2, blocks=1, hidden=(8,))), shear=True)
    frozen = FrozenMAF(state, activation=FLOWS[12]["activation"])
    with pytest.raises(UsageError, match=r"rows of 4 columns, not an array of shape \(3, 5\)"):
        frozen.inverse(np.zeros((3, 5)), np.zeros((3, 6)))
    with pytest.raises(UsageError, match=r"rows of 6 columns, not an array of shape \(3, 0\)"):
        frozen.inverse(np.zeros((3, 4)))
    network = MLP(2, 1, (4,))
    with pytest.raises(UsageError, match="output 'cube' is not known"):
        FrozenMLP(numpy_state(network), output="cube")
    with pytest.raises(UsageError, match=r"shortcuts join hidden layers of equal widths, and those of the network are \(4, 4, 5\)"):
        FrozenMLP(numpy_state(MLP(2, 1, (4, 4, 5))), shortcuts=True)
    with pytest.raises(UsageError, match=r"takes rows of 2 columns, not an array of shape \(3, 1\)"):
        FrozenMLP(numpy_state(network))(np.zeros((3, 1)))
