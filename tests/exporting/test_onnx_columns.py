"""Scalings, angles and links as ONNX operators against hepgen's own, which is the reference to the last digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hepgen.errors import UsageError
from hepgen.events.scalings import Angle, Chain, Identity, Log, LogitRange, MaxAbs, Quantile, Scaling, Standard
from hepgen.events.scalings import wrap_angle as wrapped
from hepgen.exporting.onnx_columns import log_ratio, scale, unscale, wrap_angle
from hepgen.exporting.onnx_graph import Graph, Port
from hepgen.losses.ratio import LINKS
from hepgen.losses.ratio import log_ratio as exact_log_ratio

DOUBLE = np.dtype(np.float64)
RNG = np.random.default_rng(5)
COLUMN = np.concatenate([20 + RNG.exponential(30, 3000), 200 + RNG.exponential(5, 300), np.full(200, 50.0)])
SCALINGS = [
    Identity(),
    Standard(),
    MaxAbs(),
    Log(-10.0),
    LogitRange(0, 2000),
    Quantile(),
    Quantile(37, "uniform"),
    Quantile(2),
    Chain([Log(5.0), Standard()]),
    Chain([]),
    Chain([Standard(), Chain([Quantile(50)])]),
]


@pytest.fixture
def column(run: Any, tmp_path: Path) -> Callable[..., Any]:
    """A function of a graph and a name, run on a column."""

    def applied(build: Callable[[Graph, str], str], x: Any) -> Any:
        g = Graph()
        out = build(g, "x")
        path = tmp_path / "column.onnx"
        path.write_bytes(g.model([Port("x", DOUBLE, 1)], {out: Port("y", DOUBLE, 1)}, {"hepgen": "0"}, "").SerializeToString())
        for n in (0, 1):
            assert run(path, x=np.asarray(x)[:n, None])["y"].shape == (n, 1)
        return run(path, x=np.asarray(x)[:, None])["y"][:, 0]

    return applied


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_a_scaling_both_ways(scaling: Scaling, column: Any) -> None:
    scaling.fit(COLUMN)
    x = np.concatenate([COLUMN, RNG.normal(50, 300, 500), [20.0, 50.0, 1e6, 1e-300]])
    x = np.append(x[scaling.supports(x)], np.nan)
    y = scaling.forward(x)
    # both sides of a spike are 1e-9 of the range apart, so that one rounding in a scaling before it is a part of 1e-7
    spikes = isinstance(scaling, Chain) and any(isinstance(step, Chain) for step in scaling.scalings)
    np.testing.assert_allclose(column(lambda g, x: scale(g, scaling, x, "c"), x), y, rtol=1e-12, atol=1e-6 if spikes else 1e-12)
    far = np.concatenate([y, RNG.normal(0, 5, 500), [-40.0, 40.0]])
    np.testing.assert_allclose(column(lambda g, y: unscale(g, scaling, y, "c"), far), scaling.inverse(far), rtol=1e-12, atol=1e-12)


def test_the_quantile_line_is_the_same_to_the_bit(column: Any) -> None:
    scaling = Quantile(1000).fit(COLUMN)
    x = np.concatenate([np.asarray(scaling.x), np.nextafter(scaling.x, 1e9), np.nextafter(scaling.x, -1e9), [np.inf, -np.inf, 1e300]])
    np.testing.assert_allclose(column(lambda g, x: scale(g, scaling, x, "c"), x), scaling.forward(x), rtol=3e-16, atol=1e-15)


def test_a_thousand_landmarks_are_found_by_bisection() -> None:
    g = Graph()
    scale(g, Quantile(1000).fit(COLUMN), "x", "c")
    assert len(g.nodes) < 60
    # every operator gives one number an event, or fewer
    assert {node.op_type for node in g.nodes} == {"Add", "Gather", "LessOrEqual", "Mul", "Sub", "Where"}


def test_angles_are_wrapped_to_the_bit(column: Any) -> None:
    pi = np.pi
    edges = [pi, -pi, np.float32(pi), -np.float32(pi), np.nextafter(pi, 0), np.nextafter(-pi, -9), 3 * pi, -3 * pi, 1e9, -1e-17 - pi]
    x = np.concatenate([RNG.uniform(-30, 30, 2000), edges, [np.inf, -np.inf, np.nan]])
    np.testing.assert_array_equal(column(wrap_angle, x), wrapped(x))
    np.testing.assert_array_equal(column(lambda g, x: scale(g, Angle(), x, "c"), x), wrapped(x))
    np.testing.assert_array_equal(column(lambda g, x: unscale(g, Angle(), x, "c"), x), wrapped(x))


def test_outside_the_support_is_nan(column: Any) -> None:
    logged = column(lambda g, x: scale(g, Log(1.0), x, "c"), [-3.0, -1.0, 0.0, np.nan])
    np.testing.assert_array_equal(logged, [np.nan, np.nan, 0.0, np.nan])
    logit = column(lambda g, x: scale(g, LogitRange(-1, 1), x, "c"), [-1.0, 0.0, 1.0, 2.0, np.nan])
    np.testing.assert_array_equal(logit, [np.nan, 0.0, np.nan, np.nan, np.nan])
    back = column(lambda g, x: unscale(g, LogitRange(-1, 1), x, "c"), [-800.0, 800.0, np.nan])
    np.testing.assert_array_equal(back, [np.nextafter(-1, 0), np.nextafter(1, 0), np.nan])


@pytest.mark.parametrize(("loss", "link"), [(loss, link) for loss, links in LINKS.items() for link in links])
def test_links(loss: str, link: str, column: Any) -> None:
    z = np.concatenate([RNG.normal(0, 8, 3000), [0.0, -0.0, 1.0, -1.0, 1e-8, 38.0, -38.0, 1e20, -1e20, np.nan]])
    # relative to 1 + |log ratio|, which is what a weight sees
    found, exact = column(lambda g, z: log_ratio(g, z, link), z), exact_log_ratio(z, loss, link)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    known = np.isfinite(exact)
    np.testing.assert_array_equal(found[~known], exact[~known])
    assert (np.abs(found[known] - exact[known]) / (1 + np.abs(exact[known]))).max() < 1e-13


def test_refusals() -> None:
    class Odd(Scaling):
        pass

    try:
        with pytest.raises(UsageError, match="the scaling Odd of column 'pt' has no ONNX form: fit with one of Chain, Identity, Angle"):
            scale(Graph(), Odd(), "x", "pt")
        with pytest.raises(UsageError, match="the scaling Odd of column 'pt' has no ONNX form"):
            unscale(Graph(), Chain([Odd()]), "x", "pt")
    finally:
        del Scaling._kinds["Odd"]
    with pytest.raises(UsageError, match="the link 'odd' has no ONNX form"):
        log_ratio(Graph(), "z", "odd")
