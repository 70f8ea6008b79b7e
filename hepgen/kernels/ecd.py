"""One step of Energy Conserving Descent over all parameters of a network, in place.

De Luca, Nachman, Silverstein and Zheng, eqs 14 to 18, and B7 for general q. With u the unit velocity, F the loss and d
the number of parameters, one step is::

    u     <- R u / |u|,  R^2 = (F - F0)^(-eta d (q - 1) / (d - q))     energy conservation; R = 1 for q = 1
    u     <- u - dt eta d / (2 (d - q) (F - F0)) (R^2 grad F + (q - 2) (u . grad F) u)
    theta <- theta + dt u
    v     <- u / |u| + nu z,  z ~ N(0, 1)                              the bounce, whose norm the next step takes out

B7 prints d - 1 where d - q stands here. Only d - q follows from the paper's B5 and keeps the norm of B6; for q = 1 they
are one. The bounce of eq. 16 stands at the end of the step before, as in the code the authors published: v.v is then
summed with the other products, and the noise need not be made twice.

On a GPU nothing waits for the device: the loss may stay there, and so does whether the step was refused, until somebody asks.
"""

# the fake of a custom op takes all that the op takes
# ruff: noqa: ARG001

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hepgen.errors import StepError, UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.compiled import implementation
from hepgen.kernels.ecd_checks import check_apart, check_pair, check_rule, ranges
from hepgen.kernels.noise import noise

_MOVED, _LOSS_TOO_LOW = 0, 1  # outcomes of a step
_ON_GPU = ("cuda", "triton")


class Rule(NamedTuple):
    """The numbers of one step, as :func:`ecd_step` takes them."""

    lr: float
    eta: float
    F0: float
    nu: float
    q: float
    per_tensor: bool
    seed: int
    step: int


def ecd_step(
    params: Sequence[Tensor],
    velocities: Sequence[Tensor],
    grads: Sequence[Tensor],
    *,
    loss: Tensor | float,
    lr: float,
    eta: float,
    F0: float = -1.0,
    nu: float = 0.0,
    q: float = 1.0,
    weight_decay: float | Sequence[float] = 0.0,
    scales: Sequence[float] | None = None,
    per_tensor: bool = False,
    seed: int = 0,
    step: int = 0,
) -> None:
    """Make one step of Energy Conserving Descent, changing `params` and `velocities` in place.

    Parameters
    ----------
    params, velocities, grads : sequence of tensors
        Of the same shapes, all float32 or all float64. Velocities of zero, as at the beginning, stand for -grad F.
        After a step they hold the unit velocity, and the bounce where nu > 0.
    loss : float or 0-d tensor
        F at `params`, without weight decay. On a GPU it is not read back.
    lr : float
        dt, the length of the step in theta (for q = 1).
    eta : float
        Concentration towards small losses, p(theta) ~ (F - F0)^(-eta d / 2).
    F0 : float
        Below every loss that can be reached; distances of order 1 are best.
    nu : float
        Size of the bounce per coordinate.
    q : float
        0 <= q < d; 1 keeps the speed constant.
    weight_decay : float or one per tensor
        Enters as F + weight_decay / 2 theta^2, in the gradient and in F.
    scales : one float per tensor, optional
        A tensor's own step is scale * dt: it moves as if its parameters were theta / scale.
    per_tensor : bool
        Take u . grad F tensor by tensor, as the code published by the authors does, not over all as in eq. 15.
    seed, step : int
        Name the noise: 0 <= seed < 2^63, 0 <= step < 2^32.

    Raises
    ------
    StepError
        If the loss with weight decay is not above F0, or anything is not finite. Nothing has been changed then. On a GPU this waits for
        the step; while a CUDA graph is recorded nothing is raised, and replays that are refused change nothing.
    UsageError
        If the tensors do not belong together or overlap, or a number is out of its range.
    BackendError
        If the backend asked for does not exist for these tensors.
    """
    params, velocities, grads = list(params), list(velocities), list(grads)
    count = len(params)
    decays = [float(weight_decay)] * count if isinstance(weight_decay, int | float) else [float(w) for w in weight_decay]
    factors = [1.0] * count if scales is None else [float(s) for s in scales]
    rule = Rule(float(lr), float(eta), float(F0), float(nu), float(q), bool(per_tensor), int(seed), int(step))
    if len(velocities) != count or len(grads) != count or len(decays) != count or len(factors) != count:
        raise UsageError(f"ecd_step: {count} params need as many velocities, grads, weight decays and scales")
    if torch.compiler.is_compiling():
        value = loss.detach().double() if isinstance(loss, Tensor) else torch.full((), loss, dtype=torch.float64)
        if count:
            backend = _choose(params[0].device.type)
            torch.ops.hepgen.ecd_step(params, velocities, grads, value, decays, factors, *rule, backend)
        return
    EcdPlan(params, velocities).step(grads, loss, decays, factors, rule)


def value_of(loss: Tensor | float) -> float:
    """Return the loss as a float."""
    return float(loss.item() if isinstance(loss, Tensor) else loss)


class EcdPlan:
    """What of a step does not change between steps: made once for a list of parameters and their velocities.

    Raises
    ------
    UsageError
        If shapes, dtypes or devices do not fit, or tensors that are written to overlap.
    """

    def __init__(self, params: Sequence[Tensor], velocities: Sequence[Tensor]) -> None:
        self.params, self.velocities = list(params), list(velocities)
        for p, v in zip(self.params, self.velocities, strict=True):
            check_pair(p, v, self.params[0])
        self.size = sum(p.numel() for p in self.params)
        self._changed = self.params + self.velocities
        self._ids = _each(id, self.params), _each(id, self.velocities)
        self._kinds = _kinds(self.params)
        self.device = self.params[0].device if self.params else torch.device("cpu")
        self._double = bool(self.params) and self.params[0].dtype == torch.float64
        self._sizes = [p.numel() for p in self.params]
        self._written = ranges(self._changed)
        check_apart(self._written)
        self._addresses = _each(Tensor.data_ptr, self.params), _each(Tensor.data_ptr, self.velocities)
        self._dense = _each(Tensor.is_contiguous, self.params)
        self._contiguous = all(self._dense) and all(_each(Tensor.is_contiguous, self.velocities))
        self._apart: list[int] = []  # addresses of gradients that were found to be so
        self._gpu: Any = None
        self._backend = ""
        self._copies: list[Tensor] = []
        self._f0 = 0.0

    def fits(self, params: Sequence[Tensor], velocities: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors, at the same places in memory as when the plan was made."""
        return (
            (_each(id, params), _each(id, velocities)) == self._ids
            and (_each(Tensor.data_ptr, params), _each(Tensor.data_ptr, velocities)) == self._addresses
            and _each(Tensor.numel, params) == self._sizes
            and _each(Tensor.is_contiguous, params) == self._dense
        )

    def step(
        self,
        grads: Sequence[Tensor],
        loss: Tensor | float,
        decays: list[float],
        scales: list[float] | Tensor,
        rule: Rule,
        *,
        rate: Tensor | None = None,
        steps: Tensor | None = None,
        check: bool = True,
        backend: str | None = None,
    ) -> None:
        """Make a step; see :func:`ecd_step`.

        Parameters
        ----------
        scales : list of float or (tensors,) tensor
        rate, steps : 0-d tensors, optional
            On the device of the parameters: lr is multiplied by the one, and step is increased by the other, an int64. A recorded step
            reads them anew in each replay.
        check : bool
            False on a GPU leaves what a step refuses to :meth:`check`. Until then no step of this plan moves.
        backend : str, optional
            In place of the one in force.
        """
        check_rule(rule, self.size)
        if not self.params:
            return
        if _kinds(grads) != self._kinds:
            raise UsageError("ecd_step: a gradient must be dense and have its parameter's shape, dtype and device")
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise UsageError(f"ecd_step: the loss must be one number, got shape {tuple(loss.shape)}")
        chosen = backend or _choose(self.device.type)
        if chosen in _ON_GPU and self.size:
            self._on_gpu(chosen, grads, loss, decays, scales, rule, rate, steps)
            if check:
                self.check()
            return
        rule = _on_host(rule, rate, steps)
        value, factors = value_of(loss), scales.tolist() if isinstance(scales, Tensor) else scales
        if chosen == "cpp":
            self._compiled(grads, value, decays, factors, rule)
        else:
            ecd_step_reference(self.params, self.velocities, grads, value, decays, factors, rule)

    def check(self) -> None:
        """Raise StepError if a step with ``check=False`` was refused since the last call: waits for the device."""
        error, _ = self.refusal()
        if error is not None:
            raise error

    def refusal(self) -> tuple[StepError | None, int]:
        """What :meth:`check` would raise, and how many steps did not move; nothing while a graph is recorded, which cannot wait."""
        found = None if self._gpu is None or self._gpu.recording() else self._gpu.refusal()
        if found is None:
            return None, 0
        return _refusal(found.loss, self._f0, too_low=found.outcome == _LOSS_TOO_LOW), found.steps

    def refused_before(self) -> bool:
        """Whether it is known without waiting that :meth:`check` would raise: some hundred steps late."""
        return self._gpu is not None and self._gpu.refused_before()

    def _on_gpu(
        self,
        backend: str,
        grads: Sequence[Tensor],
        loss: Tensor | float,
        decays: list[float],
        scales: list[float] | Tensor,
        rule: Rule,
        rate: Tensor | None,
        steps: Tensor | None,
    ) -> None:
        if self._gpu is None or self._backend != backend:
            self._copies = [] if self._contiguous else [t.detach().contiguous() for t in self._changed]
            held = self._copies or self._changed
            self._gpu = implementation(backend, "ecd").Plan(held[: len(self.params)], held[len(self.params) :])
            self._backend = backend
        self._f0 = rule.F0
        _kept, at_grads = self._ready(grads)  # as long as they are read
        originals = [t.detach() for t in self._changed] if self._copies else []
        for copy, original in zip(self._copies, originals, strict=True):
            copy.copy_(original)
        rule, rate, steps = _on_device(rule, rate, steps, self.device)
        self._gpu.step(at_grads, _readable(loss, self.device), decays, scales, rule, rate, steps)
        for copy, original in zip(self._copies, originals, strict=True):
            original.copy_(copy)
        torch.autograd.graph.increment_version(self._changed)

    def _ready(self, grads: Sequence[Tensor]) -> tuple[Sequence[Tensor], list[int]]:
        """Contiguous gradients that share no memory with what is written, and their addresses."""
        if not all(_each(Tensor.is_contiguous, grads)) or any(_each(Tensor.is_neg, grads)):
            grads = [g.resolve_neg().contiguous() for g in grads]
        at_grads = _each(Tensor.data_ptr, grads)
        if at_grads != self._apart and not self._apart_from(at_grads):
            grads = [g.clone() for g in grads]
            at_grads = _each(Tensor.data_ptr, grads)
        self._apart = at_grads
        return grads, at_grads

    def _compiled(self, grads: Sequence[Tensor], loss: float, decays: list[float], scales: list[float], rule: Rule) -> None:
        at_params, at_velocities = self._addresses
        copies: list[tuple[Tensor, Tensor]] = []
        if not self._contiguous:
            copies = [(t, t.detach().contiguous()) for t in self._changed]
            dense = [c.data_ptr() for _, c in copies]
            at_params, at_velocities = dense[: len(self.params)], dense[len(self.params) :]
        _kept, at_grads = self._ready(grads)
        core: Any = dispatch.core()
        outcome, full = core.ecd_step(
            self._double, at_params, at_velocities, at_grads, self._sizes, scales, decays, loss, *rule, dispatch.thread_count()
        )
        if outcome != _MOVED:
            raise _refusal(full, rule.F0, too_low=outcome == _LOSS_TOO_LOW)
        for original, copy in copies:
            if original.data_ptr() != copy.data_ptr():
                original.detach().copy_(copy)
        torch.autograd.graph.increment_version(self._changed)  # autograd shall notice, as with any change in place

    def _apart_from(self, starts: Sequence[int]) -> bool:
        """Whether contiguous gradients that start there share no memory with what is written, and lie where their numbers may."""
        width = 8 if self._double else 4
        for start, size in zip(starts, self._sizes, strict=True):
            before = bisect.bisect_left(self._written, (start + width * size,)) - 1  # the last that begins before the gradient ends
            if start % width or (before >= 0 and self._written[before][1] > start):
                return False
        return True


def _choose(device: str) -> str:
    return dispatch.choose("ecd_step", device=device)


# torch.compile asks once, while it traces: what torch.compiler.assume_constant_result sets, without loading its compiler
_choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _readable(number: Tensor | float, device: torch.device) -> Tensor | float:
    """A number as a kernel reads it: a float, or a tensor of float32 or float64 on the device."""
    if not isinstance(number, Tensor) or number.device != device:
        return value_of(number)
    return number.detach() if number.dtype in {torch.float32, torch.float64} else number.detach().double()


def _on_device(rule: Rule, rate: Tensor | None, steps: Tensor | None, device: torch.device) -> tuple[Rule, Tensor | None, Tensor | None]:
    """What of the numbers lies on the device, as a kernel reads it, and the rule with the rest."""
    if rate is not None:
        number = _readable(rate, device)
        rule, rate = (rule, number) if isinstance(number, Tensor) else (_on_host(rule, rate, None), None)
    if steps is not None and (steps.device != device or steps.dtype != torch.int64):
        rule, steps = _on_host(rule, None, steps), None
    return rule, rate, steps


def _on_host(rule: Rule, rate: Tensor | None, steps: Tensor | None) -> Rule:
    lr = rule.lr if rate is None else rule.lr * float(rate)
    return rule._replace(lr=lr, step=rule.step if steps is None else rule.step + int(steps))


def _each(function: Callable[[Any], Any], tensors: Sequence[Tensor]) -> list[Any]:
    return list(map(function, tensors))


def _kinds(tensors: Sequence[Tensor]) -> list[Any]:
    return [(t.shape, t.dtype, t.layout, t.device) for t in tensors]


def _refusal(full: float, f0: float, *, too_low: bool) -> StepError:
    if too_low:
        return StepError(f"ECD: the loss {full:g} is not above F0 = {f0:g}: choose F0 below every loss that can be reached")
    return StepError(f"ECD: the loss ({full:g}), a gradient, a velocity or what follows from them is not finite; nothing was changed")


# --- reference: plain torch


def ecd_step_reference(
    params: Sequence[Tensor],
    velocities: Sequence[Tensor],
    grads: Sequence[Tensor],
    loss: float,
    decays: Sequence[float],
    scales: Sequence[float],
    rule: Rule,
) -> None:
    """:func:`ecd_step` in plain torch."""
    with torch.no_grad():
        g = [(s * (grad + w * p)).flatten() for p, grad, w, s in zip(params, grads, decays, scales, strict=True)]
        v = [velocity.flatten() for velocity in velocities]
        full = loss + sum(0.5 * w * float(torch.dot(p.flatten(), p.flatten())) for p, w in zip(params, decays, strict=True) if w)
        vv, gg = _square(v), _square(g)
        if not (math.isfinite(vv) and math.isfinite(gg) and math.isfinite(full)):
            raise _refusal(full, rule.F0, too_low=False)
        if not full > rule.F0:
            raise _refusal(full, rule.F0, too_low=True)
        if vv == 0:
            v, vv = [-a for a in g], gg
        d = sum(p.numel() for p in params)
        above = full - rule.F0
        with np.errstate(over="ignore"):
            speed = 1.0 if rule.q == 1 else float(np.exp(-0.5 * rule.eta * d * (rule.q - 1) / (d - rule.q) * math.log(above)))
        force = rule.lr * rule.eta * d / (2 * (d - rule.q) * above)
        u = [a * (speed / math.sqrt(vv) if vv > 0 else 0.0) for a in v]
        along = [float(torch.dot(a, b)) for a, b in zip(u, g, strict=True)]
        if not rule.per_tensor:
            along = [sum(along)] * len(u)
        u = [a - force * (speed**2 * b + (rule.q - 2) * s * a) for a, b, s in zip(u, g, along, strict=True)]
        norm = math.sqrt(_square(u))
        if not (math.isfinite(norm) and speed > 0):
            raise _refusal(full, rule.F0, too_low=False)
        for k, (p, velocity, a) in enumerate(zip(params, velocities, u, strict=True)):
            p.add_(a.view(p.shape), alpha=rule.lr * scales[k])
            direction = a / norm if norm > 0 else a
            if rule.nu:
                direction = direction + rule.nu * torch.from_numpy(noise(p.numel(), p.dtype, k, rule.seed, rule.step)).to(p.device)
            velocity.copy_(direction.view(p.shape))


def _square(parts: Sequence[Tensor]) -> float:
    return sum(float(torch.dot(a, a)) for a in parts)


# --- as a custom op, for torch.compile


@torch.library.custom_op("hepgen::ecd_step", mutates_args=("params", "velocities"))
def _ecd_step(
    params: Sequence[Tensor],
    velocities: Sequence[Tensor],
    grads: Sequence[Tensor],
    loss: Tensor,
    weight_decays: Sequence[float],
    scales: Sequence[float],
    lr: float,
    eta: float,
    F0: float,
    nu: float,
    q: float,
    per_tensor: bool,
    seed: int,
    step: int,
    backend: str,
) -> None:
    rule = Rule(lr, eta, F0, nu, q, per_tensor, seed, step)
    EcdPlan(params, velocities).step(grads, loss, list(weight_decays), list(scales), rule, backend=backend)


@_ecd_step.register_fake
def _(
    params: Sequence[Tensor],
    velocities: Sequence[Tensor],
    grads: Sequence[Tensor],
    loss: Tensor,
    weight_decays: Sequence[float],
    scales: Sequence[float],
    lr: float,
    eta: float,
    F0: float,
    nu: float,
    q: float,
    per_tensor: bool,
    seed: int,
    step: int,
    backend: str,
) -> None:
    return None
