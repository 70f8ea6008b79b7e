from __future__ import annotations

import pytest
import torch

from hepgen.kernels import gaussian_sums, kde, kde_divergence, kernel_mean, maf_forward, maf_inverse, maf_nll, mmd2
from hepgen.kernels.autocast import in_full_precision
from hepgen.networks import MAF

LOW = [torch.bfloat16, torch.float16]


def leaves(dtype: torch.dtype, device: torch.device, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def calls(x, y):
    """Every op on these samples, as scalars."""
    grid = torch.linspace(-4, 4, 65)
    yield lambda: mmd2(x, y, 2.0)
    yield lambda: gaussian_sums(x, y, 2.0).sum()
    yield lambda: kernel_mean(y, 2.0)
    yield lambda: kde(x, grid, 0.5, method="binned").square().sum()
    yield lambda: kde_divergence(x, grid, 0.5, torch.full((65, 3), 1 / 65, device=x.device))
    torch.manual_seed(3)
    flow = MAF(3, 3, blocks=1, hidden=(8,)).to(x.device)
    yield lambda: maf_forward(x, y[: len(x)], flow.weights())[0].square().sum()
    yield lambda: maf_inverse(x, y[: len(x)], flow.weights())[0].square().sum()
    yield lambda: maf_nll(x, y[: len(x)], flow.weights())


@pytest.mark.parametrize("dtype", LOW)
def test_half_precision_enters_as_float32(backend, device, dtype):
    x, y = leaves(dtype, device, (20, 3), (30, 3))
    wide = [t.detach().float().requires_grad_() for t in (x, y)]
    for low, full in zip(calls(x, y), calls(*wide), strict=True):
        for t in (x, y, *wide):
            t.grad = None
        want = full()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            got = low()
        assert got.dtype in {torch.float32, torch.float64}
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0) if want.numel() == 1 else None
        if want.requires_grad:
            want.backward()
            got.backward()
            torch.testing.assert_close(x.grad.float(), wide[0].grad, rtol=2**-7, atol=1e-6)


def test_nothing_changes_without_autocast():
    given = [torch.zeros(2, dtype=torch.float16), [torch.zeros(1)]]
    assert in_full_precision(lambda *args: args)(*given) == tuple(given)


def test_matrix_products_inside_stay_full():
    inner = in_full_precision(lambda a, b: (a @ b).dtype)
    a = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        assert inner(a, b=a) == torch.float32
