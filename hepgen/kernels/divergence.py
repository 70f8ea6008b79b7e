"""Kullback-Leibler divergence of fixed masses on a grid from the binned density estimate of samples, in one op."""

# the fakes of custom ops take all that the ops take
# ruff: noqa: ARG001

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hepgen.errors import UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.autocast import in_full_precision
from hepgen.kernels.compiled import array, implementation, run_op, times_gradient
from hepgen.kernels.density import _GRAD_W, _GRAD_X, _arrays, _choose, call_core, check_density, kde_reference
from hepgen.kernels.density_parts import Bandwidth, prepare_grid


@in_full_precision
def kde_divergence(
    samples: Tensor,
    grid: Tensor,
    bandwidth: Bandwidth,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    floor: float = 1e-9,
) -> Tensor:
    """KL(target || samples) of the marginals, averaged over the features::

        sum_gf t_gf log(t_gf / max(q_gf, floor)) / F,    q_gf = step_f * kde(samples, grid, bandwidth, method="binned")_gf

    Parameters
    ----------
    samples : (n, F) tensor of float32 or float64
        Differentiable to first order.
    grid : (G, F) or (G,) tensor
        Uniform and increasing. A constant.
    bandwidth : float or (F,) tensor
        Standard deviation of the Gaussian. A constant.
    target : (G, F) tensor
        Masses t >= 0, normally of sum 1 per feature: made once, where the target does not change between steps. A constant.
    weights : (n,) tensor, optional
        Event weights, signed ones too, differentiable.
    floor : float
        Least mass of a grid step: keeps the logarithm finite where there are no samples, or where signed weights leave a
        negative density. No gradient flows through a floored mass.

    Returns
    -------
    0-d tensor of the dtype of samples
        NaN where a sample is. Samples beyond the grid raise the divergence. On a GPU the same bits from run to run; see :func:`kde` for
        what is not checked there.

    Raises
    ------
    InputError, UsageError, BackendError
        As :func:`kde`; UsageError too if the target does not fit the grid or needs a gradient, or the floor is not positive.
    """
    b, w = check_density(samples, grid, bandwidth, weights)
    if target.shape != (grid.shape[0], samples.shape[1]):
        raise UsageError(f"kde_divergence: target must have shape ({grid.shape[0]}, {samples.shape[1]}), got {tuple(target.shape)}")
    if target.is_complex():
        raise UsageError(f"kde_divergence: target must be real, got {target.dtype}")
    if target.requires_grad:
        raise UsageError("kde_divergence: the target is a constant: no gradient flows to it, detach it")
    if not floor > 0:
        raise UsageError(f"kde_divergence: floor must be positive, got {floor}")
    backend = _choose("kde_divergence", samples.device.type)
    if backend == "reference":
        return divergence_reference(samples, grid.detach(), b, target, w, floor)
    points, reach = prepare_grid(samples, grid, bandwidth, True, backend)
    wanted = 0
    if torch.is_grad_enabled():
        wanted = _GRAD_X * samples.requires_grad + _GRAD_W * (w is not None and w.requires_grad)
    op = torch.ops.hepgen.kde_divergence
    value: Tensor = run_op(op, _kde_divergence, samples, points, b, target, w, float(floor), reach, wanted, backend)[0]
    return value


def divergence_reference(samples: Tensor, grid: Tensor, b: Tensor, target: Tensor, weights: Tensor | None, floor: float) -> Tensor:
    """:func:`kde_divergence` of plain torch ops."""
    step = (grid[-1] - grid[0]) / (grid.shape[0] - 1)
    masses = (kde_reference(samples, grid, b, weights, method="binned") * step.to(samples)).clamp_min(floor)
    target = target.to(samples)
    # 0 log 0 = 0
    divergence: Tensor = (torch.special.xlogy(target, target) - target * torch.log(masses)).sum(0).mean()
    return divergence


def _kde_divergence(
    samples: Tensor,
    grid: Tensor,
    bandwidth: Tensor,
    target: Tensor,
    weights: Tensor | None,
    floor: float,
    reach: int,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if backend != "cpp":
        results: tuple[Tensor, Tensor, Tensor] = implementation(backend, "density").divergence(
            samples, grid, bandwidth, target, weights, floor, reach, wanted
        )
        return results
    core: Any = dispatch.core()
    x, g, b, w = _arrays(samples, grid, bandwidth, weights)
    value, density, slope = call_core(core.kde_divergence, x, g, b, array(target.T.double()), w, floor)
    # the derivative with respect to the samples at once: an op of its own would cost as much again in torch
    if wanted:
        gx, gw = (torch.from_numpy(part) for part in call_core(core.kde_gradients, True, x, g, b, w, density, slope, wanted))
    else:
        gx, gw = samples.new_empty((0, samples.shape[1])), samples.new_empty((0,))
    return torch.tensor(value, dtype=samples.dtype), gx, gw


_op = torch.library.custom_op("hepgen::kde_divergence", _kde_divergence, mutates_args=())


@_op.register_fake
def _(
    samples: Tensor,
    grid: Tensor,
    bandwidth: Tensor,
    target: Tensor,
    weights: Tensor | None,
    floor: float,
    reach: int,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, features = samples.shape
    return (
        samples.new_empty(()),
        samples.new_empty((rows if wanted & _GRAD_X else 0, features)),
        samples.new_empty((rows if wanted & _GRAD_W else 0,)),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    samples, _, _, _, weights, _, _, ctx.wanted, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], samples, *([weights] if weights is not None else []))


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    gx, gw, *inputs = ctx.saved_tensors
    to_samples = times_gradient(grad, gx, inputs) if ctx.wanted & _GRAD_X else None
    to_weights = times_gradient(grad, gw, inputs) if ctx.wanted & _GRAD_W else None
    return to_samples, None, None, None, to_weights, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup)
