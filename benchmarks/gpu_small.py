"""One small call of every CUDA kernel, values and gradients, for compute-sanitizer: python benchmarks/gpu_small.py"""

from __future__ import annotations

import torch

from hepgen.kernels import backend, ecd_step, gaussian_sums, kde, kde_divergence, kernel_mean, maf_forward, maf_inverse, maf_nll, mmd2
from hepgen.networks import MAF


def leaf(*shape: int) -> torch.Tensor:
    """Normal numbers that want a gradient."""
    return torch.randn(*shape, device="cuda").requires_grad_()


def densities() -> None:
    """mmd and kde."""
    for n, m, d in ((70, 300, 6), (33, 257, 17)):
        x, y, w = leaf(n, d), leaf(m, d), torch.rand(n, device="cuda").requires_grad_()
        mmd2(x, y, 3.0, x_weights=w).backward()
        mmd2(x, y, [[1.0], [3.0]], per_feature=True).backward()
        gaussian_sums(x, y, 3.0).sum().backward()
        kernel_mean(x, 3.0)
    x, grid = leaf(1000, 3), torch.linspace(-4, 4, 200)
    for method in ("exact", "binned"):
        kde(x, grid, 0.3, method=method).sum().backward()
    kde_divergence(x, grid, 0.3, torch.full((200, 3), 1 / 200, device="cuda")).backward()


def flow() -> None:
    """maf."""
    model = MAF(5, 3, blocks=2, hidden=(24, 40)).cuda()
    x, context = leaf(150, 5), leaf(150, 3)
    for way in (maf_forward, maf_inverse):
        out, log_det = way(x, context, model.weights())
        (out.sum() + log_det.sum()).backward()
    maf_nll(x, context, model.weights()).backward()


def step() -> None:
    """ecd."""
    params = [torch.randn(n, device="cuda") for n in (5000, 17)]
    velocities = [torch.zeros_like(p) for p in params]
    for number in range(2):
        grads = [torch.randn_like(p) for p in params]
        ecd_step(params, velocities, grads, loss=0.5, lr=0.1, eta=10.0, nu=1e-3, weight_decay=1e-4, step=number)


if __name__ == "__main__":
    torch.manual_seed(1)
    with backend("cuda"):
        densities()
        flow()
        step()
    torch.cuda.synchronize()
    print("done")
