"""A step of Energy Conserving Descent (:mod:`hepgen.kernels.ecd`) in Triton.

Four launches: sums of pieces, sums of tensors, the decision, and the move. They take numbers that change from step to step from a
tensor on the device, since Triton takes the floats of a launch as float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hepgen.errors import UsageError
from hepgen.kernels.ecd_device import GRADIENT, DevicePlan
from hepgen.kernels.triton.ecd_noise import normals

if TYPE_CHECKING:
    from hepgen.kernels.ecd import Rule

_BLOCK = 1024  # elements of a tile; 512 of float64
_WARPS = 4
_LOSS, _LR, _ETA, _F0, _Q, _NU = range(6)  # of the numbers


@triton.jit
def _tensor(table, owner, tensors, index, PIECE: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr):
    """Where a piece lies: tensor, first element, how many, parameter, velocity, gradient, weight decay."""
    kind = tl.float64 if WIDE else tl.float32
    k = tl.load(owner + index)
    row = table + k
    begin = (index - tl.load(row + 3 * tensors)) * PIECE
    p = tl.load(row).to(tl.pointer_type(kind))
    v = tl.load(row + tensors).to(tl.pointer_type(kind))
    g = tl.load(row + 5 * tensors).to(tl.pointer_type(kind))
    if ALIGNED:
        p = tl.multiple_of(p, 16)
        v = tl.multiple_of(v, 16)
        g = tl.multiple_of(g, 16)
    size = tl.minimum(tl.load(row + 2 * tensors) - begin, PIECE).to(tl.int32)
    decay = tl.load(row + 7 * tensors).to(tl.float64, bitcast=True).to(kind)
    return k, begin, size, p + begin, v + begin, g + begin, decay


@triton.jit
def _slope(g, p, decay, DECAYED: tl.constexpr):
    if DECAYED:
        g = tl.where(decay != 0, g + decay * p, g)  # without decay it does not matter what p is
    return g


@triton.jit
def _products(vv, vg, gg, pp, v, g, p, decay, DECAYED: tl.constexpr):
    g = _slope(g, p, decay, DECAYED)
    if DECAYED:
        p = tl.where(decay != 0, p, 0.0).to(tl.float64)
        pp += p * p
    v = v.to(tl.float64)
    g = g.to(tl.float64)
    return vv + v * v, vg + v * g, gg + g * g, pp


@triton.jit
def _sums_kernel(
    table, owner, sums, tensors, pieces,
    PIECE: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr, DECAYED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    _, _, size, p, v, g, decay = _tensor(table, owner, tensors, index, PIECE, WIDE, ALIGNED)
    vv = tl.zeros([BLOCK], tl.float64)
    vg = tl.zeros([BLOCK], tl.float64)
    gg = tl.zeros([BLOCK], tl.float64)
    pp = tl.zeros([BLOCK], tl.float64)
    lanes = tl.arange(0, BLOCK)
    if size == PIECE:
        for tile in range(0, PIECE, BLOCK):
            at = tile + lanes
            x = tl.load(p + at) if DECAYED else 0.0
            vv, vg, gg, pp = _products(vv, vg, gg, pp, tl.load(v + at), tl.load(g + at), x, decay, DECAYED)
    else:
        for tile in range(0, PIECE, BLOCK):
            at = tile + lanes
            there = at < size
            x = tl.load(p + at, mask=there, other=0.0) if DECAYED else 0.0
            y = tl.load(v + at, mask=there, other=0.0)
            vv, vg, gg, pp = _products(vv, vg, gg, pp, y, tl.load(g + at, mask=there, other=0.0), x, decay, DECAYED)
    tl.store(sums + index, tl.sum(vv))
    tl.store(sums + pieces + index, tl.sum(vg))
    tl.store(sums + 2 * pieces + index, tl.sum(gg))
    tl.store(sums + 3 * pieces + index, tl.sum(pp))


@triton.jit
def _totals_kernel(table, sums, totals, tensors, pieces, BLOCK: tl.constexpr):
    k = tl.program_id(0)
    first = tl.load(table + 3 * tensors + k).to(tl.int32)
    last = tl.load(table + 3 * tensors + k + 1, mask=k + 1 < tensors, other=0).to(tl.int32)
    last = tl.where(k + 1 < tensors, last, pieces)
    scale = tl.load(table + 6 * tensors + k).to(tl.float64, bitcast=True)
    vv = tl.zeros([BLOCK], tl.float64)
    vg = tl.zeros([BLOCK], tl.float64)
    gg = tl.zeros([BLOCK], tl.float64)
    pp = tl.zeros([BLOCK], tl.float64)
    begin = first
    while begin < last:
        at = begin + tl.arange(0, BLOCK)
        there = at < last
        vv += tl.load(sums + at, mask=there, other=0.0)
        vg += tl.load(sums + pieces + at, mask=there, other=0.0)
        gg += tl.load(sums + 2 * pieces + at, mask=there, other=0.0)
        pp += tl.load(sums + 3 * pieces + at, mask=there, other=0.0)
        begin += BLOCK
    tl.store(totals + k, tl.sum(vv))
    tl.store(totals + tensors + k, scale * tl.sum(vg))
    tl.store(totals + 2 * tensors + k, scale * scale * tl.sum(gg))
    tl.store(totals + 3 * tensors + k, tl.sum(pp))


@triton.jit
def _finite(x):
    return tl.abs(x) < float("inf")  # not x - x == 0: of a product, that is contracted to its rounding error


@triton.jit(do_not_specialize=["step", "size"])
def _decide_kernel(
    table, totals, moves, numbers, state, steps, step, size, tensors,
    COUNTED: tl.constexpr, PER_TENSOR: tl.constexpr, ONE: tl.constexpr, WIDE: tl.constexpr, TENSORS: tl.constexpr,
):  # fmt: skip
    """See decide() in csrc/cpu/ecd.cpp."""
    kind = tl.float64 if WIDE else tl.float32
    k = tl.arange(0, TENSORS)
    there = k < tensors
    vv = tl.load(totals + k, mask=there, other=0.0)
    vg = tl.load(totals + tensors + k, mask=there, other=0.0)
    gg = tl.load(totals + 2 * tensors + k, mask=there, other=0.0)
    pp = tl.load(totals + 3 * tensors + k, mask=there, other=0.0)
    scale = tl.load(table + 6 * tensors + k, mask=there, other=0).to(tl.float64, bitcast=True)
    decay = tl.load(table + 7 * tensors + k, mask=there, other=0).to(tl.float64, bitcast=True)
    all_vv = tl.sum(vv)
    all_vg = tl.sum(vg)
    all_gg = tl.sum(gg)
    loss = tl.load(numbers) + tl.sum(0.5 * decay * pp)
    time = tl.load(numbers + 1)
    eta = tl.load(numbers + 2)
    above = loss - tl.load(numbers + 3)
    q = tl.load(numbers + 4)
    d = size.to(tl.float64)
    speed = above * 0 + 1
    if not ONE:
        speed = tl.exp(-0.5 * eta * d * (q - 1) / (d - q) * tl.log(tl.where(above > 0, above, 1.0)))
    force = time * eta * d / (2 * (d - q) * tl.where(above > 0, above, 1.0))
    begins = all_vv == 0
    norm = tl.sqrt(tl.where(begins, all_gg, all_vv))
    unit = tl.where(norm > 0, speed / tl.where(norm > 0, norm, 1.0), 0.0)
    of_gradient = force * speed * speed
    vv = tl.where(begins, gg, vv)
    vg = tl.where(begins, -gg, vg)
    along = unit * vg if PER_TENSOR else unit * tl.where(begins, -all_gg, all_vg) + vg * 0
    of_velocity = unit * (1 + force * (2 - q) * along)
    v = tl.sqrt(vv)
    slope = tl.where(v > 0, vg / tl.where(v > 0, v, 1.0), 0.0)
    parallel = of_velocity * v - of_gradient * slope
    across = tl.where(begins, 0.0, tl.maximum(gg - slope * slope, 0.0))
    square = tl.sum(tl.where(there, parallel * parallel + of_gradient * of_gradient * across, 0.0))
    inverse_norm = tl.where(square > 0, 1 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
    by_velocity = tl.where(begins, 0.0, of_velocity).to(kind)
    by_gradient = (scale * (of_gradient + tl.where(begins, of_velocity, 0.0))).to(kind)
    tl.store(moves + k, by_velocity, mask=there)
    tl.store(moves + tensors + k, by_gradient, mask=there)
    tl.store(moves + 2 * tensors + k, (scale * time).to(kind), mask=there)
    tl.store(moves + 3 * tensors + k, (inverse_norm + scale * 0).to(kind), mask=there)
    bad = tl.sum(tl.where(there & ~(_finite(by_velocity) & _finite(by_gradient)), 1, 0))
    sums = _finite(all_vv) & _finite(all_gg) & _finite(loss)
    follows = _finite(square) & _finite(speed) & (speed != 0) & (bad == 0)
    outcome = tl.where(sums, tl.where(above > 0, tl.where(follows, 0, 2), 1), 2).to(tl.int64)
    before = tl.load(state + 1)
    refused = tl.load(state + 2)
    if before == 0:
        tl.store(state + 1, outcome)
        tl.store(state + 3, loss.to(tl.int64, bitcast=True))
    tl.store(state + 2, refused + tl.where((before != 0) | (outcome != 0), 1, 0))
    number = step.to(tl.int64)
    if COUNTED:
        number += tl.load(steps)
    tl.store(state + 4, number)


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def _move_kernel(
    table, owner, moves, numbers, state, tensors, pieces, seed_low, seed_high,
    PIECE: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr, DECAYED: tl.constexpr, BOUNCED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    kind = tl.float64 if WIDE else tl.float32
    if tl.load(state + 1) == 0:
        # backwards: what was read last is still in the cache
        index = pieces - 1 - tl.program_id(0)
        k, begin, size, p, v, g, decay = _tensor(table, owner, tensors, index, PIECE, WIDE, ALIGNED)
        of_velocity = tl.load(moves + k)
        of_gradient = tl.load(moves + tensors + k)
        time = tl.load(moves + 2 * tensors + k)
        inverse_norm = tl.load(moves + 3 * tensors + k)
        step = tl.load(state + 4)
        bounce = tl.load(numbers + 5).to(kind)
        lanes = tl.arange(0, BLOCK)
        if size == PIECE:
            for tile in range(0, PIECE, BLOCK):
                at = tile + lanes
                x = tl.load(p + at)
                w = of_velocity * tl.load(v + at) - of_gradient * _slope(tl.load(g + at), x, decay, DECAYED)
                new = inverse_norm * w
                if BOUNCED:
                    new += bounce * normals(begin + tile, k, seed_low, seed_high, step, WIDE, BLOCK)
                tl.store(p + at, x + time * w)
                tl.store(v + at, new)
        else:
            for tile in range(0, PIECE, BLOCK):
                at = tile + lanes
                there = at < size
                x = tl.load(p + at, mask=there)
                w = of_velocity * tl.load(v + at, mask=there) - of_gradient * _slope(tl.load(g + at, mask=there), x, decay, DECAYED)
                new = inverse_norm * w
                if BOUNCED:
                    new += bounce * normals(begin + tile, k, seed_low, seed_high, step, WIDE, BLOCK)
                tl.store(p + at, x + time * w, mask=there)
                tl.store(v + at, new, mask=there)


class Plan(DevicePlan):
    """Four launches a step, and a few more where a gradient has moved or a number is another than in the step before."""

    def __init__(self, params: Sequence[Tensor], velocities: Sequence[Tensor]) -> None:
        super().__init__(params, velocities)
        tensors = len(self.sizes)
        self._sums, self._totals = (torch.empty((4, n), dtype=torch.float64, device=self.device) for n in (self.pieces, tensors))
        self._moves = torch.empty((4, tensors), dtype=params[0].dtype, device=self.device)
        self._numbers = torch.zeros(6, dtype=torch.float64, device=self.device)
        self._places, self._known = self._numbers.unbind(), [0.0] * 6
        self._reserve: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._aligned = self._decayed = False
        if self.recording():
            raise UsageError("ecd_step: Triton's kernels need a step before one is recorded in a graph")
        self.write(0, self.fixed)
        starts = torch.tensor(self.fixed[-2 * tensors : -tensors])
        last_first = torch.searchsorted(starts, torch.arange(self.pieces), right=True) - 1
        self.owner.copy_(last_first)

    def write(self, first: int, words: Sequence[int]) -> None:
        """See the base class; in a graph a buffer of pinned memory stays with the plan."""
        held = torch.tensor(words, dtype=torch.int64)
        if self.device.type == "cuda":
            held = self._pinned(held)
        self.table.view(-1)[first : first + len(words)].copy_(held, non_blocking=True)
        if first == GRADIENT * len(self.sizes):
            self._aligned = all(word % 16 == 0 for word in (*words[: len(self.sizes)], *self.fixed[: 2 * len(self.sizes)]))
            self._decayed = any(words[2 * len(self.sizes) :])

    def _pinned(self, words: Tensor) -> Tensor:
        if not self.recording():
            if not self._reserve:
                self._reserve.append(torch.empty(3 * len(self.sizes), dtype=torch.int64, pin_memory=True))
            return words.pin_memory()
        if not self._reserve:
            raise UsageError("ecd_step: take a step outside of a graph between two that are recorded")
        buffer = self._reserve.pop()
        self._kept.append(buffer)
        return buffer.copy_(words)

    def launch(self, loss: Tensor | float, rule: Rule, rate: Tensor | None, steps: Tensor | None) -> None:
        """See the base class."""
        lr, eta, f0, nu, q, per_tensor, seed, step = rule
        always = self.recording() or self._recorded
        for place, number in enumerate((loss, lr if rate is None else rate, eta, f0, q, nu)):
            self._set(place, number, always)
        if rate is not None:
            self._places[_LR].mul_(lr)
        tensors, wide = len(self.sizes), {"WIDE": self.double}
        block = _BLOCK // 2 if self.double else _BLOCK
        options = wide | {"PIECE": self.piece, "ALIGNED": self._aligned, "DECAYED": self._decayed, "BLOCK": block, "num_warps": _WARPS}
        with _on(self.device):
            _sums_kernel[(self.pieces,)](self.table, self.owner, self._sums, tensors, self.pieces, **options)
            _totals_kernel[(tensors,)](self.table, self._sums, self._totals, tensors, self.pieces, BLOCK=256, num_warps=4)
            _decide_kernel[(1,)](
                self.table, self._totals, self._moves, self._numbers, self.state, self.state if steps is None else steps,
                step, self.size, tensors, COUNTED=steps is not None, PER_TENSOR=per_tensor, ONE=q == 1,
                TENSORS=triton.next_power_of_2(tensors), **wide,
            )  # fmt: skip
            _move_kernel[(self.pieces,)](
                self.table, self.owner, self._moves, self._numbers, self.state, tensors, self.pieces,
                seed & 0xFFFFFFFF, seed >> 32, BOUNCED=nu > 0, enable_fp_fusion=nu == 0, **options,
            )  # fmt: skip

    def _set(self, place: int, number: Tensor | float, always: bool) -> None:
        if isinstance(number, Tensor):
            self._places[place].copy_(number.reshape(()))
            self._known[place] = float("nan")
        elif always or self._known[place] != number:
            self._places[place].fill_(number)
            self._known[place] = number


def _on(device: torch.device) -> Any:
    return torch.cuda.device(device if device.type == "cuda" else -1)


def compile_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Kernels as the compiler meets them: (kernel, argument types, constants, options)."""
    cases: list[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]] = []
    for wide in (False, True):
        kind, block = ("*fp64", _BLOCK // 2) if wide else ("*fp32", _BLOCK)
        types = {"table": "*i64", "owner": "*i32", "tensors": "i32", "pieces": "i32", "sums": "*fp64", "totals": "*fp64"}
        types |= {"moves": kind, "numbers": "*fp64", "state": "*i64", "steps": "*i64", "step": "i32", "size": "i32"}
        types |= {"seed_low": "i32", "seed_high": "i32"}
        shape = {"PIECE": 8 * block, "WIDE": wide, "ALIGNED": True, "BLOCK": block}
        cases += [(_sums_kernel, types, shape | {"DECAYED": decayed}, {"num_warps": _WARPS}) for decayed in (False, True)]
        decision = {"COUNTED": True, "PER_TENSOR": True, "ONE": False, "WIDE": wide, "TENSORS": 16}
        cases.append((_decide_kernel, types, decision, {"num_warps": 4}))
        for bounced in (False, True):
            constants = shape | {"DECAYED": False, "BOUNCED": bounced}
            cases.append((_move_kernel, types, constants, {"num_warps": _WARPS, "enable_fp_fusion": not bounced}))
    cases.append((_totals_kernel, types, {"BLOCK": 256}, {"num_warps": 4}))
    return cases
