"""What only the flow kernels of a GPU have: tiles of events, sums over thread blocks, activations that do not fit, graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from hepgen import kernels
from hepgen.errors import UsageError
from hepgen.kernels import MafWeights, maf_forward, maf_inverse, maf_nll
from hepgen.networks import MAF

pytestmark = pytest.mark.usefixtures("one_thread")
DIRECTIONS = {"forward": maf_forward, "inverse": maf_inverse}
both_directions = pytest.mark.parametrize("direction", list(DIRECTIONS))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no GPU here")


@pytest.fixture(autouse=True)
def _on_its_device(gpu_backend: str) -> Iterator[None]:
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


def flow_weights(
    features: int, context: int, hidden: tuple[int, ...], *, blocks: int = 2, activation: str = "relu", dtype: torch.dtype = torch.float64
) -> MafWeights:
    torch.manual_seed(3)
    with torch.device("cpu"):
        weights = MAF(features, context, blocks, hidden, "random", activation).double().weights()
        drawn = [[w.detach() + 0.2 * torch.randn(w.shape, dtype=w.dtype) for w in block] for block in weights.blocks]
    device = torch.get_default_device()
    moved = [[w.to(device, dtype).requires_grad_() for w in block] for block in drawn]
    return weights._replace(blocks=moved, orders=weights.orders.to(device))


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
    return numbers.to(dtype).to(torch.get_default_device())


def parameters(weights: MafWeights) -> list[Tensor]:
    return [w for block in weights.blocks for w in block]


def with_gradients(function: Callable[..., tuple[Tensor, Tensor]], x: Tensor, context: Tensor, weights: MafWeights) -> list[Tensor]:
    """Both results and the gradients of a scalar made of them."""
    leaves = [t.detach().requires_grad_() for t in (x, context)]
    y, log_det = function(*leaves, weights)
    scalar = (y * draw(*y.shape, seed=11, dtype=y.dtype)).sum() + (log_det * draw(len(y), seed=12, dtype=y.dtype)).sum()
    return [y.detach(), log_det.detach(), *torch.autograd.grad(scalar, [*leaves, *parameters(weights)])]


def nll_with_gradients(x: Tensor, context: Tensor, weights: MafWeights, event_weights: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, context, event_weights)]
    total = maf_nll(leaves[0], leaves[1], weights, leaves[2])
    return [total.detach(), *torch.autograd.grad(total, [*leaves, *parameters(weights)])]


def close(result: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(result, exact, rtol=1e-11, atol=1e-11 * max(1.0, float(exact.abs().max())))


class TestTiles:
    @both_directions
    @pytest.mark.parametrize("rows", [16, 33, 130])
    def test_numbers_of_events_about_the_size_of_a_tile(self, direction, rows):
        weights = flow_weights(3, 1, (12, 7), blocks=1)
        x, context = draw(rows, 3, seed=1), draw(rows, 1, seed=2)
        results = with_gradients(DIRECTIONS[direction], x, context, weights)
        with kernels.backend("reference"):
            exact = with_gradients(DIRECTIONS[direction], x, context, weights)
        for result, wanted in zip(results, exact, strict=True):
            close(result, wanted)

    @both_directions
    def test_more_tiles_than_thread_blocks(self, direction, gpu_backend):
        weights = flow_weights(2, 0, (5,), dtype=torch.float32)
        rows = 40_000 if torch.cuda.is_available() else 600 if gpu_backend == "triton" else 1_100
        x = draw(rows, 2, seed=1, dtype=torch.float32)
        context = x.new_empty((len(x), 0))
        results = [t.double() for t in with_gradients_of(direction, x, context, weights)]
        double = weights._replace(blocks=[[w.detach().double().requires_grad_() for w in block] for block in weights.blocks])
        with kernels.backend("reference"):
            exact = with_gradients_of(direction, x.double(), context.double(), double)
        for result, wanted in zip(results, exact, strict=True):
            torch.testing.assert_close(result, wanted, rtol=1e-4, atol=3e-6 * max(1.0, float(wanted.abs().max())))

    @both_directions
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_hidden_layers_too_wide_for_shared_memory(self, direction, dtype, gpu_backend):
        width = 4_000 if torch.cuda.is_available() else 300 if gpu_backend == "triton" else 1_200
        weights = flow_weights(2, 1, (width,), blocks=1, dtype=dtype)
        x, context = draw(9, 2, seed=1, dtype=dtype), draw(9, 1, seed=2, dtype=dtype)
        results = with_gradients(DIRECTIONS[direction], x, context, weights)
        with kernels.backend("reference"):
            exact = with_gradients(DIRECTIONS[direction], x, context, weights)
        tolerance = 1e-10 if dtype == torch.float64 else 2e-4
        for result, wanted in zip(results, exact, strict=True):
            torch.testing.assert_close(result, wanted, rtol=tolerance, atol=tolerance * max(1.0, float(wanted.abs().max())))


def with_gradients_of(direction: str, x: Tensor, context: Tensor, weights: MafWeights) -> list[Tensor]:
    """As with_gradients, without a context to differentiate by."""
    leaf = x.detach().requires_grad_()
    y, log_det = DIRECTIONS[direction](leaf, context, weights)
    scalar = (y * torch.cos(torch.arange(len(y)))[:, None].to(y)).sum() + log_det.sum()
    return [y.detach(), log_det.detach(), *torch.autograd.grad(scalar, [leaf, *parameters(weights)])]


class TestRows:
    @both_directions
    def test_a_row_does_not_depend_on_its_place_nor_on_their_number(self, direction):
        function = DIRECTIONS[direction]
        weights = flow_weights(4, 2, (33, 17), blocks=1, dtype=torch.float32)
        x, context = draw(70, 4, seed=1, dtype=torch.float32), draw(70, 2, seed=2, dtype=torch.float32)
        with torch.no_grad():
            whole, log_det = function(x, context, weights)
            for begin, end in [(0, 1), (1, 18), (18, 70)]:
                part, part_log_det = function(x[begin:end], context[begin:end], weights)
                assert torch.equal(part, whole[begin:end])
                assert torch.equal(part_log_det, log_det[begin:end])

    @both_directions
    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in Triton's interpreter
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_nan_and_inf_stay_in_their_rows(self, direction, bad):
        function = DIRECTIONS[direction]
        weights = flow_weights(4, 1, (20, 33), blocks=1, dtype=torch.float32)
        clean, context = draw(40, 4, seed=1, dtype=torch.float32), draw(40, 1, seed=2, dtype=torch.float32)
        dirty = clean.clone()
        rows = torch.tensor([3, 16, 39])
        dirty[rows, torch.tensor([0, 3, 2])] = bad
        kept = torch.ones(40, dtype=torch.bool)
        kept[rows] = False
        results = []
        for x in (clean.requires_grad_(), dirty.requires_grad_()):
            y, log_det = function(x, context, weights)
            results.append((y, log_det, *torch.autograd.grad(y.sum() + log_det.sum(), x)))
        for expected, result in zip(*results, strict=True):
            assert torch.equal(result[kept], expected[kept])
        assert not torch.isfinite(results[1][0][~kept]).all(1).any()

    def test_nan_spoils_the_likelihood_and_its_own_rows(self):
        weights = flow_weights(3, 1, (9, 8))
        clean, context, w = draw(40, 3, seed=1), draw(40, 1, seed=2), draw(40, seed=3)
        dirty = clean.clone()
        dirty[torch.tensor([3, 39]), torch.tensor([0, 2])] = math.nan
        expected, result = (nll_with_gradients(x, context, weights, w) for x in (clean, dirty))
        kept = ~dirty.isnan().any(1)
        assert result[0].isnan()
        for i in (1, 2, 3):
            assert torch.equal(result[i][kept], expected[i][kept])
        assert result[3][~kept].isnan().all()


class TestRuns:
    @both_directions
    def test_the_same_bits_from_run_to_run(self, direction):
        weights = flow_weights(3, 2, (24, 10), dtype=torch.float32)
        x, context = draw(150, 3, seed=1, dtype=torch.float32), draw(150, 2, seed=2, dtype=torch.float32)
        first, second = (with_gradients(DIRECTIONS[direction], x, context, weights) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    def test_masked_weights_get_exactly_zero(self):
        weights = flow_weights(4, 1, (9, 40))
        x, context, w = draw(20, 4, seed=1), draw(20, 1, seed=2), draw(20, seed=3)
        ours = nll_with_gradients(x, context, weights, w)
        with kernels.backend("reference"):
            reference = nll_with_gradients(x, context, weights, w)
        for mine, plain in zip(ours[4:], reference[4:], strict=True):
            assert torch.equal(mine == 0, plain == 0)

    @needs_gpu
    @both_directions
    def test_nothing_waits_for_the_device(self, direction):
        weights = flow_weights(3, 2, (24, 10), dtype=torch.float32)
        x, context, w = (draw(*shape, seed=i, dtype=torch.float32) for i, shape in enumerate([(200, 3), (200, 2), (200,)]))
        leaf, flat = x.clone().requires_grad_(), parameters(weights)

        def step() -> None:
            y, log_det = DIRECTIONS[direction](leaf, context, weights)
            torch.autograd.grad(y.sum() + log_det.sum() + maf_nll(leaf, context, weights, w), [leaf, *flat])

        step()  # compiles what is compiled at the first call
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @needs_gpu
    @both_directions
    def test_a_captured_graph_gives_the_same(self, direction):
        weights = flow_weights(3, 2, (24, 10), dtype=torch.float32)
        x, context = draw(300, 3, seed=1, dtype=torch.float32), draw(300, 2, seed=2, dtype=torch.float32)
        leaf, flat = x.clone().requires_grad_(), parameters(weights)

        def step() -> tuple[Tensor, ...]:
            y, log_det = DIRECTIONS[direction](leaf, context, weights)
            total = y.square().sum() + log_det.sum() + maf_nll(leaf, context, weights)
            return total.detach(), *torch.autograd.grad(total, [leaf, *flat])

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        with torch.no_grad():
            leaf.copy_(2 * x)
        graph.replay()
        for result, wanted in zip(captured, step(), strict=True):
            assert torch.equal(result, wanted)


def test_too_many_layers(gpu_backend):
    if gpu_backend != "cuda":
        pytest.skip("a limit of the kernels in CUDA")
    weights = flow_weights(2, 0, (3,) * 9, blocks=1)
    with pytest.raises(UsageError, match="a flow on a GPU needs one to eight hidden layers"):
        maf_forward(draw(4, 2, seed=1), None, weights)
