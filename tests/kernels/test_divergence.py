from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from hepgen import kernels
from hepgen.errors import BackendError, UsageError
from hepgen.kernels import kde, kde_divergence

CPP = any(op == "kde_divergence" and name == "cpp" and ok for op, name, ok, _ in kernels.registry())
needs_cpp = pytest.mark.skipif(not CPP, reason="hepgen._core is not built")


def draw(n, features, seed, dtype=torch.float64):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


GRID = torch.linspace(-5, 5, 256, dtype=torch.float64)


def masses(seed=7, features=2):
    density = kde(draw(500, features, seed), GRID, 0.3)
    return density / density.sum(0)


@pytest.mark.usefixtures("backend")
class TestDivergence:
    def test_normal_densities(self):
        # one sample at m: KL(N(0, b) || N(m, b)) = m^2 / 2 / b^2
        step = 10 / 255
        target = torch.from_numpy(scipy.stats.norm.pdf(GRID.numpy(), 0, 0.8) * step)[:, None]
        x = GRID[140].reshape(1, 1)  # a grid point: binning does not move it
        got = kde_divergence(x, GRID, 0.8, target, floor=1e-30)
        assert got.item() == pytest.approx((GRID[140] / 0.8).square().item() / 2, rel=1e-9)

    def test_sum_written_out(self):
        x, w, target = draw(300, 2, 1), draw(300, 1, 2)[:, 0] + 1, masses()
        target[:3] = 0.0  # 0 log 0 = 0
        q = np.maximum(kde(x, GRID, torch.tensor([0.2, 0.4]), weights=w, method="binned").numpy() * 10 / 255, 1e-6)
        t = target.numpy()
        want = (t[3:] * np.log(t[3:] / q[3:])).sum() / 2
        got = kde_divergence(x, GRID, torch.tensor([0.2, 0.4]), target, weights=w, floor=1e-6)
        assert got.item() == pytest.approx(want, rel=1e-12)

    def test_gradcheck(self):
        x, w = draw(12, 2, 3).requires_grad_(), (draw(12, 1, 4)[:, 0].abs() + 0.1).requires_grad_()
        target = masses()
        assert torch.autograd.gradcheck(lambda x, w: kde_divergence(x, GRID, 0.3, target, weights=w), (x, w))
        assert torch.autograd.gradcheck(lambda x: 3 * kde_divergence(x, GRID, 0.3, target).square(), (x,))

    def test_nan_in_nan_out(self):
        x = draw(20, 2, 1)
        x[4, 1] = torch.nan
        assert kde_divergence(x, GRID, 0.3, masses()).isnan()

    @pytest.mark.parametrize(
        ("target", "options", "match"),
        [
            (torch.ones(256, 1), {}, "target must have shape"),
            (torch.ones(256, 2, requires_grad=True), {}, "target is a constant"),
            (torch.ones(256, 2), {"floor": 0.0}, "floor must be positive"),
        ],
    )
    def test_refused(self, target, options, match):
        with pytest.raises(UsageError, match=match):
            kde_divergence(draw(5, 2, 1), GRID, 0.3, target, **options)


@needs_cpp
class TestCompiled:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equals_the_reference(self, dtype):
        target, results = masses(), {}
        for name, kind in (("cpp", dtype), ("reference", torch.float64)):
            x = draw(20_000, 2, 1, dtype).to(kind).requires_grad_()
            w = (draw(20_000, 1, 2, dtype)[:, 0] + 2).to(kind).requires_grad_()
            with kernels.backend(name):
                value = kde_divergence(x, GRID, 0.2, target, weights=w)
            results[name] = (value.detach(), *torch.autograd.grad(value, (x, w)))
        for got, want in zip(results["cpp"], results["reference"], strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), want, rtol=0, atol=5000 * torch.finfo(dtype).eps * want.abs().max().item())

    def test_opcheck_and_compile(self):
        x, w, target = draw(9, 2, 1).requires_grad_(), (draw(9, 1, 2)[:, 0] + 2).requires_grad_(), masses()
        b = torch.tensor([0.5, 0.7], dtype=torch.float64)
        for wanted in range(4):
            torch.library.opcheck(torch.ops.hepgen.kde_divergence.default, (x, GRID, b, target, w, 1e-9, wanted))

        def loss(x):
            return kde_divergence(x, GRID, 0.5, target).sqrt()

        got, want = torch.compile(loss, fullgraph=True, backend="aot_eager")(x), loss(x)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, x))

    def test_second_derivative_is_refused(self):
        x = draw(5, 2, 1).requires_grad_()
        with kernels.backend("cpp"):
            (gradient,) = torch.autograd.grad(kde_divergence(x, GRID, 0.5, masses()), x, create_graph=True)
        with pytest.raises(BackendError, match="first derivatives only"):
            gradient.square().sum().backward()
