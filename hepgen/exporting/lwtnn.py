"""Ratio networks as an LWTNN node of correctionlib: the members of an ensemble side by side in one network, and a formula behind it.

The node holds dense layers, an offset and a scale for every input, and a formula of all outputs, in float64. The members have their first
layer in common inputs and are blocks on the diagonal of the others, so that the formula sees the output of each, as ``x[0]``, ``x[1]``...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepgen.errors import UsageError
from hepgen.estimators.ratio_checks import Calibrator
from hepgen.estimators.reweighter import MOST_LOG_RATIO, Reweighter
from hepgen.events.scalings import Angle, Chain, Identity, MaxAbs, Scaling, Standard
from hepgen.networks.frozen import FrozenMLP

Node = dict[str, Any]

_ACTIVATIONS: dict[str, Any] = {"relu": "rectified", "tanh": "tanh", "elu": {"function": "elu", "alpha": 1.0}}
_BOUND = f"exp({MOST_LOG_RATIO:g})"
#: The ratio of densities as a formula of the output z of a network, held as `Reweighter` holds it.
_RATIOS = {
    "sigmoid": f"exp(max(min(z,{MOST_LOG_RATIO:g}),-{MOST_LOG_RATIO:g}))",
    "exp": f"exp(max(min(z,{MOST_LOG_RATIO:g}),-{MOST_LOG_RATIO:g}))",
    "arctan": "(atan2(1,-z)/atan2(1,z))",
    "square": f"max(min(z*z,{_BOUND}),1/{_BOUND})",
    "relu": f"max(min(z,{_BOUND}),1/{_BOUND})",
}


class Formula:
    """A formula of the outputs of a node, with its parameters."""

    def __init__(self, link: str, members: int) -> None:
        if link not in _RATIOS:
            raise UsageError(
                f"the link {link!r} has no formula in correctionlib that is right in the tails: export to onnx, or fit with another link"
            )
        self.parameters: list[float] = []
        self.ratios = [_RATIOS[link].replace("z", f"x[{e}]") for e in range(members)]
        self.mean = f"(({'+'.join(self.ratios)})/{members})"

    def number(self, value: float) -> str:
        """A parameter: the grammar has no exponents with a sign."""
        if value not in self.parameters:
            self.parameters.append(value)
        return f"[{self.parameters.index(value)}]"

    def weight(self, calibrator: Calibrator | None, clip: float | None, log_scale: float) -> str:
        """The nominal weight; see `Reweighter`."""
        ratio = self.mean
        if calibrator is not None:
            log = self._calibrated(calibrator)
            ratio = f"exp({log if clip is None else f'min({log},{self.number(math.log(clip))})'})"
        elif clip is not None:
            ratio = f"min({ratio},{self.number(clip)})"
        return f"{self.number(math.exp(log_scale))}*{ratio}"

    def _calibrated(self, calibrator: Calibrator) -> str:
        """The broken line as a sum of ramps, each a change of slope."""
        x, y = calibrator.x, calibrator.y
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise UsageError("the calibration has a point at infinity, which correctionlib cannot hold: export to onnx")
        changes = np.diff(np.concatenate([[0.0], np.diff(y) / np.diff(x), [0.0]]))
        log = f"log({self.mean})"
        ramps = [f"{self.number(s)}*max({log}-{self.number(at)},0)" for s, at in zip(changes.tolist(), x.tolist(), strict=True) if s]
        return "+".join([self.number(float(y[0])), *ramps])

    def shifted(self, weight: str, sign: str) -> str:
        """The weight and once its uncertainty up ("+") or down ("-"), by the sample standard deviation of the members."""
        members, first = len(self.ratios), self.ratios[0]
        # from the distances to the first member, which lose no digits where the members agree
        distances = [f"({ratio}-{first})" for ratio in self.ratios[1:]]
        total, squares = "+".join(distances), "+".join(f"{distance}^2" for distance in distances)
        variance = f"max(({squares})-({total})^2/{members},0)/{members - 1}"
        return f"{weight}*max(1{sign}sqrt({variance})/{self.mean},0)"


def weight_node(model: Reweighter, variation: str = "nominal") -> Node:
    """The weight, "nominal", "up" or "down", from all members."""
    formula = Formula(model.link, len(model.networks))
    text = formula.weight(model.calibrator, model.clip, model.log_scale)
    if variation != "nominal":
        text = formula.shifted(text, "+" if variation == "up" else "-")
    return _node(model, model.networks, text, formula.parameters)


def share_node(model: Reweighter, member: int) -> Node:
    """What one member adds to the mean: its weight over the number of members."""
    formula = Formula(model.link, 1)
    text = f"{formula.number(math.exp(model.log_scale) / len(model.networks))}*{formula.mean}"
    return _node(model, model.networks[member : member + 1], text, formula.parameters)


def _node(model: Reweighter, networks: Sequence[FrozenMLP], expression: str, parameters: list[float]) -> Node:
    outputs = [f"z{e}" for e in range(len(networks))]
    inputs = []
    for name, scaling in zip(model.features.names, model.scaler.scalings, strict=True):
        _, offset, factor = affine(scaling, name)
        inputs.append({"name": name, "offset": offset, "scale": factor})
    return {
        "nodetype": "lwtnn",
        "opaque": {"inputs": inputs, "layers": _layers(networks), "outputs": outputs},
        "finalizer": {
            "nodetype": "formula",
            "expression": expression,
            "parser": "TFormula",
            "variables": outputs,
            "parameters": parameters,
        },
    }


def _layers(networks: Sequence[FrozenMLP]) -> list[Node]:
    if any(network.shortcuts or network.output != "linear" for network in networks):
        raise UsageError("correctionlib's networks have neither shortcuts nor an output function: export the model to ONNX")
    depth = len(networks[0].layers)
    layers = []
    for k in range(depth):
        weights, biases = zip(*(network.layers[k] for network in networks), strict=True)
        weight = np.concatenate(weights) if k == 0 else _diagonal(weights)
        activation = "linear" if k == depth - 1 else _ACTIVATIONS[networks[0].activation]
        bias = np.concatenate(biases)
        layers.append({"architecture": "dense", "weights": _numbers(weight), "bias": _numbers(bias), "activation": activation})
    return layers


def _diagonal(blocks: Sequence[NDArray[Any]]) -> NDArray[Any]:
    rows, columns = (sum(block.shape[axis] for block in blocks) for axis in (0, 1))
    whole = np.zeros((rows, columns), dtype=blocks[0].dtype)
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole


def _numbers(array: NDArray[Any]) -> list[float]:
    """The numbers in order, with the nine digits that tell float32 numbers apart, all digits of float64; zeros short."""
    digits = 9 if array.dtype == np.float32 else 17
    return [float(f"{value:.{digits}g}") if value else 0 for value in array.ravel().tolist()]


# --- columns ---------------------------------------------------------------------------------------------------------------------


def affine(scaling: Scaling, name: str) -> tuple[bool, float, float]:
    """A scaling as (wrap the angle first?, offset, factor): y = (x + offset) factor.

    Raises
    ------
    UsageError
        It is no such map.
    """
    steps = _flat(scaling)
    angle = bool(steps) and isinstance(steps[0], Angle)
    offset, factor = 0.0, 1.0
    for step in steps[1:] if angle else steps:
        match step:
            case Standard():
                offset, factor = offset - float(step.mean or 0.0) / factor, factor / float(step.std or 1.0)
            case MaxAbs():
                factor /= float(step.scale or 1.0)
            case Identity():
                pass
            case _:
                raise UsageError(
                    f"the scaling {step.kind} of column '{name}' does not fit into correctionlib, which has an offset and a factor: "
                    "fit with Standard, MaxAbs or Identity, after Angle for an angle, or export to onnx"
                )
    return angle, offset, factor


def _flat(scaling: Scaling) -> list[Scaling]:
    if isinstance(scaling, Chain):
        return [step for one in scaling.scalings for step in _flat(one)]
    return [scaling]


def wrapped(name: str, content: Node) -> Node:
    """`content` with the angle `name` wrapped into [-pi, pi) before it."""
    turned = "atan2(sin(x),cos(x))"
    rule = {
        "nodetype": "formula",
        "expression": f"{turned}-[0]*({turned}>=[1])",
        "parser": "TFormula",
        "variables": [name],
        "parameters": [2 * math.pi, math.pi],
    }
    return {"nodetype": "transform", "input": name, "rule": rule, "content": content}
