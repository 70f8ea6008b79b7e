"""Tensors of any kind into the public ops: a sentence, or the answer of plain torch in float64; never a crash, never another answer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hepgen import kernels
from hepgen.errors import HepgenError
from hepgen.kernels import dispatch, philox
from hepgen.kernels.maf import MafWeights
from hepgen.kernels.perceptron import Dropout, MlpShape

FULL = os.environ.get("HEPGEN_ROBUSTNESS") == "full"
EXAMPLES = settings(max_examples=2000 if FULL else 40, deadline=None, suppress_health_check=list(HealthCheck))
REFUSALS = (HepgenError, TypeError, ValueError)
ROWS = st.sampled_from([0, 1, 2, 5, 64, 65, 130])
pytestmark = [
    pytest.mark.skipif(dispatch.core() is None, reason="the compiled core is not there"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),
]
found: Counter[str] = Counter()


class Call(NamedTuple):
    """Tensors by name, some of them differentiable, and what is done with them; all else is in `run`."""

    name: str
    tensors: dict[str, Tensor]
    differentiable: tuple[str, ...]
    run: Callable[[dict[str, Tensor]], list[Tensor]]


# --- the same numbers elsewhere in memory


def misaligned(t: Tensor) -> Tensor:
    a = t.numpy()
    out: Any = np.ndarray(a.shape, a.dtype, bytearray(a.nbytes + 1), offset=1)
    out[...] = a
    return torch.from_numpy(out)


def turned(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim > 1 else t


def spread(t: Tensor) -> Tensor:
    out = torch.full([2 * size for size in t.shape], -77, dtype=t.dtype)
    view = out[tuple(slice(None, None, 2) for _ in t.shape)]
    return view.copy_(t)


def negated(t: Tensor) -> Tensor:
    """A view that stands for the numbers with the other sign."""
    return torch.complex(torch.zeros_like(t), -t).conj().imag if t.is_floating_point() else t


LAYOUTS: list[Callable[[Tensor], Tensor]] = [misaligned, turned, spread, negated, torch.nn.Parameter, lambda t: t]


def laid_out(draw: st.DrawFn, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    layouts = {name: draw(st.sampled_from(LAYOUTS)) for name in tensors}
    return {n: layouts[n](t) if layouts[n] is not torch.nn.Parameter or t.is_floating_point() else t for n, t in tensors.items()}


# --- other tensors


def spoiled(draw: st.DrawFn, t: Tensor) -> Any:  # noqa: PLR0911
    match draw(st.integers(0, 7)):
        case 0:
            kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.complex64, torch.bool]
            return t.to(draw(st.sampled_from(kinds)))
        case 1:
            return t[None] if draw(st.booleans()) else t.reshape(-1)
        case 2:
            return torch.ones((), dtype=t.dtype)
        case 3:
            return torch.cat([t, t], draw(st.integers(0, t.ndim - 1))) if t.ndim else t
        case 4:
            return t[: draw(st.integers(0, 2))] if t.ndim else t
        case 5:
            return t[..., : draw(st.integers(0, 2))] if t.ndim else t
        case 6:
            size, first = draw(st.sampled_from([2**40, 2**45])), draw(st.booleans())
            return t.new_ones(()).expand((size, *t.shape[1:]) if first else (*t.shape[:-1], size))
        case _:
            large, small = (1e300, 5e-324) if t.dtype == torch.float64 else (1e38, 1e-45)
            odd = [np.nan, np.inf, -np.inf, large, -1.0, 0.0, small] if t.is_floating_point() else [-1, 2**62]
            out = t.resolve_neg().clone(memory_format=torch.contiguous_format)
            out.view(-1)[draw(st.integers(0, 3)) :] = draw(st.sampled_from(odd))
            return out


def normals(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * rng.normal(size=shape))


def positive(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(0.5, 1.5, shape))


def rngs(draw: st.DrawFn) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 99)))


# --- calls that are right, in float64


@st.composite
def kernel_sums(draw: st.DrawFn) -> Call:
    rng, n, m, d = rngs(draw), draw(ROWS), draw(ROWS), draw(st.integers(1, 3))
    each = draw(st.booleans())
    tensors = {"x": normals(rng, n, d), "y": normals(rng, m, d), "sigma": positive(rng, *draw(st.sampled_from([(), (d,), (2, d), (3, 1)])))}
    w, v = draw(st.booleans()), draw(st.booleans())
    tensors |= ({"w": positive(rng, n)} if w else {}) | ({"v": positive(rng, m)} if v else {})
    name = draw(st.sampled_from(["mmd2", "kernel_mean", "gaussian_sums"]))

    def run(t: dict[str, Tensor]) -> list[Tensor]:
        if name == "mmd2":
            return [kernels.mmd2(t["x"], t["y"], t["sigma"], x_weights=t.get("w"), y_weights=t.get("v"), per_feature=each)]
        if name == "kernel_mean":
            return [kernels.kernel_mean(t["x"], t["sigma"], weights=t.get("w"), per_feature=each)]
        return [kernels.gaussian_sums(t["x"], t["y"], t["sigma"], y_weights=t.get("v"))]

    return Call(name, tensors, () if name == "kernel_mean" else ("x",) if name == "gaussian_sums" else ("x", "y", "w", "v"), run)


@st.composite
def densities(draw: st.DrawFn) -> Call:
    rng, n, features, points = rngs(draw), draw(ROWS), draw(st.integers(1, 3)), draw(st.sampled_from([0, 1, 2, 17, 130]))
    grid = torch.linspace(-3, 3, points, dtype=torch.float64)
    grid = grid[:, None].repeat(1, features) if draw(st.booleans()) else grid
    target = torch.full((points, features), 1 / max(points, 1), dtype=torch.float64)
    b = 0.3 * positive(rng, *draw(st.sampled_from([(), (features,)])))
    tensors = {"x": normals(rng, n, features), "grid": grid, "b": b, "target": target}
    tensors |= {"w": positive(rng, n)} if draw(st.booleans()) else {}
    name = draw(st.sampled_from(["exact", "binned", "kde_divergence", "silverman", "scott"]))

    def run(t: dict[str, Tensor]) -> list[Tensor]:
        if name == "kde_divergence":
            return [kernels.kde_divergence(t["x"], t["grid"], t["b"], t["target"], weights=t.get("w"), floor=1e-6)]
        if name in {"exact", "binned"}:
            return [kernels.kde(t["x"], t["grid"], t["b"], weights=t.get("w"), method=name)]
        return [kernels.kde_bandwidth(t["x"], name, t.get("w"))]

    return Call(name, tensors, ("x", "w") if name == "exact" else (), run)


@st.composite
def flows(draw: st.DrawFn) -> Call:
    rng, n, d, c, hidden = rngs(draw), draw(ROWS), draw(st.integers(1, 4)), draw(st.integers(0, 2)), draw(st.integers(1, 20))
    tensors = {"x": normals(rng, n, d), "w": positive(rng, n)} | ({"context": normals(rng, n, c)} if c else {})
    names = ["0", "1", *(["2"] if c else []), "3", "4"]
    shapes = {"0": (hidden, d), "1": (hidden,), "2": (hidden, c), "3": (2 * d, hidden), "4": (2 * d,)}
    blocks = draw(st.integers(1, 2))
    tensors |= {f"{b}.{i}": normals(rng, *shapes[i], scale=0.3) for b in range(blocks) for i in names}
    tensors["orders"] = torch.from_numpy(np.array([rng.permutation(d) for _ in range(blocks)]))
    activation, name = draw(st.sampled_from(["tanh", "elu"])), draw(st.sampled_from(["maf_forward", "maf_inverse", "maf_nll"]))

    def run(t: dict[str, Tensor]) -> list[Tensor]:
        weights = MafWeights([[t[f"{b}.{i}"] for i in names] for b in range(blocks)], t["orders"], activation, 3.0)
        if name == "maf_nll":
            return [kernels.maf_nll(t["x"], t.get("context"), weights, t["w"])]
        return list(getattr(kernels, name)(t["x"], t.get("context"), weights))

    return Call(name, tensors, ("x", "context", "0.0", "0.3"), run)


@st.composite
def networks(draw: st.DrawFn) -> Call:
    rng, members, n, units = rngs(draw), draw(st.integers(0, 3)), draw(ROWS), draw(st.integers(1, 20))
    widths = [draw(st.integers(1, 5)), *[units] * draw(st.integers(0, 4)), draw(st.integers(1, 3))]
    activation, output = draw(st.sampled_from(["tanh", "elu"])), draw(st.sampled_from(["linear", "sigmoid", "tanh"]))
    shape = MlpShape(widths, activation, output, draw(st.booleans()))
    p = draw(st.sampled_from([None, 0.0, 0.3, 0.99999, 0.999995, 1.0, float("nan")]))
    tensors = {
        "x": normals(rng, members, n, widths[0]),
        "flat": normals(rng, members, shape.size, scale=0.3),
        "seeds": torch.arange(members),
    }

    def run(t: dict[str, Tensor]) -> list[Tensor]:
        return [kernels.mlp_ensemble(t["x"], t["flat"], shape, None if p is None else Dropout(p, t["seeds"]))]

    return Call("mlp_ensemble", tensors, ("x", "flat"), run)


@st.composite
def descents(draw: st.DrawFn) -> Call:
    rng, sizes = rngs(draw), draw(st.lists(ROWS, min_size=1, max_size=3))
    tensors = {f"{kind}{k}": normals(rng, size, 2) for kind in "pvg" for k, size in enumerate(sizes)}
    nu, decay = draw(st.sampled_from([0.0, 0.01])), draw(st.sampled_from([0.0, 0.01]))

    def run(t: dict[str, Tensor]) -> list[Tensor]:
        p, v, g = ([t[f"{kind}{k}"] for k in range(len(sizes))] for kind in "pvg")
        before = [a.detach().clone() for a in (*p, *v)]
        try:
            kernels.ecd_step(p, v, g, loss=0.5, lr=0.05, eta=1.5, nu=nu, weight_decay=decay)
            return [a.detach().clone() for a in (*p, *v)]
        finally:
            for a, b in zip((*p, *v), before, strict=True):
                a.detach().copy_(b)

    return Call("ecd_step", tensors, (), run)


CALLS = st.one_of(kernel_sums(), densities(), flows(), networks(), descents())
_LOOSE = {"maf_inverse": 50.0, "kde_divergence": 20.0}


def as_kind(tensors: dict[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    return {name: t.to(kind) if t.is_floating_point() else t for name, t in tensors.items()}


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().resolve_neg().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}


def reference(call: Call, tensors: dict[str, Tensor]) -> list[Tensor]:
    given_ = plain(tensors)
    with kernels.backend("reference"):  # the bounce of a step is drawn in the precision of its tensors
        return call.run(given_ if call.name == "ecd_step" else as_kind(given_, torch.float64))


def is_ordinary(t: Tensor) -> bool:
    return t.numel() == 0 or not t.is_floating_point() or bool(t.isfinite().all() and t.abs().max() < 100)


def check_same(call: Call, got: list[Tensor], want: list[Tensor], kind: torch.dtype) -> None:
    tolerance = (3e-4 if kind == torch.float32 else 1e-9) * _LOOSE.get(call.name, 1.0)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        size = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a.detach().double(), b.detach().double(), rtol=tolerance, atol=tolerance * size, equal_nan=True)


@EXAMPLES
@given(call=CALLS, kind=st.sampled_from([torch.float32, torch.float64]), data=st.data())
def test_right_tensors_give_the_answer_of_plain_torch(call: Call, kind: torch.dtype, data: st.DataObject) -> None:
    tensors = laid_out(data.draw, as_kind(call.tensors, kind))
    try:
        got = call.run(tensors)
    except REFUSALS as error:
        found["refused"] += 1
        assert str(error).strip()  # noqa: PT017 - either is right
        return
    found["answered"] += 1
    check_same(call, got, reference(call, tensors), kind)


@EXAMPLES
@given(call=CALLS, data=st.data())
def test_gradients_are_those_of_plain_torch(call: Call, data: st.DataObject) -> None:
    names = [name for name in call.differentiable if name in call.tensors]
    tensors, others = laid_out(data.draw, call.tensors), plain(call.tensors)
    leaves = [[t.setdefault(name, t[name]).detach().requires_grad_() for name in names] for t in (tensors, others)]
    results = []
    for backend, given_, wanted in (("cpp", tensors, leaves[0]), ("reference", others, leaves[1])):
        given_ |= dict(zip(names, wanted, strict=True))
        try:
            with kernels.backend(backend):
                total = sum((out * torch.arange(1.0, out.numel() + 1).view(out.shape).cos()).sum() for out in call.run(given_))
        except REFUSALS:
            assert not results
            found["refused"] += 1
            return
        if not (names and isinstance(total, Tensor) and total.requires_grad):
            return
        results.append(torch.autograd.grad(total, wanted))
    found["answered"] += 1
    check_same(call, list(results[0]), list(results[1]), torch.float32)


@EXAMPLES
@given(call=CALLS, kind=st.sampled_from([torch.float32, torch.float64]), data=st.data())
def test_tensors_that_are_wrong(call: Call, kind: torch.dtype, data: st.DataObject) -> None:
    tensors = laid_out(data.draw, as_kind(call.tensors, kind)) if data.draw(st.booleans()) else as_kind(call.tensors, kind)
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=2, unique=True)):
        tensors[name] = spoiled(data.draw, tensors[name].detach())
    try:
        got = call.run(tensors)
    except REFUSALS as error:
        found["refused"] += 1
        assert str(error).strip()  # noqa: PT017
        return
    except RuntimeError as error:
        assert "can't allocate memory" in str(error)  # noqa: PT017 - torch itself, of tensors of terabytes
        return
    found["answered"] += 1
    if all(t.numel() < 1e6 and is_ordinary(t) for t in tensors.values()):
        want = reference(call, tensors)
        if all(w.isfinite().all() and (w.numel() == 0 or w.abs().max() < 1e4) for w in want):
            lowest = kind if all(t.dtype == kind for t in tensors.values() if t.is_floating_point()) else torch.float32
            check_same(call, got, want, lowest)


@EXAMPLES
@given(
    identity=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=5),
    kind=st.sampled_from(["u8", "i8", ">u8", ">i8", "u1", "f8", "c16", "?", "O", "S3"]),
    columns=st.sampled_from([0, 1, 5, -1, 2**33, 2**63]),
    seed=st.sampled_from([0, 2**64 - 1, -1, 2**64]),
    stream=st.sampled_from([0, 2**32 - 1, 2**32, -1]),
    layout=st.sampled_from(["plain", "misaligned", "backwards", "0-d", "3-d", "broadcast"]),
)
def test_random_numbers_of_any_identity(identity: list[int], kind: str, columns: int, seed: int, stream: int, layout: str) -> None:
    a: Any = np.array([value % 2**64 for value in identity], np.uint64)
    with np.errstate(all="ignore"):
        a = a.view(np.int64).astype(kind) if kind != "u8" else a
    if layout == "misaligned":
        out: Any = np.ndarray(a.shape, a.dtype, bytearray(a.nbytes + 1), offset=1) if kind != "O" else a
        out[...] = a
        a = out
    a = {"backwards": a[::-1], "0-d": np.array(1, kind), "3-d": a[None, None], "broadcast": np.broadcast_to(a, (3, len(a)))}.get(layout, a)
    try:
        got = philox.normal(a, columns, seed=seed, stream=stream)
    except REFUSALS as error:
        assert str(error).strip()  # noqa: PT017
        return
    with kernels.backend("reference"):
        assert np.array_equal(got, philox.normal(np.array(a), columns, seed=seed, stream=stream))


def test_what_was_tried(tried: Callable[..., None]) -> None:
    tried(**found)
    assert found["answered"] > 0
    assert found["refused"] > 0
