"""A network as the steps that int8 training walks, forward and back; or the reason why there are none.

A step is a layer with int8 weights and the tail of small operations on its result (norm, activation, pooling,
flattening), a sum of earlier values with such a tail, or a tail alone. Everything is per example, so that a step
can take a batch a few examples at a time.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from fedlite.compress import quantize
from fedlite.errors import SettingsError
from fedlite.int8_training.reading import Operation, is_sum, read_function, read_module
from fedlite.int8_training.saved import PORTION
from fedlite.models.registry import ModelSpec, skeleton

INPUT = -1
Rounding = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(frozen=True, eq=False)
class Step:
    """One step. Values are numbered as the steps that make them; INPUT is the batch."""

    sources: tuple[int, ...]
    name: str = ""  # of the layer; empty for a sum and for a tail alone
    layer: Rounding | None = None
    tail: tuple[Operation, ...] = ()
    before: tuple[int, ...] = ()  # shape of the layer's result for one example, before the tail
    result: tuple[int, ...] = ()  # and after it

    @property
    def small(self) -> tuple[str, ...]:
        """Names of the small tensors that stay float32: the layer's bias, the tail's weights."""
        bias = (f"{self.name}.bias",) if self.layer is not None and self.layer.bias is not None else ()
        return bias + tuple(name for each in self.tail for name in each.weights)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all that can learn in this step."""
        return ((f"{self.name}.weight",) if self.layer is not None else ()) + self.small

    @property
    def bends(self) -> bool:
        """Whether the tail's gradient depends on the layer's result."""
        return any(not each.is_linear for each in self.tail)


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps in order; the last one's value is the logits."""

    steps: tuple[Step, ...]
    net: nn.Module  # the layers at 8 bits on the meta device: names and shapes, no memory
    input_shape: tuple[int, ...]

    @property
    def classes(self) -> int:
        """How many logits there are."""
        return self.steps[-1].result[-1]

    @property
    def portion(self) -> int:
        """Numbers taken at a time, a layer's result before and after the tail: half an example of the largest."""
        return max(PORTION, *(math.prod(step.before) for step in self.steps))

    def size(self, value: int) -> int:
        """Numbers in a value, of one example."""
        return math.prod(self.input_shape if value == INPUT else self.steps[value].result)


def read_plan(model: nn.Module | ModelSpec, input_shape: tuple[int, ...]) -> Plan:
    """The steps of a model for examples of `input_shape`; of the model's values nothing is copied.

    SettingsError, with the first thing that is not known, for a model that int8 training cannot take.
    """
    net = skeleton(model) if isinstance(model, ModelSpec) else _hollow(model)
    net = quantize.at(net, 32)
    try:
        graph = fx.symbolic_trace(net).graph
    except Exception as error:  # whatever a forward pass does that a tracer cannot follow
        raise _unknown(f"its forward pass is not a fixed graph of layers ({error})"[:200]) from error
    reader = _Reader(net)
    for node in graph.nodes:
        reader.read(node)
    steps = reader.finished()
    known = {name for step in steps for name in step.tensors}
    if odd := set(net.state_dict()) - known:
        raise _unknown(f"{min(odd)} has no part in the result")
    return Plan(_measured(steps, input_shape), quantize.at(net, 8), tuple(input_shape))


def _hollow(model: nn.Module) -> nn.Module:
    """A copy on the meta device; no values are copied on the way."""
    memo: dict[int, Any] = {
        id(each): nn.Parameter(torch.empty_like(each, device="meta")) for each in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _unknown(what: str) -> SettingsError:
    return SettingsError(
        f"int8 training cannot take this model: {what}",
        remedy="train it with bits 8 or 32 without int8_training; docs/int8_training.md lists what it takes",
    )


class _Reader:
    """Turns a graph's nodes into steps, one after another."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.steps: list[Step] = []
        self._values: dict[fx.Node, int] = {}
        self._result: int | None = None

    def finished(self) -> tuple[Step, ...]:
        """All steps, if the last one's value is the result."""
        if not self.steps or self._result != len(self.steps) - 1 or self.steps[-1].layer is None:
            raise _unknown("the last layer is not the result")
        return tuple(self.steps)

    def read(self, node: fx.Node) -> None:
        """Take the next node."""
        if node.op == "placeholder" and not self._values:
            self._values[node] = INPUT
        elif node.op == "output":
            self._result = self._values.get(cast(fx.Node, node.args[0]))
        elif node.op == "call_module":
            self._module(node)
        elif node.op in ("call_function", "call_method") and is_sum(node):
            self._add(node, Step(tuple(self._values[each] for each in self._inputs(node, 2))))
        elif node.op in ("call_function", "call_method") and (operation := read_function(node)):
            self._follow(node, operation)
        else:
            raise _unknown(f"{node.name} ({node.target}) is not known")

    def _inputs(self, node: fx.Node, count: int) -> list[fx.Node]:
        nodes = [each for each in node.args[:count] if isinstance(each, fx.Node)]
        if len(nodes) != count or set(node.all_input_nodes) != set(nodes):
            raise _unknown(f"{node.name} takes other than {count} tensors first")
        return nodes

    def _module(self, node: fx.Node) -> None:
        name = str(node.target)
        layer = self.net.get_submodule(name)
        if type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d):
            if any(step.name == name for step in self.steps):
                raise _unknown(f"{name} is used twice")
            if getattr(layer, "padding_mode", "zeros") != "zeros" or isinstance(
                getattr(layer, "padding", 0), str
            ):
                raise _unknown(f"{name} pads with other than a number of zeros")
            (source,) = self._inputs(node, 1)
            self._add(node, Step((self._values[source],), name, cast(Rounding, layer)))
        elif operation := read_module(name, layer):
            self._follow(node, operation)
        else:
            raise _unknown(f"{type(layer).__name__} ({name}) is not known")

    def _add(self, node: fx.Node, step: Step) -> None:
        self.steps.append(step)
        self._values[node] = len(self.steps) - 1

    def _follow(self, node: fx.Node, operation: Operation) -> None:
        """The node's operation joins the tail of the step it reads, or begins a step of its own."""
        (source,) = self._inputs(node, 1)
        value = self._values[source]
        if value == INPUT or len(source.users) > 1:
            value = len(self.steps)
            self.steps.append(Step((self._values[source],)))
        step = self.steps[value]
        if step.layer is None and operation.mask is None and not operation.is_linear:
            raise _unknown(f"{node.name} does not follow a layer")
        self.steps[value] = replace(step, tail=(*step.tail, operation))
        self._values[node] = value


def _measured(steps: tuple[Step, ...], input_shape: tuple[int, ...]) -> tuple[Step, ...]:
    """The steps with the sizes of what they make."""
    batch = 2
    values: dict[int, Tensor] = {INPUT: torch.empty((batch, *input_shape), device="meta")}
    found = []
    for at, step in enumerate(steps):
        try:
            sources = [values[each] for each in step.sources]
            before = step.layer(*sources) if step.layer is not None else join(sources)
            after = run_tail(step, before, None)
        except (RuntimeError, ValueError, IndexError) as error:
            raise _unknown(
                f"{step.name or 'a step'} takes no {tuple(input_shape)} ({error})"[:200]
            ) from error
        if after.shape[:1] != (batch,) or (isinstance(step.layer, nn.Linear) and before.ndim != 2):
            raise _unknown(f"{step.name or 'a step'} is not applied to each example alone")
        values[at] = after
        found.append(replace(step, before=tuple(before.shape[1:]), result=tuple(after.shape[1:])))
    return tuple(found)


def join(sources: list[Tensor]) -> Tensor:
    """The sum, or the only one."""
    return sources[0] if len(sources) == 1 else sources[0] + sources[1]


def run_tail(step: Step, value: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
    """The tail's result; without weights, on the meta device, only its shape."""
    for each in step.tail:
        own = {
            name: torch.empty(each.channels, device="meta") if weights is None else weights[name]
            for name in each.weights
        }
        value = each.apply(value, own)
    return value
