"""The Gaussian kernel sums and the squared maximum mean discrepancy.

k(a, b) = exp(-sum_f (a_f - b_f)^2 / sigma_f), or the mean of several such. The n x m kernel matrix is never built:
memory is O(n + m). The compiled backends make the value and the gradients that are asked for in one sweep over the pairs. On a CPU
symmetric halves are made once, and groups of points that lie so far apart that every kernel value is zero are passed over; on a GPU
the value alone is made of halves, and gradients of whole rows.
"""

# the fakes of custom ops take all that the ops take
# ruff: noqa: ARG001

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hepgen.errors import InputError, UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.autocast import in_full_precision
from hepgen.kernels.compiled import array, implementation, run_op, times_gradient, untraced
from hepgen.kernels.constants import constant, filled

_GRAD_X, _GRAD_Y, _GRAD_WX, _GRAD_WY = 1, 2, 4, 8
_MOST_BANDWIDTHS = 1 << 24  # more are a mistake
_REFERENCE_NUMBERS = 1 << 24  # the reference holds so many differences at once

Bandwidth = float | Sequence[float] | Tensor


@in_full_precision
def mmd2(
    x: Tensor,
    y: Tensor,
    bandwidth: Bandwidth,
    *,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    cross_weight: float = 2.0,
    per_feature: bool = False,
    y_mean: Tensor | float | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy of two weighted samples, with a Gaussian kernel.

    The biased estimator of Gretton et al., J. Mach. Learn. Res. 13 (2012) 723, eq. 5, with weights::

        sum_ij w_i w_j k(x_i, x_j) / (sum w)^2 + sum_ij v_i v_j k(y_i, y_j) / (sum v)^2
            - cross_weight sum_ij w_i v_j k(x_i, y_j) / (sum w sum v)

    Parameters
    ----------
    x, y : (n, d), (m, d) tensor of float32 or float64
        Differentiable to first order.
    bandwidth : float or (d,) or (S, d) or (S, 1) tensor
        sigma in k(a, b) = exp(-sum_f (a_f - b_f)^2 / sigma_f), in squared units of the features. A constant. With S
        rows the kernel is the mean of S Gaussians; proportional rows share their distances. A tensor on a GPU is not read
        back: whether it is positive is not checked.
    x_weights, y_weights : (n,), (m,) tensor, optional
        Event weights, signed ones too, differentiable. A sum of zero gives NaN or inf.
    cross_weight : float
        2 is the estimator of Gretton et al.; the simulation-to-data paper prints 1.
    per_feature : bool
        The mean over the features of their one-dimensional discrepancies, instead of the joint one, which alone sees
        correlations.
    y_mean : float or 0-d tensor, optional
        :func:`kernel_mean` of y, with the same bandwidth and `per_feature`, where it is known (data do not change between
        steps), so that it is not made again.

    Returns
    -------
    0-d tensor of the dtype of x
        NaN where a point or a weight is NaN. The same bits for any number of threads, and from run to run on a GPU.

    Raises
    ------
    InputError
        If a sample has no rows.
    UsageError
        If shapes, dtypes or devices do not fit, the bandwidth is not positive, or y needs a gradient beside ``y_mean``.
    BackendError
        If the backend asked for does not exist for these tensors.
    """
    sigma = _check(x, y, bandwidth)
    wx, wy = _weights(x_weights, x, "x_weights"), _weights(y_weights, y, "y_weights")
    if x.shape[0] == 0 or y.shape[0] == 0:
        raise InputError(f"mmd2 needs at least one row in each sample, got {x.shape[0]} and {y.shape[0]}")
    if y_mean is not None and torch.is_grad_enabled() and (y.requires_grad or (wy is not None and wy.requires_grad)):
        raise UsageError("mmd2: y needs a gradient, so y_mean cannot be a constant: leave it out")
    known = None if y_mean is None else constant(y_mean, x.device).detach()
    backend = _choose("mmd2", x.device.type)
    if backend == "reference":
        return mmd2_reference(x, y, sigma, wx, wy, cross_weight, per_feature, known)
    wanted = _wanted((x, _GRAD_X), (y, _GRAD_Y), (wx, _GRAD_WX), (wy, _GRAD_WY))
    results = run_op(torch.ops.hepgen.mmd2, _mmd2, x, y, sigma, wx, wy, float(cross_weight), per_feature, known, wanted, backend)
    value: Tensor = results[0]
    return value


@in_full_precision
def kernel_mean(x: Tensor, bandwidth: Bandwidth, *, weights: Tensor | None = None, per_feature: bool = False) -> Tensor:
    """Return sum_ij w_i w_j k(x_i, x_j) / (sum w)^2: the term of :func:`mmd2` that belongs to one sample alone.

    A constant: no gradient flows to x. Parameters and errors as in :func:`mmd2`.

    Returns
    -------
    0-d tensor of float64
    """
    sigma = _check(x, x, bandwidth)
    w = _weights(weights, x, "weights")
    if x.shape[0] == 0:
        raise InputError("kernel_mean needs at least one row")
    with torch.no_grad():
        backend = _choose("kernel_mean", x.device.type)
        if backend == "reference":
            return _mean(x, x, sigma, w, w, per_feature).double()
        value: Tensor = run_op(torch.ops.hepgen.kernel_mean, _kernel_mean, x, sigma, w, per_feature, backend)
        return value


@in_full_precision
def gaussian_sums(x: Tensor, y: Tensor, bandwidth: Bandwidth, *, y_weights: Tensor | None = None) -> Tensor:
    """Row sums of the Gaussian kernel matrix, sum_j v_j k(x_i, y_j).

    Parameters
    ----------
    x, y : (n, d), (m, d) tensor of float32 or float64
        Differentiable to first order.
    bandwidth : float or (d,) or (S, d) or (S, 1) tensor
        sigma, as in :func:`mmd2`.
    y_weights : (m,) tensor, optional
        Signed weights v, differentiable.

    Returns
    -------
    (n,) tensor
        Zeros where y has no rows.

    Raises
    ------
    UsageError
        If shapes, dtypes or devices do not fit, or the bandwidth is not positive.
    """
    sigma = _check(x, y, bandwidth)
    wy = _weights(y_weights, y, "y_weights")
    backend = _choose("gaussian_sums", x.device.type)
    if backend == "reference":
        return gaussian_sums_reference(x, y, sigma, wy)
    gradient = bool(_wanted((x, _GRAD_X)))
    sums: Tensor = run_op(torch.ops.hepgen.gaussian_sums, _gaussian_sums, x, y, sigma, wy, gradient, backend)[0]
    return sums


# --- what the arguments must be


def _choose(op: str, device: str) -> str:
    return dispatch.choose(op, device=device)


# torch.compile asks once, while it traces: what torch.compiler.assume_constant_result sets, without loading its compiler
_choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check(x: Tensor, y: Tensor, bandwidth: Bandwidth) -> Tensor:
    """Return sigma as a (bandwidths, d) tensor of float64 on the device of x."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise UsageError(f"samples must have shapes (n, d) and (m, d) with d >= 1, got {tuple(x.shape)} and {tuple(y.shape)}")
    if x.dtype != y.dtype or x.dtype not in {torch.float32, torch.float64}:
        raise UsageError(f"samples must both be float32 or both float64, got {x.dtype} and {y.dtype}")
    if x.device != y.device:
        raise UsageError(f"samples must be on one device, got {x.device} and {y.device}")
    if isinstance(bandwidth, Tensor) and bandwidth.requires_grad:
        raise UsageError("the bandwidth is a constant: no gradient flows to it, detach it")
    if isinstance(bandwidth, float | int) and untraced():
        if not _is_bandwidth(bandwidth):
            raise UsageError(f"bandwidth must be positive and finite, got {float(bandwidth)}")
        return filled(float(bandwidth), (1, x.shape[1]), x.device)
    if isinstance(bandwidth, Tensor) and bandwidth.is_complex():
        raise UsageError(f"bandwidth must be real, got {bandwidth.dtype}")
    if isinstance(bandwidth, Tensor) and bandwidth.numel() > _MOST_BANDWIDTHS:
        raise UsageError(f"bandwidth may hold 2^24 numbers at most, got shape {tuple(bandwidth.shape)}")
    sigma = bandwidth.double() if isinstance(bandwidth, Tensor) else torch.as_tensor(bandwidth, dtype=torch.float64, device="cpu")
    columns = sigma.shape[-1:] in {(), (x.shape[1],)} or (sigma.ndim == 2 and sigma.shape[1] == 1)
    if sigma.ndim > 2 or not columns or sigma.shape[:-1] == (0,):
        raise UsageError(
            f"bandwidth must be a number or hold one value per feature ({x.shape[1]}), in one row or in several, "
            f"got shape {tuple(sigma.shape)}"
        )
    # what lies on a GPU is not read back
    if sigma.device.type == "cpu" and not torch.compiler.is_compiling() and not all(map(_is_bandwidth, sigma.flatten().tolist())):
        raise UsageError(f"bandwidth must be positive and finite, got {sigma.tolist()}")
    if sigma.device != x.device:
        sigma = constant(sigma, x.device)
    return sigma.expand(sigma.shape[0] if sigma.ndim == 2 else 1, x.shape[1])


def _is_bandwidth(sigma: float) -> bool:
    return sigma > 0 and math.isfinite(sigma) and math.isfinite(1 / sigma)


def _weights(weights: Tensor | None, points: Tensor, name: str) -> Tensor | None:
    if weights is None:
        return None
    if weights.shape != points.shape[:1]:
        raise UsageError(f"{name} must have shape ({points.shape[0]},), one weight per row, got {tuple(weights.shape)}")
    if weights.is_complex():
        raise UsageError(f"{name} must be real, got {weights.dtype}")
    return weights.to(device=points.device, dtype=points.dtype)


def _wanted(*tensors: tuple[Tensor | None, int]) -> int:
    if not torch.is_grad_enabled():
        return 0
    return sum(bit for tensor, bit in tensors if tensor is not None and tensor.requires_grad)


# --- reference: plain torch, rows in chunks so that memory stays bounded


def _row_sums(x: Tensor, y: Tensor, sigma: Tensor, wy: Tensor | None) -> Tensor:
    squares = (x[:, None, :] - y[None, :, :]).square()
    k = torch.stack([torch.exp(-(squares / s).sum(-1)) for s in sigma]).mean(0)
    return k.sum(1) if wy is None else k @ wy


def gaussian_sums_reference(x: Tensor, y: Tensor, sigma: Tensor, wy: Tensor | None = None) -> Tensor:
    """:func:`gaussian_sums` in plain torch; sigma (bandwidths, d)."""
    sigma = sigma.to(x.dtype)
    step = max(1, _REFERENCE_NUMBERS // max(y.numel(), 1))
    if x.shape[0] <= step:
        return _row_sums(x, y, sigma, wy)
    chunks = [checkpoint(_row_sums, part, y, sigma, wy, use_reentrant=False) for part in x.split(step)]
    return torch.cat(chunks)


def _mean(x: Tensor, y: Tensor, sigma: Tensor, wx: Tensor | None, wy: Tensor | None, per_feature: bool = False) -> Tensor:
    if per_feature:
        columns = zip(x.split(1, 1), y.split(1, 1), sigma.split(1, 1), strict=True)
        return torch.stack([_mean(a, b, s, wx, wy) for a, b, s in columns]).mean()
    sums = gaussian_sums_reference(x, y, sigma, wy)
    per_row = sums.mean() if wx is None else (wx @ sums) / wx.sum()
    return per_row / (y.shape[0] if wy is None else wy.sum())


def mmd2_reference(
    x: Tensor,
    y: Tensor,
    sigma: Tensor,
    wx: Tensor | None = None,
    wy: Tensor | None = None,
    cross_weight: float = 2.0,
    per_feature: bool = False,
    y_mean: Tensor | None = None,
) -> Tensor:
    """:func:`mmd2` in plain torch; sigma (bandwidths, d)."""
    yy = _mean(y, y, sigma, wy, wy, per_feature) if y_mean is None else y_mean.to(x.dtype)
    return _mean(x, x, sigma, wx, wx, per_feature) + yy - cross_weight * _mean(x, y, sigma, wx, wy, per_feature)


# --- the compiled backends as custom ops: what they return beside the value are the gradients that were asked for


def _mmd2(
    x: Tensor,
    y: Tensor,
    sigma: Tensor,
    wx: Tensor | None,
    wy: Tensor | None,
    cross_weight: float,
    per_feature: bool,
    y_mean: Tensor | None,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if backend != "cpp":
        results: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = implementation(backend, "mmd").mmd2(
            x, y, sigma, wx, wy, cross_weight, per_feature, y_mean, wanted
        )
        return results
    core: Any = dispatch.core()
    known = None if y_mean is None else float(y_mean)
    value, *gradients = core.mmd2(
        array(x), array(y), array(sigma), array(wx), array(wy), cross_weight, per_feature, known, wanted, dispatch.thread_count()
    )
    gx, gy, gwx, gwy = (torch.from_numpy(g) for g in gradients)
    return torch.tensor(value, dtype=x.dtype), gx, gy, gwx, gwy


_mmd2_op = torch.library.custom_op("hepgen::mmd2", _mmd2, mutates_args=())


@_mmd2_op.register_fake
def _(
    x: Tensor,
    y: Tensor,
    sigma: Tensor,
    wx: Tensor | None,
    wy: Tensor | None,
    cross_weight: float,
    per_feature: bool,
    y_mean: Tensor | None,
    wanted: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    def output(bit: int, shape: torch.Size) -> Tensor:
        return x.new_empty(shape if wanted & bit else (0,))

    return (
        x.new_empty(()),
        output(_GRAD_X, x.shape),
        output(_GRAD_Y, y.shape),
        output(_GRAD_WX, x.shape[:1]),
        output(_GRAD_WY, y.shape[:1]),
    )


def _mmd2_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, _, wx, wy, *_, ctx.wanted, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], x, y, *(w for w in (wx, wy) if w is not None))


def _mmd2_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    gradients, inputs = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
    gx, gy, gwx, gwy = (
        times_gradient(grad, gradient, inputs) if ctx.wanted & bit else None
        for bit, gradient in zip((_GRAD_X, _GRAD_Y, _GRAD_WX, _GRAD_WY), gradients, strict=True)
    )
    return gx, gy, None, gwx, gwy, None, None, None, None, None


_mmd2_op.register_autograd(_mmd2_backward, setup_context=_mmd2_setup)


def _kernel_mean(x: Tensor, sigma: Tensor, w: Tensor | None, per_feature: bool, backend: str) -> Tensor:
    if backend != "cpp":
        mean: Tensor = implementation(backend, "mmd").kernel_mean(x, sigma, w, per_feature)
        return mean
    core: Any = dispatch.core()
    value = core.kernel_mean(array(x), array(sigma), array(w), per_feature, dispatch.thread_count())
    return torch.tensor(value, dtype=torch.float64)


@torch.library.custom_op("hepgen::kernel_mean", _kernel_mean, mutates_args=()).register_fake
def _(x: Tensor, sigma: Tensor, w: Tensor | None, per_feature: bool, backend: str) -> Tensor:
    return x.new_empty((), dtype=torch.float64)


def _gaussian_sums(x: Tensor, y: Tensor, sigma: Tensor, wy: Tensor | None, gradient: bool, backend: str) -> tuple[Tensor, Tensor]:
    if backend != "cpp":
        results: tuple[Tensor, Tensor] = implementation(backend, "mmd").gaussian_sums(x, y, sigma, wy, gradient)
        return results
    core: Any = dispatch.core()
    sums, points = core.gaussian_sums(array(x), array(y), array(sigma), array(wy), gradient, dispatch.thread_count())
    return torch.from_numpy(sums), torch.from_numpy(points)


_gaussian_sums_op = torch.library.custom_op("hepgen::gaussian_sums", _gaussian_sums, mutates_args=())


@_gaussian_sums_op.register_fake
def _(x: Tensor, y: Tensor, sigma: Tensor, wy: Tensor | None, gradient: bool, backend: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:1]), x.new_empty(x.shape if gradient else (0,))


def _sums_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, sigma, wy, ctx.gradient, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.weighted = wy is not None
    ctx.save_for_backward(sigma, output[1], x, y, *([wy] if wy is not None else []))


def _sums_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    sigma, points, *inputs = ctx.saved_tensors
    x, y, *weights = inputs
    need_x, need_y, _, need_wy, *_ = ctx.needs_input_grad
    gx = times_gradient(grad[:, None], points, inputs) if need_x and ctx.gradient else None
    gy = gwy = None
    if need_y or need_wy:
        # the columns' sums are the row sums of the turned matrix, weighted by what comes back for each row
        with torch.no_grad():
            sums, turned = run_op(torch.ops.hepgen.gaussian_sums, _gaussian_sums, y, x, sigma, grad, need_y, ctx.backend)
        one = grad.new_ones(())
        gy = times_gradient(weights[0][:, None] if ctx.weighted else one, turned, [*inputs, grad]) if need_y else None
        gwy = times_gradient(one, sums, [*inputs, grad]) if need_wy else None
    return gx, gy, None, gwy, None, None


_gaussian_sums_op.register_autograd(_sums_backward, setup_context=_sums_setup)
