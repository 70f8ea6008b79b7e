from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepgen import kernels
from hepgen.errors import BackendError, InputError, UsageError
from hepgen.kernels import density as density_module
from hepgen.kernels import kde

CPP = any(op == "kde" and name == "cpp" and ok for op, name, ok, _ in kernels.registry())
needs_cpp = pytest.mark.skipif(not CPP, reason="hepgen._core is not built")
# infinite exponents are meant; numpy, under Triton's interpreter, tells of them
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.fixture
def estimate(device):
    """:func:`kde` for samples and weights of the CPU, on the device of the backend in force."""

    def run(samples, grid, bandwidth, *, weights=None, method="exact"):
        w = None if weights is None else weights.to(device)
        return kde(samples.to(device), grid, bandwidth, weights=w, method=method).cpu()

    return run


@pytest.fixture
def compiled(backend):
    """Every backend but the reference."""
    if backend == "reference":
        pytest.skip("is compared with itself")
    return backend


def pdf(x, mean=0.0, b=1.0):
    return np.exp(-0.5 * ((x - mean) / b) ** 2) / (b * math.sqrt(2 * math.pi))


def draw(n, features, seed, dtype=torch.float64):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def brute(samples, grid, bandwidth, weights=None):
    """(G, F): one normal density per sample, feature by feature."""
    x, g = samples.numpy(), grid.numpy()
    w = np.ones(len(x)) if weights is None else weights.numpy()
    b = np.broadcast_to(np.asarray(bandwidth, dtype=float), x.shape[1])
    g = np.broadcast_to(g[:, None] if g.ndim == 1 else g, (len(g), x.shape[1]))
    columns = [(w * pdf(g[:, f, None], x[:, f], b[f])).sum(1) / w.sum() for f in range(x.shape[1])]
    return np.stack(columns, 1)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("method", ["exact", "binned"])
class TestBoth:
    def test_one_sample_on_a_grid_point(self, estimate, method):
        # the density of one sample is the normal density itself, and linear binning does not move a sample on a point
        grid = torch.linspace(-2, 2, 41, dtype=torch.float64)
        density = estimate(torch.tensor([[0.5]], dtype=torch.float64), grid, 0.4, method=method)
        np.testing.assert_allclose(density[:, 0].numpy(), pdf(grid.numpy(), 0.5, 0.4), atol=1e-13)

    def test_integrates_to_one_where_the_grid_holds_all(self, estimate, method):
        grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
        density = estimate(draw(500, 3, 1), grid, torch.tensor([0.1, 0.2, 0.3]), method=method)
        np.testing.assert_allclose(density.sum(0).numpy() * 16 / 800, 1.0, rtol=1e-12)

    def test_signed_weights(self, estimate, method):
        x, grid = draw(300, 2, 1), torch.linspace(-4, 4, 512, dtype=torch.float64)
        w = draw(300, 1, 2)[:, 0] + 0.8
        assert (w < 0).any()
        want = brute(x, grid, 0.3, w)
        got = estimate(x, grid, 0.3, weights=w, method=method).numpy()
        np.testing.assert_allclose(got, want, atol=1e-12 if method == "exact" else 1e-3 * np.abs(want).max())

    def test_weights_repeat_samples(self, estimate, method):
        x, grid = draw(20, 2, 1), torch.linspace(-3, 3, 100, dtype=torch.float64)
        w = torch.arange(20) % 3
        torch.testing.assert_close(
            estimate(x, grid, 0.3, weights=w, method=method), estimate(x.repeat_interleave(w, 0), grid, 0.3, method=method)
        )

    def test_gradcheck(self, estimate, backend, method):
        x, w = draw(7, 2, 3).requires_grad_(), (draw(7, 1, 4)[:, 0].abs() + 0.1).requires_grad_()
        grid = torch.stack([torch.linspace(-2, 2, 17), torch.linspace(-1, 3, 17)], 1).double()
        b = torch.tensor([0.5, 0.8])
        fast = backend in {"cuda", "triton"}  # emulated and interpreted here
        assert torch.autograd.gradcheck(lambda x, w: estimate(x, grid, b, weights=w, method=method), (x, w), fast_mode=fast)
        assert torch.autograd.gradcheck(lambda x: estimate(x, grid, b, method=method), (x,), fast_mode=fast)

    def test_nan_poisons_its_feature_alone(self, estimate, method):
        x = draw(20, 3, 1)
        x[4, 1] = torch.nan
        density = estimate(x, torch.linspace(-1, 1, 9, dtype=torch.float64), 0.5, method=method)
        assert density.isnan().all(0).tolist() == [False, True, False]
        assert not density[:, [0, 2]].isnan().any()

    def test_samples_beyond_the_grid(self, estimate, method):
        grid = torch.linspace(0, 1, 101, dtype=torch.float64)
        x = torch.tensor([[-0.1], [1.2], [50.0], [-1e300], [float("inf")]], dtype=torch.float64)
        want = (pdf(grid.numpy(), -0.1, 0.1) + pdf(grid.numpy(), 1.2, 0.1)) / 5
        np.testing.assert_allclose(estimate(x, grid, 0.1, method=method)[:, 0].numpy(), want, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shape_and_dtype(self, estimate, method, dtype):
        density = estimate(draw(5, 2, 1, dtype), torch.linspace(0, 1, 3), 0.5, method=method)
        assert density.shape == (3, 2)
        assert density.dtype == dtype

    def test_not_contiguous(self, estimate, device, method):
        wide = draw(3, 40, 1).to(device).T[::2].requires_grad_()
        grid = torch.linspace(-1, 1, 50, dtype=torch.float64)
        close = wide.detach().contiguous().requires_grad_()
        one, two = estimate(wide, grid, 0.5, method=method), estimate(close, grid, 0.5, method=method)
        torch.testing.assert_close(one, two)
        slope = draw(3, 50, 2).T
        torch.testing.assert_close(torch.autograd.grad(one, wide, slope), torch.autograd.grad(two, close, slope))

    def test_identical_points(self, estimate, method):
        x = torch.full((5000, 2), 0.25, dtype=torch.float32)
        grid = torch.linspace(-1, 1, 65, dtype=torch.float32)
        got = estimate(x, grid, 0.2, method=method).double().numpy()
        want = pdf(grid.double().numpy(), 0.25, 0.2)
        np.testing.assert_allclose(got, np.stack([want, want], 1), atol=2e-6)

    def test_denormal_samples_are_zeros(self, estimate, method):
        x = torch.tensor([[5e-324], [-5e-324], [0.0]], dtype=torch.float64)
        grid = torch.linspace(-2, 2, 41, dtype=torch.float64)
        np.testing.assert_allclose(estimate(x, grid, 0.4, method=method)[:, 0].numpy(), pdf(grid.numpy(), 0, 0.4), atol=1e-13)

    def test_nan_weight_poisons_all(self, estimate, method):
        w = torch.ones(20, dtype=torch.float64)
        w[3] = torch.nan
        assert estimate(draw(20, 2, 1), torch.linspace(-1, 1, 9, dtype=torch.float64), 0.5, weights=w, method=method).isnan().all()

    def test_gradient_of_one_sample_by_hand(self, estimate, method):
        # dp/dx = (g - x) / b^2 N(g; x, b); binned: the slope of the broken line through the kernel at the samples' two bins
        x = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
        grid = torch.linspace(-1, 1, 9, dtype=torch.float64)  # x lies between 0.25 and 0.5
        (got,) = torch.autograd.grad(estimate(x, grid, 0.5, method=method)[6, 0], x)
        want = (0.5 - 0.3) / 0.25 * pdf(0.3, 0.5, 0.5) if method == "exact" else (pdf(0.5, 0.5, 0.5) - pdf(0.25, 0.5, 0.5)) / 0.25
        assert got.item() == pytest.approx(want, rel=1e-12)

    def test_far_samples_have_no_gradient(self, estimate, method):
        x = torch.tensor([[0.5], [80.0], [-1e30]], dtype=torch.float64, requires_grad=True)
        grid = torch.linspace(0, 1, 101, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(
            estimate(x, grid, 0.1, method=method).square().sum() + estimate(x, grid, 0.1, method=method)[70, 0], x
        )
        assert gradient[1:].tolist() == [[0.0], [0.0]]
        assert gradient[0].abs() > 0.1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 300),
    features=st.integers(1, 4),
    points=st.integers(1, 60),
    weighted=st.booleans(),
    bandwidth=st.sampled_from([1e-3, 0.02, 0.3, 1.0, 30.0]),
    seed=st.integers(0, 10**6),
)
def test_exact_equals_brute_force(estimate, n, features, points, weighted, bandwidth, seed):
    """On grids that are neither uniform nor sorted; few points and narrow kernels take the way without cells."""
    x, grid = draw(n, features, seed), draw(points, features, seed + 1)
    w = draw(n, 1, seed + 2)[:, 0].abs() + 0.1 if weighted else None
    b = torch.linspace(0.2, 1.0, features) * bandwidth
    want = brute(x, grid, b, w)
    np.testing.assert_allclose(estimate(x, grid, b, weights=w).numpy(), want, rtol=1e-11, atol=1e-14 / float(b.min()))


@pytest.mark.parametrize("rows", [200, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_the_references(compiled, estimate, rows, dtype):
    """Value, gradients of samples and weights, by cells and by windows, shared and separate grids."""
    for points, b, shared, method in [
        (300, 0.2, True, "exact"),
        (3, 0.2, False, "exact"),
        (40, 1e-3, False, "exact"),
        (300, 0.2, False, "binned"),
        (300 if compiled == "cpp" else 100, 2.0, True, "binned"),
    ]:
        grid = torch.linspace(-3, 3, points, dtype=torch.float64)
        grid = grid if shared else torch.stack([grid, grid + 0.1, 2 * grid], 1)
        bandwidth = b * torch.tensor([1.0, 0.5, 2.0])
        slope = torch.cos(torch.linspace(0, 20, 3 * points, dtype=torch.float64)).reshape(points, 3)
        x64, w64 = draw(rows, 3, 1, dtype).double().requires_grad_(), (draw(rows, 1, 2, dtype)[:, 0] + 1.5).double().requires_grad_()
        with kernels.backend("reference"):
            value = kde(x64, grid, bandwidth, weights=w64, method=method)
        wants = (value.detach(), *torch.autograd.grad(value, (x64, w64), slope))
        x, w = x64.detach().to(dtype).requires_grad_(), w64.detach().to(dtype).requires_grad_()
        value = estimate(x, grid, bandwidth, weights=w, method=method)
        # the reference's Fourier transform rounds with the peak, and slopes are differences of neighbours
        eps = (100 if dtype == torch.float32 else 1000) * torch.finfo(dtype).eps
        for got, want in zip((value, *torch.autograd.grad(value, (x, w), slope.to(dtype))), wants, strict=True):
            assert got.dtype == dtype
            # positions are rounded by eps * 3, in bandwidths: for the narrowest kernel that is what is left of the digits
            torch.testing.assert_close(got.double(), want, rtol=0, atol=eps * want.abs().max().item() * max(1, 0.2 / b))


def test_against_scipy(estimate):
    stats = pytest.importorskip("scipy.stats")
    x = draw(400, 1, 5)
    theirs = stats.gaussian_kde(x[:, 0].numpy(), weights=np.linspace(0.1, 2, 400))
    grid = torch.linspace(-3, 3, 64, dtype=torch.float64)
    got = estimate(x, grid, math.sqrt(theirs.covariance[0, 0]), weights=torch.linspace(0.1, 2, 400, dtype=torch.float64))
    np.testing.assert_allclose(got[:, 0].numpy(), theirs(grid.numpy()), rtol=1e-12)


def test_exact_in_chunks_is_the_same(monkeypatch):
    x, grid = draw(100, 2, 1).requires_grad_(), torch.linspace(-2, 2, 30, dtype=torch.float64)
    whole = kde(x, grid, 0.3)
    monkeypatch.setattr("hepgen.kernels.density._EXACT_NUMBERS", 900)  # 4 grid points at a time
    parts = kde(x, grid, 0.3)
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), x), torch.autograd.grad(whole.square().sum(), x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binned_error_is_within_its_bound(estimate, dtype):
    x, b = draw(5000, 2, 1), 0.15
    grid = torch.linspace(-4, 4, 512, dtype=torch.float64)
    want = brute(x, grid, b)
    got = estimate(x.to(dtype), grid.to(dtype), b, method="binned").double().numpy()
    h = 8 / 511
    assert np.abs(got - want).max() <= (h / b) ** 2 / 8 / (b * math.sqrt(2 * math.pi)) + 1e-6
    assert np.abs(got - want).max() <= 1e-3 * want.max()


def test_binned_is_never_negative_without_weights(estimate):
    density = estimate(draw(50, 1, 1), torch.linspace(-30, 30, 2000, dtype=torch.float64), 0.05, method="binned")
    assert (density >= 0).all()
    assert (density == 0).any()


@pytest.mark.parametrize(
    ("samples", "grid", "bandwidth", "options", "error", "match"),
    [
        (torch.zeros(0, 1), torch.linspace(0, 1, 5), 1.0, {}, InputError, "at least one sample"),
        (torch.zeros(3), torch.linspace(0, 1, 5), 1.0, {}, UsageError, "samples must have shape"),
        (torch.zeros(3, 1).long(), torch.linspace(0, 1, 5), 1.0, {}, UsageError, "float32 or float64"),
        (torch.zeros(3, 2), torch.zeros(5, 3), 1.0, {}, UsageError, "grid must have shape"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), 0.0, {}, UsageError, "positive"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), [1.0, float("inf")], {}, UsageError, "positive and finite"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), torch.ones(3), {}, UsageError, "one value per feature"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), 1.0, {"weights": torch.ones(2)}, UsageError, "weights must have shape"),
        (torch.zeros(3, 2), torch.linspace(0, 1, 5), 1.0, {"method": "fft"}, UsageError, "'exact' or 'binned'"),
        (torch.zeros(3, 1), torch.linspace(0, 1, 5) ** 2, 1.0, {"method": "binned"}, UsageError, "uniform, increasing"),
        (torch.zeros(3, 1), torch.linspace(1, 0, 5), 1.0, {"method": "binned"}, UsageError, "uniform, increasing"),
        (torch.zeros(3, 1), torch.zeros(1), 1.0, {"method": "binned"}, UsageError, "at least two points"),
        (torch.zeros(3, 1), torch.linspace(0, 1, 5), 1e7, {"method": "binned"}, UsageError, "too many for the binned"),
        (torch.zeros(3, 1), torch.tensor([0.0, float("nan")]), 1.0, {}, UsageError, "grid must be finite"),
        (torch.zeros(3, 1), torch.linspace(0, 1, 5), 1e-320, {}, UsageError, "positive and finite"),
        (torch.zeros(3, 1), torch.linspace(0, 1, 5), torch.ones(1, requires_grad=True), {}, UsageError, "no gradient flows"),
    ],
)
def test_refused(estimate, samples, grid, bandwidth, options, error, match):
    with pytest.raises(error, match=match):
        estimate(samples, grid, bandwidth, **options)


@pytest.mark.usefixtures("backend")
class TestExtremes:
    def test_huge_bandwidth(self, estimate):
        x, grid = draw(50, 2, 1), torch.linspace(-1, 1, 64, dtype=torch.float64)
        want = 1 / (1e200 * math.sqrt(2 * math.pi))
        np.testing.assert_allclose(estimate(x, grid, 1e200).numpy(), want, rtol=1e-12)

    @pytest.mark.parametrize("b", [1e-6, 1e-300])
    def test_tiny_bandwidth(self, estimate, b):
        grid = torch.tensor([0.5, -0.5, 0.25], dtype=torch.float64)
        x = torch.tensor([[0.5], [0.5], [0.3], [-0.5]], dtype=torch.float64)
        peak = 1 / (b * math.sqrt(2 * math.pi))
        np.testing.assert_allclose(estimate(x, grid, b)[:, 0].numpy(), [peak / 2, peak / 4, 0], rtol=0, atol=1e-12 * peak)

    def test_no_points(self, estimate):
        x = draw(5, 2, 1).requires_grad_()
        density = estimate(x, torch.empty(0, dtype=torch.float64), 1.0)
        assert density.shape == (0, 2)
        assert torch.autograd.grad(density.sum(), x)[0].tolist() == [[0.0, 0.0]] * 5

    def test_a_cluster_and_an_outlier(self, estimate):
        grid = torch.cat([torch.linspace(0, 1, 200), torch.tensor([1e7])]).double()
        x = torch.cat([draw(400, 1, 1), torch.tensor([[1e7 + 0.01]], dtype=torch.float64)])
        np.testing.assert_allclose(estimate(x, grid, 0.05).numpy(), brute(x, grid, 0.05), rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize("method", ["exact", "binned"])
def test_cut_of_the_kernel_is_within_its_bound(compiled, estimate, method):
    """One sample: all that is missing is what was cut, and the expansion's rest."""
    offsets = torch.linspace(0, 12, 400, dtype=torch.float64)
    for dtype, bound in ((torch.float32, 1e-9), (torch.float64, 1e-15 if method == "exact" else 2e-14)):
        worst = 0.0
        for x in np.linspace(0, 1, 23 if compiled == "cpp" else 5):
            sample = torch.tensor([[x]], dtype=dtype)
            grid = sample.double().item() + offsets if method == "binned" else (sample.double() + offsets)[0]
            got = estimate(sample, grid, 1.0, method=method)[:, 0].double().numpy()
            want = pdf(offsets.numpy())
            # beyond the rounding of the answer itself
            worst = max(worst, (np.abs(got - want) - 1e-6 * want * (dtype == torch.float32)).max())
        assert worst <= bound * pdf(0)


@pytest.mark.parametrize("method", ["exact", "binned"])
@pytest.mark.parametrize("weighted", [False, True])
def test_float32_error_is_within_twice_that_of_plain_torch(compiled, estimate, method, weighted):
    rows = 6000 if compiled == "cpp" else 2000
    x32 = draw(rows, 3, 1, torch.float32) + 1
    w32 = draw(rows, 1, 2, torch.float32)[:, 0] + 2 if weighted else None
    grid, slope = torch.linspace(-3, 5, 129, dtype=torch.float64), draw(129, 3, 3)

    def run(name, dtype):
        x = x32.to(dtype).requires_grad_()
        w = None if w32 is None else w32.to(dtype).requires_grad_()
        with kernels.backend(name):
            value = estimate(x, grid, 0.2, weights=w, method=method)
        return value.detach(), *torch.autograd.grad(value, [t for t in (x, w) if t is not None], slope.to(dtype))

    true, plain, mine = run("reference", torch.float64), run("reference", torch.float32), run(compiled, torch.float32)
    for t, p, m in zip(true, plain, mine, strict=True):
        floor = torch.finfo(torch.float32).eps * t.norm()  # the rounding of the answer itself
        assert (m.double() - t).norm() <= 2 * (p.double() - t).norm() + floor


@needs_cpp
class TestMachine:
    def outcome(self, method):
        x, w = draw(40_000, 3, 1, torch.float32).requires_grad_(), (draw(40_000, 1, 2, torch.float32)[:, 0] + 1).requires_grad_()
        grid = torch.linspace(-3, 3, 400)
        with kernels.backend("cpp"):
            value = kde(x, grid, 0.1, weights=w, method=method)
            wide = kde(x.detach(), torch.linspace(-3, 3, 3000), 3.0, method=method)  # binned: by Fourier transform
            return [t.detach().numpy().tobytes() for t in (value, wide, *torch.autograd.grad(value.square().sum(), (x, w)))]

    @pytest.mark.parametrize("method", ["exact", "binned"])
    def test_same_bits_for_any_number_of_threads(self, method):
        before = torch.get_num_threads()
        try:
            outcomes = []
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                outcomes += [self.outcome(method), self.outcome(method)]
        finally:
            torch.set_num_threads(before)
        assert all(o == outcomes[0] for o in outcomes)

    def test_called_from_several_threads_at_once(self):
        want = self.outcome("binned")
        with ThreadPoolExecutor(4) as pool:
            assert all(got == want for got in pool.map(lambda _: self.outcome("binned"), range(6)))

    @pytest.mark.parametrize("method", ["exact", "binned"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_instruction_sets_agree(self, method, dtype):
        core = pytest.importorskip("hepgen._core")
        before = core.instruction_set()
        x, slope = draw(3000, 3, 1, dtype).requires_grad_(), draw(200, 3, 2, dtype)
        outcomes = []
        try:
            for isa in core.instruction_sets():
                core.set_instruction_set(isa)
                for b in (0.1, 1e-4):
                    value = kde(x, torch.linspace(-2, 2, 200), b, method=method)
                    outcomes.append((b, value.detach(), *torch.autograd.grad(value, x, slope)))
        finally:
            core.set_instruction_set(before)
        for b, *got in outcomes:
            for one, two in zip(got, next(o for o in outcomes if o[0] == b)[1:], strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=100 * torch.finfo(dtype).eps * two.abs().max().item())

    def test_convolutions_agree(self, monkeypatch):
        """The direct one and the one by Fourier transform, values and gradients."""
        outcomes = []
        for fourier in (False, True):
            monkeypatch.setattr(density_module, "_fourier_is_faster", lambda *_, fourier=fourier: fourier)
            x, w = draw(500, 2, 1).requires_grad_(), (draw(500, 1, 2)[:, 0] + 1).requires_grad_()
            for weights in (None, w):
                value = kde(x, torch.linspace(-2, 2, 100), torch.tensor([0.05, 0.7]), weights=weights, method="binned")
                inputs = [x] if weights is None else [x, w]
                outcomes.append([value, *torch.autograd.grad(value, inputs, draw(100, 2, 3))])
        for direct, fourier in zip(outcomes[:2], outcomes[2:], strict=True):
            for one, two in zip(direct, fourier, strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


class TestTorch:
    def test_opcheck(self, compiled, device):
        x, w = draw(9, 2, 1).to(device).requires_grad_(), (draw(9, 1, 2)[:, 0] + 2).to(device).requires_grad_()
        grid, b = (
            torch.linspace(-2, 2, 12, dtype=torch.float64, device=device),
            torch.tensor([0.5, 0.7], dtype=torch.float64, device=device),
        )
        for binned in (False, True):
            torch.library.opcheck(torch.ops.hepgen.kde.default, (x, grid, b, w, binned, 20, compiled))
            pair = grid[:, None].repeat(1, 2)
            torch.library.opcheck(torch.ops.hepgen.kde.default, (x.detach().float(), pair, b, None, binned, -1, compiled))
            slope, density = draw(2, 12, 3).to(device), draw(2, 12, 4).to(device)
            arguments = (slope, density, x.detach(), grid, b, w.detach(), binned, -1)
            for wanted in (1, 2, 3) if compiled == "cpp" else (3,):
                torch.library.opcheck(torch.ops.hepgen.kde_gradients.default, (*arguments, wanted, compiled))

    @pytest.mark.parametrize("method", ["exact", "binned"])
    def test_compile_keeps_the_op(self, compiled, device, method):
        x, w = draw(40, 3, 1).to(device).requires_grad_(), (draw(40, 1, 2)[:, 0] + 2).to(device).requires_grad_()
        grid = torch.linspace(-2, 2, 30, dtype=torch.float64, device=device)

        def loss(x, w):
            return (3 * kde(x, grid, 0.4, weights=w, method=method)).sin().sum()

        torch.compiler.reset()  # which backend is in force is asked once, while it traces
        traced = torch.compile(loss, fullgraph=True, backend="aot_eager")
        want, got = loss(x, w), traced(x, w)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, (x, w)), torch.autograd.grad(want, (x, w)))

    @pytest.mark.parametrize("method", ["exact", "binned"])
    def test_second_derivative_is_refused(self, compiled, estimate, method):
        x = draw(5, 2, 1).requires_grad_()
        density = estimate(x, torch.linspace(-2, 2, 9), 0.5, method=method)
        (gradient,) = torch.autograd.grad(density.square().sum(), x, create_graph=True)
        with pytest.raises(BackendError, match="first derivatives only"):
            gradient.square().sum().backward()
