"""Arrays of any kind into the compiled core itself: an error of Python, or what plain arrays give; never a crash, never another answer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepgen.kernels import dispatch

FULL = os.environ.get("HEPGEN_ROBUSTNESS") == "full"
EXAMPLES = settings(max_examples=2000 if FULL else 40, deadline=None, suppress_health_check=list(HealthCheck))
REFUSALS = (TypeError, ValueError, MemoryError)
THREADS = st.sampled_from([1, 2, 3, 0, -1, -(2**31), 2**31 - 1])
INTEGERS = st.sampled_from([0, 1, 2, 3, 7, -1, 255, 2**40, 2**62, 2**63, 2**64 - 1, -(2**63), 2**70])
FLOATS = st.sampled_from([0.0, 1.0, -1.0, 0.5, 0.999995, 1e-310, 1e300, np.inf, -np.inf, np.nan])

core: Any = dispatch.core()
pytestmark = pytest.mark.skipif(core is None, reason="the compiled core is not there")

Array = npt.NDArray[Any]
Call = tuple[str, list[Any]]
found: Counter[str] = Counter()


# --- the same numbers elsewhere in memory


def misaligned(a: Array) -> Array:
    out: Array = np.ndarray(a.shape, a.dtype, bytearray(a.nbytes + 1), offset=1)
    out[...] = a
    return out


def of_records(a: Array) -> Array:
    """A column of packed records: its strides are no multiples of its numbers."""
    out = np.zeros(a.shape, [("before", "i1"), ("it", a.dtype), ("after", "i2")])
    out["it"] = a
    return out["it"]


def backwards(a: Array) -> Array:
    return np.flip(np.flip(a).copy()) if a.ndim else a


def spread(a: Array) -> Array:
    out = np.full([2 * size for size in a.shape], 77, a.dtype)
    view = out[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def read_only(a: Array) -> Array:
    out = a.copy()
    out.flags.writeable = False
    return out


LAYOUTS: list[Callable[[Array], Array]] = [misaligned, of_records, backwards, spread, read_only, np.asfortranarray, lambda a: a]


# --- other arrays


def spoiled(draw: st.DrawFn, a: Array) -> Any:  # noqa: PLR0911
    if a.size > 1e6 or a.ndim == 0:  # was spoiled already
        return None
    match draw(st.integers(0, 8)):
        case 0:
            kind = draw(
                st.sampled_from(["f2", "f4", "f8", "g", "i1", "i8", "u8", "c8", "c16", "?", ">f4", ">f8", ">i8", "O", "S4", "M8[s]"])
            )
            with np.errstate(all="ignore"):
                return np.zeros(a.shape, kind) if draw(st.booleans()) or kind in {"M8[s]", "?"} else a.astype(kind)
        case 1:
            return a[None] if draw(st.booleans()) else a.reshape(-1)
        case 2:
            return np.array(0.5, a.dtype)
        case 3:
            axis = draw(st.integers(0, max(a.ndim - 1, 0)))
            return np.concatenate([a, a], axis) if a.ndim else a
        case 4:
            return a[: draw(st.integers(0, 2))]
        case 5:
            return a[..., : draw(st.integers(0, 2))]
        case 6:
            size = draw(st.sampled_from([2**40, 2**45]))
            return np.broadcast_to(np.zeros((), a.dtype), (size, *a.shape[1:]) if draw(st.booleans()) else (*a.shape[:-1], size))
        case 7:
            odd = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -1.0, 0.0, 5e-324]))
            out = a.copy()
            with np.errstate(all="ignore"):
                out[draw(st.integers(0, 3)) :] = np.array(odd).astype(a.dtype) if a.dtype.kind == "f" else np.array(-1).astype(a.dtype)
            return out
    return draw(st.sampled_from([None, "text", [], [[1.0, 2.0]], 3, object()]))


# --- calls that are right


def numbers(draw: st.DrawFn) -> tuple[np.random.Generator, Any]:
    return np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from([np.float32, np.float64]))


ROWS = st.sampled_from([0, 1, 2, 5, 64, 65, 130])


@st.composite
def kernel_sums(draw: st.DrawFn) -> Call:
    rng, kind = numbers(draw)
    n, m, d, count = draw(ROWS), draw(ROWS), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x, y = rng.normal(size=(n, d)).astype(kind), rng.normal(size=(m, d)).astype(kind)
    sigma = rng.uniform(0.5, 2, (count, d))
    w, v = (rng.uniform(0.5, 1, size).astype(kind) if draw(st.booleans()) else None for size in (n, m))
    group, each = draw(st.sampled_from([None, True, False])), draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                ("gaussian_sums", [x, y, sigma, v, True, 1, group]),
                ("kernel_mean", [y, sigma, v, each, 1, group]),
                ("mmd2", [x, y, sigma, w, v, 2.0, each, draw(st.sampled_from([None, 0.5])), 15, 1, group]),
            ]
        )
    )


@st.composite
def densities(draw: st.DrawFn) -> Call:
    rng, kind = numbers(draw)
    n, features, points = draw(ROWS), draw(st.integers(1, 3)), draw(st.sampled_from([2, 17, 130]))
    x, b = rng.normal(size=(n, features)).astype(kind), rng.uniform(0.2, 1, features)
    grid = np.linspace(-3, 3, points)
    if draw(st.booleans()):
        grid = np.ascontiguousarray(np.tile(grid[:, None], features))
    w = rng.uniform(0.5, 1, n).astype(kind) if draw(st.booleans()) else None
    slope = rng.normal(size=(features, points)).astype(kind)
    reach = core.kde_reach(x, grid, b)
    field = rng.normal(size=(features, points + 2 * reach + 1))
    binned = draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                ("kde", [binned, x, grid, b, w, 1]),
                ("kde_gradients", [binned, x, grid, b, w, abs(slope), slope, 3, 1]),
                ("kde_reach", [x, grid, b]),
                ("kde_counts", [x, grid, b, w, reach, 1]),
                ("kde_counts_gradients", [x, grid, b, w, reach, field, 3, 1]),
                ("kde_divergence", [x, grid, b, np.full((features, points), 1 / points), w, 1e-9, 1]),
            ]
        )
    )


@st.composite
def flows(draw: st.DrawFn) -> Call:
    rng, kind = numbers(draw)
    n, d, c = draw(ROWS), draw(st.integers(1, 4)), draw(st.integers(0, 2))
    hidden, blocks = draw(st.lists(st.integers(1, 20), min_size=1, max_size=2)), draw(st.integers(1, 2))
    widths = [d + c, *hidden, 2 * d]
    size = blocks * sum(b * (a + 1) for a, b in pairwise(widths))
    events, context = rng.normal(size=(n, d)).astype(kind), rng.normal(size=(n, c)).astype(kind)
    flat, w = (0.3 * rng.normal(size=size)).astype(kind), rng.normal(size=n).astype(kind)
    flow = [flat, hidden, np.array([rng.permutation(d) for _ in range(blocks)]), draw(st.integers(0, 2)), 3.0]
    inverse = draw(st.booleans())
    forth = [inverse, events, context, *flow, True, 1]
    record = core.maf_apply(*forth)[2]
    return draw(
        st.sampled_from(
            [
                ("maf_apply", forth),
                ("maf_backward", [inverse, events, w, record, context, *flow, 7, 1]),
                ("maf_likelihood", [events, context, w, *flow, 7, 1]),
            ]
        )
    )


@st.composite
def networks(draw: st.DrawFn) -> Call:
    rng, kind = numbers(draw)
    members, n, units = draw(st.integers(0, 3)), draw(ROWS), draw(st.integers(1, 20))
    widths = [draw(st.integers(1, 5)), *[units] * draw(st.integers(0, 4)), draw(st.integers(1, 3))]
    size = sum(b * (a + 1) for a, b in pairwise(widths))
    events, out = rng.normal(size=(members, n, widths[0])).astype(kind), rng.normal(size=(members, n, widths[-1])).astype(kind)
    flat, seeds = (0.3 * rng.normal(size=(members, size))).astype(kind), np.arange(members)
    network = [
        flat,
        seeds,
        widths,
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
        draw(st.booleans()),
        draw(st.sampled_from([0.0, 0.3])),
    ]
    record = core.mlp_apply(events, *network, True, 1)[1]
    return draw(st.sampled_from([("mlp_apply", [events, *network, False, 1]), ("mlp_backward", [out, events, record, *network, 3, 1])]))


@st.composite
def the_rest(draw: st.DrawFn) -> Call:
    rng, _ = numbers(draw)
    n, points = draw(ROWS), draw(st.sampled_from([2, 3, 50]))
    identity = rng.integers(0, 2**63, (n, draw(st.integers(1, 3)))).astype(np.uint64)
    line = [rng.normal(size=n), np.sort(rng.normal(size=points)), np.sort(rng.normal(size=points)), 1.0, 2.0, 1]
    return draw(
        st.sampled_from(
            [
                ("philox_fill", [identity, draw(st.integers(0, 5)), 7, 1, draw(st.booleans()), 1]),
                ("broken_line", line),
                ("ecd_noise", [draw(st.booleans()), 1, 2, 3, n]),
            ]
        )
    )


def answer(name: str, arguments: list[Any]) -> list[Array]:
    result = getattr(core, name)(*arguments)
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


def same(ours: list[Array], theirs: list[Array]) -> bool:
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, theirs, strict=True)
    )


def laid_out(draw: st.DrawFn, arguments: list[Any]) -> list[Any]:
    return [draw(st.sampled_from(LAYOUTS))(a) if isinstance(a, np.ndarray) else a for a in arguments]


CALLS = st.one_of(kernel_sums(), densities(), flows(), networks(), the_rest())


@EXAMPLES
@given(call=CALLS, data=st.data())
def test_the_same_numbers_elsewhere_in_memory(call: Call, data: st.DataObject) -> None:
    name, arguments = call
    elsewhere = laid_out(data.draw, arguments)
    kept = [a.copy() if isinstance(a, np.ndarray) else a for a in elsewhere]
    try:
        got = answer(name, elsewhere)
    except REFUSALS:
        found["refused"] += 1
        return
    found["answered"] += 1
    assert same(got, answer(name, arguments)), (name, [a.strides for a in elsewhere if isinstance(a, np.ndarray)])
    assert all(np.array_equal(a, b) for a, b in zip(elsewhere, kept, strict=True) if isinstance(a, np.ndarray))


@EXAMPLES
@given(call=CALLS, data=st.data())
def test_arguments_that_are_wrong(call: Call, data: st.DataObject) -> None:
    name, arguments = call
    arguments = laid_out(data.draw, arguments) if data.draw(st.booleans()) else list(arguments)
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(arguments) - 1))
        given_ = arguments[at]
        if isinstance(given_, np.ndarray):
            arguments[at] = spoiled(data.draw, given_)
        elif isinstance(given_, list):
            arguments[at] = data.draw(
                st.lists(INTEGERS | st.just(2**31 - 1), max_size=4) | st.just([*given_, 1]) | st.just([2**31 - 1] * 5)
            )
        elif isinstance(given_, float):
            arguments[at] = data.draw(FLOATS)
        elif at == len(arguments) - 1 and name not in {"kde_reach", "ecd_noise"}:
            arguments[at] = data.draw(THREADS)
        else:
            arguments[at] = data.draw(INTEGERS | FLOATS | st.none())
    try:
        answer(name, arguments)
    except REFUSALS as error:
        assert str(error).strip()  # noqa: PT017 - either is right
        found["refused"] += 1
        return
    found["answered"] += 1


@EXAMPLES
@given(call=CALLS, threads=THREADS)
def test_any_number_of_threads(call: Call, threads: int) -> None:
    name, arguments = call
    at = -1 if name not in {"gaussian_sums", "kernel_mean", "mmd2"} else -2
    if name not in {"kde_reach", "ecd_noise"}:
        assert same(answer(name, [*arguments[:at], threads, *(arguments[at + 1 :] if at < -1 else [])]), answer(name, arguments))


X, SIGMA = np.random.default_rng(1).normal(size=(40, 2)), np.ones((1, 2))
GRID, WIDTHS = np.linspace(-3, 3, 9), np.full(2, 0.3)
NETWORK = [np.zeros((1, 9)), np.zeros(1, np.int64), [2, 3], 0, 0, False]
FLOW = [np.zeros(16), [1], np.array([[0, 1]]), 0, 3.0]


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("kde_counts", [X, GRID, WIDTHS, None, 0, 1], "reach must be"),
        ("kde_counts", [X, GRID, WIDTHS, None, 2**62, 1], "reach must be"),
        ("kde", [True, X, np.array([-1.7e308, 1.7e308]), WIDTHS, None, 1], "uniform"),
        ("mmd2", [X[:, :0], X[:, :0], SIGMA.repeat(2, 0)[:, :0], None, None, 2.0, False, None, 0, 1], "points must have"),
        ("kernel_mean", [X, 0 * SIGMA, None, False, 1], "bandwidth must be positive"),
        ("kernel_mean", [X, np.inf * SIGMA, None, False, 1], "bandwidth must be positive"),
        ("mlp_apply", [X[None], *NETWORK, 0.999995, False, 1], "dropout must be"),
        ("mlp_apply", [X[None], np.zeros(9), *NETWORK[1:], 0.0, False, 1], "as many members"),
        ("mlp_apply", [X[None], *NETWORK[:2], [2, 2**31 - 1, 2**31 - 1, 2**31 - 1, 3], 0, 0, False, 0.0, False, 1], "shape"),
        ("maf_apply", [False, X, X[:, :0], FLOW[0], [2**31 - 1] * 5, *FLOW[2:], False, 1], "the flow's shape"),
        ("philox_fill", [np.zeros((1, 1), np.uint64), 2**60, 1, 1, True, 1], "columns must lie"),
        ("ecd_step", [True, [4], [8], [16], [0], [1.0], [0.0], 0.5, 0.1, 1.0, 0.0, 0.0, 1.0, False, 1, 1, 1], "not aligned"),
    ],
)
def test_what_is_refused(name: str, arguments: list[Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        getattr(core, name)(*arguments)


def test_bandwidths_whose_ratio_is_no_number() -> None:
    sigma = np.array([[1e-200, 1e-200], [1e200, 1e200]])
    assert core.kernel_mean(X, sigma, None, True, 1) == pytest.approx((1 + 1 / len(X)) / 2, rel=1e-12)


def test_what_was_tried(tried: Callable[..., None]) -> None:
    tried(**found)
    assert found["answered"] > 0
    assert found["refused"] > 0
