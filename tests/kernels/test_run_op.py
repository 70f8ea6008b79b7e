"""Custom ops are passed by where nothing would notice, and only there; numbers from the host are kept on the device."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hepgen import kernels
from hepgen.kernels import constants
from hepgen.kernels.compiled import run_op, untraced

GRID = torch.linspace(-3, 3, 16, dtype=torch.float64)
OPS = {
    "kde": lambda x: kernels.kde(x, GRID, 0.5, method="binned"),
    "kde_divergence": lambda x: kernels.kde_divergence(x, GRID, 0.5, x.new_full((16, x.shape[1]), 1 / 16)),
    "mmd2": lambda x: kernels.mmd2(x, x.detach() + 1, 2.0),
    "kernel_mean": lambda x: kernels.kernel_mean(x, 2.0),
    "gaussian_sums": lambda x: kernels.gaussian_sums(x, x.detach() + 1, 2.0),
}


@pytest.fixture
def x(device):
    return torch.linspace(-2, 2, 24, dtype=torch.float64, device=device).view(12, 2)


class Noting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class Replacing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def which(*arguments):
    return run_op(lambda *_: "op", lambda *_: "function", *arguments)


def test_the_op_is_called_where_a_gradient_is_needed():
    x = torch.zeros(2, requires_grad=True)
    assert which(torch.zeros(2), None, 1.0) == "function"
    assert which(torch.zeros(2), x) == "op"
    assert which(torch.nn.Parameter(torch.zeros(2), requires_grad=False)) == "function"
    with torch.no_grad():
        assert which(x) == "function"
    with torch.inference_mode():
        assert which(x) == "function"


def test_the_op_is_called_where_something_traces():
    x = torch.zeros(2)
    with torch.device("cpu"):
        assert which(x) == "function"
    with Replacing():
        assert which(x) == "op"
    with Noting():
        assert which(x) == "op"
    with torch.autograd.forward_ad.dual_level():
        assert which(x) == "op"
    with FakeTensorMode() as fake:
        kept = fake.from_tensor(x)
    assert which(kept) == "op"
    seen = []
    torch.func.vmap(lambda row: seen.append(which(row)) or row)(torch.zeros(3, 2))
    assert seen == ["op"]
    assert untraced()


@pytest.mark.parametrize("name", OPS)
def test_tracers_see_the_op(backend, x, name):
    if backend == "reference":
        pytest.skip("plain torch")
    plain = OPS[name](x)
    with Noting() as noting:
        seen = OPS[name](x)
    assert f"hepgen::{name}" in noting.names
    assert torch.equal(plain, seen)
    graph = make_fx(OPS[name])(x)
    assert any(f"hepgen.{name}" in str(node.target) for node in graph.graph.nodes)
    assert torch.equal(graph(x), plain)


@pytest.mark.parametrize("name", OPS)
def test_same_without_and_with_a_gradient(backend, x, name):
    value = OPS[name](x)
    assert torch.equal(OPS[name](x.clone().requires_grad_()).detach(), value)
    assert not value.requires_grad


def test_constants_are_made_once():
    cpu = torch.device("cpu")
    constants._filled.cache_clear()
    with FakeTensorMode():
        assert isinstance(constants.filled(0.25, (3,), cpu), FakeTensor)
    with torch.inference_mode():
        first = constants.filled(0.25, (3,), cpu)
    assert not first.is_inference()
    assert first.tolist() == [0.25] * 3
    assert constants.filled(0.25, (3,), cpu) is first
    assert constants.filled(0.25, (2,), cpu).tolist() == [0.25] * 2
    assert constants.filled(0.5, (3,), cpu).tolist() == [0.5] * 3
