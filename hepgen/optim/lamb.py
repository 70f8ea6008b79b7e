"""Layer-wise adaptive moments (LAMB) as a torch optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hepgen.errors import UsageError


class LAMB(torch.optim.Optimizer):
    """LAMB (You et al. 2019, arXiv:1904.00962, algorithm 2), the optimiser of paper C: Adam whose step is scaled tensor by tensor.

        m = beta1 m + (1 - beta1) g,        v = beta2 v + (1 - beta2) g^2
        u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay theta
        theta = theta - lr phi(norm(theta)) / norm(u) u,        phi(z) = min(max(z, low), high)

    The ratio of norms is 1 for a tensor where either of them is 0: biases that start at zero begin with a step of Adam.

    Parameters
    ----------
    params : iterable of tensors or of groups
        All options may differ between groups.
    lr : float
        Relative step: a tensor moves by lr of its own norm. Schedulers change it.
    betas : pair of floats in [0, 1)
        Decay of the means of the gradient and of its square.
    eps : float
        Added to the root of the mean square, in units of the gradient.
    weight_decay : float
        Decoupled from the moments, inside the ratio.
    bounds : (low, high)
        Of phi. The paper leaves them open; (0, 10) is what most implementations take.

    Raises
    ------
    UsageError
        If an option is out of its range, or a gradient is sparse.

    Notes
    -----
    Moments are kept in the dtype of the parameter, with one count of steps for each parameter: a parameter without a gradient
    takes no part. A run goes on from ``state_dict`` bit for bit.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        bounds: tuple[float, float] = (0.0, 10.0),
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "bounds": bounds})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own.

        Raises
        ------
        UsageError
            If an option is out of its range.
        """
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except UsageError:
            self.param_groups.pop()
            raise

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
            raise UsageError("LAMB has no step for sparse gradients: give the embedding sparse=False")
        for group in self.param_groups:
            # the norms of a list are stacked, so that it must be of one kind
            alike: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    params, grads = alike.setdefault((p.device, p.dtype), ([], []))
                    params.append(p)
                    grads.append(p.grad)
            for params, grads in alike.values():
                self._move(params, grads, group)
        return loss

    def _move(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state_of(p) for p in params]
        for state in states:
            state["step"] += 1
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        # u = m / c1 / (sqrt(v / c2) + eps) = sqrt(c2) / c1 m / (sqrt(v) + eps sqrt(c2)), and weight_decay theta
        first = [1 - beta1 ** state["step"] for state in states]
        second = [math.sqrt(1 - beta2 ** state["step"]) for state in states]
        spreads = torch._foreach_sqrt(squares)
        torch._foreach_add_(spreads, [group["eps"] * root for root in second])
        steps = torch._foreach_div(means, spreads)
        torch._foreach_mul_(steps, [root / one for root, one in zip(second, first, strict=True)])
        if group["weight_decay"]:
            torch._foreach_add_(steps, params, alpha=group["weight_decay"])
        sizes, lengths = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(steps))
        ratios = torch.where((sizes > 0) & (lengths > 0), sizes.clamp(*group["bounds"]) / lengths, torch.ones_like(sizes))
        torch._foreach_addcmul_(params, steps, list(ratios.unbind()), value=-float(group["lr"]))

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["square"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


def _check_group(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        if not group[name] >= 0:
            raise UsageError(f"LAMB: {name} must be at least 0, got {group[name]}")
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise UsageError(f"LAMB: betas must be two numbers in [0, 1), got {group['betas']}")
    if len(group["bounds"]) != 2 or not 0 <= group["bounds"][0] <= group["bounds"][1]:
        raise UsageError(f"LAMB: bounds must be two rising numbers of at least 0, got {group['bounds']}")
