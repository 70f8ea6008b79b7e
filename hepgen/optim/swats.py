"""Adam that switches to stochastic gradient descent by itself (SWATS), as a torch optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hepgen.errors import UsageError

_KEY = "switch"  # of the state that the parameters have in common


class SWATS(torch.optim.Optimizer):
    """SWATS (Keskar and Socher 2017, arXiv:1712.07628, algorithm 1): Adam, then SGD with momentum at a rate learnt from Adam's steps.

    With Adam's step p for the gradient g, over all parameters together,

        gamma = p.p / (-p.g),        lambda = beta2 lambda + (1 - beta2) gamma,        Lambda = lambda / (1 - beta2^k)

    is the rate at which the projection of SGD's step on p is p. Once abs(Lambda - gamma) < tolerance, from the second step on, the phase is

        v = beta1 v + g,        theta = theta - (1 - beta1) Lambda v

    for good. Nesterov's momentum has g + beta1 v in the place of v.

    Parameters
    ----------
    params : iterable of tensors or of groups
        lr, betas, eps and nesterov may differ between groups; the decision is one for all, with beta2 of the first.
    lr : float
        Adam's rate. Where a scheduler changes it after the switch, SGD's rate follows in proportion.
    betas : pair of floats in [0, 1)
        Decay of the means of the gradient and of its square; beta1 is SGD's momentum too.
    eps : float
        Added to the root of the mean square, in units of the gradient.
    nesterov : bool
        SGD's momentum is Nesterov's, as in paper D.
    tolerance : float
        Of the decision, a learning rate; 1e-9 in the paper.

    Attributes
    ----------
    rate : float or None
        Lambda of the switch; None as long as Adam is at work.

    Raises
    ------
    UsageError
        If an option is out of its range, or a gradient is sparse.

    Notes
    -----
    Beyond the paper, there is no switch to a Lambda that is not positive, which would climb. A parameter without a gradient takes no part.
    A run goes on from ``state_dict`` bit for bit, before the switch and after it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        *,
        nesterov: bool = False,
        tolerance: float = 1e-9,
    ) -> None:
        if not tolerance >= 0:
            raise UsageError(f"SWATS: tolerance must be at least 0, got {tolerance}")
        self.rate: float | None = None
        self.tolerance = tolerance
        self._steps, self._estimate = 0, 0.0  # k and lambda
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "nesterov": nesterov, "lr_at_switch": None})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own.

        Raises
        ------
        UsageError
            If an option is out of its range.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_group(group)
        except UsageError:
            self.param_groups.pop()
            raise
        if self.rate is not None:
            group["lr_at_switch"] = group["lr"]

    def state_dict(self) -> dict[str, Any]:
        """As of any optimiser, and what the decision is made of."""
        switch = {"steps": self._steps, "estimate": self._estimate, "rate": self.rate, "tolerance": self.tolerance}
        return {**super().state_dict(), _KEY: switch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if _KEY not in state_dict:
            raise UsageError("SWATS: this is the state of another optimiser")
        super().load_state_dict(state_dict)
        switch = state_dict[_KEY]
        self._steps, self._estimate = switch["steps"], switch["estimate"]
        self.rate, self.tolerance = switch["rate"], switch["tolerance"]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; return the loss of the closure, which clears the gradients and computes loss and gradients, or None.

        Raises
        ------
        UsageError
            If a gradient is sparse. Nothing has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(p.grad is not None and p.grad.is_sparse for group in self.param_groups for p in group["params"]):
            raise UsageError("SWATS has no step for sparse gradients: give the embedding sparse=False")
        moving = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        if self.rate is not None:
            for group, params in moving:
                self._descend(params, group, self.rate * group["lr"] / group["lr_at_switch"])
            return loss
        square = product = 0.0
        for group, params in moving:
            for p, step in zip(params, self._adam_steps(params, group), strict=True):
                square += float(step.square().sum())
                product += float((step * p.grad).sum())
                p.add_(step)
        self._decide(square, product)
        return loss

    def _adam_steps(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Adam's step of every parameter, lr included."""
        if not params:
            return []
        states = [self._state_of(p) for p in params]
        for state in states:
            state["step"] += 1
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        grads = [p.grad for p in params if p.grad is not None]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        # p = -lr sqrt(1 - beta2^k) / (1 - beta1^k) m / (sqrt(a) + eps)
        spreads = torch._foreach_sqrt(squares)
        torch._foreach_add_(spreads, group["eps"])
        steps = torch._foreach_div(means, spreads)
        rates = [-group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"]) for state in states]
        torch._foreach_mul_(steps, rates)
        return list(steps)

    def _decide(self, square: float, product: float) -> None:
        """Take p.p and p.g of a step of Adam's into the estimate, and switch where the two agree."""
        self._steps += 1
        if product == 0:
            return
        beta2 = self.param_groups[0]["betas"][1]
        gamma = square / -product
        self._estimate = beta2 * self._estimate + (1 - beta2) * gamma
        rate = self._estimate / (1 - beta2**self._steps)
        if self._steps > 1 and rate > 0 and abs(rate - gamma) < self.tolerance:
            self.rate = rate
            for group in self.param_groups:
                group["lr_at_switch"] = group["lr"]
            self.state.clear()

    def _descend(self, params: list[Tensor], group: dict[str, Any], rate: float) -> None:
        if not params:
            return
        momentum, grads = group["betas"][0], [p.grad for p in params if p.grad is not None]
        velocities = [self.state[p].setdefault("velocity", torch.zeros_like(p)) for p in params]
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, grads)
        steps = torch._foreach_add(grads, velocities, alpha=momentum) if group["nesterov"] else velocities
        torch._foreach_add_(params, steps, alpha=-(1 - momentum) * rate)

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["square"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


def _check_group(group: dict[str, Any]) -> None:
    if not group["lr"] > 0:
        raise UsageError(f"SWATS: lr must be above 0, got {group['lr']}")
    if not group["eps"] >= 0:
        raise UsageError(f"SWATS: eps must be at least 0, got {group['eps']}")
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise UsageError(f"SWATS: betas must be two numbers in [0, 1), got {group['betas']}")
