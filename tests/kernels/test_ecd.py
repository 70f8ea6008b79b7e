from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hepgen import kernels
from hepgen.errors import StepError, UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.noise import _short_quantile, noise

CPP = "cpp" in dispatch.available("ecd_step")
needs_cpp = pytest.mark.skipif(not CPP, reason="hepgen._core is not built")
INFINITE = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, with which Triton's interpreter works
SHAPES = ((17, 5), (17,), (1,), (0, 3), (129, 2), (4099,))


def system(shapes=SHAPES, seed=0, dtype=torch.float64, *, moving=True, device="cpu") -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    draw = [[torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes] for _ in range(3)]
    params, velocities, grads = draw
    norm = math.sqrt(sum(float(v.double().square().sum()) for v in velocities))
    return params, [v / norm if moving else v * 0 for v in velocities], grads


def by_hand(params, velocities, grads, *, loss, lr, eta, F0=-1.0, nu=0.0, q=1.0, weight_decay=0.0, per_tensor=False, scales=None, z=None):
    """The rule of the paper on one long float64 array."""
    scales = [1.0] * len(params) if scales is None else scales
    p = [flat(a) for a in params]
    v = [flat(a) for a in velocities]
    g = [s * (flat(a) + weight_decay * b) for a, b, s in zip(grads, p, scales, strict=True)]
    F = loss + 0.5 * weight_decay * sum((a**2).sum() for a in p)
    d = sum(a.size for a in p)
    flat_v = np.concatenate(v)
    if not flat_v.any():
        flat_v = -np.concatenate(g)
    R = (F - F0) ** (-eta * d * (q - 1) / (2 * (d - q)))
    u = np.split(R * flat_v / np.linalg.norm(flat_v), np.cumsum([a.size for a in p])[:-1])
    dot = [(a * b).sum() for a, b in zip(u, g, strict=True)]
    dot = dot if per_tensor else [sum(dot)] * len(u)
    u = [a - lr * eta * d / (2 * (d - q) * (F - F0)) * (R**2 * b + (q - 2) * s * a) for a, b, s in zip(u, g, dot, strict=True)]
    norm = math.sqrt(sum((a**2).sum() for a in u))
    new = [b + lr * s * a for a, b, s in zip(u, p, scales, strict=True)]
    return new, [a / norm + (nu * z[k] if nu else 0.0) for k, a in enumerate(u)]


def flat(a: Tensor | np.ndarray) -> np.ndarray:
    return a.double().cpu().numpy().ravel() if isinstance(a, Tensor) else a


def close(got, want, rtol):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(flat(a), flat(b), rtol=rtol, atol=rtol)


class TestValues:
    def test_two_parameters_by_hand(self, device):
        # u = (1, 0), g = (1, 2), F - F0 = 2, eta d / (2 (d - 1)) = 1 * 2 / 2 = 1: u' = (1, 0) - 0.1 / 2 ((1, 2) - (1, 0)) = (1, -0.1)
        p, v, g = (torch.tensor(a, dtype=torch.float64, device=device) for a in ([3.0, 4.0], [7.0, 0.0], [1.0, 2.0]))
        kernels.ecd_step([p], [v], [g], loss=1.0, lr=0.1, eta=1.0)
        assert p.tolist() == pytest.approx([3.1, 3.99], rel=1e-15)
        assert v.tolist() == pytest.approx([1 / math.sqrt(1.01), -0.1 / math.sqrt(1.01)], rel=1e-15)

    def test_from_rest_it_moves_down_the_gradient(self, device):
        p, v, g = system(moving=False, device=device)
        before = [a.clone() for a in p]
        kernels.ecd_step(p, v, g, loss=0.3, lr=0.2, eta=50.0)
        norm = math.sqrt(sum(float(a.square().sum()) for a in g))
        # all of the gradient lies along u, so there is no kick
        close(p, [b - 0.2 * a / norm for a, b in zip(g, before, strict=True)], 1e-14)
        close(v, [-a / norm for a in g], 1e-14)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"q": 0.0, "eta": 1e-4},
            {"q": 2.0, "eta": 1e-4},
            {"q": 1.5, "eta": 1e-4, "weight_decay": 0.01},
            {"weight_decay": 0.1},
            {"per_tensor": True},
            {"per_tensor": True, "q": 0.5, "eta": 1e-4},
            {"scales": [1.0, 0.5, 2.0, 1.0, 0.1, 0.0]},
            {"scales": [1.0, 0.5, 2.0, 1.0, 0.1, 0.0], "weight_decay": 0.2, "per_tensor": True},
        ],
    )
    @pytest.mark.parametrize("moving", [True, False])
    def test_equals_the_rule_written_out(self, device, options, moving):
        p, v, g = system(moving=moving, device=device)
        options = {"loss": 0.4, "lr": 0.05, "eta": 20.0, "F0": -0.7} | options
        want = by_hand(p, v, g, **options)
        kernels.ecd_step(p, v, g, **options)
        close(p, want[0], 1e-13)
        close(v, want[1], 1e-13)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_bounce(self, device, dtype):
        p, v, g = system(dtype=dtype, device=device)
        z = [noise(a.numel(), dtype, k, 11, 3) for k, a in enumerate(p)]
        want = by_hand(p, v, g, loss=0.4, lr=0.05, eta=20.0, nu=0.3, z=z)
        kernels.ecd_step(p, v, g, loss=0.4, lr=0.05, eta=20.0, nu=0.3, seed=11, step=3)
        close(p, want[0], 1e-13 if dtype == torch.float64 else 1e-5)
        close(v, want[1], 1e-13 if dtype == torch.float64 else 1e-6)

    def test_speed_is_kept(self, backend, device):
        p, v, _ = system(device=device)
        for _ in range(50 if backend in {"reference", "cpp"} else 5):
            kernels.ecd_step(p, v, p, loss=0.5 * sum(float(a.square().sum()) for a in p), lr=0.05, eta=5.0)
            assert sum(float(a.square().sum()) for a in v) == pytest.approx(1.0, abs=4e-15)

    def test_weight_decay_is_a_term_of_the_loss(self, device):
        p, v, g = system(seed=3, device=device)
        other = [a.clone() for a in p], [a.clone() for a in v]
        square = sum(float(a.square().sum()) for a in p)
        kernels.ecd_step(p, v, g, loss=0.4, lr=0.1, eta=3.0, weight_decay=0.05)
        kernels.ecd_step(*other, [a + 0.05 * b for a, b in zip(g, other[0], strict=True)], loss=0.4 + 0.025 * square, lr=0.1, eta=3.0)
        close(p, other[0], 1e-14)
        close(v, other[1], 1e-14)

    def test_scale_is_a_change_of_coordinates(self, device):
        # theta_k = s_k phi_k: the gradient in phi is s_k times that in theta
        p, v, g = system(seed=5, device=device)
        scales = [0.5, 2.0, 1.0, 1.0, 3.0, 0.25]
        phi = [a / s for a, s in zip(p, scales, strict=True)]
        w = [a.clone() for a in v]
        kernels.ecd_step(p, v, g, loss=0.4, lr=0.1, eta=3.0, scales=scales)
        kernels.ecd_step(phi, w, [s * a for a, s in zip(g, scales, strict=True)], loss=0.4, lr=0.1, eta=3.0)
        close(p, [s * a for a, s in zip(phi, scales, strict=True)], 1e-14)
        close(v, w, 1e-14)

    def test_no_gradient_no_force(self, device):
        p, v, _ = system(device=device)
        before, u = [a.clone() for a in p], [a.clone() for a in v]
        kernels.ecd_step(p, v, [a * 0 for a in p], loss=0.4, lr=0.1, eta=3.0)
        close(p, [a + 0.1 * b for a, b in zip(before, u, strict=True)], 1e-14)
        rest = [a * 0 for a in v]
        kernels.ecd_step(before, rest, rest, loss=0.4, lr=0.1, eta=3.0)
        assert all(not a.any() for a in rest)
        assert all(a.isfinite().all() for a in before)


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_small_steps_follow_the_geodesic(q):
    """B5 with mu = (F - F0)^(-eta d / 2), integrated to fourth order, for F = theta . A theta / 2."""
    a, d, eta, f0 = np.array([1.0, 2.0, 0.5]), 3, 0.8, -1.0

    def force(theta, u):
        F = 0.5 * (a * theta**2).sum() - f0
        mu = F ** (-eta * d / 2)
        slope = -eta * d / 2 * mu / F * a * theta
        power = (q - 2) / (q - d)
        return (slope / (d - q) * mu ** (-(2 * q - d) / (q - d)) - power * mu ** (power - 1) * (slope @ u) * u) / mu**power

    def run(n):
        p, v = torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64), torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
        for _ in range(n):
            g = torch.from_numpy(a) * p
            kernels.ecd_step([p], [v], [g], loss=float(0.5 * (g * p).sum()), lr=1.0 / n, eta=eta, F0=f0, q=q)
        return p.numpy()

    theta = np.array([1.0, -0.5, 0.7])
    F = 0.5 * (a * theta**2).sum() - f0
    u = np.array([0.6, 0.0, 0.8]) * F ** (-eta * d * (q - 1) / (2 * (d - q)))
    h = 1.0 / 400
    for _ in range(400):
        k1, l1 = u, force(theta, u)
        k2, l2 = u + h / 2 * l1, force(theta + h / 2 * k1, u + h / 2 * l1)
        k3, l3 = u + h / 2 * l2, force(theta + h / 2 * k2, u + h / 2 * l2)
        k4, l4 = u + h * l3, force(theta + h * k3, u + h * l3)
        theta, u = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), u + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    coarse, fine = run(1000), run(2000)
    np.testing.assert_allclose(2 * fine - coarse, theta, atol=2e-6)  # a first-order integrator, extrapolated


class TestNoise:
    def test_reference_is_normal(self):
        stats = pytest.importorskip("scipy.stats")

        for dtype in (torch.float32, torch.float64):
            z = noise(200_000, dtype, 1, 5, 2).astype(float)
            assert stats.kstest(z, "norm").pvalue > 1e-3
            assert abs(z.mean()) < 4 / math.sqrt(z.size)
            assert abs(stats.kurtosis(z)) < 4 * math.sqrt(24 / z.size)
            assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 4 / math.sqrt(z.size)

    def test_short_quantile_is_right(self):
        stats = pytest.importorskip("scipy.stats")

        words = np.concatenate([np.arange(64), np.linspace(0, 2**32 - 1, 10_001).astype(np.int64), 2**31 + np.arange(64)]).astype(np.uint32)
        p = ((words & 0x7FFFFFFF).astype(float) + 0.5) * 2.0**-32
        want = np.where(words >> 31 == 1, 1, -1) * stats.norm.ppf(p)
        np.testing.assert_allclose(_short_quantile(words), want, rtol=5e-7, atol=2e-7)

    def test_names(self):
        base = noise(1000, torch.float32, 0, 1, 0)
        assert (noise(300, torch.float32, 0, 1, 0) == base[:300]).all()
        for other in (noise(1000, torch.float32, 1, 1, 0), noise(1000, torch.float32, 0, 2, 0), noise(1000, torch.float32, 0, 1, 1)):
            assert abs(np.corrcoef(base, other)[0, 1]) < 0.13

    @needs_cpp
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_every_instruction_set_makes_the_same_bits(self, dtype):
        core = dispatch.core()
        before = core.instruction_set()
        seed, step, tensor = (7 << 33) | 5, 2**32 - 1, 9
        want = noise(70_001, dtype, tensor, seed, step)
        try:
            for isa in core.instruction_sets():
                core.set_instruction_set(isa)
                assert (core.ecd_noise(dtype == torch.float64, seed, step, tensor, 70_001) == want).all(), isa
        finally:
            core.set_instruction_set(before)


@needs_cpp
class TestMachine:
    LARGE = ((300, 500), (1,), (40_001,), (77,))

    def outcome(self, dtype=torch.float32, **options):
        p, v, g = system(self.LARGE, dtype=dtype)
        with kernels.backend("cpp"):
            for step in range(2):
                kernels.ecd_step(p, v, g, **({"loss": 0.4, "lr": 0.1, "eta": 30.0, "nu": 1e-3, "weight_decay": 1e-3} | options), step=step)
        return [a.numpy().tobytes() for a in (*p, *v)]

    def test_same_bits_for_any_number_of_threads(self):
        before = torch.get_num_threads()
        try:
            for dtype in (torch.float32, torch.float64):
                outcomes = []
                for threads in (1, 2, 3, 5):
                    torch.set_num_threads(threads)
                    outcomes.append(self.outcome(dtype))
                assert all(o == outcomes[0] for o in outcomes)
        finally:
            torch.set_num_threads(before)

    def test_instruction_sets_agree(self):
        core = dispatch.core()
        before = core.instruction_set()
        try:
            outcomes = []
            for isa in core.instruction_sets():
                core.set_instruction_set(isa)
                outcomes.append(np.concatenate([np.frombuffer(b) for b in self.outcome(torch.float64)]))
        finally:
            core.set_instruction_set(before)
        for other in outcomes:
            np.testing.assert_allclose(other, outcomes[0], rtol=1e-13, atol=1e-15)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.sampled_from([(1,), (3,), (0,), (7, 5), (33,), (2, 2, 9), (257,), (1030,)]), min_size=1, max_size=4),
    q=st.sampled_from([1.0, 0.0, 1.5]),
    decay=st.sampled_from([0.0, 0.01]),
    nu=st.sampled_from([0.0, 0.01]),
    per_tensor=st.booleans(),
    moving=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_reference(backend, device, shapes, q, decay, nu, per_tensor, moving, dtype):
    if backend == "reference" or sum(math.prod(s) for s in shapes) <= 2:
        return
    p, v, g = system(shapes, 1, dtype, moving=moving, device=device)
    options = {"loss": 0.4, "lr": 0.05, "eta": 2.0 if q == 1 else 1e-3, "q": q, "weight_decay": decay, "nu": nu, "per_tensor": per_tensor}
    other = [a.clone() for a in p], [a.clone() for a in v]
    kernels.ecd_step(p, v, g, **options, seed=4)
    with kernels.backend("reference"):
        kernels.ecd_step(*other, g, **options, seed=4)
    rtol = 2e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(p, other[0], rtol=rtol, atol=rtol)
    torch.testing.assert_close(v, other[1], rtol=rtol, atol=rtol)


class TestPrecision:
    @pytest.mark.parametrize("options", [{}, {"weight_decay": 0.01}, {"per_tensor": True}])
    def test_error_within_twice_that_of_torch(self, backend, device, options):
        options = {"loss": 0.4, "lr": 0.1, "eta": 30.0} | options
        worst = {}
        for name in ("reference", backend):
            errors = []
            for seed in range(3):
                p, v, g = system(((200, 100), (333,), (5,)), seed, torch.float32, device=device)
                want = by_hand(p, v, g, **options)
                with kernels.backend(name):
                    kernels.ecd_step(p, v, g, **options)
                pairs = (p, want[0]), (v, want[1])
                errors.append([max(np.abs(flat(a) - b).max() for a, b in zip(*pair, strict=True)) for pair in pairs])
            worst[name] = np.array(errors).mean(0)
        assert (worst[backend] <= 2 * worst["reference"]).all(), worst

    def test_denormals_count(self, device):
        p, v = torch.zeros(100, device=device), torch.full((100,), 0.1, device=device)
        g = torch.full((100,), 1e-40, device=device)
        kernels.ecd_step([p], [v], [g], loss=0.0, lr=1e-3, eta=1.0)
        assert p[0].item() == pytest.approx(1e-4, rel=1e-6)

    @INFINITE
    def test_what_is_beyond_float32_is_refused(self, backend, device):
        if backend == "reference":
            pytest.skip("torch's dot of float32 takes squares below its range for zero")
        tiny = torch.full((100,), 1e-42, device=device)
        with pytest.raises(StepError, match="not finite"):  # 1 / |v| is beyond float32
            kernels.ecd_step([torch.zeros_like(tiny)], [tiny], [torch.full_like(tiny, 1e-40)], loss=0.0, lr=1e-3, eta=1.0)
        assert (tiny == 1e-42).all()


@INFINITE
class TestRefusal:
    @pytest.mark.parametrize(
        ("loss", "match"),
        [
            (-1.0, "loss -1 is not above F0 = -1: choose F0 below"),
            (-7.0, "not above F0"),
            (math.nan, "not finite"),
            (math.inf, "not finite"),
            (-math.inf, "not finite"),
        ],
    )
    def test_loss(self, device, loss, match):
        self.unchanged(device, match, loss=loss)

    def test_weight_decay_counts_before_the_refusal(self, device):
        p, v, g = system(device=device)
        kernels.ecd_step(p, v, g, loss=-1.0, lr=0.1, eta=1.0, weight_decay=1e-3)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_numbers(self, device, bad, which):
        def spoil(*tensors):
            tensors[which][4][77, 1] = bad

        self.unchanged(device, "not finite", spoil, weight_decay=0.1)

    def test_what_follows_from_the_numbers(self, device):
        self.unchanged(device, "not finite", q=2.0, eta=1e6, F0=-0.1)
        self.unchanged(device, "not finite", q=2.0, eta=1e6, F0=-10.0)  # no speed is left

    def unchanged(self, device, match, spoil=lambda *_: None, **options):
        p, v, g = system(device=device)
        spoil(p, v, g)
        before = [a.clone() for a in (*p, *v)]
        with pytest.raises(StepError, match=match):
            kernels.ecd_step(p, v, g, **({"loss": 0.3, "lr": 0.1, "eta": 1.0} | options))
        assert all(torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0)) for a, b in zip((*p, *v), before, strict=True))


class TestMemory:
    def test_any_strides(self, device):
        p, v, g = system(((6, 5), (8,), (4, 3)), device=device)
        want = by_hand(p, v, g, loss=0.4, lr=0.1, eta=3.0)
        odd = [[a[0].t().contiguous().t(), torch.stack([a[1], a[1]], 1)[:, 0], a[2]] for a in (p, v, g)]
        assert not odd[0][0].is_contiguous()
        assert not odd[0][1].is_contiguous()
        kernels.ecd_step(*odd, loss=0.4, lr=0.1, eta=3.0)
        close(odd[0], want[0], 1e-14)
        close(odd[1], want[1], 1e-14)

    def test_gradients_may_be_views_of_params(self, device):
        p, v, _ = system(((50,), (30,)), device=device)
        for grads in (p, [p[0], p[0][20:]], [v[0], v[0][:30]]):
            a, b = [x.clone() for x in p], [x.clone() for x in v]
            twins = {id(x): y for x, y in zip((*p, *v), (*a, *b), strict=True)}
            views = [twins[id(x if x._base is None else x._base)][x.storage_offset() :][: x.numel()] for x in grads]
            want = by_hand(a, b, [x.clone() for x in grads], loss=0.4, lr=0.1, eta=3.0)
            kernels.ecd_step(a, b, views, loss=0.4, lr=0.1, eta=3.0)
            close(a, want[0], 1e-14)

    def test_what_shares_memory_is_refused(self, device):
        x, y = torch.zeros(10, device=device), torch.zeros(10, device=device)
        for params, velocities in (([x, x], [y, y.clone()]), ([x], [x]), ([x[:6], x[4:]], [y[:6], y[4:]])):
            with pytest.raises(UsageError, match="must not share memory"):
                kernels.ecd_step(params, velocities, [p.clone() for p in params], loss=0.0, lr=0.1, eta=1.0)
        with pytest.raises(UsageError, match="same memory twice"):
            kernels.ecd_step(
                [torch.zeros(1, device=device).expand(4)],
                [torch.zeros(4, device=device)],
                [torch.zeros(4, device=device)],
                loss=0.0,
                lr=0.1,
                eta=1.0,
            )

    def test_autograd_notices(self, device):
        p = torch.ones(3, device=device, requires_grad=True)
        loss = (p**2).sum()
        kernels.ecd_step([p], [torch.zeros(3, device=device)], [torch.ones(3, device=device)], loss=0.0, lr=0.1, eta=1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_tensors_without_elements_change_nothing(self, device):
        p, v, g = system(((50,), (30,)), device=device)
        want = [[x.clone() for x in p], [x.clone() for x in v]]
        empty = torch.empty(0, 3, dtype=p[0].dtype, device=device)
        kernels.ecd_step(*want, g, loss=0.4, lr=0.1, eta=3.0)
        kernels.ecd_step([*p, empty], [*v, empty.clone()], [*g, empty.clone()], loss=0.4, lr=0.1, eta=3.0)
        kernels.ecd_step([], [], [], loss=0.4, lr=0.1, eta=3.0)  # nor do no tensors at all
        close(p, want[0], 0)
        close(v, want[1], 0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"lr": -0.1}, "lr and nu must be at least 0"),
        ({"lr": math.nan}, "lr and nu"),
        ({"eta": 0.0}, "eta positive"),
        ({"q": 10.0}, r"q must lie in \[0, 10\)"),
        ({"q": -1.0}, "q must lie"),
        ({"seed": -1}, "seed must lie"),
        ({"step": 2**32}, "step in"),
        ({"weight_decay": [0.1, 0.2]}, "1 params need as many"),
        ({"velocities": []}, "1 params need as many"),
        ({"velocities": [torch.zeros(5)]}, "a velocity must have"),
        ({"velocities": [torch.zeros(10).double()]}, "a velocity must have"),
        ({"grads": [torch.zeros(5)]}, "a gradient must be dense"),
        ({"grads": [torch.zeros(10).to_sparse()]}, "a gradient must be dense"),
        ({"params": [torch.zeros(10).half()], "velocities": [torch.zeros(10).half()]}, "float32 or all float64"),
    ],
)
def test_refused(arguments, match):
    given = {"params": [torch.zeros(10)], "velocities": [torch.zeros(10)], "grads": [torch.ones(10)], "loss": 0.0, "lr": 0.1, "eta": 1.0}
    with pytest.raises(UsageError, match=match):
        kernels.ecd_step(**(given | arguments))


class TestTorch:
    def test_opcheck(self, backend, device):
        p, v, g = system(((6, 2), (5,)), device=device)
        for tensors in ((p, v, g), ([p[0].t()], [v[0].t()], [g[0].t()])):
            zeros, ones = [0.01] * len(tensors[0]), [1.0] * len(tensors[0])
            loss = torch.tensor(0.3, dtype=torch.float64, device=device)
            arguments = (*tensors, loss, zeros, ones, 0.1, 2.0, -1.0, 0.01, 1.0, False, 3, 1, backend)
            torch.library.opcheck(torch.ops.hepgen.ecd_step.default, arguments)

    def test_compile_keeps_the_op(self, device):
        p, v, g = system(((6, 2), (5,)), device=device)
        other = [a.clone() for a in p], [a.clone() for a in v]

        def step(p, v, g):
            kernels.ecd_step(p, v, g, loss=0.5 * p[0].square().sum(), lr=0.1, eta=2.0)
            return p[0] + 1

        got = torch.compile(step, fullgraph=True, backend="aot_eager")(p, v, g)
        want = step(*other, g)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close((p, v), other)
