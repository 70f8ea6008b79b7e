"""The whole-flow kernels against plain torch with dense masks, in every direction, precision and instruction set."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from hepgen import kernels
from hepgen.errors import BackendError, UsageError
from hepgen.kernels import MafWeights, dispatch, maf_forward, maf_inverse
from hepgen.kernels.maf import maf_forward_reference, maf_inverse_reference
from hepgen.networks import MAF

pytestmark = pytest.mark.usefixtures("one_thread")
CORE = dispatch.core()
ISAS = CORE.instruction_sets() if CORE is not None else []
needs_cpp = pytest.mark.skipif(CORE is None, reason="hepgen._core is not built")
needs_two_isas = pytest.mark.skipif(len(ISAS) < 2, reason="there is one instruction set")
DIRECTIONS = {"forward": (maf_forward, maf_forward_reference), "inverse": (maf_inverse, maf_inverse_reference)}
everywhere = pytest.mark.usefixtures("everywhere")
both_directions = pytest.mark.parametrize("direction", list(DIRECTIONS))


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


def flow_weights(
    features: int,
    context: int,
    hidden: tuple[int, ...],
    *,
    blocks: int = 3,
    activation: str = "relu",
    permutation: str = "random",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> MafWeights:
    torch.manual_seed(seed)
    with torch.device("cpu"):
        weights = MAF(features, context, blocks, hidden, permutation, activation, seed=seed).to(torch.float64).weights()
        drawn = [[w.detach() + 0.2 * torch.randn(w.shape, dtype=w.dtype) for w in block] for block in weights.blocks]
    device = torch.get_default_device()
    moved = [[w.to(device) for w in block] for block in drawn]
    return cast(weights._replace(blocks=moved, orders=weights.orders.to(device)), dtype)


def cast(weights: MafWeights, dtype: torch.dtype) -> MafWeights:
    return weights._replace(blocks=[[w.detach().to(dtype).requires_grad_() for w in block] for block in weights.blocks])


def in_one(weights: MafWeights) -> Tensor:
    """All parameters as the ops take them."""
    return torch.cat([w.detach().reshape(-1) for block in weights.blocks for w in block]).requires_grad_()


def draw(n: int, columns: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = torch.randn(n, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
    return numbers.to(dtype).to(torch.get_default_device())


def values_and_gradients(function, x: Tensor, context: Tensor, weights: MafWeights) -> list[Tensor]:
    """Both results and the gradients of a scalar made of them with respect to everything that goes in."""
    x, context = x.detach().requires_grad_(), context.detach().requires_grad_()
    y, log_det = function(x, context, weights)
    scalar = (y * draw(*y.shape, 11, y.dtype)).sum() + (log_det * draw(len(y), 1, 12, y.dtype)[:, 0]).sum()
    inputs = [x, context, *(w for block in weights.blocks for w in block)]
    gradients = torch.autograd.grad(scalar, inputs, allow_unused=True)
    return [y.detach(), log_det.detach(), *(torch.zeros_like(i) if g is None else g for i, g in zip(inputs, gradients, strict=True))]


def largest_error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact.double()).abs().max()) if exact.numel() else 0.0


def compare(x: Tensor, context: Tensor, weights: MafWeights, direction: str) -> None:
    """In float64 to rounding; in float32 at most twice the error of plain torch in float32, both against float64."""
    function, reference = DIRECTIONS[direction]
    exact = values_and_gradients(reference, x, context, weights)
    for result, wanted in zip(values_and_gradients(function, x, context, weights), exact, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-11, atol=1e-11 * max(1.0, float(wanted.abs().max()) if wanted.numel() else 0.0))
    x32, context32 = x.float(), context.float()
    rounded = [x32.double(), context32.double(), cast(cast(weights, torch.float32), torch.float64)]
    exact = values_and_gradients(reference, *rounded)
    single = [x32, context32, cast(weights, torch.float32)]
    ours, plain = values_and_gradients(function, *single), values_and_gradients(reference, *single)
    for mine, theirs, wanted in zip(ours, plain, exact, strict=True):
        floor = 30 * torch.finfo(torch.float32).eps * max(float(e.abs().max()) if e.numel() else 0.0 for e in (wanted, torch.ones(1)))
        assert largest_error(mine, wanted) <= 2 * largest_error(theirs, wanted) + floor


SHAPES = [  # features, context, hidden, rows, activation
    (6, 6, (128, 128), 150, "relu"),
    (1, 0, (3,), 1, "tanh"),
    (1, 2, (5, 7), 65, "elu"),
    (2, 0, (1,), 64, "relu"),
    (7, 3, (5, 40, 9), 130, "elu"),
    (64, 0, (70, 20), 40, "tanh"),
    (40, 5, (12,), 33, "relu"),
    (64, 70, (64, 40), 33, "elu"),
]


@needs_cpp
class TestAgainstReference:
    @both_directions
    @pytest.mark.parametrize(("features", "context", "hidden", "rows", "activation"), SHAPES)
    def test_shapes_in_every_instruction_set(self, isa, direction, features, context, hidden, rows, activation):
        weights = flow_weights(features, context, hidden, blocks=2, activation=activation)
        compare(draw(rows, features, 1), draw(rows, context, 2), weights, direction)

    @both_directions
    @settings(deadline=None, max_examples=30)
    @given(
        rows=st.integers(0, 140),
        features=st.integers(1, 9),
        context=st.integers(0, 4),
        hidden=st.lists(st.integers(1, 40), min_size=1, max_size=3),
        activation=st.sampled_from(["relu", "tanh", "elu"]),
        permutation=st.sampled_from(["reverse", "random", "none"]),
        seed=st.integers(0, 1000),
    )
    def test_any_shape(self, direction, rows, features, context, hidden, activation, permutation, seed):
        weights = flow_weights(features, context, tuple(hidden), blocks=2, activation=activation, permutation=permutation, seed=seed)
        compare(draw(rows, features, seed), draw(rows, context, seed + 1), weights, direction)

    @both_directions
    def test_network_runs_on_the_kernel_and_agrees_with_its_own_torch(self, direction):
        torch.manual_seed(3)
        flow = MAF(5, 2, 3, (16, 16), "random").double()
        x, context = draw(70, 5, 1), draw(70, 2, 2)
        run = flow.forward if direction == "forward" else flow.inverse
        results = {}
        for name in ("cpp", "reference"):
            with kernels.backend(name):
                y, log_det = run(x, context)
                gradients = torch.autograd.grad(y.square().sum() + log_det.sum(), list(flow.parameters()))
                results[name] = (y.detach(), log_det.detach(), *gradients)
        assert "maf" in str(run(x, context)[0].grad_fn).lower()
        for compiled, plain in zip(results["cpp"], results["reference"], strict=True):
            torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-12)


def by_hand(values: tuple[list[Any], ...], order: list[int], bound: float) -> MafWeights:
    return MafWeights([[torch.tensor(v, dtype=torch.float64) for v in values]], torch.tensor([order]), "relu", bound)


@everywhere
class TestByHand:
    """One block whose numbers are small enough for paper: d = 2, one hidden unit of degree 1, which sees column 0."""

    # h = relu(3 x0 + 0.5); column 0: m = 0.25, r = 1; column 1: m = 2 h - 1, r = -h
    values = ([[3.0, 99.0]], [0.5], [[99.0], [99.0], [2.0], [-1.0]], [0.25, 1.0, -1.0, 0.0])

    def test_one_block(self):
        x = torch.tensor([[0.5, 1.5]], dtype=torch.float64)  # h = 2: m = (0.25, 3), r = (1, -2), a = (2/3, -1)
        weights = by_hand(self.values, [0, 1], 2.0)
        z, log_det = maf_forward(x, None, weights)
        back, log_det_back = maf_inverse(z, None, weights)
        expected = torch.tensor([[0.25 * math.exp(-2 / 3), -1.5 * math.e]], dtype=torch.float64)
        torch.testing.assert_close(z, expected, rtol=1e-14, atol=0)
        torch.testing.assert_close(log_det, torch.tensor([1 / 3], dtype=torch.float64), rtol=1e-14, atol=0)
        torch.testing.assert_close(back, x, rtol=1e-14, atol=0)
        torch.testing.assert_close(log_det_back, -log_det, rtol=1e-14, atol=0)

    def test_orders(self):
        x = torch.tensor([[0.5, 1.5]], dtype=torch.float64)
        z, _ = maf_forward(x, None, by_hand(self.values, [0, 1], 2.0))
        turned, _ = maf_forward(x.flip(1), None, by_hand(self.values, [1, 0], 2.0))
        torch.testing.assert_close(turned, z.flip(1), rtol=0, atol=0)

    def test_huge_log_scales_stay_bounded(self):
        weights = by_hand(([[0.0]], [0.0], [[0.0], [0.0]], [0.0, 1e300]), [0], math.log(1e3))
        x, log_det = maf_inverse(torch.ones(1, 1, dtype=torch.float64), None, weights)
        assert x.item() == pytest.approx(1e3, rel=1e-12)
        assert log_det.item() == pytest.approx(math.log(1e3), rel=1e-12)


@everywhere
class TestGradients:
    @both_directions
    @pytest.mark.parametrize("activation", ["tanh", "elu", "relu"])
    def test_gradcheck(self, backend, direction, activation):
        emulated = backend in {"cuda", "triton"} and not torch.cuda.is_available()
        if emulated and (activation != "tanh" or backend == "triton"):
            pytest.skip("slow without a GPU, and compared with the reference elsewhere")
        weights = flow_weights(3, 2, (8, 5), blocks=2, activation=activation)
        shapes = [len(block) for block in weights.blocks]
        flat = [w for block in weights.blocks for w in block]

        def function(x: Tensor, context: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            rest = iter(tensors)
            return DIRECTIONS[direction][0](x, context, weights._replace(blocks=[[next(rest) for _ in range(k)] for k in shapes]))

        x, context = draw(4, 3, 1).requires_grad_(), draw(4, 2, 2).requires_grad_()
        assert torch.autograd.gradcheck(function, (x, context, *flat), fast_mode=backend != "cpp")

    @both_directions
    def test_masked_weights_get_exactly_zero(self, direction):
        weights = flow_weights(4, 1, (9, 6), blocks=2)
        ours, reference = (values_and_gradients(f, draw(20, 4, 1), draw(20, 1, 2), weights) for f in DIRECTIONS[direction])
        for mine, plain in zip(ours[4:], reference[4:], strict=True):
            assert torch.equal(mine == 0, plain == 0)

    @both_directions
    @pytest.mark.parametrize("frozen", ["events", "context", "weights"])
    def test_only_what_asks_gets_a_gradient(self, direction, frozen):
        weights = flow_weights(3, 2, (6,), blocks=2)
        x, context = draw(10, 3, 1).requires_grad_(frozen != "events"), draw(10, 2, 2).requires_grad_(frozen != "context")
        if frozen == "weights":
            weights = weights._replace(blocks=[[w.detach() for w in block] for block in weights.blocks])
        asking = [t for t in (x, context, weights.blocks[0][0], weights.blocks[1][-1]) if t.requires_grad]
        results = []
        for function in DIRECTIONS[direction]:
            y, log_det = function(x, context, weights)
            results.append(torch.autograd.grad(y.square().sum() + log_det.sum(), asking))
        for mine, plain in zip(*results, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-12)

    def test_one_frozen_tensor_among_the_weights(self):
        weights = flow_weights(3, 0, (6,), blocks=1)
        weights.blocks[0][0].requires_grad_(False)
        z, _ = maf_forward(draw(10, 3, 1), None, weights)
        z.sum().backward()
        assert weights.blocks[0][0].grad is None
        assert weights.blocks[0][1].grad is not None

    def test_second_derivative_is_refused(self, compiled_backend):
        weights = flow_weights(2, 0, (4,), activation="tanh")
        x = draw(3, 2, 1).requires_grad_()
        (first,) = torch.autograd.grad(maf_forward(x, None, weights)[0].sum(), x, create_graph=True)
        with pytest.raises(BackendError, match="first derivatives only"):
            first.sum().backward()


@needs_cpp
class TestRecord:
    @both_directions
    def test_hidden_units_kept_and_computed_again_agree(self, direction):
        function = DIRECTIONS[direction][0]
        weights = flow_weights(4, 2, (300, 300), blocks=2)
        x, context = draw(2600, 4, 1), draw(2600, 2, 2)
        gy = draw(2600, 4, 3)

        def gradients(rows: slice) -> list[Tensor]:
            leaf = x[rows].clone().requires_grad_()
            y, log_det = function(leaf, context[rows], weights)
            scalar = (y * gy[rows]).sum() + log_det.sum()
            return list(torch.autograd.grad(scalar, [leaf, *(w for block in weights.blocks for w in block)]))

        def record_bytes(n: int) -> int:
            inputs = (
                direction == "inverse",
                x[:n],
                context[:n],
                in_one(weights),
                [300, 300],
                weights.orders,
                "relu",
                weights.bound,
                True,
                "cpp",
            )
            with FakeTensorMode(allow_non_fake_inputs=True):
                expected = torch.ops.hepgen.maf(*inputs)[2].numel()
            size = torch.ops.hepgen.maf(*inputs)[2].numel()
            assert size == expected
            return 8 * size

        assert record_bytes(1300) > 12e6, "the hidden units of half the rows are kept"
        assert record_bytes(2600) < 1e6, "those of all rows are not"
        whole, first, second = gradients(slice(None)), gradients(slice(0, 1300)), gradients(slice(1300, None))
        assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
        for all_rows, one, other in zip(whole[1:], first[1:], second[1:], strict=True):
            torch.testing.assert_close(all_rows, one + other, rtol=1e-11, atol=1e-11 * float(all_rows.abs().max()))

    @needs_two_isas
    def test_a_record_of_another_instruction_set(self):
        weights = flow_weights(5, 2, (20, 20))
        x, context = draw(70, 5, 1), draw(70, 2, 2)
        leaf = x.clone().requires_grad_()
        try:
            CORE.set_instruction_set(ISAS[0])
            y, log_det = maf_inverse(leaf, context, weights)
            CORE.set_instruction_set(ISAS[-1])
            (changed,) = torch.autograd.grad(y.square().sum() + log_det.sum(), leaf)
        finally:
            CORE.set_instruction_set(os.environ.get("HEPGEN_ISA", "auto"))
        y, log_det = maf_inverse(leaf, context, weights)
        (same,) = torch.autograd.grad(y.square().sum() + log_det.sum(), leaf)
        torch.testing.assert_close(changed, same, rtol=1e-12, atol=1e-12)


@needs_cpp
class TestRows:
    @both_directions
    def test_a_row_does_not_depend_on_its_place(self, isa, direction):
        function = DIRECTIONS[direction][0]
        weights = flow_weights(5, 2, (33, 17), dtype=torch.float32)
        x, context = draw(700, 5, 1, torch.float32), draw(700, 2, 2, torch.float32)
        with torch.no_grad():
            whole, log_det = function(x, context, weights)
            for begin, end in [(0, 1), (1, 64), (64, 129), (130, 131), (131, 700)]:
                part, part_log_det = function(x[begin:end], context[begin:end], weights)
                assert torch.equal(part, whole[begin:end])
                assert torch.equal(part_log_det, log_det[begin:end])

    @both_directions
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_nan_and_inf_stay_in_their_rows(self, isa, direction, bad):
        function = DIRECTIONS[direction][0]
        weights = flow_weights(4, 1, (20, 20), permutation="reverse")
        clean, context = draw(100, 4, 1), draw(100, 1, 2)
        dirty = clean.clone()
        dirty[[3, 70, 99], [0, 3, 2]] = bad
        kept = torch.ones(100, dtype=torch.bool)
        kept[[3, 70, 99]] = False
        results = []
        for x in (clean.requires_grad_(), dirty.requires_grad_()):
            y, log_det = function(x, context, weights)
            results.append((y, log_det, *torch.autograd.grad(y.sum() + log_det.sum(), x)))
        for expected, result in zip(*results, strict=True):
            assert torch.equal(result[kept], expected[kept])
        assert not torch.isfinite(results[1][0][~kept]).all(1).any()

    @both_directions
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_denormal_numbers(self, isa, direction, dtype):
        function, reference = DIRECTIONS[direction]
        weights = flow_weights(3, 1, (9,), dtype=dtype)
        tiny = torch.finfo(dtype).tiny
        x, context = tiny * draw(70, 3, 1, dtype) / 8, tiny * draw(70, 1, 2, dtype)
        assert (x.abs() < tiny).sum() > 150
        for result, wanted in zip(function(x, context, weights), reference(x, context, weights), strict=True):
            torch.testing.assert_close(result, wanted, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)

    @both_directions
    def test_identical_points(self, isa, direction):
        function = DIRECTIONS[direction][0]
        weights = flow_weights(4, 2, (20, 10), dtype=torch.float32)
        one = draw(1, 4, 1, torch.float32), draw(1, 2, 2, torch.float32)
        alone = function(*one, weights)
        for result, wanted in zip(function(one[0].expand(130, 4), one[1].expand(130, 2), weights), alone, strict=True):
            assert torch.equal(result, wanted.expand(130, *wanted.shape[1:]))

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
    def test_round_trip(self, isa, dtype, tolerance):
        torch.manual_seed(1)
        flow = MAF(6, 6, 10, (128, 128)).double()
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            flow = flow.to(dtype)
            x, context = draw(500, 6, 1, dtype), draw(500, 6, 2, dtype)
            z, log_det = maf_forward(x, context, flow.weights())
            back, log_det_back = maf_inverse(z, context, flow.weights())
        assert (z - x).abs().max() > 0.1
        torch.testing.assert_close(back, x, rtol=0, atol=tolerance)
        torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=tolerance)


@everywhere
class TestRowsEverywhere:
    @both_directions
    def test_a_nan_context_makes_its_rows_nan(self, direction):
        weights = flow_weights(3, 1, (8,))
        context = draw(5, 1, 2)
        context[2] = math.nan
        with torch.no_grad():
            y, log_det = DIRECTIONS[direction][0](draw(5, 3, 1), context, weights)
        assert torch.isnan(y).any(1).tolist() == torch.isnan(log_det).tolist() == [False, False, True, False, False]

    @both_directions
    def test_no_rows(self, direction):
        weights = flow_weights(3, 2, (5,))
        x, context = draw(0, 3, 1).requires_grad_(), draw(0, 2, 2)
        y, log_det = DIRECTIONS[direction][0](x, context, weights)
        assert y.shape == (0, 3)
        assert log_det.shape == (0,)
        gradients = torch.autograd.grad(y.sum() + log_det.sum(), [x, *(w for block in weights.blocks for w in block)])
        assert gradients[0].shape == (0, 3)
        assert all(not g.any() for g in gradients[1:])

    @both_directions
    def test_strides(self, backend, direction):
        function = DIRECTIONS[direction][0]
        weights = flow_weights(4, 2, (10, 12), blocks=1)
        x, context = draw(8, 90, 1).T[::2, ::2], draw(1, 2, 2).expand(45, 2)
        turned = weights._replace(blocks=[[w.T.contiguous().T if w.ndim == 2 else w for w in block] for block in weights.blocks])
        expected = values_and_gradients(function, x.contiguous(), context.contiguous(), weights)
        for result, wanted in zip(values_and_gradients(function, x, context, turned), expected, strict=True):
            torch.testing.assert_close(result, wanted, rtol=1e-13 * (backend == "reference"), atol=1e-13 * (backend == "reference"))


@needs_cpp
class TestThreads:
    @both_directions
    def test_the_same_bits_for_any_number_of_threads(self, isa, direction):
        weights = flow_weights(5, 3, (24, 24), dtype=torch.float32)
        x, context = draw(1500, 5, 1, torch.float32), draw(1500, 3, 2, torch.float32)
        runs = []
        for threads in (1, 2, 5, 2):
            torch.set_num_threads(threads)
            runs.append(values_and_gradients(DIRECTIONS[direction][0], x, context, weights))
        for run in runs[1:]:
            assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))

    def test_several_callers_at_once(self):
        weights = flow_weights(4, 2, (16, 16))
        x, context = draw(600, 4, 1), draw(600, 2, 2)
        alone = values_and_gradients(maf_forward, x, context, weights)
        torch.set_num_threads(3)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda _: values_and_gradients(maf_forward, x, context, weights), range(12)))
        assert all(torch.equal(a, b) for run in together for a, b in zip(run, alone, strict=True))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_after_fork(self):
        weights = flow_weights(4, 2, (16, 16))
        x, context = draw(600, 4, 1), draw(600, 2, 2)
        with torch.no_grad():
            torch.set_num_threads(2)
            expected, _ = maf_inverse(x, context, weights)
            child = os.fork()
            if child == 0:
                os._exit(0 if torch.equal(maf_inverse(x, context, weights)[0], expected) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@everywhere
class TestTorch:
    @pytest.mark.parametrize("inverse", [False, True])
    @pytest.mark.parametrize("context", [0, 2])
    def test_opcheck(self, compiled_backend, inverse, context):
        weights = flow_weights(2, context, (6, 4), blocks=1)
        x, c = draw(5, 2, 1).requires_grad_(), draw(5, context, 2).requires_grad_()
        flow = in_one(weights), [6, 4], weights.orders, "tanh", weights.bound
        torch.library.opcheck(torch.ops.hepgen.maf.default, (inverse, x, c, *flow, True, compiled_backend))

    @both_directions
    def test_compile(self, compiled_backend, direction):
        weights = flow_weights(2, 2, (6, 4), blocks=1)
        function = DIRECTIONS[direction][0]

        def scaled(x: Tensor, context: Tensor, weights: MafWeights) -> tuple[Tensor, Tensor]:
            y, log_det = function(2 * x, context, weights)
            return 3 * y, log_det

        compiled = torch.compile(scaled, backend="aot_eager", fullgraph=True)
        for rows in (5, 70):
            x, context = draw(rows, 2, 1), draw(rows, 2, 2)
            expected = values_and_gradients(scaled, x, context, weights)
            for result, wanted in zip(values_and_gradients(compiled, x, context, weights), expected, strict=True):
                torch.testing.assert_close(result, wanted, rtol=1e-13, atol=1e-13)

    @both_directions
    def test_compile_a_network(self, compiled_backend, direction):
        with torch.device("cpu"):
            flow = MAF(2, 2, 2, (6, 4)).double()
        flow.to(torch.get_default_device())
        run = flow.forward if direction == "forward" else flow.inverse
        x, context = draw(5, 2, 1), draw(5, 2, 2)
        compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
        for result, wanted in zip(compiled(x, context), run(x, context), strict=True):
            torch.testing.assert_close(result, wanted, rtol=1e-13, atol=1e-13)


SMALL_SHAPES = [  # features, context, hidden, rows, activation: as above, for what runs in emulation
    (1, 0, (3,), 1, "tanh"),
    (2, 3, (21, 18), 17, "relu"),
    (4, 2, (5, 40, 9), 33, "elu"),
    (9, 0, (12,), 20, "relu"),
]


@everywhere
@both_directions
@pytest.mark.parametrize(("features", "context", "hidden", "rows", "activation"), SMALL_SHAPES)
def test_every_backend_agrees_with_the_reference(direction, features, context, hidden, rows, activation):
    weights = flow_weights(features, context, hidden, blocks=2, activation=activation)
    compare(draw(rows, features, 1), draw(rows, context, 2), weights, direction)


class TestErrors:
    weights = flow_weights(3, 2, (6,))
    x, context = draw(4, 3, 1), draw(4, 2, 2)

    def test_columns(self):
        with pytest.raises(UsageError, match=r"maf_forward: events must have shape \(n, 3\), got \(4, 2\)"):
            maf_forward(self.context, self.context, self.weights)

    def test_context(self):
        with pytest.raises(UsageError, match=r"maf_inverse: context must have shape \(4, 2\), got \(4, 0\)"):
            maf_inverse(self.x, None, self.weights)

    def test_dtypes(self):
        with pytest.raises(UsageError, match=r"all be float32 or all float64, got torch.float32, torch.float64"):
            maf_forward(self.x.float(), self.context.float(), self.weights)

    def test_half(self):
        with pytest.raises(UsageError, match=r"all be float32 or all float64, got torch.float16"):
            maf_forward(self.x.half(), self.context.half(), cast(self.weights, torch.float16))

    def test_activation(self):
        with pytest.raises(UsageError, match="activation 'gelu' is not known: choose one of relu, tanh, elu"):
            maf_forward(self.x, self.context, self.weights._replace(activation="gelu"))

    def test_orders(self):
        with pytest.raises(UsageError, match=r"orders must have shape \(blocks, d\)"):
            maf_forward(self.x, self.context, self.weights._replace(orders=self.weights.orders[:1]))

    def test_weights_that_do_not_fit_each_other(self):
        broken = [list(block) for block in self.weights.blocks]
        broken[1][0] = broken[1][0][:, :2]
        with pytest.raises(UsageError, match=r"block 1 must have weights of shapes .*\(6, 3\).*, got "):
            maf_forward(self.x, self.context, self.weights._replace(blocks=broken))

    @needs_cpp
    def test_orders_that_are_no_permutation(self):
        with pytest.raises(UsageError, match="orders must hold permutations"):
            maf_forward(self.x, self.context, self.weights._replace(orders=torch.tensor([[0, 1, 3]] * 3)))
