from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmd_support import brute_mmd2, brute_sums, draw, needs_cpp

from hepgen import kernels
from hepgen.errors import BackendError, InputError, UsageError
from hepgen.kernels import dispatch


@pytest.fixture
def on_device(device: torch.device) -> Iterator[None]:
    """Every backend, one after the other; new tensors lie on its device."""
    with device:
        yield


@pytest.mark.usefixtures("on_device")
class TestValues:
    def test_two_points(self):
        x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 2.0]])
        # k(x, y) = exp(-(1/2 + 4/8)) = exp(-1)
        assert kernels.mmd2(x, y, torch.tensor([2.0, 8.0])).item() == pytest.approx(2 - 2 * math.exp(-1), rel=1e-6)
        assert kernels.mmd2(x, y, torch.tensor([2.0, 8.0]), cross_weight=1.0).item() == pytest.approx(2 - math.exp(-1), rel=1e-6)

    def test_hand_computed_weights(self):
        # x = {0, 1} with weights 3, -1; y = {0}; sigma = 1, e = exp(-1)
        # xx = (9 + 1 - 6 e) / 4, yy = 1, xy = (3 - e) / 2
        e = math.exp(-1)
        x, y = torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        value = kernels.mmd2(x, y, 1.0, x_weights=torch.tensor([3.0, -1.0]))
        assert value.item() == pytest.approx((10 - 6 * e) / 4 + 1 - (3 - e), rel=1e-14)

    def test_gradient_of_two_points(self):
        # d/dx of -2 exp(-(x - y)^2 / s) = 4 (x - y) / s exp(-(x - y)^2 / s)
        x = torch.tensor([[1.5]], dtype=torch.float64, requires_grad=True)
        y = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
        gx, gy = torch.autograd.grad(kernels.mmd2(x, y, 2.0), (x, y))
        assert gx.item() == pytest.approx(2 * math.exp(-0.5), rel=1e-13)
        assert gy.item() == pytest.approx(-2 * math.exp(-0.5), rel=1e-13)

    def test_equal_samples_give_zero(self):
        x = draw(77, 4, 1)
        assert abs(kernels.mmd2(x, x.clone(), 0.7).item()) < 1e-15

    def test_expectation_of_normals(self):
        # E k(x, y) for x, y ~ N(0, 1) in one dimension is (1 + 4 / sigma)^(-1/2)
        x = draw(2000, 1, 5)
        assert kernels.kernel_mean(x, 2.0).item() == pytest.approx(1 / math.sqrt(3), abs=0.02)

    def test_known_data_term(self):
        x, y = draw(60, 3, 1), draw(50, 3, 2)
        v = torch.linspace(-0.5, 2, 50, dtype=torch.float64)
        yy = kernels.kernel_mean(y, 1.3, weights=v)
        full = kernels.mmd2(x, y, 1.3, y_weights=v)
        again = kernels.mmd2(x, y, 1.3, y_weights=v, y_mean=yy)
        assert yy.dtype == torch.float64
        assert again.item() == pytest.approx(full.item(), rel=1e-13)
        assert yy.item() == pytest.approx(v.cpu().numpy() @ brute_sums(y, y, 1.3, v) / v.sum().item() ** 2, rel=1e-13)

    def test_nan_in_nan_out(self):
        x, y = draw(200, 3, 1, torch.float32), draw(100, 3, 2, torch.float32)
        # a NaN with payload bits too: integer arithmetic on bits must not make a number of it
        odd = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)[0]
        for bad in (torch.tensor(float("nan")), odd):
            z = x.clone()
            z[123, 2] = bad
            assert kernels.mmd2(z, y, 1.0).isnan()
            assert kernels.mmd2(y, z, 1.0).isnan()
            rows = kernels.gaussian_sums(z, y, 1.0)
            assert rows.isnan().nonzero().flatten().tolist() == [123]

    def test_nan_weight(self):
        x, y = draw(20, 2, 1), draw(10, 2, 2)
        w = torch.ones(20, dtype=torch.float64)
        w[3] = torch.nan
        assert kernels.mmd2(x, y, 1.0, x_weights=w).isnan()

    @pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of Triton's interpreter
    def test_far_and_near(self):
        x, y = draw(70, 6, 1, torch.float32), draw(65, 6, 2, torch.float32)
        # each point sees itself alone: 1/n + 1/m
        assert kernels.mmd2(x, y, 1e-12).item() == pytest.approx(1 / 70 + 1 / 65, rel=1e-6)
        assert abs(kernels.mmd2(x, y, 1e12).item()) < 1e-6
        assert kernels.gaussian_sums(x, y + 1e20, 1.0).abs().max() == 0
        z = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(kernels.mmd2(z, y + 1e4, 1e-3), z)
        assert gradient.abs().max() == 0

    def test_points_far_from_zero_keep_their_digits(self):
        x, y = draw(300, 2, 1, torch.float32, shift=1000.0), draw(200, 2, 2, torch.float32, shift=1000.0)
        assert kernels.mmd2(x, y, 0.5).item() == pytest.approx(brute_mmd2(x, y, 0.5), abs=2e-6)

    def test_no_rows(self):
        empty, x = torch.empty(0, 3), draw(4, 3, 1, torch.float32)
        assert kernels.gaussian_sums(empty, x, 1.0).shape == (0,)
        assert kernels.gaussian_sums(x, empty, 1.0).tolist() == [0.0] * 4
        with pytest.raises(InputError, match="at least one row"):
            kernels.mmd2(empty, x, 1.0)
        with pytest.raises(InputError, match="at least one row"):
            kernels.kernel_mean(empty, 1.0)

    def test_not_contiguous(self):
        wide = draw(120, 8, 3).requires_grad_()
        x, y = wide[::2, 1:7:2], draw(6, 90, 4).T[:, ::2]
        assert not x.is_contiguous()
        assert not y.is_contiguous()
        value = kernels.mmd2(x, y, 1.1)
        (gradient,) = torch.autograd.grad(value, wide)
        assert value.item() == pytest.approx(brute_mmd2(x, y, 1.1), rel=1e-12)
        assert (gradient[1::2] == 0).all()
        assert (gradient[::2, 1:7:2] != 0).all()

    @pytest.mark.parametrize("d", [1, 8, 9, 33])
    def test_gradcheck(self, backend, d):
        if d > 1 and backend == "triton" and dispatch.triton_interprets():
            pytest.skip("slow in the interpreter; test_mmd_gpu.py compares so many features with the reference")
        x, y = draw(6, d, 1).requires_grad_(), draw(5, d, 2).requires_grad_()
        w = torch.tensor([1.0, -0.3, 2.0, 0.5, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
        v = torch.tensor([0.7, 1.0, -0.2, 0.4, 1.1], dtype=torch.float64, requires_grad=True)
        sigma = torch.linspace(1.0, 2.0, d) * d

        def all_of_it(x, y, w, v):
            return kernels.mmd2(x, y, sigma, x_weights=w, y_weights=v), kernels.gaussian_sums(x, y, sigma, y_weights=v)

        assert torch.autograd.gradcheck(all_of_it, (x, y, w, v), fast_mode=backend in ("cuda", "triton"))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    m=st.integers(1, 300),
    d=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64]),
    x_weighted=st.booleans(),
    y_weighted=st.booleans(),
    needs=st.integers(1, 15),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
@needs_cpp
def test_cpp_equals_reference(n, m, d, x_weighted, y_weighted, needs, dtype, seed):
    """Values and every combination of gradients; the yardstick is the reference in float64."""
    x, y = draw(n, d, seed, dtype), draw(m, d, seed + 1, dtype, shift=0.3)
    wx = draw(n, 1, seed + 2, dtype, shift=1.5)[:, 0] if x_weighted else None
    wy = draw(m, 1, seed + 3, dtype, shift=1.5)[:, 0] if y_weighted else None
    sigma = torch.linspace(0.5, 1.5, d) * 2 * d
    results = {}
    for name, kind in (("cpp", dtype), ("reference", torch.float64)):
        args = [None if t is None else t.to(kind).clone().requires_grad_(bool(needs >> i & 1)) for i, t in enumerate((x, y, wx, wy))]
        with kernels.backend(name):
            value = kernels.mmd2(args[0], args[1], sigma, x_weights=args[2], y_weights=args[3])
            sums = kernels.gaussian_sums(args[0], args[1], sigma, y_weights=args[3])
        inputs = [t for t in args if t is not None and t.requires_grad]
        scale = sum(1.0 if w is None else float(w.abs().sum() / w.sum().abs()) for w in (wx, wy)) ** 2
        gradients = torch.autograd.grad(value + sums.mean(), inputs, allow_unused=True) if inputs else ()
        results[name] = ([value, sums, *(g for g in gradients if g is not None)], scale)
    (got, scale), (want, _) = results["cpp"], results["reference"]
    assert len(got) == len(want)
    eps = torch.finfo(dtype).eps
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        size = b.abs().max().clamp_min(1e-3).item()
        torch.testing.assert_close(a.double(), b, rtol=0, atol=40 * eps * max(size, 1.0) * scale)


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("weighted", [False, True])
def test_float32_error_is_within_twice_that_of_plain_torch(backend, weighted):
    n, sigma = 1100, 0.8
    x32, y32 = draw(n, 6, 1, torch.float32), draw(n, 6, 2, torch.float32, shift=0.1)
    w32 = draw(n, 1, 3, torch.float32, shift=2.0)[:, 0] if weighted else None

    def with_cdist(x, y, w):
        def mean(a, b, wa, wb):
            k = torch.exp(-torch.cdist(a, b).square() / sigma)
            return k.mean() if wa is None else wa @ k @ wb / (wa.sum() * wb.sum())

        ones = None if w is None else torch.ones_like(w)
        return mean(x, x, w, w) + mean(y, y, ones, ones) - 2 * mean(x, y, w, ones)

    def run(function, dtype):
        x = x32.to(dtype).requires_grad_()
        w = None if w32 is None else w32.to(dtype)
        value = function(x, y32.to(dtype), w)
        return value.detach(), torch.autograd.grad(value, x)[0]

    def ours(x, y, w):
        with kernels.backend(backend):
            return kernels.mmd2(x, y, sigma, x_weights=w)

    def exact(x, y, w):
        with kernels.backend("reference"):
            return kernels.mmd2(x, y, sigma, x_weights=w)

    true, plain, mine = run(exact, torch.float64), run(with_cdist, torch.float32), run(ours, torch.float32)
    # the rounding of the answer itself; on a GPU four of it, of terms that are some ten times as large
    rounding = torch.finfo(torch.float32).eps * (4 if backend in ("cuda", "triton") else 1)
    for t, p, m in zip(true, plain, mine, strict=True):
        floor = rounding * t.abs().max()
        assert (m.double() - t).norm() <= 2 * (p.double() - t).norm() + floor


@needs_cpp
def test_blocks_of_several_tiles():
    """More rows than fit 128 blocks of one tile; points at 0 and 1 alone, so that every sum has a closed form."""
    n, e = 66_001, math.exp(-1)
    x = (torch.arange(n) % 3 == 0).double()[:, None].requires_grad_()
    ones = x.detach().sum().item()
    zeros = n - ones
    with kernels.backend("cpp"):
        value = kernels.mmd2(x, torch.zeros(1, 1, dtype=torch.float64), 1.0)
        (gradient,) = torch.autograd.grad(value, x)
        sums = kernels.gaussian_sums(x.detach(), x.detach(), 1.0)
    xx = (ones**2 + zeros**2 + 2 * ones * zeros * e) / n**2
    assert value.item() == pytest.approx(xx + 1 - 2 * (zeros + ones * e) / n, rel=1e-12)
    # d/dx of exp(-x^2) at 1 is -2 e
    at_one = -4 * zeros * e / n**2 + 4 * e / n
    at_zero = 4 * ones * e / n**2
    want = at_zero + x.detach() * (at_one - at_zero)
    torch.testing.assert_close(gradient, want, rtol=1e-11, atol=0)
    want = zeros + ones * e + x.detach()[:, 0] * (ones - zeros) * (1 - e)
    torch.testing.assert_close(sums, want, rtol=1e-12, atol=0)


@needs_cpp
class TestMachine:
    def arguments(self):
        x = draw(3000, 5, 1, torch.float32).requires_grad_()
        y = draw(2500, 5, 2, torch.float32).requires_grad_()
        w = draw(3000, 1, 3, torch.float32, shift=1.0)[:, 0].requires_grad_()
        return x, y, w

    def outcome(self):
        x, y, w = self.arguments()
        value = kernels.mmd2(x, y, 0.9, x_weights=w)
        return [t.detach().numpy().tobytes() for t in (value, *torch.autograd.grad(value, (x, y, w)))]

    def test_same_bits_for_any_number_of_threads(self):
        before = torch.get_num_threads()
        try:
            outcomes = []
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                outcomes += [self.outcome(), self.outcome()]
        finally:
            torch.set_num_threads(before)
        assert all(o == outcomes[0] for o in outcomes)

    def test_called_from_several_threads_at_once(self):
        want = self.outcome()
        with ThreadPoolExecutor(4) as pool:
            assert all(got == want for got in pool.map(lambda _: self.outcome(), range(8)))

    def test_survives_fork(self):
        want = self.outcome()[0]  # threads have run in this process before it forks
        program = (
            "import os, sys, torch\n"
            "from hepgen import kernels\n"
            "torch.set_num_threads(2)\n"
            "x = torch.randn(3000, 5, generator=torch.Generator().manual_seed(1))\n"
            "before = kernels.kernel_mean(x, 0.9)\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    os._exit(0 if kernels.kernel_mean(x, 0.9) == before else 3)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        )
        done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
        assert done.returncode == 0
        assert self.outcome()[0] == want

    def test_instruction_sets_agree(self):
        core = pytest.importorskip("hepgen._core")
        before = core.instruction_set()
        x, y = draw(700, 6, 1, torch.float32).requires_grad_(), draw(600, 6, 2, torch.float32)
        outcomes = []
        try:
            for isa in core.instruction_sets():
                core.set_instruction_set(isa)
                assert kernels.instruction_set() == isa
                value = kernels.mmd2(x, y, 1.5)
                outcomes.append((value.detach(), *torch.autograd.grad(value, x)))
        finally:
            core.set_instruction_set(before)
        for value, gradient in outcomes:
            torch.testing.assert_close(value, outcomes[0][0], rtol=0, atol=1e-7)
            torch.testing.assert_close(gradient, outcomes[0][1], rtol=0, atol=3e-7 * outcomes[0][1].abs().max().item() + 1e-9)

    def test_environment_forces_an_instruction_set(self):
        program = "from hepgen import kernels; print(kernels.instruction_set())"

        def run(isa):
            environment = {**os.environ, "HEPGEN_ISA": isa}
            return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False)

        assert run("baseline").stdout.strip() == "baseline"
        wrong = run("mmx")
        assert wrong.returncode != 0
        assert "HEPGEN_ISA: instruction set 'mmx' cannot run here" in wrong.stderr

    def test_memory_stays_linear(self):
        n = 30_000  # the kernel matrix would take 3.6 GB in float32
        program = (
            "import resource, torch\n"
            "from hepgen import kernels\n"
            f"x = torch.randn({n}, 2)\n"
            "kernels.kernel_mean(x[:100], 0.1)\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "kernels.kernel_mean(x, 0.1)\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
        assert float(done.stdout) < 50  # MB


@pytest.fixture
def compiled(backend: str) -> str:
    """The backends that are custom ops of torch."""
    if backend == "reference":
        pytest.skip("plain torch")
    return backend


@pytest.mark.usefixtures("compiled")
class TestTorch:
    def samples(self, device):
        return draw(5, 3, 1).to(device).requires_grad_(), draw(4, 3, 2).to(device).requires_grad_()

    def test_opcheck(self, compiled, device):
        x, y = self.samples(device)
        w = torch.rand(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(device).requires_grad_()
        v = torch.rand(4, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(device).requires_grad_()
        sigma, known = torch.full((2, 3), 2.0, dtype=torch.float64, device=device), torch.tensor(0.5, dtype=torch.float64, device=device)
        kernels.mmd2(x, y, 2.0)  # registers the ops
        ops = torch.ops.hepgen
        torch.library.opcheck(ops.mmd2.default, (x, y, sigma, w, v, 2.0, False, None, 15, compiled))
        torch.library.opcheck(ops.mmd2.default, (x.detach(), y.detach(), sigma, None, None, 1.0, True, known, 0, compiled))
        torch.library.opcheck(ops.gaussian_sums.default, (x, y, sigma, v, True, compiled))
        torch.library.opcheck(ops.kernel_mean.default, (x.detach(), sigma, w.detach(), True, compiled))

    def test_compile_keeps_the_op(self, device):
        x, y = draw(40, 3, 1).to(device).requires_grad_(), draw(30, 3, 2).to(device)

        def loss(x):
            return (3 * kernels.mmd2(x, y, 2.0)).sin()

        torch.compiler.reset()  # the choice of the backend is a constant of what was compiled
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        want, got = loss(x), compiled(x)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, x))

    @pytest.mark.parametrize("function", [lambda x, y: kernels.mmd2(x, y, 1.0), lambda x, y: kernels.gaussian_sums(x, y, 1.0).sum()])
    def test_second_derivative_is_refused(self, device, function):
        x, y = self.samples(device)
        (gradient,) = torch.autograd.grad(function(x, y), x, create_graph=True)
        with pytest.raises(BackendError, match="first derivatives only"):
            gradient.square().sum().backward()

    def test_no_gradient_work_without_need(self, device):
        x, y = self.samples(device)
        y = y.detach()
        with torch.no_grad():
            assert not kernels.mmd2(x, y, 1.0).requires_grad
        assert not kernels.mmd2(x.detach(), y, 1.0).requires_grad


class TestArguments:
    x = torch.zeros(3, 2)

    @pytest.mark.parametrize(
        ("arguments", "options", "match"),
        [
            ((torch.zeros(3), torch.zeros(3, 2), 1.0), {}, "shapes"),
            ((torch.zeros(3, 2), torch.zeros(3, 1), 1.0), {}, "shapes"),
            ((torch.zeros(3, 2).half(), torch.zeros(3, 2).half(), 1.0), {}, "float32"),
            ((torch.zeros(3, 2), torch.zeros(3, 2).double(), 1.0), {}, "must both be float32 or both float64"),
            ((torch.zeros(3, 2), torch.zeros(3, 2), 0.0), {}, "positive"),
            ((torch.zeros(3, 2), torch.zeros(3, 2), torch.tensor([1.0, -1.0])), {}, "positive"),
            ((torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3)), {}, "one value per feature"),
            ((torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(2, 3)), {}, "one value per feature"),
            ((torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(0, 2)), {}, "one value per feature"),
            ((torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(2, requires_grad=True)), {}, "no gradient flows"),
            ((torch.zeros(3, 2), torch.zeros(3, 2), 1.0), {"x_weights": torch.ones(2)}, r"x_weights must have shape \(3,\)"),
            ((torch.zeros(3, 2), torch.zeros(3, 2), 1.0), {"y_weights": torch.ones(3, 1)}, "y_weights must have shape"),
            ((torch.zeros(3, 2), torch.zeros(3, 2, requires_grad=True), 1.0), {"y_mean": 0.5}, "y_mean"),
        ],
    )
    def test_refused(self, arguments, options, match):
        with pytest.raises(UsageError, match=match):
            kernels.mmd2(*arguments, **options)
