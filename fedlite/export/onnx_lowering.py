"""From a traced model to an ONNX graph: each ATen operator by its rule, integer layers by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.errors import SettingsError
from fedlite.export.onnx_graph import Graph
from fedlite.export.onnx_integer import Parts, layer


@dataclass(frozen=True)
class Weight:
    """A weight of an integer layer, known by name: only its own layer may read it."""

    layer: str
    part: str


class Free:
    """A size that depends on the number of examples."""


class Lowering:
    """What the rules work on: the ONNX graph so far, and the value of each traced node.

    A value is an ONNX name (str), a torch tensor known before any example is, a Weight, a number, Free, or a
    tuple of these.
    """

    def __init__(self, module: nn.Module, integers: Mapping[str, Parts], input_name: str) -> None:
        self.graph, self.module, self.integers, self.input = Graph(), module, integers, input_name
        self.values: dict[Any, Any] = {}

    def name(self, value: Any, dtype: Any = None) -> str:
        """The ONNX name of a value; a constant is written, a number as `dtype` (float32)."""
        if isinstance(value, str):
            return value
        if isinstance(value, Tensor):
            return self.graph.constant(value.detach().numpy())
        if isinstance(value, bool | int | float):
            return self.graph.constant(value, dtype or np.float32)
        raise SettingsError(f"a value of kind {type(value).__name__} cannot be exported")

    def shape(self, value: Any) -> list[int]:
        """Sizes of a traced node, −1 where it depends on the number of examples."""
        return [size if isinstance(size, int) else -1 for size in value.meta["val"].shape]

    def reshape(self, value: str, sizes: list[int]) -> str:
        """A value in another shape, of which one size may be −1."""
        if sizes.count(-1) > 1:
            raise SettingsError(f"a shape {sizes} with two free sizes cannot be exported")
        return self.graph.add("Reshape", value, self.ints(sizes))

    def ints(self, numbers: list[int]) -> str:
        """A constant list of whole numbers."""
        return self.graph.constant(numbers, np.int64)

    def sizes(self, wanted: list[int]) -> str:
        """A shape as a value, in which −1 becomes the number of examples."""
        if -1 not in wanted:
            return self.ints(wanted)
        count = self.graph.add("Shape", self.input, start=0, end=1)
        parts = [count if size == -1 else self.ints([size]) for size in wanted]
        return self.graph.add("Concat", *parts, axis=0)


Rule = Callable[..., Any]


def lower(
    module: nn.Module,
    program: Any,
    tensors: Mapping[str, NDArray[Any]],
    integers: Mapping[str, Parts],
    rules: Mapping[str, Rule],
) -> tuple[Graph, str, list[tuple[str, list[int]]]]:
    """(graph, its input, its outputs with their shapes) of a traced `module`.

    `tensors` are the float32 weights by name, `integers` the rounded layers. SettingsError, with its name, for an
    operator without a rule.
    """
    low = Lowering(module, integers, "x")
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    outputs: list[tuple[str, list[int]]] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            low.values[node] = _placeholder(low, node.name, held, signature, program, tensors)
        elif node.op == "output":
            outputs = [(_output(low, each), low.shape(each)) for each in node.args[0]]
        elif node.op == "call_function":
            low.values[node] = _call(low, node, rules)
    return low.graph, low.input, outputs


def _placeholder(
    low: Lowering, name: str, held: dict[str, str], signature: Any, program: Any, tensors: Mapping[str, Any]
) -> Any:
    if name in held:
        layer_name, _, part = held[name].rpartition(".")
        if layer_name in low.integers:
            return Weight(layer_name, part)
        if held[name] in tensors:
            return torch.from_numpy(np.array(tensors[held[name]]))
        return low.module.get_buffer(held[name])
    if name in signature.inputs_to_lifted_tensor_constants:
        return program.constants[signature.inputs_to_lifted_tensor_constants[name]]
    return low.input


def _output(low: Lowering, node: Any) -> str:
    """A value of the graph's own: neither its input nor a constant."""
    return low.graph.add("Identity", low.name(low.values[node]))


def _call(low: Lowering, node: Any, rules: Mapping[str, Rule]) -> Any:
    if not isinstance(node.target, torch._ops.OpOverload):
        return _plain(low, node)
    name = node.target._schema.name.split("::")[1]
    if name.startswith(("_assert", "sym_constrain")):
        return None
    arguments = [_value(low, each) for each in _arguments(node)]
    if name == "sym_size":
        size = low.shape(node.args[0])[node.args[1]]
        return Free() if size == -1 else size
    if _is_constant(arguments):
        return node.target(*arguments[: len(node.target._schema.arguments)])
    if name.rstrip("_") in ("linear", "conv1d", "conv2d") and isinstance(arguments[1], Weight):
        return _rounded(low, node, arguments)
    rule = rules.get(name) or rules.get(name.removesuffix("_"))
    if rule is None or any(isinstance(each, Weight) for each in arguments):
        raise SettingsError(
            f"operator {name!r} of {type(low.module).__name__} has no ONNX form here",
            remedy="choose another model or runtime; docs/export.md lists what is known",
        )
    made = rule(low, node, *arguments)
    if name.endswith("_") and not name.startswith("_"):  # in place: later readers of its input see the result
        low.values[node.args[0]] = made
    return made


def _plain(low: Lowering, node: Any) -> Any:
    """A Python operator: an element of a tuple, or arithmetic on sizes."""
    arguments = [_value(low, each) for each in node.args]
    if node.target.__name__ == "getitem":
        return arguments[0][arguments[1]]
    if any(isinstance(each, Free) for each in arguments):
        return Free()
    return node.target(*arguments)


def _arguments(node: Any) -> list[Any]:
    """All arguments in the order of the operator's schema, defaults filled in."""
    known = node.target._schema.arguments
    given = list(node.args)
    return given + [node.kwargs.get(each.name, each.default_value) for each in known[len(given) :]]


def _value(low: Lowering, argument: Any) -> Any:
    if isinstance(argument, torch.fx.Node):
        return low.values[argument]
    if isinstance(argument, list | tuple):
        return [_value(low, each) for each in argument]
    return argument


def _is_constant(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_constant(each) for each in value)
    return not isinstance(value, str | Weight | Free) or value in ("none", "tanh", "same", "valid")


def _rounded(low: Lowering, node: Any, arguments: list[Any]) -> str:
    """A Linear or convolution on its integers. A Linear's input is made a matrix, which is what Gemm takes."""
    weight = arguments[1]
    parts, sizes = low.integers[weight.layer], low.shape(node.args[0])
    x = low.name(arguments[0])
    if parts["weight"].ndim > 2:
        return layer(low.graph, x, weight.layer, parts, "Conv", low.shape(node), **convolution(arguments[3:]))
    if len(sizes) > 2:
        x = low.reshape(x, [-1, sizes[-1]])
    y = layer(low.graph, x, weight.layer, parts, "Gemm", [-1], transB=1)
    return low.reshape(y, low.shape(node)) if len(sizes) > 2 else y


def convolution(options: list[Any]) -> dict[str, Any]:
    """(stride, padding, dilation, groups) as ONNX's attributes."""
    stride, padding, dilation, groups = options
    if isinstance(padding, str):
        raise SettingsError(f"a convolution's padding {padding!r} cannot be exported; give numbers")
    return {
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": groups,
    }
