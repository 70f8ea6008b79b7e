"""What the density estimates have on a GPU alone: bandwidths that the host does not know, windows in shared memory, graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hepgen import kernels
from hepgen.kernels import kde, kde_divergence

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
needs_gpu = pytest.mark.skipif(not GPU, reason="torch has no GPU here")
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def draw(n, features, seed, dtype=torch.float32):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def on_device(*tensors):
    return [None if t is None else t.to(DEVICE) for t in tensors]


def outcome(x, grid, b, w, slope, reach, backend):
    """Density, gradients of samples and weights by the ops themselves."""
    x, grid, b, w, slope = on_device(x, grid, b, w, slope)
    density = torch.ops.hepgen.kde(x, grid, b, w, True, reach, backend)
    wanted = 1 if w is None else 3
    gradients = torch.ops.hepgen.kde_gradients(slope, density, x, grid, b, w, True, reach, wanted, backend)
    return [t.cpu() for t in (density, *gradients)]


def reference(x, grid, b, w, slope, method="binned"):
    x = x.double().requires_grad_()
    w = None if w is None else w.double().requires_grad_()
    with kernels.backend("reference"):
        density = kde(x, grid, b, weights=w, method=method)
    inputs = [x] if w is None else [x, w]
    gradients = torch.autograd.grad(density, inputs, slope.T.double())
    return [density.detach().T, *gradients, *([torch.empty(0)] if w is None else [])]


def assert_close(got, want, dtype, factor=1.0):
    eps = (100 if dtype == torch.float32 else 1000) * torch.finfo(dtype).eps * factor
    for mine, theirs in zip(got, want, strict=True):
        scale = max(theirs.abs().max().item(), 0.01) if theirs.numel() else 1.0
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=eps * scale)


def binned_and_reference(backend, x, weighted, points):
    n, features = x.shape
    w = draw(n, 1, 2, x.dtype)[:, 0] + 1.5 if weighted else None
    grid, b = torch.linspace(-2.5, 2.5, points, dtype=torch.float64), torch.linspace(0.2, 0.6, features, dtype=torch.float64)
    slope = draw(features, points, 3, x.dtype)
    total = 1.0 if w is None else float(w.abs().sum() / w.sum().abs())
    assert_close(outcome(x, grid, b, w, slope, points, backend), reference(x, grid, b, w, slope), x.dtype, factor=total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "features", "skip"), [(1, 1, 0), (700, 1, 1), (1501, 3, 1), (611, 5, 2), (1100, 6, 1), (90, 14, 3)])
def test_binned_equals_the_reference(gpu_backend, dtype, weighted, n, features, skip):
    """Several blocks, quads that are not whole, samples that do not begin at a quad."""
    binned_and_reference(gpu_backend, draw(n + skip, features, 1, dtype)[skip:], weighted, 40)


def test_features_by_the_thousand(gpu_backend):
    """More than a block has threads, so that a thread's features change."""
    if gpu_backend == "triton":
        pytest.skip("goes there as fewer features do")
    binned_and_reference(gpu_backend, draw(5, 769, 1), True, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_samples_beyond_the_window(gpu_backend, dtype, weighted):
    """A wide kernel: bins far from the grid, which no block has in shared memory."""
    x = 60 * draw(600, 2, 1, dtype)
    w = draw(600, 1, 2, dtype)[:, 0] + 1.5 if weighted else None
    grid, b = torch.linspace(-1, 1, 24, dtype=torch.float64), torch.tensor([20.0, 4.0], dtype=torch.float64)
    slope = draw(2, 24, 3, dtype)
    reach = int(8 * 20 / (2 / 23)) + 1
    got, want = outcome(x, grid, b, w, slope, reach, gpu_backend), reference(x, grid, b, w, slope)
    if dtype == torch.float32:  # the kernel is cut at 6.5 bandwidths: 7e-10 of the peak
        torch.testing.assert_close(got[1].double(), want[1], rtol=0, atol=1e-4 * want[1].abs().max().item())
        got[1] = want[1].float()
    assert_close(got, want, dtype)


@pytest.mark.parametrize("weighted", [False, True])
def test_bandwidth_that_the_host_does_not_know(gpu_backend, weighted):
    """The same numbers with margins for any bandwidth; NaN, feature by feature, where there can be none."""
    x, w = draw(500, 3, 1, torch.float64), draw(500, 1, 2, torch.float64)[:, 0] + 1.5 if weighted else None
    grid, slope = torch.linspace(-3, 3, 50, dtype=torch.float64), draw(3, 50, 3, torch.float64)
    b = torch.tensor([0.4, 0.3, 5.0], dtype=torch.float64)
    known, unknown = (outcome(x, grid, b, w, slope, reach, gpu_backend) for reach in (int(8 * 5 / (6 / 49)) + 1, -1))
    assert_close(known, unknown, torch.float64)
    for bad in (0.0, -1.0, float("nan"), float("inf"), 50.0):
        density, *_ = outcome(x, grid, torch.tensor([0.4, bad, 5.0], dtype=torch.float64), w, slope, -1, gpu_backend)
        assert density[1].isnan().all()
        torch.testing.assert_close(density[[0, 2]], unknown[0][[0, 2]])
    uneven = torch.stack([grid, grid**3, grid], 1)
    density, *_ = outcome(x, uneven, b, w, slope, -1, gpu_backend)
    assert density.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", ["exact", "binned"])
def test_same_bits_from_run_to_run(gpu_backend, method, weighted):
    x, w, grid = *on_device(draw(3000, 3, 1), draw(3000, 1, 2)[:, 0] + 2), torch.linspace(-3, 3, 64, dtype=torch.float64)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def run(rows):
        leaf, weights = x[rows].requires_grad_(), w[rows].requires_grad_() if weighted else None
        density = kde(leaf, grid, 0.3, weights=weights, method=method)
        inputs = [leaf] if weights is None else [leaf, weights]
        return [density.detach(), *torch.autograd.grad(density.square().sum(), inputs)]

    one, two = run(slice(None)), run(slice(None))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    if method == "binned" and not weighted:  # sums are of integers: their order does not matter
        assert torch.equal(run(order)[0], one[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_many_samples(gpu_backend, weighted):
    """More than a block takes at a time; shares are rounded to 2^-28 of the largest weight."""
    if gpu_backend == "triton":
        pytest.skip("shares are rounded alike for any number there")
    x, w = draw(140_000, 1, 1), draw(140_000, 1, 2)[:, 0].abs() + 0.01 if weighted else None
    grid, b, slope = torch.linspace(-4, 4, 100, dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64), draw(1, 100, 3)
    assert_close(outcome(x, grid, b, w, slope, 17, gpu_backend), reference(x, grid, b, w, slope), torch.float32)


def test_samples_on_grid_points_belong_to_the_bin_that_begins_there(gpu_backend):
    """Slopes jump there, and positions are rounded: (x - first) / step is a little less than whole for some of these."""
    x, grid = torch.arange(-4.5, 5.0)[:, None], torch.linspace(-5.5, 5.5, 1024, dtype=torch.float64)
    b, slope = torch.tensor([0.118], dtype=torch.float64), draw(1, 1024, 2)
    here, right = (outcome(at, grid, b, None, slope, 90, gpu_backend)[1] for at in (x, torch.nextafter(x, torch.tensor(9.0))))
    torch.testing.assert_close(here, right, rtol=1e-5, atol=0)


def test_nan_anywhere_poisons(gpu_backend):
    for at in range(6):  # every place in a quad, and the ends
        x = draw(13, 3, 1)
        x.view(-1)[[at, -1 - at][at % 2]] = torch.nan
        density = kde(x.to(DEVICE), torch.linspace(-2, 2, 20), 0.5, method="binned").cpu()
        assert density.isnan().all(0).tolist() == x.isnan().any(0).tolist()


def test_grid_of_the_host_is_sent_once(gpu_backend):
    x, grid = draw(40, 2, 1).to(DEVICE), torch.linspace(-2, 2, 20, dtype=torch.float64)
    before = kde(x, grid, 0.5, method="binned")
    grid.mul_(0.5)  # a change is noticed
    after = kde(x, grid, 0.5, method="binned")
    torch.testing.assert_close(after, kde(x, torch.linspace(-1, 1, 20, dtype=torch.float64), 0.5, method="binned"))
    assert not torch.allclose(before, after)


def test_wide_features_leave_room(gpu_backend):
    """More bins than one block has room for: features go in groups."""
    features, points = 40, 600 if gpu_backend == "cuda" else 100
    x, grid, b = (
        draw(60, features, 1),
        torch.linspace(-3, 3, points, dtype=torch.float64),
        torch.full((features,), 0.2, dtype=torch.float64),
    )
    slope = draw(features, points, 3)
    assert_close(outcome(x, grid, b, None, slope, 200, gpu_backend), reference(x, grid, b, None, slope), torch.float32)


@needs_gpu
class TestDevice:
    def arguments(self):
        x, w = on_device(draw(50_000, 6, 1), draw(50_000, 1, 2)[:, 0] + 2)
        grid, b = on_device(torch.linspace(-5, 5, 512, dtype=torch.float64), torch.full((6,), 0.12, dtype=torch.float64))
        target = torch.full((512, 6), 1 / 512, device=DEVICE)
        return x.requires_grad_(), w.requires_grad_(), grid, b, target

    def step(self, x, w, grid, b, target):
        value = kde_divergence(x, grid, b, target, weights=w) + kde(x, grid, b, weights=w, method="binned").square().sum()
        value = value + kde(x[:500], grid, b, weights=w[:500]).square().sum()
        return [value.detach(), *torch.autograd.grad(value, (x, w))]

    def test_no_synchronisation(self, gpu_backend):
        arguments = self.arguments()
        self.step(*arguments)
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_graph(self, gpu_backend):
        arguments = self.arguments()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.step(*arguments)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = self.step(*arguments)
        with torch.no_grad():
            arguments[0].mul_(0.9)
        graph.replay()
        for got, want in zip(recorded, self.step(*arguments), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)

    def test_large(self, gpu_backend):
        """Several rounds of every block."""
        x, grid = draw(3_000_000, 6, 1), torch.linspace(-5.5, 5.5, 1024, dtype=torch.float64)
        leaf = x.to(DEVICE).requires_grad_()
        got = kde(leaf, grid, 0.118, method="binned")
        slope = draw(1024, 6, 2)
        (gradient,) = torch.autograd.grad(got, leaf, slope.to(DEVICE))
        want = reference(x, grid, torch.full((6,), 0.118, dtype=torch.float64), None, slope.T)
        assert_close([got.detach().T.cpu(), gradient.cpu()], want[:2], torch.float32)
        assert np.isfinite(got.detach().cpu().numpy()).all()
