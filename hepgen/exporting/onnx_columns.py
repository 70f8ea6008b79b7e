"""Scalings, angles and links as ONNX operators on float64 columns: the arithmetic of hepgen, step by step.

Where a scaling raises an error in hepgen, because a value lies outside its support, the graph gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.events.scalings import Angle, Chain, Identity, Log, LogitRange, MaxAbs, Quantile, Scaling, Standard
from hepgen.exporting.onnx_graph import Graph, number

Floats = NDArray[np.float64]


def wrap_angle(g: Graph, x: str) -> str:
    """Angles wrapped into [-pi, pi); those already there keep every bit, and inf becomes NaN."""
    pi, turn = number(math.pi), number(2 * math.pi)
    outside = g.op("Or", g.op("Less", x, number(-math.pi)), g.op("GreaterOrEqual", x, pi))
    # numpy's remainder has the sign of 2 pi, that of Mod the sign of x
    left = g.op("Mod", g.op("Add", x, pi), turn, fmod=1)
    turned = g.op("Sub", g.where(g.op("Less", left, number(0)), g.op("Add", left, turn), left), pi)
    turned = g.where(g.op("GreaterOrEqual", turned, pi), number(-math.pi), turned)
    return g.where(outside, turned, x)


def broken_line(g: Graph, x: str, points: Floats, values: Floats, tails: Sequence[float]) -> str:
    """The line through (points, values) with straight tails, at every x; see `hepgen.kernels.broken_line`.

    The segment is found by bisection, one look-up a halving, as in csrc/cpu/broken_line.cpp: memory goes as the number of events, not as
    that times the number of points.
    """
    begin = np.concatenate([points[:1], points])
    value = np.concatenate([values[:1], values])
    slope = np.concatenate([tails[:1], np.diff(values) / np.diff(points), tails[1:]])
    # the last segment that begins at or below x, of those from 1 on; 0 where there is none, and for NaN
    at: Any = number(0, np.int64)
    length = len(begin)
    while length > 1:
        half = length // 2
        further = number(half, np.int64) if length == len(begin) else g.op("Add", at, number(half, np.int64))
        at = g.where(g.op("LessOrEqual", g.op("Gather", begin, further), x), further, at)
        length -= half
    offset = g.op("Sub", x, g.op("Gather", begin, at))
    return g.op("Add", g.op("Gather", value, at), g.op("Mul", g.op("Gather", slope, at), offset))


# --- scalings --------------------------------------------------------------------------------------------------------------------


def scale(g: Graph, scaling: Scaling, x: str, name: str) -> str:
    """`scaling.forward` of a column; UsageError with its name for a scaling that has no ONNX form."""
    if isinstance(scaling, Chain):
        for one in scaling.scalings:
            x = scale(g, one, x, name)
        return x
    return _forms(scaling, name)[0](g, scaling, x)


def unscale(g: Graph, scaling: Scaling, y: str, name: str) -> str:
    """`scaling.inverse` of a column; UsageError with its name for a scaling that has no ONNX form."""
    if isinstance(scaling, Chain):
        for one in reversed(scaling.scalings):
            y = unscale(g, one, y, name)
        return y
    return _forms(scaling, name)[1](g, scaling, y)


Form = Callable[[Graph, Any, str], str]


def _forms(scaling: Scaling, name: str) -> tuple[Form, Form]:
    found = _FORMS.get(type(scaling))
    if found is None:
        known = ", ".join(["Chain", *(kind.__name__ for kind in _FORMS)])
        raise UsageError(f"the scaling {scaling.kind} of column '{name}' has no ONNX form: fit with one of {known}")
    return found


def _same(g: Graph, scaling: Identity, x: str) -> str:  # noqa: ARG001
    return x


def _wrapped(g: Graph, scaling: Angle, x: str) -> str:  # noqa: ARG001
    return wrap_angle(g, x)


def _standard(g: Graph, scaling: Standard, x: str) -> str:
    return g.op("Div", g.op("Sub", x, number(scaling.mean)), number(scaling.std))


def _unstandard(g: Graph, scaling: Standard, y: str) -> str:
    return g.op("Add", g.op("Mul", y, number(scaling.std)), number(scaling.mean))


def _maxabs(g: Graph, scaling: MaxAbs, x: str) -> str:
    return g.op("Div", x, number(scaling.scale))


def _unmaxabs(g: Graph, scaling: MaxAbs, y: str) -> str:
    return g.op("Mul", y, number(scaling.scale))


def _quantile(g: Graph, scaling: Quantile, x: str) -> str:
    points, values, tails = (np.asarray(part, dtype=np.float64) for part in (scaling.x, scaling.y, scaling.tails))
    return broken_line(g, x, points, values, tails.tolist())


def _unquantile(g: Graph, scaling: Quantile, y: str) -> str:
    points, values, tails = (np.asarray(part, dtype=np.float64) for part in (scaling.x, scaling.y, scaling.tails))
    return broken_line(g, y, values, points, (1.0 / tails).tolist())


def _log(g: Graph, scaling: Log, x: str) -> str:
    inside = g.op("Greater", x, number(-scaling.shift))
    return g.where(inside, g.op("Log", g.op("Add", x, number(scaling.shift))), number(math.nan))


def _unlog(g: Graph, scaling: Log, y: str) -> str:
    return g.op("Sub", g.op("Exp", y), number(scaling.shift))


def _logit(g: Graph, scaling: LogitRange, x: str) -> str:
    low, high = number(scaling.low), number(scaling.high)
    inside = g.op("And", g.op("Greater", x, low), g.op("Less", x, high))
    return g.where(inside, g.op("Log", g.op("Div", g.op("Sub", x, low), g.op("Sub", high, x))), number(math.nan))


def _unlogit(g: Graph, scaling: LogitRange, y: str) -> str:
    low, high = number(scaling.low), number(scaling.high)
    tail = g.op("Exp", g.op("Neg", g.op("Abs", y)))
    part = g.op("Mul", number(scaling.high - scaling.low), g.op("Div", tail, g.op("Add", tail, number(1))))
    x = g.where(g.op("Less", y, number(0)), g.op("Add", part, low), g.op("Sub", high, part))
    return g.clip(x, np.nextafter(low, high), np.nextafter(high, low))


_FORMS: dict[type[Scaling], tuple[Form, Form]] = {
    Identity: (_same, _same),
    Angle: (_wrapped, _wrapped),
    Standard: (_standard, _unstandard),
    MaxAbs: (_maxabs, _unmaxabs),
    Quantile: (_quantile, _unquantile),
    Log: (_log, _unlog),
    LogitRange: (_logit, _unlogit),
}


# --- from the output of a ratio network to the log of the ratio, see hepgen.losses.ratio -----------------------------------------


def log_ratio(g: Graph, z: str, link: str) -> str:
    """Log of the likelihood ratio from z, float64 of any shape."""
    match link:
        case "sigmoid" | "exp":
            return z
        case "relu":
            return g.op("Log", g.clip(z, number(0), number(math.inf)))
        case "square":
            return g.op("Mul", number(2), g.op("Log", g.op("Abs", z)))
        case "cdf":
            return _from_smaller(g, z, *_log_tail_of_normal(g, g.op("Abs", z)))
        case "arctan":
            return _from_smaller(g, z, *_log_tail_of_arctan(g, g.op("Abs", z)))
    raise UsageError(f"the link {link!r} has no ONNX form")


def _from_smaller(g: Graph, z: str, log_tail: str, tail: str) -> str:
    """Log of f / (1 - f) from the smaller of f and 1 - f, which is f where z < 0, and its log."""
    size = g.op("Sub", g.op("Log", g.op("Sub", number(1), tail)), log_tail)
    return g.where(g.op("Less", z, number(0)), g.op("Neg", size), size)


def _log_tail_of_normal(g: Graph, size: str) -> tuple[str, str]:
    """Log of Phi(-|z|), and itself, as erfcx(t) exp(-t^2) / 2 with t = |z| / sqrt 2."""
    from scipy.special import erfcx

    t = g.op("Mul", size, number(math.sqrt(0.5)))
    # (1 + 2 t) erfcx(t) is nearly a constant in u = (t - k) / (t + k) (Shepherd and Laframboise 1981)
    k = 3.75
    u = g.op("Div", g.op("Sub", t, number(k)), g.op("Add", t, number(k)))
    smooth = _chebyshev(g, u, lambda s: _times_erfcx(erfcx, k * (1 + s) / (1 - s)), 28)
    scaled = g.op("Div", smooth, g.op("Add", g.op("Mul", number(4), t), number(2)))
    log_tail = g.op("Sub", g.op("Log", scaled), g.op("Mul", t, t))
    return log_tail, g.op("Exp", log_tail)


def _times_erfcx(erfcx: Callable[[Floats], Floats], t: Floats) -> Floats:
    return np.asarray((1 + 2 * t) * erfcx(t))


def _log_tail_of_arctan(g: Graph, size: str) -> tuple[str, str]:
    """Log of 1/2 - arctan(|z|) / pi, and itself."""
    one = number(1)
    beyond = g.op("Greater", size, one)
    t = g.where(beyond, g.op("Div", one, size), size)
    # arctan(t) / t in 2 t^2 - 1, for 0 <= t <= 1
    square = g.op("Mul", t, t)
    u = g.op("Sub", g.op("Mul", number(2), square), one)
    angle = g.op("Mul", t, _chebyshev(g, u, lambda s: _arctan_over(np.sqrt((1 + s) / 2)), 24))
    tail = g.op("Div", g.where(beyond, angle, g.op("Sub", number(math.pi / 2), angle)), number(math.pi))
    return g.op("Log", tail), tail


def _arctan_over(t: Floats) -> Floats:
    return np.asarray(np.arctan(t) / np.where(t > 0, t, 1))


def _chebyshev(g: Graph, u: str, function: Callable[[Any], Any], terms: int) -> str:
    """A smooth function of u in [-1, 1] by its Chebyshev series, summed after Clenshaw."""
    coefficients = np.polynomial.chebyshev.chebinterpolate(function, terms - 1)
    twice = g.op("Mul", number(2), u)
    ahead: Any = number(0)
    beyond: Any = number(0)
    for coefficient in coefficients[:0:-1]:
        ahead, beyond = g.op("Add", g.op("Sub", g.op("Mul", twice, ahead), beyond), number(coefficient)), ahead
    return g.op("Add", g.op("Sub", g.op("Mul", u, ahead), beyond), number(coefficients[0]))
