"""What the backends of a GPU alone have: tiles and their borders, sums over blocks in a fixed order, nothing that waits for the card."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from mmd_support import draw
from torch import Tensor

from hepgen import kernels
from hepgen.errors import UsageError
from hepgen.kernels import dispatch
from hepgen.kernels.mmd_parts import parts_of

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
INTERPRETED = dispatch.triton_interprets()


@pytest.fixture
def gpu(gpu_backend: str) -> Iterator[str]:
    """Each of the backends, and new tensors on the card, where there is one."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield gpu_backend


def results(
    x: Tensor, y: Tensor, sigma: Tensor, wx: Tensor | None = None, wy: Tensor | None = None, *, needs: int = 15, per_feature: bool = False
) -> list[Tensor]:
    """The value, the row sums, and the gradients that are asked for of both together."""
    leaves = [None if t is None else t.clone().requires_grad_(bool(needs >> i & 1)) for i, t in enumerate((x, y, wx, wy))]
    a, b, v, w = leaves
    value = kernels.mmd2(a, b, sigma, x_weights=v, y_weights=w, per_feature=per_feature)
    sums = kernels.gaussian_sums(a, b, sigma, y_weights=w)
    inputs = [t for t in leaves if t is not None and t.requires_grad]
    gradients = torch.autograd.grad(value + sums.mean(), inputs, allow_unused=True) if inputs else ()
    return [value.detach(), sums.detach(), *(g for g in gradients if g is not None)]


def same_as_reference(x, y, sigma, wx=None, wy=None, **options) -> None:
    exact = [None if t is None else t.double() for t in (x, y, wx, wy)]
    with kernels.backend("reference"):
        want = results(exact[0], exact[1], sigma, *exact[2:], **options)
    scale = 1.0
    for w in (wx, wy):
        scale *= 1.0 if w is None else float(w.abs().sum() / w.sum().abs()) ** 2
    got = results(x, y, sigma, wx, wy, **options)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == x.dtype
        assert a.shape == b.shape
        size = max(float(b.abs().max()), 1.0)
        torch.testing.assert_close(a.double(), b, rtol=0, atol=40 * torch.finfo(x.dtype).eps * size * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "m", "d"),
    [(1, 1, 1), (127, 130, 2), (129, 31, 3), (64, 257, 4), (33, 1, 5), (300, 140, 6), (20, 33, 7), (40, 65, 8), (65, 40, 9), (40, 34, 33)],
)
def test_borders_of_tiles(gpu, n, m, d, dtype):
    wx, wy = (draw(rows, 1, rows, dtype, shift=1.5)[:, 0] if d % 2 else None for rows in (n, m))
    same_as_reference(draw(n, d, 1, dtype), draw(m, d, 2, dtype, shift=0.3), torch.linspace(0.5, 1.5, d) * 2 * d, wx, wy)


@pytest.mark.parametrize("needs", [0, 1, 2, 3, 4, 6, 8, 9, 12, 15])
def test_every_combination_of_gradients(gpu, needs):
    wx, wy = draw(50, 1, 3, shift=1.5)[:, 0], draw(45, 1, 4, shift=1.5)[:, 0]
    same_as_reference(draw(50, 2, 1), draw(45, 2, 2), torch.tensor(1.3), wx, wy, needs=needs)


@pytest.mark.parametrize("d", [6, 9])
def test_blocks_and_splits(gpu, d):
    """Several blocks of rows, each split over the columns; the value by symmetric halves, too."""
    n, m = (400, 200) if gpu == "triton" and INTERPRETED else (1300, 1100) if d == 6 else (600, 500)
    x, y = draw(n, d, 1, torch.float32), draw(m, d, 2, torch.float32, shift=0.2)
    sigma = torch.tensor(2.0 * d)
    same_as_reference(x, y, sigma, needs=0)
    same_as_reference(x, y, sigma, needs=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_feature", [False, True])
@pytest.mark.parametrize("rows", [torch.tensor([[0.5], [4.0], [2.0]]), torch.tensor([[0.5, 1.0, 2.0], [3.0, 1.0, 0.7], [1.0, 2.0, 4.0]])])
def test_several_bandwidths(gpu, rows, per_feature, dtype):
    x, y = draw(70, 3, 1, dtype), draw(40, 3, 2, dtype, shift=0.3)
    same_as_reference(x, y, rows, draw(70, 1, 3, dtype, shift=2.0)[:, 0], per_feature=per_feature)


def test_parts_share_distances_of_proportional_rows():
    sigma = torch.tensor([[1.0, 2.0], [3.0, 1.0], [4.0, 8.0], [2.0, 4.0]], dtype=torch.float64)
    widest, ratios, counts = parts_of(sigma, per_feature=False)
    assert counts is not None
    assert ratios is not None
    assert counts.tolist() == [3, 1, 0, 0]
    assert widest[:2].tolist() == [[4.0, 8.0], [3.0, 1.0]]
    assert ratios[0, :3].tolist() == [4.0, 1.0, 2.0]
    assert ratios[1, 0] == 1.0
    one = parts_of(sigma[:, :1].expand(4, 2), per_feature=False)
    assert one.sigma.tolist() == [[4.0, 4.0]]
    assert one.counts is None


def test_nan_stays_in_its_row(gpu):
    x, y = draw(200, 6, 1, torch.float32), draw(100, 6, 2, torch.float32)
    x[150, 5] = torch.nan
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(kernels.gaussian_sums(x, y, 1.0).sum(), x)
    assert gradient.isnan().any(1).nonzero().flatten().tolist() == [150]
    value = kernels.mmd2(x, y, 1.0)
    assert value.isnan()
    assert torch.autograd.grad(value, x)[0].isnan().all()  # every point meets that one


@pytest.fixture
def with_boxes(gpu, monkeypatch):
    """Tiles out of reach are passed over, however few they are."""
    if gpu != "cuda":
        pytest.skip("Triton's kernel has no boxes")
    monkeypatch.setattr("hepgen.kernels.cuda.mmd._BOXES_FROM", 0)


def clusters(n: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Points in order along a line, far apart from one end to the other."""
    return draw(n, d, n, dtype) + torch.arange(n)[:, None].to(dtype) // 128 * 9


@pytest.mark.usefixtures("with_boxes")
class TestBoxes:
    @pytest.mark.parametrize("d", [1, 6])
    @pytest.mark.parametrize("needs", [0, 15])
    def test_same_answer(self, d, needs):
        x, y = clusters(1100, d), clusters(900, d)
        same_as_reference(x, y, torch.tensor([[0.7], [0.3]]), needs=needs)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("where", ["x", "y", "wx", "wy"])
    def test_what_is_not_finite_is_never_passed_over(self, where, bad, monkeypatch):
        data = {"x": clusters(600, 2), "y": clusters(500, 2), "wx": torch.ones(600), "wy": torch.ones(500)}
        data[where][-3:] = bad
        sigma = torch.tensor(0.5)
        passed = results(data["x"], data["y"], sigma, data["wx"], data["wy"])
        monkeypatch.setattr("hepgen.kernels.cuda.mmd._BOXES_FROM", 1 << 62)
        plain = results(data["x"], data["y"], sigma, data["wx"], data["wy"])
        for a, b in zip(passed, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_same_bits_from_run_to_run(gpu):
    n = 5000 if torch.cuda.is_available() else 260
    x, y = draw(n, 6, 1, torch.float32), draw(n - 7, 6, 2, torch.float32)
    first, again = (results(x, y, torch.tensor(2.0)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_known_term_stays_on_the_device(gpu):
    x, y = draw(60, 3, 1), draw(50, 3, 2)
    known = kernels.kernel_mean(y, 1.3)
    assert known.device == x.device
    full, again = kernels.mmd2(x, y, 1.3), kernels.mmd2(x, y, 1.3, y_mean=known)
    torch.testing.assert_close(again, full, rtol=1e-13, atol=0)


def test_too_many_rows(gpu):
    y = torch.zeros(1, 1)
    with pytest.raises(UsageError, match=r"fewer than 2\^30 rows"):
        kernels.mmd2(y.expand(1 << 30, 1), y, 1.0)


def calls() -> list[Callable[[Tensor, Tensor], Tensor]]:
    """What a step of training may call, with bandwidths from the host."""
    return [
        lambda x, y: kernels.mmd2(x, y, 1.5),
        lambda x, y: kernels.mmd2(x, y, [1.0, 2.0, 3.0], per_feature=True),
        lambda x, y: kernels.mmd2(x, y, torch.tensor([[1.0], [4.0]], device="cpu"), x_weights=torch.ones_like(x[:, 0]), y_mean=0.5),
        lambda x, y: kernels.gaussian_sums(x, y, 0.7).mean(),
    ]


@NEEDS_GPU
@pytest.mark.parametrize("which", range(4))
class TestCard:
    def test_waits_for_nothing(self, gpu, which):
        x, y, call = draw(500, 3, 1, torch.float32).requires_grad_(), draw(400, 3, 2, torch.float32), calls()[which]
        torch.autograd.grad(call(x, y), x)  # compiled, and the bandwidths are on the card
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.autograd.grad(call(x, y), x)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_in_a_graph(self, gpu, which):
        x, y, call = draw(500, 3, 1, torch.float32).requires_grad_(), draw(400, 3, 2, torch.float32), calls()[which]
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.autograd.grad(call(x, y), x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            value = call(x, y)
            (gradient,) = torch.autograd.grad(value, x)
        with torch.no_grad():
            x.copy_(draw(500, 3, 9, torch.float32))
        graph.replay()
        want = call(x, y)
        torch.testing.assert_close(value.detach(), want.detach(), rtol=0, atol=0)
        torch.testing.assert_close(gradient, torch.autograd.grad(want, x)[0], rtol=0, atol=0)
