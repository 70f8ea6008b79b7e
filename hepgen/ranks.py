"""Several processes that fit together, one rank each, as torchrun or a batch system's launcher starts them.

A fit over ranks descends the gradient of one loss L of the rows of all ranks. Every rank computes the value of L and a part of its
gradient in the parameters, and the parts add up to the whole: what is gathered from the others sends its gradient back to them. With one
rank everything here gives back what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hepgen.errors import UsageError


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if _started() else 1


def number() -> int:
    """Which one this process is, from 0."""
    return dist.get_rank() if _started() else 0


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()


def launched() -> bool:
    """Whether this process was started as one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """Within the block the processes that were started together know of each other: gloo between CPUs, nccl between GPUs.

    Raises
    ------
    UsageError
        They cannot find each other: `MASTER_ADDR` and `MASTER_PORT` are torchrun's to set.
    """
    if not launched() or _started():
        yield
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"the ranks cannot find each other ({error}): start them by torchrun, or by hepgen fit --ranks") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def split(length: int) -> slice:
    """Which of `length` entries are this rank's: consecutive ones, as many as others have or one more."""
    n, r = count(), number()
    return slice(length * r // n, length * (r + 1) // n)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(count())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.contiguous()
        dist.all_reduce(whole)
        return whole.chunk(count(), ctx.dim)[number()], None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:
        return constant_total(part)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def gathered(x: Tensor, dim: int = 0) -> Tensor:
    """The rows of all ranks, in the order of the ranks; every rank gives as many. Differentiable in the rows of every rank."""
    if count() == 1:
        return x
    out: Tensor = _Gather.apply(x, dim)  # type: ignore[no-untyped-call]
    return out


def total(part: Tensor) -> Tensor:
    """The sum over ranks; its gradient goes to every rank's own part."""
    if count() == 1:
        return part
    out: Tensor = _Total.apply(part)  # type: ignore[no-untyped-call]
    return out


def shared(value: Tensor) -> Tensor:
    """A value that every rank has computed from gathered rows: each takes its share of the gradient."""
    return value if count() == 1 else total(value / count())


def constant_total(part: Tensor) -> Tensor:
    """The sum over ranks, without a gradient."""
    whole = part.detach().clone()
    if count() > 1:
        dist.all_reduce(whole)
    return whole


def least(numbers: Sequence[int]) -> list[int]:
    """The smallest of each number over ranks."""
    if count() == 1:
        return list(numbers)
    found = torch.tensor(numbers, dtype=torch.int64, device=_device())
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    return [int(n) for n in found.tolist()]


def objects(mine: Any) -> list[Any]:
    """What every rank gives, in their order; pickled between the processes of one fit, never read from a file."""
    if count() == 1:
        return [mine]
    out: list[Any] = [None] * count()
    dist.all_gather_object(out, mine)
    return out


def wait() -> None:
    """Until all ranks are here."""
    if count() > 1:
        dist.barrier()


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
