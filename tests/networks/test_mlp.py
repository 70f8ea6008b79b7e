from __future__ import annotations

import pytest
import torch
from torch import nn

from hepgen import kernels
from hepgen.errors import UsageError
from hepgen.kernels import dispatch
from hepgen.networks import MLP

needs_cpp = pytest.mark.skipif(dispatch.core() is None, reason="hepgen._core is not built")
TORCH = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}


def twin(network: MLP) -> nn.Sequential:
    """The same layers as torch's own modules."""
    layers: list[nn.Module] = []
    for layer in network.linears:
        layers += [layer, TORCH[network.activation]()]
    layers.pop()
    return nn.Sequential(*layers, nn.Sigmoid() if network.output == "sigmoid" else nn.Identity())


@pytest.mark.parametrize("name", ["reference", pytest.param("cpp", marks=needs_cpp)])
@pytest.mark.parametrize(("activation", "output"), [("relu", "linear"), ("tanh", "sigmoid"), ("elu", "linear")])
@pytest.mark.parametrize("hidden", [(), (7,), (50, 100, 50)])
def test_is_what_torch_makes_of_the_same_layers(name, activation, output, hidden):
    torch.manual_seed(1)
    network = MLP(3, 2, hidden, activation, output).double()
    x = torch.randn(4, 30, 3, dtype=torch.float64)
    with kernels.backend(name):
        y = network(x)
    expected = twin(network)(x)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
    results = [torch.autograd.grad(out.square().sum(), list(network.parameters())) for out in (y, expected)]
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["reference", pytest.param("cpp", marks=needs_cpp)])
def test_shortcuts_are_what_torch_makes_of_the_sums(name):
    torch.manual_seed(1)
    network = MLP(3, 2, (9, 7, 9, 8, 9, 6), "elu", "tanh", shortcuts=True).double()
    x = torch.randn(4, 30, 3, dtype=torch.float64)
    with kernels.backend(name):
        y = network(x)
    first, second, third, fourth, fifth, sixth, last = network.layers
    kept = nn.functional.elu(first(x))
    kept = nn.functional.elu(third(nn.functional.elu(second(kept))) + kept)
    kept = nn.functional.elu(fifth(nn.functional.elu(fourth(kept))) + kept)
    expected = torch.tanh(last(nn.functional.elu(sixth(kept))))
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
    results = [torch.autograd.grad(out.square().sum(), list(network.parameters())) for out in (y, expected)]
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
    assert "shortcuts=True" in repr(network)


@needs_cpp
def test_runs_on_the_kernel():
    function = MLP(3, 2, (4,))(torch.randn(5, 3)).grad_fn.next_functions[0][0]  # it takes the one member of the call
    assert "mlp" in str(function).lower()


def test_half_precision_runs_in_torch():
    network = MLP(3, 2, (4,)).to(torch.bfloat16)
    x = torch.randn(5, 3, dtype=torch.bfloat16)
    assert torch.equal(network(x), twin(network)(x))


def test_dropout_is_at_work_in_training_alone():
    torch.manual_seed(1)
    network = MLP(3, 1, (400,), output="sigmoid", dropout=0.5).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    expected = twin(network)(x)
    assert not torch.allclose(network(x), expected)
    network.eval()
    torch.testing.assert_close(network(x), expected, rtol=1e-13, atol=1e-13)


def test_dropout_keeps_the_mean_of_what_follows():
    torch.manual_seed(2)
    network = MLP(2, 1, (16,), dropout=0.25).double()
    x = torch.randn(1, 2, dtype=torch.float64).expand(40_000, 2)
    drawn = network(x)
    error = drawn.std() / len(x) ** 0.5
    assert abs(drawn.mean() - network.eval()(x[:1]).item()) < 4 * error


def test_state_survives():
    network, other = MLP(3, 2, (4,)), MLP(3, 2, (4,))
    other.load_state_dict(network.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(network(x), other(x))
    assert "activation='relu'" in repr(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (4, 0)}, "at least one unit in every layer, not 3-4-0-2"),
        ({"activation": "gelu"}, "activation 'gelu' is not known"),
        ({"output": "softmax"}, "output 'softmax' is not known: choose one of linear, sigmoid"),
        ({"hidden": (4, 5, 6), "shortcuts": True}, "a shortcut joins hidden layers 1 and 3, which have 4 and 6 units"),
        ({"dropout": 1.0}, "dropout is a probability below 1, not 1.0"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(UsageError, match=message):
        MLP(3, 2, **options)
