"""Points grouped by place, so that pairs out of the kernel's reach are passed over: the answer is the same."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from mmd_support import brute_sums, draw, needs_cpp

from hepgen.kernels import dispatch

pytestmark = needs_cpp
ALL = 15


def clusters(n: int, d: int, seed: int, *, apart: float, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Points about 16 centres."""
    centres = draw(16, d, 5) * apart
    which = torch.randint(16, (n,), generator=torch.Generator().manual_seed(seed))
    return (centres[which] + draw(n, d, seed)).to(dtype).numpy()


def mmd2(x, y, sigma, *, group, wx=None, wy=None, wanted=ALL, per_feature=False, threads=2):
    sigma = np.atleast_2d(np.full(x.shape[1], sigma, dtype=float))
    core = dispatch.core()
    return core.mmd2(x, y, sigma, wx, wy, 2.0, per_feature, None, wanted, threads, group=group)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2, 6, 9])
@pytest.mark.parametrize("wanted", [0, 1, 2, 3, 4, 8, 12, 15])
@pytest.mark.parametrize("per_feature", [False, True])
def test_same_answer(d, dtype, wanted, per_feature):
    x, y = (clusters(n, d, n, apart=20.0, dtype=dtype) for n in (1307, 1190))
    wx = draw(len(x), 1, 3, dtype, shift=1.5)[:, 0].numpy() if wanted in {3, 15} else None
    plain, grouped = (mmd2(x, y, 0.7, group=g, wx=wx, wanted=wanted, per_feature=per_feature) for g in (False, True))
    for a, b in zip(plain, grouped, strict=True):
        scale = max(np.abs(a).max(initial=0), 0.1 if np.ndim(a) == 0 else 1e-3)  # the value is a difference of such terms
        np.testing.assert_allclose(b, a, rtol=0, atol=20 * torch.finfo(dtype).eps * scale)


@pytest.mark.parametrize("sigma", [1e-6, 0.05, 3.0, 1e6])
def test_row_sums(sigma):
    x, y = clusters(700, 3, 1, apart=5.0), clusters(900, 3, 2, apart=5.0)
    core = dispatch.core()
    sums, slope = core.gaussian_sums(x, y, np.full((1, 3), sigma), None, True, 2, group=True)
    _, want = core.gaussian_sums(x, y, np.full((1, 3), sigma), None, True, 2, group=False)
    np.testing.assert_allclose(sums, brute_sums(torch.from_numpy(x), torch.from_numpy(y), sigma), rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(slope, want, rtol=1e-9, atol=1e-12 * np.abs(want).max(initial=1e-300))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "y", "wx", "wy"])
def test_what_is_not_finite_is_never_passed_over(where, bad):
    x, y = clusters(600, 2, 1, apart=50.0), clusters(500, 2, 2, apart=50.0)
    wx, wy = np.ones(600), np.ones(500)
    target = {"x": x[:, 1], "y": y[:, 1], "wx": wx, "wy": wy}[where]
    target[-3:] = bad
    with np.errstate(invalid="ignore"):
        plain, grouped = (mmd2(x, y, 0.5, group=g, wx=wx, wy=wy) for g in (False, True))
    for a, b in zip(plain, grouped, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-15)


def test_identical_points_and_one_cluster():
    x = np.zeros((1000, 3))
    value, *_ = mmd2(x, x.copy(), 0.5, group=True)
    assert value == pytest.approx(0, abs=1e-14)


def test_same_bits_for_any_number_of_threads():
    x, y = clusters(3000, 3, 1, apart=10.0, dtype=torch.float32), clusters(2500, 3, 2, apart=10.0, dtype=torch.float32)
    one, *others = ([np.asarray(a).tobytes() for a in mmd2(x, y, 0.5, group=True, threads=t)] for t in (1, 2, 3))
    assert all(other == one for other in others)


def test_grouping_is_chosen_where_it_saves():
    """Far clusters are grouped without being asked, as the time shows; a single cloud is left alone."""
    x, y = clusters(20_000, 3, 1, apart=30.0, dtype=torch.float32), clusters(20_000, 3, 2, apart=30.0, dtype=torch.float32)

    def seconds(group):
        start = time.perf_counter()
        mmd2(x, y, 1.0, group=group, wanted=0, threads=1)
        return time.perf_counter() - start

    plain, chosen = (min(seconds(g) for _ in range(3)) for g in (False, None))
    assert chosen < 0.5 * plain


def test_a_million_points_in_bounded_memory():
    """Pairs of equal points, far from each other pair: every sum is known, and 10^12 pairs are never made."""
    program = (
        "import resource, numpy as np\n"
        "from hepgen.kernels.dispatch import core\n"
        "n = 1_000_000\n"
        "side = np.arange(n // 2) % 1000, np.arange(n // 2) // 1000\n"
        "x = np.repeat(np.stack(side, axis=1), 2, axis=0).astype(np.float32)\n"
        "x = x[np.random.default_rng(1).permutation(n)]\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "value, gradient, *_ = core().mmd2(x, x + np.float32(100_000), np.full((1, 2), 1e-3), None, None, 2.0, False, None, 1, 2)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(value * n / 4, np.abs(gradient).max(), (after - before) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    value, slope, megabytes = map(float, done.stdout.split())
    assert value == pytest.approx(1, rel=1e-12)  # each point meets itself and its twin: 2 n / n^2, twice
    assert slope == 0
    assert megabytes < 600
