"""A small ONNX graph that can still be changed: nodes and constants by name, then the file's bytes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET, IR_VERSION = 21, 10  # ONNX 1.16; ONNX Runtime 1.18 and later read it


@dataclass(eq=False)
class Node:
    """One operator; `outputs` are names nobody else makes."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


class Graph:
    """Nodes in an order in which they can run, and the constants they read."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._names: Counter[str] = Counter()
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def fresh(self, base: str) -> str:
        """A name that nobody has yet."""
        self._names[base] += 1
        return f"{base}_{self._names[base]}"

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; its name."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Append a node; the names of its outputs."""
        node = Node(op, list(inputs), [self.fresh(op.lower()) for _ in range(outputs)], attributes)
        self.nodes.append(node)
        return node.outputs

    def constant(self, value: Any, dtype: Any = None, name: str = "constant") -> str:
        """The name of a constant; equal ones are one."""
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh(name) if name == "constant" or name in self.constants else name
            self.constants[self._known[key]] = array
        return self._known[key]

    def own(self, value: NDArray[Any], name: str) -> str:
        """The name of a constant that no one else shares: ONNX Runtime rewrites some of them, each once."""
        name = self.fresh(name)
        self.constants[name] = value
        return name

    def maker(self, name: str) -> Node | None:
        """The node that makes a value; None for an input or a constant."""
        return next((node for node in self.nodes if name in node.outputs), None)

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a value."""
        return [node for node in self.nodes if name in node.inputs]

    def replace(self, old: str, new: str) -> None:
        """Let everyone who reads `old` read `new`."""
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]

    def sort(self) -> None:
        """Put every node after those it reads from; else keep their order."""
        made_by = {name: node for node in self.nodes for name in node.outputs}
        done: dict[int, Node] = {}

        def visit(node: Node) -> None:
            if id(node) not in done:
                for name in node.inputs:
                    if name in made_by:
                        visit(made_by[name])
                done[id(node)] = node

        for node in self.nodes:
            visit(node)
        self.nodes = list(done.values())

    def prune(self, outputs: Sequence[str]) -> None:
        """Drop what no output needs."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                needed |= set(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}


def to_bytes(
    graph: Graph,
    inputs: tuple[str, Any, Sequence[int | str]],
    outputs: Sequence[tuple[str, Sequence[int | str]]],
    notes: dict[str, str],
) -> bytes:
    """The ONNX file; the same graph is the same bytes.

    `inputs` and `outputs` are (name, dtype, shape) and (name, shape), float32; a word in a shape is a free
    dimension. `notes` are the file's metadata.
    """
    from onnx import helper, numpy_helper

    def value(name: str, dtype: Any, shape: Sequence[int | str]) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    nodes = [
        helper.make_node(n.op, n.inputs, n.outputs, name=n.outputs[0], **n.attributes) for n in graph.nodes
    ]
    made = helper.make_graph(
        nodes,
        "fedlite",
        [value(*inputs)],
        [value(name, np.float32, shape) for name, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fedlite")
    helper.set_model_props(model, notes)
    return bytes(model.SerializeToString(deterministic=True))
