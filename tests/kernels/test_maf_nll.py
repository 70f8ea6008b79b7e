"""The negative log-likelihood of a flow in one sweep, against plain torch with dense masks and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hepgen import kernels
from hepgen.errors import BackendError, UsageError
from hepgen.kernels import MafWeights, dispatch, maf_forward, maf_nll
from hepgen.networks import MAF

pytestmark = pytest.mark.usefixtures("one_thread")
CORE = dispatch.core()
needs_cpp = pytest.mark.skipif(CORE is None, reason="hepgen._core is not built")


everywhere = pytest.mark.usefixtures("everywhere")


@pytest.fixture(name="everywhere")
def on_its_device(device: torch.device) -> Iterator[None]:
    """Every backend, the tensors of the test where it takes them."""
    with torch.device(device):
        yield


@pytest.fixture
def compiled_backend(backend: str) -> str:
    """All but plain torch, which has no op of its own."""
    if backend == "reference":
        pytest.skip("of the ops alone")
    return backend


def flow_weights(features: int, context: int, hidden: tuple[int, ...], activation: str = "relu", dtype=torch.float64) -> MafWeights:
    torch.manual_seed(3)
    with torch.device("cpu"):
        weights = MAF(features, context, 3, hidden, "random", activation).double().weights()
        drawn = [[w.detach() + 0.2 * torch.randn(w.shape, dtype=w.dtype) for w in block] for block in weights.blocks]
    device = torch.get_default_device()
    moved = [[w.to(device) for w in block] for block in drawn]
    return cast(weights._replace(blocks=moved, orders=weights.orders.to(device)), dtype)


def cast(weights: MafWeights, dtype: torch.dtype) -> MafWeights:
    return weights._replace(blocks=[[w.detach().to(dtype).requires_grad_() for w in block] for block in weights.blocks])


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
    return numbers.to(dtype).to(torch.get_default_device())


def flat(weights: MafWeights) -> list[Tensor]:
    return [w for block in weights.blocks for w in block]


def value_and_gradients(x: Tensor, context: Tensor, weights: MafWeights, event_weights: Tensor, backend: str = "cpp") -> list[Tensor]:
    """The likelihood and its gradients with respect to everything that goes in, times an upstream 3."""
    leaves = [t.detach().requires_grad_() for t in (x, context, event_weights)]
    with kernels.backend(backend):
        total = maf_nll(leaves[0], leaves[1], weights, leaves[2])
    gradients = torch.autograd.grad(3 * total, [*leaves, *flat(weights)], allow_unused=True)
    return [total.detach(), *(torch.zeros_like(i) if g is None else g for i, g in zip([*leaves, *flat(weights)], gradients, strict=True))]


def error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).abs().max()) if exact.numel() else 0.0


@needs_cpp
class TestAgainstReference:
    @pytest.mark.parametrize(
        ("features", "context", "hidden", "rows", "activation"),
        [
            (6, 6, (128, 128), 150, "relu"),
            (4, 2, (20, 30), 1100, "relu"),  # several groups of rows, each of more than one sweep
            (1, 0, (3,), 1, "tanh"),
            (7, 3, (5, 40, 9), 65, "elu"),
            (64, 0, (70,), 40, "tanh"),
        ],
    )
    def test_value_and_gradients(self, isa, features, context, hidden, rows, activation):
        weights = flow_weights(features, context, hidden, activation)
        inputs = draw(rows, features, seed=1), draw(rows, context, seed=2), weights, draw(rows, seed=3)
        for result, exact in zip(value_and_gradients(*inputs), value_and_gradients(*inputs, backend="reference"), strict=True):
            torch.testing.assert_close(result, exact, rtol=1e-11, atol=1e-11 * max(1.0, error(exact, torch.zeros_like(exact))))

    def test_error_in_float32_is_at_most_twice_that_of_torch(self, isa):
        weights = cast(flow_weights(6, 6, (128, 128)), torch.float32)
        x, context, w = (draw(*shape, seed=i, dtype=torch.float32) for i, shape in enumerate([(700, 6), (700, 6), (700,)]))
        exact = value_and_gradients(x.double(), context.double(), cast(weights, torch.float64), w.double(), backend="reference")
        plain = value_and_gradients(x, context, weights, w, backend="reference")
        for mine, theirs, wanted in zip(value_and_gradients(x, context, weights, w), plain, exact, strict=True):
            floor = 30 * torch.finfo(torch.float32).eps * max(1.0, float(wanted.abs().max()))
            assert mine.dtype == torch.float32
            assert error(mine, wanted) <= 2 * error(theirs, wanted) + floor


@everywhere
def test_a_flow_that_changes_nothing_has_a_normal_likelihood():
    weights = flow_weights(3, 0, (4,))
    weights = weights._replace(blocks=[[torch.zeros_like(w) for w in block] for block in weights.blocks])
    x, w = draw(90, 3, seed=1).requires_grad_(), draw(90, seed=2)
    total = maf_nll(x, None, weights, w)
    plain = maf_nll(x, None, weights)
    densities = (-0.5 * x.detach().square() - 0.5 * math.log(2 * math.pi)).sum(1)
    torch.testing.assert_close(total.detach(), -(w * densities).sum(), rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(plain.detach(), -densities.sum(), rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(total, x)[0], w[:, None] * x.detach(), rtol=1e-13, atol=1e-13)


@everywhere
class TestGradients:
    @pytest.mark.parametrize("activation", ["tanh", "elu", "relu"])
    def test_gradcheck(self, backend, activation):
        emulated = backend in {"cuda", "triton"} and not torch.cuda.is_available()
        if emulated and (activation != "tanh" or backend == "triton"):
            pytest.skip("slow without a GPU, and compared with the reference elsewhere")
        weights = flow_weights(3, 2, (8, 5), activation)
        shapes = [len(block) for block in weights.blocks]

        def function(x: Tensor, context: Tensor, event_weights: Tensor, *tensors: Tensor) -> Tensor:
            rest = iter(tensors)
            return maf_nll(x, context, weights._replace(blocks=[[next(rest) for _ in range(k)] for k in shapes]), event_weights)

        inputs = draw(4, 3, seed=1), draw(4, 2, seed=2), draw(4, seed=3)
        leaves = (*(t.requires_grad_() for t in inputs), *flat(weights))
        assert torch.autograd.gradcheck(function, leaves, fast_mode=backend != "cpp")

    @pytest.mark.parametrize("asking", ["events", "context", "event_weights", "weights"])
    def test_only_what_asks_gets_a_gradient(self, backend, asking):
        weights = cast(flow_weights(3, 2, (6,)), torch.float64)
        inputs = {"events": draw(10, 3, seed=1), "context": draw(10, 2, seed=2), "event_weights": draw(10, seed=3)}
        for name, tensor in inputs.items():
            tensor.requires_grad_(name == asking)
        for tensor in flat(weights):
            tensor.requires_grad_(asking == "weights")
        wanted = flat(weights) if asking == "weights" else [inputs[asking]]
        results = []
        for name in (backend, "reference"):
            with kernels.backend(name):
                results.append(torch.autograd.grad(maf_nll(inputs["events"], inputs["context"], weights, inputs["event_weights"]), wanted))
        for mine, plain in zip(*results, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-11, atol=1e-11)

    def test_second_derivative_is_refused(self, compiled_backend):
        x = draw(3, 2, seed=1).requires_grad_()
        (first,) = torch.autograd.grad(maf_nll(x, None, flow_weights(2, 0, (4,), "tanh")), x, create_graph=True)
        with pytest.raises(BackendError, match="first derivatives only"):
            first.sum().backward()


@everywhere
@pytest.mark.parametrize(
    ("features", "context", "hidden", "activation"), [(3, 2, (21, 18), "relu"), (1, 0, (3,), "tanh"), (7, 1, (9,), "elu")]
)
def test_every_backend_agrees_with_the_reference(backend, features, context, hidden, activation):
    weights = flow_weights(features, context, hidden, activation)
    inputs = draw(19, features, seed=1), draw(19, context, seed=2), weights, draw(19, seed=3)
    for result, exact in zip(value_and_gradients(*inputs, backend), value_and_gradients(*inputs, "reference"), strict=True):
        torch.testing.assert_close(result, exact, rtol=1e-11, atol=1e-11 * max(1.0, error(exact, torch.zeros_like(exact))))


@needs_cpp
class TestRows:
    def test_the_same_bits_for_any_number_of_threads(self, isa):
        weights = flow_weights(5, 3, (24, 24), dtype=torch.float32)
        inputs = [draw(*shape, seed=i, dtype=torch.float32) for i, shape in enumerate([(3000, 5), (3000, 3), (3000,)])]
        runs = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            runs.append(value_and_gradients(*inputs[:2], weights, inputs[2]))
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))

    def test_nan_stays_in_its_row_and_spoils_the_sum(self, isa):
        weights = flow_weights(4, 1, (20, 20))
        clean, context, w = draw(400, 4, seed=1), draw(400, 1, seed=2), draw(400, seed=3)
        dirty = clean.clone()
        dirty[[3, 399], [0, 2]] = math.nan
        expected, result = (value_and_gradients(x, context, weights, w) for x in (clean, dirty))
        kept = ~dirty.isnan().any(1)
        assert result[0].isnan()
        assert torch.equal(result[1][kept], expected[1][kept])
        assert result[1][~kept].isnan().any(1).all()
        assert result[3][~kept].isnan().all()


@everywhere
class TestRowsEverywhere:
    def test_no_rows(self, backend):
        weights = flow_weights(3, 2, (5,))
        total, *gradients = value_and_gradients(draw(0, 3, seed=1), draw(0, 2, seed=2), weights, draw(0, seed=3), backend)
        assert total == 0
        assert not any(g.any() for g in gradients)

    def test_strides(self, backend):
        weights = flow_weights(4, 2, (10, 12))
        x, context, w = draw(8, 90, seed=1).T[::2, ::2], draw(1, 2, seed=2).expand(45, 2), draw(90, seed=3)[::2]
        expected = value_and_gradients(x.contiguous(), context.contiguous(), weights, w.contiguous(), backend)
        for result, wanted in zip(value_and_gradients(x, context, weights, w, backend), expected, strict=True):
            assert torch.equal(result, wanted)


@everywhere
class TestTorch:
    def test_opcheck(self, compiled_backend):
        weights = flow_weights(3, 2, (6, 4))
        parameters = torch.cat([w.detach().reshape(-1) for w in flat(weights)]).requires_grad_()
        inputs = [t.requires_grad_() for t in (draw(5, 3, seed=1), draw(5, 2, seed=2), draw(5, seed=3))]
        flow = parameters, [6, 4], weights.orders, "tanh", weights.bound
        torch.library.opcheck(torch.ops.hepgen.maf_nll.default, (*inputs, *flow, 7, compiled_backend))

    def test_compile(self, compiled_backend):
        with torch.device("cpu"):
            flow = MAF(3, 2, 2, (6, 4)).double()
        flow.to(torch.get_default_device())
        compiled = torch.compile(flow.negative_log_likelihood, backend="aot_eager", fullgraph=True)
        for rows in (5, 70):
            x, context, w = draw(rows, 3, seed=1), draw(rows, 2, seed=2), draw(rows, seed=3).abs()
            results = [torch.autograd.grad(f(x, context, w), list(flow.parameters())) for f in (compiled, flow.negative_log_likelihood)]
            for result, wanted in zip(*results, strict=True):
                torch.testing.assert_close(result, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shear", [False, True])
@pytest.mark.parametrize("name", ["reference", pytest.param("cpp", marks=needs_cpp)])
def test_network_gives_the_weighted_mean_of_its_log_densities(name, shear):
    torch.manual_seed(3)
    flow = MAF(2, 3, 3, (16, 16), "random", shear=shear).double()
    x, context, w = draw(70, 2, seed=1), draw(70, 3, seed=2), draw(70, seed=3) + 1
    with kernels.backend(name):
        for event_weights, expected in [(None, -flow.log_prob(x, context).mean()), (w, -(w * flow.log_prob(x, context)).sum() / w.sum())]:
            loss = flow.negative_log_likelihood(x, context, event_weights)
            torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
            for mine, theirs in zip(*(torch.autograd.grad(f, list(flow.parameters())) for f in (loss, expected)), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    assert ("nll" in str(loss.grad_fn.next_functions[0][0]).lower()) == (name == "cpp")


def test_event_weights_that_do_not_fit():
    weights, x = flow_weights(3, 0, (6,)), draw(4, 3, seed=1)
    with pytest.raises(UsageError, match=r"maf_nll: event_weights must have shape \(4,\) and be torch.float64"):
        maf_nll(x, None, weights, torch.ones(5, dtype=torch.float64))
    with pytest.raises(UsageError, match=r"got \(4,\), torch.float32"):
        maf_nll(x, None, weights, torch.ones(4))


@everywhere
def test_without_gradients_it_is_the_value_alone():
    weights, x = flow_weights(3, 0, (6,)), draw(40, 3, seed=1)
    with torch.no_grad():
        total = maf_nll(x, None, weights)
        z, log_det = maf_forward(x, None, weights)
    assert not total.requires_grad
    torch.testing.assert_close(total, (0.5 * z.square().sum(1) - log_det).sum() + 60 * math.log(2 * math.pi), rtol=1e-13, atol=0)
