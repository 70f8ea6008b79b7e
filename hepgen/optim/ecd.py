"""Energy Conserving Descent as a torch optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hepgen.errors import UsageError
from hepgen.kernels.ecd import EcdPlan, Rule, value_of

_SHARED = ("eta", "F0", "nu", "q", "per_tensor", "seed")


def eta_for(model: nn.Module, n_steps: int) -> float:
    """Return the largest useful eta for a network and a budget of steps: 2 n_steps^2 / (3 n).

    Parameters
    ----------
    model : nn.Module
        n is its largest fan-in, the number of weights that feed one unit: the width of the widest hidden layer, or the
        number of inputs where that is larger.
    n_steps : int
        How many steps the training will make.

    Raises
    ------
    UsageError
        If the model has no weight matrix or n_steps is not positive.
    """
    fan_in = [p.numel() // p.shape[0] for p in model.parameters() if p.ndim >= 2 and p.numel()]
    if not fan_in:
        raise UsageError("eta_for needs a model with at least one weight matrix: give ECD its eta by hand")
    if n_steps < 1:
        raise UsageError(f"n_steps must be positive, got {n_steps}")
    return 2.0 * n_steps**2 / (3.0 * max(fan_in))


class ECD(torch.optim.Optimizer):
    """Energy Conserving Descent, ECD_q (De Luca, Nachman, Silverstein and Zheng, eqs 14 to 18 and B7).

    A particle of conserved energy moves through the space of all parameters at unit speed (q = 1) and stays where the
    loss F is small: p(theta) ~ (F - F0)^(-eta d / 2). There is no friction, so the loss does not settle by itself: keep the
    best weights of a validation sample.

    A step needs the value of the loss: where a training loop has ``optimizer.step()``, write ``optimizer.step(loss)``, or pass
    a closure. With gradient accumulation give the loss whose gradient was accumulated.

    Parameters
    ----------
    params : iterable of tensors or of groups
        All groups move as one system with one unit velocity. ``lr`` and ``weight_decay`` may differ between groups, the others
        may not. A group of smaller lr moves as if its coordinates were stretched, which conserves energy.
    lr : float
        Rescaled step dt sqrt(eta); 0.1 to 1 is the range the paper recommends. Schedulers change it.
    eta : float
        Concentration; see :func:`eta_for`.
    F0 : float
        One below the smallest loss: -1 where that is 0, -0.3 for the paper's binary cross entropies.
    nu : float
        Rescaled bounce nu sqrt(d), 0 to 1e-6.
    q : float
        Member of the family, 1 for constant speed.
    weight_decay : float
        Enters as F + weight_decay / 2 theta^2, in the gradient and in F.
    per_tensor : bool
        Take u . grad F tensor by tensor, as the published code does, to repeat its runs.
    seed : int
        Of the bounces: equal seeds give equal runs, on any number of threads.

    Notes
    -----
    A parameter without a gradient takes no part in a step. One that joins later starts at rest. The state of a parameter is
    its ``"velocity"``, that of the noise the ``"step"`` of the groups: a run goes on from ``state_dict`` bit for bit.
    """

    _plan: EcdPlan | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        *,
        eta: float,
        F0: float = -1.0,
        nu: float = 0.0,
        q: float = 1.0,
        weight_decay: float = 0.0,
        per_tensor: bool = False,
        seed: int = 0,
    ) -> None:
        defaults = {
            "lr": lr, "eta": eta, "F0": F0, "nu": nu, "q": q, "weight_decay": weight_decay, "per_tensor": per_tensor,
            "seed": seed, "step": 0,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see the class on what may differ between groups.

        Raises
        ------
        UsageError
            If a number is out of its range, or differs from the first group where it may not.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_group(group, self.param_groups[0])
        except UsageError:
            self.param_groups.pop()
            raise
        group["step"] = self.param_groups[0]["step"]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = None

    def step(self, closure: Callable[[], Tensor | float] | Tensor | float | None = None) -> Any:
        """Make one step and return the loss.

        Parameters
        ----------
        closure : callable, or the loss itself as a float or 0-d tensor
            A callable clears the gradients, computes the loss and its gradients, and returns the loss.

        Raises
        ------
        StepError
            If the loss with weight decay is not above F0, or anything is not finite. Nothing has been changed then.
        UsageError
            If there is no loss, or an option is out of its range.
        """
        if closure is None:
            raise UsageError("ECD.step needs the loss: step(loss), or step(closure)")
        if callable(closure) and not isinstance(closure, Tensor):
            with torch.enable_grad():
                loss = closure()
        else:
            loss = closure
        params, grads, decays, factors, fastest = self._taking_part()
        if params:
            first = self.param_groups[0]
            eta = first["eta"]
            plan = self._planned(params)
            step = first["step"]
            rule = Rule(
                fastest / math.sqrt(eta), eta, first["F0"], first["nu"] / math.sqrt(max(plan.size, 1)),
                first["q"], first["per_tensor"], first["seed"], step,
            )  # fmt: skip
            plan.step(grads, value_of(loss), decays, factors, rule)
            for group in self.param_groups:
                group["step"] = step + 1
        return loss

    def _taking_part(self) -> tuple[list[Tensor], list[Tensor], list[float], list[float], float]:
        """Parameters that have a gradient, with it, their weight decay and lr relative to the largest, and the largest lr."""
        groups = self.param_groups
        fastest = float(max(group["lr"] for group in groups))
        params: list[Tensor] = []
        grads: list[Tensor] = []
        decays: list[float] = []
        factors: list[float] = []
        for group in groups:
            if group is not groups[0]:
                _check_shared(group, groups[0])
            for p in group["params"]:
                gradient = p.grad
                if gradient is not None:
                    params.append(p)
                    grads.append(gradient)
            taking_part = len(params) - len(decays)
            decays += [float(group["weight_decay"])] * taking_part
            factors += [float(group["lr"]) / fastest if fastest else 1.0] * taking_part
        return params, grads, decays, factors, fastest

    def _planned(self, params: list[Tensor]) -> EcdPlan:
        velocities = []
        for p in params:
            state = self.state[p]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
            velocities.append(state["velocity"])
        if self._plan is None or not self._plan.fits(params, velocities):
            self._plan = EcdPlan(params, velocities)
        return self._plan


def _check_group(group: dict[str, Any], first: dict[str, Any]) -> None:
    for name in ("lr", "nu", "weight_decay", "q"):
        if not group[name] >= 0:
            raise UsageError(f"ECD: {name} must be at least 0, got {group[name]}")
    if not group["eta"] > 0:
        raise UsageError(f"ECD: eta must be positive, got {group['eta']}")
    if not 0 <= group["seed"] < 2**63:
        raise UsageError(f"ECD: seed must lie in [0, 2^63), got {group['seed']}")
    _check_shared(group, first)


def _check_shared(group: dict[str, Any], first: dict[str, Any]) -> None:
    for name in _SHARED:
        if group[name] != first[name]:
            raise UsageError(f"ECD: all groups move as one system, so {name} must be the same in each, got {first[name]} and {group[name]}")
