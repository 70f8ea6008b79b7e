"""A small builder of ONNX graphs: operators by name, arrays as constants, each array stored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepgen.exporting.packages import needed

#: What every onnxruntime since 1.12 (2022) runs.
OPSET, IR_VERSION = 17, 8

Operand = str | NDArray[Any]


class Port(NamedTuple):
    """An input or output of a graph: its first axis, the events, is free."""

    name: str
    dtype: np.dtype[Any]
    width: int | None
    """Columns of a matrix (n, width); None for one number an event, (n,)."""


class Graph:
    """Nodes and constants, in the order they are made.

    An operand is the name of an input or of an earlier result, or an array, which becomes a constant of its own dtype.
    """

    def __init__(self) -> None:
        needed("onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def op(self, kind: str, *operands: Operand, **attributes: Any) -> str:
        """Add an operator of one result; returns the name of the result."""
        return self.ops(kind, *operands, outputs=1, **attributes)[0]

    def ops(self, kind: str, *operands: Operand, outputs: int, **attributes: Any) -> list[str]:
        """Add an operator of several results; returns their names."""
        from onnx import helper

        number = len(self.nodes)
        names = [f"{kind}_{number}" + (f"_{k}" if outputs > 1 else "") for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, [self._name(operand) for operand in operands], names, name=names[0], **attributes))
        return names

    def _name(self, operand: Operand) -> str:
        if isinstance(operand, str):
            return operand
        from onnx import numpy_helper

        array = np.asarray(operand, order="C")  # ascontiguousarray would make a vector of a number
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = f"constant_{len(self._names)}"
            self.constants.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    # -- what is used everywhere ---------------------------------------------------------------------------------------

    def cast(self, x: str, dtype: Any) -> str:
        """X in another dtype, rounded to the nearest."""
        from onnx import helper

        return self.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def split(self, x: str, widths: Sequence[int]) -> list[str]:
        """Columns of x (n, sum of widths) in groups of so many."""
        if len(widths) == 1:
            return [x]
        return self.ops("Split", x, np.asarray(widths, dtype=np.int64), outputs=len(widths), axis=1)

    def join(self, parts: Sequence[str]) -> str:
        """Columns of all parts beside each other."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=1)

    def first(self, x: str, columns: int) -> str:
        """The first columns of x (n, more)."""
        numbers = (np.array([number], dtype=np.int64) for number in (0, columns, 1))
        return self.op("Slice", x, *numbers)

    def total(self, x: str) -> str:
        """Sum over the columns of x (n, d), (n,)."""
        return self.op("ReduceSum", x, np.array([1], dtype=np.int64), keepdims=0)

    def flat(self, x: str) -> str:
        """X (n, 1) as (n,)."""
        return self.op("Reshape", x, np.array([-1], dtype=np.int64), allowzero=0)

    def where(self, condition: str, yes: Operand, no: Operand) -> str:
        """`yes` where the condition holds, else `no`."""
        return self.op("Where", condition, yes, no)

    def clip(self, x: str, low: Any, high: Any) -> str:
        """X held in [low, high], numbers or (1, d) arrays of its dtype. NaN stays, which the operator Clip does not promise."""
        x = self.where(self.op("Less", x, low), low, x)
        return self.where(self.op("Greater", x, high), high, x)

    # -- the whole -------------------------------------------------------------------------------------------------------

    def model(self, inputs: Sequence[Port], outputs: Mapping[str, Port], metadata: Mapping[str, str], description: str) -> Any:
        """The finished ``onnx.ModelProto``; `outputs` are results by name. Checked by onnx, shapes included."""
        import onnx
        from onnx import helper

        for result, port in outputs.items():  # a result is renamed by a copy, since it may be a constant or be used further
            self.nodes.append(helper.make_node("Identity", [result], [port.name], name=port.name))
        graph = helper.make_graph(
            self.nodes, "hepgen", [_info(port) for port in inputs], [_info(port) for port in outputs.values()], self.constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="hepgen",
            producer_version=metadata["hepgen"],
            doc_string=description,
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


def number(value: Any, dtype: Any = np.float64) -> NDArray[Any]:
    """A constant of no axes."""
    return np.asarray(value, dtype=dtype)


def _info(port: Port) -> Any:
    from onnx import helper

    shape: list[str | int | None] = ["n"] if port.width is None else ["n", port.width]
    return helper.make_tensor_value_info(port.name, helper.np_dtype_to_tensor_dtype(port.dtype), shape)
