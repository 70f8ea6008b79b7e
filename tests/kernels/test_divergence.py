from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hepgen import kernels
from hepgen.errors import BackendError, UsageError
from hepgen.kernels import kde, kde_divergence

# infinite exponents are meant; numpy, under Triton's interpreter, tells of them
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.fixture
def diverge(device):
    """:func:`kde_divergence` for samples and weights of the CPU, on the device of the backend in force."""

    def run(samples, grid, bandwidth, target, *, weights=None, floor=1e-9):
        w = None if weights is None else weights.to(device)
        return kde_divergence(samples.to(device), grid, bandwidth, target.to(device), weights=w, floor=floor).cpu()

    return run


@pytest.fixture
def compiled(backend):
    """Every backend but the reference."""
    if backend == "reference":
        pytest.skip("is compared with itself")
    return backend


def draw(n, features, seed, dtype=torch.float64):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


GRID = torch.linspace(-5, 5, 256, dtype=torch.float64)


def masses(seed=7, features=2):
    with kernels.backend("reference"):
        density = kde(draw(500, features, seed), GRID, 0.3)
    return density / density.sum(0)


@pytest.mark.usefixtures("backend")
class TestDivergence:
    def test_normal_densities(self, diverge):
        # one sample at m: KL(N(0, b) || N(m, b)) = m^2 / 2 / b^2
        step = 10 / 255
        target = (torch.exp(-0.5 * (GRID / 0.8).square()) / (0.8 * math.sqrt(2 * math.pi)) * step)[:, None]
        x = GRID[140].reshape(1, 1)  # a grid point: binning does not move it
        got = diverge(x, GRID, 0.8, target, floor=1e-30)
        assert got.item() == pytest.approx((GRID[140] / 0.8).square().item() / 2, rel=1e-9)

    def test_sum_written_out(self, diverge):
        x, w, target = draw(300, 2, 1), draw(300, 1, 2)[:, 0] + 1, masses()
        target[:3] = 0.0  # 0 log 0 = 0
        with kernels.backend("reference"):
            density = kde(x, GRID, torch.tensor([0.2, 0.4]), weights=w, method="binned")
        q = np.maximum(density.numpy() * 10 / 255, 1e-6)
        t = target.numpy()
        want = (t[3:] * np.log(t[3:] / q[3:])).sum() / 2
        got = diverge(x, GRID, torch.tensor([0.2, 0.4]), target, weights=w, floor=1e-6)
        assert got.item() == pytest.approx(want, rel=1e-12)

    def test_gradcheck(self, diverge, backend):
        x, w = draw(12, 2, 3).requires_grad_(), (draw(12, 1, 4)[:, 0].abs() + 0.1).requires_grad_()
        target, fast = masses(), backend in {"cuda", "triton"}  # emulated and interpreted here
        assert torch.autograd.gradcheck(lambda x, w: diverge(x, GRID, 0.3, target, weights=w), (x, w), fast_mode=fast)
        assert torch.autograd.gradcheck(lambda x: 3 * diverge(x, GRID, 0.3, target).square(), (x,), fast_mode=fast)

    def test_nan_in_nan_out(self, diverge):
        x = draw(20, 2, 1)
        x[4, 1] = torch.nan
        assert diverge(x, GRID, 0.3, masses()).isnan()

    @pytest.mark.parametrize(
        ("target", "options", "match"),
        [
            (torch.ones(256, 1), {}, "target must have shape"),
            (torch.ones(256, 2, requires_grad=True), {}, "target is a constant"),
            (torch.ones(256, 2), {"floor": 0.0}, "floor must be positive"),
        ],
    )
    def test_refused(self, diverge, target, options, match):
        with pytest.raises(UsageError, match=match):
            diverge(draw(5, 2, 1), GRID, 0.3, target, **options)


class TestCompiled:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equals_the_reference(self, compiled, diverge, dtype):
        target = masses()
        x64, w64 = draw(20_000, 2, 1, dtype).double().requires_grad_(), (draw(20_000, 1, 2, dtype)[:, 0] + 2).double().requires_grad_()
        with kernels.backend("reference"):
            value = kde_divergence(x64, GRID, 0.2, target, weights=w64)
        wants = (value.detach(), *torch.autograd.grad(value, (x64, w64)))
        x, w = x64.detach().to(dtype).requires_grad_(), w64.detach().to(dtype).requires_grad_()
        value = diverge(x, GRID, 0.2, target, weights=w)
        for got, want in zip((value, *torch.autograd.grad(value, (x, w))), wants, strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), want, rtol=0, atol=5000 * torch.finfo(dtype).eps * want.abs().max().item())

    def test_opcheck_and_compile(self, compiled, device):
        x, w = draw(9, 2, 1).to(device).requires_grad_(), (draw(9, 1, 2)[:, 0] + 2).to(device).requires_grad_()
        grid, target = GRID.to(device), masses().to(device)
        b = torch.tensor([0.5, 0.7], dtype=torch.float64, device=device)
        for wanted in range(4) if compiled == "cpp" else (0, 3):
            torch.library.opcheck(torch.ops.hepgen.kde_divergence.default, (x, grid, b, target, w, 1e-9, 200, wanted, compiled))

        def loss(x):
            return kde_divergence(x, grid, 0.5, target).sqrt()

        torch.compiler.reset()  # which backend is in force is asked once, while it traces
        got, want = torch.compile(loss, fullgraph=True, backend="aot_eager")(x), loss(x)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, x))

    def test_second_derivative_is_refused(self, compiled, diverge):
        x = draw(5, 2, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(diverge(x, GRID, 0.5, masses()), x, create_graph=True)
        with pytest.raises(BackendError, match="first derivatives only"):
            gradient.square().sum().backward()
