"""Energy Conserving Descent as a torch optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hepgen.errors import UsageError
from hepgen.kernels.ecd import EcdPlan, Rule

_SHARED = ("eta", "F0", "nu", "q", "per_tensor", "systems", "seed", "capturable")


def eta_for(model: nn.Module | int, n_steps: int) -> float:
    """Return the largest useful eta for a network and a budget of steps: 2 n_steps^2 / (3 n).

    Parameters
    ----------
    model : nn.Module or int
        n is its largest fan-in, see :func:`largest_fan_in`; or n itself.
    n_steps : int
        How many steps the training will make.

    Raises
    ------
    UsageError
        If the model has no weight matrix or n_steps is not positive.
    """
    fan_in = model if isinstance(model, int) else largest_fan_in(model)
    if n_steps < 1:
        raise UsageError(f"n_steps must be positive, got {n_steps}")
    return 2.0 * n_steps**2 / (3.0 * fan_in)


def largest_fan_in(model: nn.Module) -> int:
    """Return the most weights that feed one unit: the width of the widest hidden layer, or the number of inputs where that is larger."""
    fan_in = [p.numel() // p.shape[0] for p in model.parameters() if p.ndim >= 2 and p.numel()]
    if not fan_in:
        raise UsageError("eta_for needs a model with at least one weight matrix: give ECD its eta by hand")
    return max(fan_in)


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
    lr : float or 0-d tensor
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
    systems : int, optional
        So many independent systems in one optimiser, for ensembles: system k consists of row k of every parameter, whose first axis has
        this length, and has a loss and a velocity of its own. It moves as it would alone.
    capturable : bool
        Keep the number of the step, which names the bounces, in a tensor on the device, so that a step recorded in a CUDA graph goes on
        counting when it is replayed. Learning rates that shall change between replays are tensors on the device too.
    seed : int, or one a system
        Of the bounces: equal seeds give equal runs, on any number of threads.

    Notes
    -----
    A parameter without a gradient takes no part in a step. One that joins later starts at rest. The state of a parameter is
    its ``"velocity"``, that of the noise the ``"step"`` of the groups: a run goes on from ``state_dict`` bit for bit.

    On a GPU a step waits for nothing, also not for its loss, a tensor there. One that is refused changes nothing, nor do those after it,
    until :meth:`check` raises: call it at the end of an epoch. A later step raises too, some hundred steps late.
    """

    _plans: list[EcdPlan] | None = None
    _planned_of: EcdPlan  # all of them together

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.1,
        *,
        eta: float,
        F0: float = -1.0,
        nu: float = 0.0,
        q: float = 1.0,
        weight_decay: float = 0.0,
        per_tensor: bool = False,
        systems: int | None = None,
        seed: int | Sequence[int] = 0,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "eta": eta, "F0": F0, "nu": nu, "q": q, "weight_decay": weight_decay, "per_tensor": per_tensor,
            "systems": systems, "seed": seed if isinstance(seed, int) else list(seed), "step": 0, "capturable": capturable,
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
        self._plans = None
        for group in self.param_groups:
            group.setdefault("capturable", False)
            group["step"] = self.param_groups[0]["step"]

    def step(self, closure: Callable[[], Tensor | float] | Tensor | float | None = None, systems: Sequence[int] | None = None) -> Any:
        """Make one step and return the loss.

        Parameters
        ----------
        closure : callable, or the loss itself as a float or 0-d tensor
            A callable clears the gradients, computes the loss and its gradients, and returns the loss. Of several systems the loss
            is a tensor (systems,), and the gradients are those of its sum.
        systems : sequence of int, optional
            The systems whose losses these are; only they move.

        Raises
        ------
        StepError
            If the loss with weight decay is not above F0, or anything is not finite. Nothing has been changed then, but for the
            systems before the one that it was met in. On a GPU not by this step: see :meth:`check`.
        UsageError
            If there is no loss, or not one for each system, or an option is out of its range.
        """
        if closure is None:
            raise UsageError("ECD.step needs the loss: step(loss), or step(closure)")
        if callable(closure) and not isinstance(closure, Tensor):
            with torch.enable_grad():
                loss = closure()
        else:
            loss = closure
        moving = self._moving(loss, systems)
        params, grads, decays, numbers = self._taking_part()
        if not params:
            return loss
        first, plans = self.param_groups[0], self._planned(params)
        if any(plan.refused_before() for plan in plans):
            self.check()
        fastest, factors = _relative([group["lr"] for group in self.param_groups], numbers)
        rate = fastest if isinstance(fastest, Tensor) else None
        counter = self._counter(params[0].device)
        step = 0 if isinstance(counter, Tensor) else counter
        scale = 1.0 if isinstance(fastest, Tensor) else fastest
        for system, value, seed in moving:
            plan = plans[system]
            rule = Rule(
                scale / math.sqrt(first["eta"]), first["eta"], first["F0"], first["nu"] / math.sqrt(max(plan.size, 1)),
                first["q"], first["per_tensor"], seed, step,
            )  # fmt: skip
            own = grads if first["systems"] is None else [gradient[system] for gradient in grads]
            plan.step(own, value, decays, factors, rule, rate=rate, steps=counter if isinstance(counter, Tensor) else None, check=False)
        self._count(counter, 1)
        return loss

    def check(self) -> None:
        """Raise for steps that were refused on a GPU since the last call, which changed nothing: waits for the device.

        Elsewhere steps raise at once, and this does nothing.

        Raises
        ------
        StepError
            Of the first of them. Steps move again afterwards.
        """
        found = [plan.refusal() for plan in self._plans or ()]
        errors = [error for error, _ in found if error is not None]
        if errors:
            self._count(self.param_groups[0]["step"], -max(count for _, count in found))
            raise errors[0]

    def _counter(self, device: torch.device) -> int | Tensor:
        """The number of the step: a tensor on the device where graphs are to count it."""
        first = self.param_groups[0]
        counter: int | Tensor = first["step"]
        if first["capturable"]:
            if not isinstance(counter, Tensor) or counter.device != device:
                counter = torch.full((), int(counter), dtype=torch.int64, device=device)
        elif isinstance(counter, Tensor):
            counter = int(counter)
        return counter

    def _count(self, counter: int | Tensor, steps: int) -> None:
        counter += steps
        for group in self.param_groups:
            group["step"] = counter

    def _moving(self, loss: Tensor | float, systems: Sequence[int] | None) -> list[tuple[int, Tensor | float, int]]:
        """Number, loss and seed of every system that moves."""
        first = self.param_groups[0]
        count, seed = first["systems"], first["seed"]
        if count is None:
            return [(0, loss, seed)]
        numbers = range(count) if systems is None else systems
        if not isinstance(loss, Tensor) or loss.shape != (len(numbers),):
            raise UsageError(f"ECD: {len(numbers)} systems move, so the loss must be a tensor ({len(numbers)},)")
        seeds = [seed] * count if isinstance(seed, int) else seed
        losses = loss.tolist() if loss.device.type == "cpu" else loss.detach().unbind()
        return [(number, value, seeds[number]) for number, value in zip(numbers, losses, strict=True)]

    def _taking_part(self) -> tuple[list[Tensor], list[Tensor], list[float], list[int]]:
        """Parameters that have a gradient, with it and their weight decay, and how many of each group they are."""
        groups = self.param_groups
        params: list[Tensor] = []
        grads: list[Tensor] = []
        decays: list[float] = []
        counts: list[int] = []
        for group in groups:
            if group is not groups[0]:
                _check_shared(group, groups[0])
            for p in group["params"]:
                gradient = p.grad
                if gradient is not None:
                    params.append(p)
                    grads.append(gradient)
            counts.append(len(params) - len(decays))
            decays += [float(group["weight_decay"])] * counts[-1]
        return params, grads, decays, counts

    def _planned(self, params: list[Tensor]) -> list[EcdPlan]:
        """The plan of every system."""
        velocities = []
        for p in params:
            state = self.state[p]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
            velocities.append(state["velocity"])
        count = self.param_groups[0]["systems"]
        if self._plans is not None and self._planned_of.fits(params, velocities):
            return self._plans
        self.check()  # with the plans goes what they know
        for group in self.param_groups:
            if group["capturable"] and isinstance(group["lr"], Tensor):  # may come from a file
                group["lr"] = group["lr"].to(params[0].device)
        self._planned_of = EcdPlan(params, velocities)
        if count is None:
            self._plans = [self._planned_of]
        else:
            self._plans = [EcdPlan([p.detach()[k] for p in params], [v[k] for v in velocities]) for k in range(count)]
        return self._plans


def _relative(rates: list[float | Tensor], counts: list[int]) -> tuple[float | Tensor, list[float] | Tensor]:
    """The largest lr of the groups, and relative to it that of every parameter, of which a group has so many.

    Both are tensors where one is on a GPU, so that nothing waits for it.
    """
    first = rates[0]
    if all(rate is first for rate in rates):
        return first if isinstance(first, Tensor) else float(first), [1.0] * sum(counts)
    there = next((rate.device for rate in rates if isinstance(rate, Tensor) and rate.device.type != "cpu"), None)
    if there is None:
        numbers = [float(rate) for rate in rates]
        fastest = max(numbers)
        relative = [number / fastest if fastest else 1.0 for number in numbers]
        return fastest, [factor for factor, count in zip(relative, counts, strict=True) for _ in range(count)]
    along = torch.stack([torch.as_tensor(rate, dtype=torch.float64, device=there) for rate in rates])
    most = along.max()
    factors = torch.where(most > 0, along / most, 1.0).unbind()
    return most, torch.cat([factor.expand(count) for factor, count in zip(factors, counts, strict=True)])


def _check_group(group: dict[str, Any], first: dict[str, Any]) -> None:
    for name in ("lr", "nu", "weight_decay", "q"):
        if not group[name] >= 0:
            raise UsageError(f"ECD: {name} must be at least 0, got {group[name]}")
    if not group["eta"] > 0:
        raise UsageError(f"ECD: eta must be positive, got {group['eta']}")
    systems, seeds = group["systems"], [group["seed"]] if isinstance(group["seed"], int) else group["seed"]
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"ECD: seed must lie in [0, 2^63), got {seed}")
    if not isinstance(group["seed"], int) and len(seeds) != systems:
        raise UsageError(f"ECD: a list of seeds has one for each system, got {len(seeds)} for systems={systems}")
    if systems is not None and any(p.ndim == 0 or len(p) != systems for p in group["params"]):
        raise UsageError(f"ECD: with systems={systems} every parameter must have a first axis of that length")
    _check_shared(group, first)


def _check_shared(group: dict[str, Any], first: dict[str, Any]) -> None:
    for name in _SHARED:
        if group[name] != first[name]:
            raise UsageError(f"ECD: all groups move as one system, so {name} must be the same in each, got {first[name]} and {group[name]}")
