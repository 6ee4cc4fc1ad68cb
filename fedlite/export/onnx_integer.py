"""Integer layers in an ONNX graph: where rounding stands, so that the runtime computes between in whole numbers.

A rounded layer reads uint8 and gives float32; `Quantize` makes the uint8. While the graph is built both are nodes
of ours. Then each Quantize moves up, as long as the numbers stay the same bit for bit:

| over | because |
|---|---|
| Relu, Clip | the grid begins at 0 (and ends at or below the clip), where rounding clips too |
| MaxPool, Reshape, Transpose | rounding keeps order and knows no place; they then work on uint8 |
| Concat | it rounds each part alone |

Where it so reaches the layer before, the two are written as DequantizeLinear → Conv or Gemm → QuantizeLinear, the
form that ONNX Runtime fuses into QLinearConv and QGemm. A convolution whose result is read as float32 (by a norm, by
a shortcut) multiplies the same rounded numbers in float32: exactly representable, so the result differs only by the
order of sums.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.export.onnx_graph import Graph, Node

QUANTIZE, LAYER = "Quantize", "Layer"  # pseudo operators, gone once `settle` is done
_SAME = ("Reshape", "Transpose", "MaxPool")
Parts = dict[str, NDArray[Any]]  # of an integer layer, as fedlite.compress.integer names them


def layer(graph: Graph, x: str, name: str, parts: Parts, op: str, sizes: list[int], **attributes: Any) -> str:
    """Add a rounded layer, `op` Conv or Gemm, that reads the float32 value x; its float32 result, of these sizes."""
    scale, zero_point = parts["act_scale"].reshape(()), parts["act_zero_point"].reshape(())
    rounded = graph.add(QUANTIZE, x, scale=scale, zero_point=zero_point)
    held = {
        "parts": parts,
        "name": name,
        "kind": op,
        "sizes": sizes,
        "scale": scale,
        "zero_point": zero_point,
    }
    return graph.add(LAYER, rounded, attributes=attributes, **held)


def settle(graph: Graph, outputs: list[str]) -> None:
    """Move rounding up, then write the pseudo nodes as ONNX operators."""
    while _merge(graph) or _rise_all(graph, outputs):
        graph.sort()
        graph.prune(outputs)
    graph.prune(outputs)
    old, graph.nodes = graph.nodes, []
    for node in old:
        _write(graph, node, [each for each in old if node.outputs[0] in each.inputs], outputs)


def _rise_all(graph: Graph, outputs: list[str]) -> bool:
    """Move every rounding up by one node, where it can; whether any did."""
    moved = [_rise(graph, node, outputs) for node in _rounding(graph)]
    return any(moved)


def _rounding(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == QUANTIZE]


def _merge(graph: Graph) -> bool:
    """Two roundings of one value on one grid are one."""
    first: dict[tuple[str, float, int], Node] = {}
    doubles = []
    for node in _rounding(graph):
        key = (node.inputs[0], float(node.attributes["scale"]), int(node.attributes["zero_point"]))
        if first.setdefault(key, node) is not node:
            graph.replace(node.outputs[0], first[key].outputs[0])
            doubles.append(node)
    graph.nodes = [node for node in graph.nodes if node not in doubles]
    return bool(doubles)


def _rise(graph: Graph, rounding: Node, outputs: list[str]) -> bool:
    """Move one rounding over the node it reads from, if the numbers stay the same."""
    before = graph.maker(rounding.inputs[0])
    if before is None:
        return False
    if before.op in ("Relu", "Clip") and _clips(graph, rounding, before):
        rounding.inputs = [before.inputs[0]]
        return True
    alone = graph.readers(before.outputs[0]) == [rounding] and before.outputs[0] not in outputs
    if not alone or before.op not in (*_SAME, "Concat"):
        return False
    places = range(len(before.inputs)) if before.op == "Concat" else range(1)
    for place in places:
        before.inputs[place] = graph.add(QUANTIZE, before.inputs[place], **rounding.attributes)
    graph.nodes.remove(rounding)
    graph.replace(rounding.outputs[0], before.outputs[0])
    return True


def _clips(graph: Graph, rounding: Node, before: Node) -> bool:
    """Whether rounding alone gives what rounding after Relu or Clip does."""
    if rounding.attributes["zero_point"] != 0:
        return False
    if before.op == "Relu":
        return True
    low, high = (graph.constants.get(name) for name in before.inputs[1:3])
    if low is None or high is None or low != 0:
        return False
    return bool(np.round(np.float32(high) / rounding.attributes["scale"]) >= 255)


def _write(graph: Graph, node: Node, readers: list[Node], outputs: list[str]) -> None:
    if node.op == QUANTIZE:
        grid = _grid(graph, node)
        graph.nodes.append(Node("QuantizeLinear", [node.inputs[0], *grid], node.outputs))
    elif node.op == LAYER:
        fused = [each.op for each in readers] == [QUANTIZE] and node.outputs[0] not in outputs
        if not fused and _is_pointwise(node):
            _write_pointwise(graph, node)
        else:
            _write_layer(graph, node, fused or node.attributes["kind"] == "Gemm")
    else:
        graph.nodes.append(node)


def _write_layer(graph: Graph, node: Node, integer: bool) -> None:
    held, parts = node.attributes, node.attributes["parts"]
    x = graph.add("DequantizeLinear", node.inputs[0], *_grid(graph, node))
    weight = _values(graph, f"{held['name']}.weight", parts["weight"], parts["weight_scale"], integer)
    inputs = [x, weight]
    if "bias" in parts:
        scale = parts["weight_scale"] * parts["act_scale"]
        inputs.append(_values(graph, f"{held['name']}.bias", parts["bias"], scale, integer))
    graph.nodes.append(Node(held["kind"], inputs, node.outputs, held["attributes"]))


def _is_pointwise(node: Node) -> bool:
    """Whether a convolution is a dense layer at each place of an image."""
    weight, how = node.attributes["parts"]["weight"], node.attributes["attributes"]
    return (
        node.attributes["kind"] == "Conv"
        and weight.ndim == 4
        and weight.shape[2:] == (1, 1)
        and how["group"] == 1
        and set(how["strides"]) == {1}
        and not any(how["pads"])
    )


def _write_pointwise(graph: Graph, node: Node) -> None:
    """As a Gemm over places, which has whole numbers inside and a float32 result."""
    held = node.attributes
    outputs, inputs = held["parts"]["weight"].shape[:2]
    count, _, height, width = held["sizes"]
    turned = graph.add("Transpose", node.inputs[0], perm=[0, 2, 3, 1])
    rows = graph.add("Reshape", turned, graph.constant([-1, inputs], np.int64))
    parts = held["parts"] | {"weight": held["parts"]["weight"].reshape(outputs, inputs)}
    found = graph.fresh("gemm")
    dense = held | {"parts": parts, "kind": "Gemm", "attributes": {"transB": 1}}
    _write_layer(graph, Node(LAYER, [rows], [found], dense), True)
    image = graph.add("Reshape", found, graph.constant([count, height, width, outputs], np.int64))
    graph.nodes.append(Node("Transpose", [image], node.outputs, {"perm": [0, 3, 1, 2]}))


def _values(graph: Graph, name: str, steps: NDArray[Any], scale: NDArray[Any], integer: bool) -> str:
    """Whole numbers times their channel's scale.

    In the form the runtime fuses; or, for float32 arithmetic, in one that it computes once, when it loads.
    """
    held = graph.constant(steps, name=name)
    if integer:
        grid = [graph.constant(scale, name=f"{name}_scale")]
        if steps.dtype == np.int8:
            grid.append(graph.own(np.zeros(len(scale), np.int8), f"{name}_zero_point"))
        return graph.add("DequantizeLinear", held, *grid, axis=0)
    scale = scale.reshape(-1, *[1] * (steps.ndim - 1))
    return graph.add("Mul", graph.add("Cast", held, to=1), graph.constant(scale, name=f"{name}_scale"))


def _grid(graph: Graph, node: Node) -> list[str]:
    scale, zero_point = node.attributes["scale"], node.attributes["zero_point"]
    return [graph.constant(scale, name="scale_1"), graph.constant(zero_point, name="zero_point_1")]
