from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hepgen.training import Sample
from hepgen.training.orders import Order, Shuffled, Windows
from hepgen.training.samples import BatchOrder, fingerprint

SEEDS = (3, 8)


def shuffled(length: int, held: int) -> Order:
    return Shuffled(length, held, length - held, SEEDS, 1, torch.device("cpu"))


def windows(length: int, held: int) -> Order:
    return Windows(length, held, length - held, SEEDS, 1)


KINDS = pytest.mark.parametrize("make", [shuffled, windows])


def turn(order: Order, epoch: int, batch: int, members: tuple[int, ...] = (0, 1)) -> Tensor:
    steps = order.shown // batch
    return torch.cat([order.rows(epoch, 0, members, step * batch, batch) for step in range(steps)], dim=1)


@KINDS
@pytest.mark.parametrize(("length", "held"), [(2, 1), (7, 2), (1000, 100), (100_003, 10_000)])
def test_every_row_is_held_out_or_taken_once_a_turn(make: Callable[[int, int], Order], length: int, held: int) -> None:
    order = make(length, held)
    rows, out = turn(order, 0, 1 if length < 10 else 50), order.held_out((0, 1))
    assert out.shape == (2, held)
    assert order.shown > 0.98 * (length - held) or length < 10
    for taken, kept in zip(rows.tolist(), out.tolist(), strict=True):
        assert len(set(taken)) == len(taken) >= order.shown - 49
        assert not set(taken) & set(kept)
        assert set(taken) | set(kept) <= set(range(length))


@KINDS
def test_orders_differ_between_members_turns_and_epochs_and_are_a_function_of_the_seed(make: Callable[[int, int], Order]) -> None:
    order, again = make(30_000, 3000), make(30_000, 3000)
    first = order.rows(0, 0, (0, 1), 0, 20_000)
    others = [order.rows(0, 1, (0,), 0, 20_000)[0], order.rows(1, 0, (0,), 0, 20_000)[0], first[1]]
    assert all((first[0] == other).float().mean() < 0.01 for other in others)
    # asked for in another order, in other pieces and for one member alone
    pieces = [again.rows(0, 0, (1,), start, 1000) for start in (4000, 0, 3000, 2000, 1000)]
    assert torch.equal(torch.cat([pieces[1], pieces[4], pieces[3], pieces[2], pieces[0]], dim=1)[0], first[1, :5000])


def test_rows_left_over_on_disk_are_taken_in_another_epoch() -> None:
    order = windows(10_123, 1000)
    assert order.shown < 9123
    seen = torch.cat([turn(order, epoch, 50, (0,))[0] for epoch in range(6)])
    assert len(seen.unique()) == 9123


def test_steps_on_disk_read_what_lies_together() -> None:
    length = 1 << 22
    order = Windows(length, 1 << 18, length - (1 << 18), (1,), 0)
    rows = order.rows(0, 0, (0,), 0, 1 << 20)[0].sort().values
    ends = (rows.diff() > 1).sum() + 1
    assert ends <= 64 + 1  # blocks of a window, one of them round the end of the file
    assert len(rows.unique()) == 1 << 20
    # and within a window all is mixed: neighbours of a batch come from all of its blocks
    batch = order.rows(0, 0, (0,), 4096, 4096)[0]
    assert len((batch >> 14).unique()) > 60


def test_a_batch_over_two_windows_holds_both() -> None:
    order = Windows(700, 20, 680, (1,), 0)
    assert (order.block, order.shown) == (10, 680)
    whole = order.rows(0, 0, (0,), 0, 680)
    assert torch.equal(order.rows(0, 0, (0,), 630, 40), whole[:, 630:670])


def test_batches_of_a_sample_on_disk_are_rows_of_it() -> None:
    values = torch.arange(1000.0)[:, None]
    order = BatchOrder({"sim": Sample(values, values[:, 0], on_disk=True), "data": Sample(values)}, 0.1, 50, [1], ensemble=False)
    held = order.held_out()
    assert len(held["sim"]) == len(held["data"]) == 100
    batch = order.batch(0, 3)
    assert not batch["sim"].on_disk
    assert torch.equal(batch["sim"].values[:, 0], batch["sim"].weights)  # type: ignore[arg-type]
    assert not set(batch["sim"].values[:, 0].tolist()) & set(held["sim"].values[:, 0].tolist())


def test_the_fingerprint_of_rows_does_not_depend_on_where_they_lie() -> None:
    values = torch.randn(3000, 2, generator=torch.Generator().manual_seed(1))
    assert fingerprint({"a": Sample(values, on_disk=True)}, 1) == fingerprint({"a": Sample(values)}, 1)
    assert fingerprint({"a": Sample(values)}, 1) != fingerprint({"a": Sample(values.flip(0))}, 1)
