"""What only the GPU backends of ecd_step have: pieces and tables, a state on the device, graphs; and the optimiser on them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepgen import kernels
from hepgen.errors import StepError, UsageError
from hepgen.kernels import ecd_device
from hepgen.kernels.ecd import EcdPlan, Rule
from hepgen.kernels.noise import noise
from hepgen.optim import ECD

pytestmark = pytest.mark.usefixtures("gpu_backend")
REAL = torch.cuda.is_available()
DEVICE = torch.device("cuda" if REAL else "cpu")
needs_gpu = pytest.mark.skipif(not REAL, reason="torch has no GPU here")
RULE = Rule(0.1, 3.0, -1.0, 0.0, 1.0, False, 0, 0)


def system(shapes, seed=0, dtype=torch.float64) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    p, v, g = ([torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype) for shape in shapes] for _ in range(3))
    norm = math.sqrt(sum(float(a.double().square().sum()) for a in v))
    return [p, [a / norm for a in v], g]


def copies(tensors):
    return [[a.clone() for a in part] for part in tensors]


def reference(p, v, g, **options):
    with kernels.backend("reference"):
        kernels.ecd_step(p, v, g, **options)


def close(got, want, rtol=1e-12):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@pytest.fixture
def many_pieces(monkeypatch):
    """Pieces of several tiles, as for many parameters."""
    monkeypatch.setattr(ecd_device, "_BLOCKS", 2)


class TestPieces:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.usefixtures("many_pieces")
    def test_sizes_around_tiles_and_pieces(self, dtype):
        tile = 1024 if dtype == torch.float32 else 512
        own = system([(1,), (tile - 1,), (tile,), (0,), (tile + 1,), (4 * tile,), (4 * tile + 3,), (5,)], 1, dtype)
        other = copies(own)
        options = {"loss": 0.4, "lr": 0.1, "eta": 3.0, "nu": 0.1, "weight_decay": [0.0, 0.1, 0, 0, 0, 0.2, 0, 0.1], "seed": 2}
        kernels.ecd_step(*own, **options)
        reference(*other, **options)
        for k in (0, 1):
            close(own[k], other[k], 1e-12 if dtype == torch.float64 else 2e-5)

    def test_a_tensor_of_many_pieces_beside_small_ones(self):
        own = system([(9,), (512 * 260 + 7,), (3, 3), (0,), (2,)], 2)
        other = copies(own)
        kernels.ecd_step(*own, loss=0.4, lr=0.1, eta=3.0)
        reference(*other, loss=0.4, lr=0.1, eta=3.0)
        close(own[0], other[0])
        close(own[1], other[1])

    def test_many_tensors(self, gpu_backend):
        count = 170 if gpu_backend == "cuda" or REAL else 40
        own = system([(k % 4 + 1,) for k in range(count)], 3)
        other = copies(own)
        scales = [1.0 + k % 3 for k in range(count)]
        kernels.ecd_step(*own, loss=0.4, lr=0.1, eta=3.0, scales=scales, weight_decay=0.1)
        reference(*other, loss=0.4, lr=0.1, eta=3.0, scales=scales, weight_decay=0.1)
        close(own[0], other[0])
        close(own[1], other[1])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_any_alignment(self, dtype):
        p, v, g = system([(2100,)], 4, dtype)
        want = copies([p, v, g])
        reference(*want, loss=0.4, lr=0.1, eta=3.0, nu=0.2, weight_decay=0.1)
        for offsets in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 2, 3)):
            own = []
            for (a,), offset in zip((p, v, g), offsets, strict=True):
                room = torch.zeros(2110, dtype=dtype, device=DEVICE)
                room[offset : offset + 2100] = a
                own.append([room[offset : offset + 2100]])
            kernels.ecd_step(*own, loss=0.4, lr=0.1, eta=3.0, nu=0.2, weight_decay=0.1)
            close(own[0], want[0], 2e-5)
            close(own[1], want[1], 2e-5)

    def test_same_bits_from_run_to_run(self):
        start = system([(5000,), (77,)], 5, torch.float32)
        outcomes = []
        for _ in range(3):
            own = copies(start)
            kernels.ecd_step(*own, loss=0.4, lr=0.1, eta=3.0, nu=0.1, seed=3)
            outcomes.append([a.cpu() for part in own for a in part])
        for other in outcomes[1:]:
            assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


@pytest.mark.usefixtures("many_pieces")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_the_bits_of_the_cpu(dtype):
    p = [torch.zeros(n, dtype=dtype, device=DEVICE) for n in (70, 9001, 3)]
    v = [torch.zeros_like(a) for a in p]
    seed, step = (7 << 33) | 5, 2**32 - 1
    kernels.ecd_step(p, v, [torch.zeros_like(a) for a in p], loss=0.4, lr=0.1, eta=3.0, nu=1.0, seed=seed, step=step)
    for k, a in enumerate(v):
        assert (a.cpu().numpy() == noise(a.numel(), dtype, k, seed, step)).all()


def test_what_a_parameter_is_does_not_matter_without_weight_decay():
    p, v, g = system([(300,)], 6)
    before = v[0].clone()
    p[0][17] = math.inf
    kernels.ecd_step(p, v, g, loss=0.4, lr=0.1, eta=3.0)
    assert p[0][17] == math.inf
    assert v[0].isfinite().all()
    assert not torch.equal(v[0], before)


class TestPlan:
    def test_moved_gradients_and_changed_numbers_are_followed(self):
        own = system([(300,), (7,)], 7)
        other = copies(own)
        plan = EcdPlan(own[0], own[1])
        for step in range(4):
            grads = [g * (step + 1) for g in own[2]] if step != 2 else own[2]
            decays, scales, loss = [0.1 * step, 0.2], [1.0, 1.0 / (step + 1)], 0.4 + step
            plan.step(grads, torch.tensor(loss, device=DEVICE, dtype=torch.float64), decays, scales, RULE._replace(lr=0.1 / (step + 1)))
            moved = [g.clone() for g in grads]
            reference(other[0], other[1], moved, loss=loss, lr=0.1 / (step + 1), eta=3.0, weight_decay=decays, scales=scales)
        close(own[0], other[0])
        close(own[1], other[1])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("where", [DEVICE, torch.device("cpu")])
    def test_numbers_in_tensors(self, dtype, where):
        own = system([(300,), (7,)], 8)
        other = copies(own)
        rate, steps = torch.tensor(0.25, dtype=dtype, device=where), torch.tensor(5, device=where)
        rule = RULE._replace(nu=0.1, seed=4, step=2)
        EcdPlan(own[0], own[1]).step(
            own[2],
            torch.tensor(0.5, dtype=dtype, device=where),
            [0.0] * 2,
            torch.tensor([1.0, 0.5], device=DEVICE),
            rule,
            rate=rate,
            steps=steps,
        )
        reference(*other, loss=0.5, lr=0.025, eta=3.0, nu=0.1, scales=[1.0, 0.5], seed=4, step=7)
        close(own[0], other[0])
        close(own[1], other[1])

    def test_refusals_wait_and_stop_what_follows(self):
        p, v, g = system([(300,), (7,)], 9)
        before = copies([p, v])
        plan = EcdPlan(p, v)
        zeros, ones = [0.0] * 2, [1.0] * 2
        plan.step(g, -3.0, zeros, ones, RULE, check=False)
        plan.step(g, math.nan, zeros, ones, RULE, check=False)
        plan.step(g, 0.5, zeros, ones, RULE, check=False)
        assert all(torch.equal(a, b) for a, b in zip((*p, *v), (*before[0], *before[1]), strict=True))
        with pytest.raises(StepError, match="the loss -3 is not above F0 = -1"):
            plan.check()
        plan.check()
        plan.step(g, 0.5, zeros, ones, RULE, check=False)
        assert plan.refusal() == (None, 0)
        assert not torch.equal(p[0], before[0][0])
        with pytest.raises(StepError, match="not finite"):
            plan.step(g, math.nan, zeros, ones, RULE)

    def test_a_loss_is_one_number(self):
        p, v, g = system([(3,)])
        with pytest.raises(UsageError, match=r"the loss must be one number, got shape \(2,\)"):
            kernels.ecd_step(p, v, g, loss=torch.zeros(2, device=DEVICE), lr=0.1, eta=1.0)


def descend(optimizer, params, losses=None):
    optimizer.zero_grad()
    loss = sum(((k + 1) * (p**2).sum() + 0.1 * (p**4).sum() for k, p in enumerate(params)), start=torch.zeros((), device=DEVICE)) / 10
    loss.backward()
    return optimizer.step(loss if losses is None else losses)


def parameters(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)) for shape in shapes]


class TestOptimizer:
    options = {"eta": 4.0, "nu": 1e-2, "weight_decay": 0.1, "seed": 7}  # noqa: RUF012

    def run(self, steps=5, **options):
        params = parameters((30, 9), (9,))
        optimizer = ECD([{"params": params[:1]}, {"params": params[1:]}], **({"lr": 0.3} | self.options | options))
        for _ in range(steps):
            descend(optimizer, params)
        optimizer.check()
        return params, optimizer

    def test_moves_as_the_reference_does(self):
        own, _ = self.run()
        with kernels.backend("reference"):
            other, _ = self.run()
        close(own, other, 1e-10)

    def test_step_and_rates_on_the_device(self):
        own, _ = self.run()
        rate = torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
        other, optimizer = self.run(lr=rate, capturable=True)
        close(own, other)
        assert optimizer.param_groups[1]["step"].item() == 5
        with kernels.backend("reference"):
            third, _ = self.run(lr=rate, capturable=True)
        close(own, third, 1e-10)
        saved = optimizer.state_dict()
        params = parameters((30, 9), (9,))
        again = ECD([{"params": params[:1]}, {"params": params[1:]}], lr=rate, capturable=True, **self.options)
        again.load_state_dict(copy.deepcopy(saved))
        with torch.no_grad():
            for p, q in zip(params, other, strict=True):
                p.copy_(q)
        descend(again, params)
        descend(optimizer, other)
        close(params, other, 0)

    def test_groups_with_rates_of_their_own(self):
        def run(make):
            params = parameters((30,), (9,), (4,))
            groups = [{"params": params[:1]}, {"params": params[1:2], "lr": make(0.1)}, {"params": params[2:], "lr": make(0.0)}]
            optimizer = ECD(groups, make(0.3), **self.options)
            for _ in range(3):
                descend(optimizer, params)
            return params

        close(run(float), run(lambda rate: torch.tensor(rate, dtype=torch.float64, device=DEVICE)))

    def test_refused_steps_do_not_count(self):
        params, optimizer = self.run(2)
        before = copies([params])[0]
        descend(optimizer, params, losses=-1e3)
        descend(optimizer, params)
        assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
        with pytest.raises(StepError, match="not above F0"):
            optimizer.check()
        assert optimizer.param_groups[0]["step"] == 2
        twin, other = self.run(2)
        close(params, twin, 0)
        descend(optimizer, params)
        descend(other, twin)
        close(params, twin, 0)

    def test_refusals_are_not_lost_with_the_plan(self):
        params, optimizer = self.run(2)
        descend(optimizer, params, losses=-1e3)
        params[0].data = params[0].data.clone()
        with pytest.raises(StepError, match="not above F0"):
            descend(optimizer, params)

    def test_who_never_asks_is_told_late(self, monkeypatch):
        monkeypatch.setattr(ecd_device, "_LOOK_EVERY", 4)
        params, optimizer = self.run(2)

        def twelve_steps():
            for _ in range(12):
                descend(optimizer, params, losses=-1e3)
                if REAL:
                    torch.cuda.synchronize()

        with pytest.raises(StepError, match="not above F0"):
            twelve_steps()

    def test_systems(self):
        whole = parameters((3, 4), (3, 2, 3))
        seeds, options = [7, 3, 9], self.options | {"lr": 0.3}

        def loss_of(tensors):
            return sum((a**2).flatten(1).sum(1) for a in tensors)

        optimizer = ECD(whole, systems=3, **(options | {"seed": seeds}))
        for moving in ([0, 1, 2], [0, 2], [0, 1, 2]):
            optimizer.zero_grad()
            loss = loss_of(whole)
            loss.sum().backward()
            optimizer.step(loss[moving], moving)
        optimizer.check()
        for row in range(3):
            alone = [nn.Parameter(p.detach()[row : row + 1].clone()) for p in parameters((3, 4), (3, 2, 3))]
            own = ECD(alone, **(options | {"seed": seeds[row]}))
            for step in range(3):
                own.zero_grad()
                loss = loss_of(alone).sum()
                loss.backward()
                if row == 1 and step == 1:
                    own.param_groups[0]["step"] += 1
                else:
                    own.step(loss)
            for a, b in zip(whole, alone, strict=True):
                torch.testing.assert_close(a.detach()[row], b.detach()[0], rtol=1e-12, atol=1e-12)


@needs_gpu
class TestGraphs:
    def make(self):
        rate = torch.tensor(0.3, device=DEVICE)
        params = parameters((300, 90), (90,), dtype=torch.float32)
        return params, ECD(params, rate, eta=4.0, nu=1e-2, weight_decay=0.1, seed=7, capturable=True), rate

    def test_replays_go_on(self):
        rates = [0.3, 0.2, 0.1, 0.3, 0.4, 0.2, 0.1]
        params, optimizer, rate = self.make()
        for value in rates:
            rate.fill_(value)
            descend(optimizer, params)
        want = [p.detach().clone() for p in params]
        params, optimizer, rate = self.make()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for value in rates[:2]:
                rate.fill_(value)
                descend(optimizer, params)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            descend(optimizer, params)
        for value in rates[2:5]:
            rate.fill_(value)
            graph.replay()
        rate.fill_(rates[5])
        descend(optimizer, params)  # an eager step between replays
        rate.fill_(rates[6])
        graph.replay()
        optimizer.check()
        assert all(torch.equal(p.detach(), w) for p, w in zip(params, want, strict=True))
        assert optimizer.param_groups[0]["step"].item() == 7

    def test_replays_that_are_refused(self):
        params, optimizer, _ = self.make()
        loss = torch.tensor(0.5, device=DEVICE)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step(loss)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            optimizer.step(loss)
        graph.replay()
        before = params[0].detach().clone()
        loss.fill_(-1e6)  # below what the weight decay adds
        graph.replay()
        assert torch.equal(params[0].detach(), before)
        with pytest.raises(StepError, match="not above F0"):
            optimizer.check()

    def test_nothing_waits(self):
        params, optimizer, _ = self.make()
        descend(optimizer, params)
        grads = [torch.ones_like(p) for p in params]
        loss = torch.tensor(0.5, device=DEVICE)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            optimizer.step(loss)
            optimizer.step(0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        optimizer.check()

    def test_on_the_stream_in_force(self):
        p, v, g = system([(1 << 20,)], 1, torch.float32)
        other = copies([p, v, g])
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        plan = EcdPlan(p, v)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10_000_000)
            g[0].mul_(2.0)
            plan.step(g, 0.4, [0.0], [1.0], RULE, check=False)
        torch.cuda.current_stream().wait_stream(stream)
        kernels.ecd_step(other[0], other[1], [2 * a for a in other[2]], loss=0.4, lr=0.1, eta=3.0)
        assert torch.equal(p[0], other[0][0])


def test_precision_of_float32():
    """The sums are made in double: a million equal velocities have the norm that they should."""
    n = 50_000
    p, v, g = (torch.full((n,), x, device=DEVICE) for x in (0.0, 0.1, 0.0))
    kernels.ecd_step([p], [v], [g], loss=0.4, lr=1.0, eta=1.0)
    np.testing.assert_allclose(v.cpu().numpy(), 1 / math.sqrt(n), rtol=3e-7)
