"""From a torch module to the layers the kernel knows, each with what it reads; or the reason why there are none."""

import operator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional as F

from fedlite.compress import quantize
from fedlite.errors import SettingsError

DENSE, CONVOLUTION, FLATTEN, UNFOLDED, DEPTHWISE, NORM, MEAN, SUM = range(8)
NONE, RELU, RELU6 = range(3)
INPUT, NOTHING = -1, -2  # what a layer may read besides an earlier one
LARGEST_POOL = 15

_RELU = {F.relu, torch.relu, "relu", "relu_"}
_FLATTEN = {torch.flatten, "flatten"}
_SUM = {operator.add, operator.iadd, torch.add, "add", "add_"}
_MEAN = {torch.mean, "mean"}
_IN_PLACE = {operator.iadd, "relu_", "add_"}
_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


@dataclass(frozen=True)
class Block:
    """One layer of the kernel: with weights if it has a name, and what is done at once with its result."""

    kind: int
    source: int = INPUT
    other: int = NOTHING
    name: str = ""
    layer: nn.Module | None = None
    activation: int = NONE
    pool: int = 1
    keeps: bool = False  # a mean whose result is an image of one place

    @property
    def reads(self) -> tuple[int, ...]:
        """The values it reads: blocks by index, or INPUT."""
        return (self.source,) if self.other == NOTHING else (self.source, self.other)


def is_wide(blocks: tuple[Block, ...] | list[Block]) -> bool:
    """Whether the kernel pads channels to whole vectors, as it does for all but plain chains."""
    return any(block.kind >= UNFOLDED for block in blocks)


def blocks(model: nn.Module) -> tuple[Block, ...]:
    """The model's layers in order. SettingsError, with the first thing that is not known, where one is not."""
    float_model = quantize.at(model, 32)
    try:
        graph = fx.symbolic_trace(float_model).graph
    except Exception as error:  # whatever a forward pass does that a tracer cannot follow
        raise SettingsError(f"its forward pass is not a fixed graph of layers ({error})"[:200]) from error
    reader = _Reader(float_model)
    for node in graph.nodes:
        reader.read(node)
    found = reader.blocks
    if not found or found[-1].kind != DENSE or found[-1].activation != NONE:
        raise SettingsError("the last layer is not Linear")
    names = {f"{block.name}.{name}" for block in found if block.layer for name in block.layer.state_dict()}
    if odd := set(float_model.state_dict()) - names:
        raise SettingsError(f"{min(odd)} has no part in the result")
    return _dense_gradients(found)


def _dense_gradients(found: list[Block]) -> tuple[Block, ...]:
    """Convolutions without pooling are unfolded, unless the network is a plain chain, where ReLU thins gradients."""
    if not is_wide(found) and all(block.source == at - 1 for at, block in enumerate(found)):
        return tuple(found)
    return tuple(
        replace(block, kind=UNFOLDED) if block.kind == CONVOLUTION and block.pool == 1 else block
        for block in found
    )


class _Reader:
    """Turns a graph's nodes into blocks, one after another."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.blocks: list[Block] = []
        self._values: dict[fx.Node, int] = {}

    def read(self, node: fx.Node) -> None:
        """Take the next node. SettingsError if it does what no block does."""
        if node.op == "placeholder" and not self._values:
            self._values[node] = INPUT
        elif node.op == "output":
            if node.args[0] not in self._values:
                raise SettingsError("the result is not one tensor")
            if self._values[cast(fx.Node, node.args[0])] != len(self.blocks) - 1:
                raise SettingsError("the last layer is not the result")
        elif not node.users:
            raise SettingsError(f"{node.name} has no part in the result")
        elif node.op == "call_module":
            self._values[node] = self._module(node)
        else:
            self._values[node] = self._function(node)

    def _inputs(self, node: fx.Node, count: int = 1) -> list[int]:
        """The values a node reads: all its arguments that are tensors, which come first."""
        nodes = [each for each in node.args[:count] if isinstance(each, fx.Node)]
        if len(nodes) != count or set(node.all_input_nodes) != set(nodes):
            raise SettingsError(f"{node.name} takes other than {count} tensors first")
        return [self._values[each] for each in nodes]

    def _module(self, node: fx.Node) -> int:
        name = cast(str, node.target)
        layer = self.model.get_submodule(name)
        (source,) = self._inputs(node)
        if getattr(layer, "inplace", False):
            self._check_alone(node)
        match layer:
            case nn.Linear() | nn.Conv2d() | nn.GroupNorm() if layer.__class__.__module__.startswith(
                "torch.nn."
            ):
                if any(block.name == name for block in self.blocks):
                    raise SettingsError(f"{name} is used twice")
                return self._add(Block(_kind(name, layer), source, name=name, layer=layer))
            case nn.ReLU() | nn.ReLU6():
                return self._activate(node, source, RELU6 if isinstance(layer, nn.ReLU6) else RELU)
            case nn.MaxPool2d():
                return self._pool(node, source, _side(name, layer))
            case nn.Flatten() if (layer.start_dim, layer.end_dim) == (1, -1):
                return self._add(Block(FLATTEN, source))
            case nn.AdaptiveAvgPool2d() if layer.output_size in (1, (1, 1)):
                return self._add(Block(MEAN, source, keeps=True))
        if isinstance(layer, _SAME) and not getattr(layer, "p", 0):
            return source
        raise SettingsError(f"{type(layer).__name__} ({name}) is not known there")

    def _function(self, node: fx.Node) -> int:
        arguments = _arguments(node)
        if node.target in _IN_PLACE or arguments.get("inplace"):
            self._check_alone(node)
        rest = {key: value for key, value in arguments.items() if key != "inplace"}
        if node.target in _RELU and not rest:
            return self._activate(node, self._inputs(node)[0], RELU)
        if node.target is F.relu6 and not rest:
            return self._activate(node, self._inputs(node)[0], RELU6)
        if node.target in _FLATTEN and rest in ({0: 1}, {"start_dim": 1}, {0: 1, 1: -1}):
            return self._add(Block(FLATTEN, self._inputs(node)[0]))
        if node.target in _MEAN and _over_places(rest):
            return self._add(Block(MEAN, self._inputs(node)[0], keeps=_keeps(rest)))
        if node.target is F.adaptive_avg_pool2d and rest in ({0: 1}, {0: (1, 1)}):
            return self._add(Block(MEAN, self._inputs(node)[0], keeps=True))
        if node.target in _SUM and len(node.args) == 2 and not node.kwargs:
            source, other = self._inputs(node, 2)
            return self._add(Block(SUM, source, other))
        raise SettingsError(f"{node.name} is not known")

    def _add(self, block: Block) -> int:
        self.blocks.append(block)
        return len(self.blocks) - 1

    def _follows(self, node: fx.Node, source: int) -> bool:
        """Whether the node alone reads `source`, a block that has no activation yet."""
        alone = len(node.all_input_nodes[0].users) == 1
        values = [value for value in self._values.values() if value == source]
        return alone and len(values) == 1 and source != INPUT and self.blocks[source].activation == NONE

    def _activate(self, node: fx.Node, source: int, activation: int) -> int:
        if self._follows(node, source) and self.blocks[source].kind not in (FLATTEN, MEAN):
            self.blocks[source] = replace(self.blocks[source], activation=activation)
            return source
        return self._add(Block(SUM, source, activation=activation))

    def _pool(self, node: fx.Node, source: int, side: int) -> int:
        alone = len(node.all_input_nodes[0].users) == 1 and source != INPUT
        if not alone or self.blocks[source].kind != CONVOLUTION or self.blocks[source].pool != 1:
            raise SettingsError(f"MaxPool2d ({node.target}) is not known there")
        self.blocks[source] = replace(self.blocks[source], pool=side)
        return source

    def _check_alone(self, node: fx.Node) -> None:
        if any(len(each.users) > 1 or each.op == "placeholder" for each in node.all_input_nodes[:1]):
            raise SettingsError(f"{node.name} changes in place what others read")


def _arguments(node: fx.Node) -> dict[int | str, Any]:
    """What a function is given besides tensors: by position after the first argument, or by name."""
    return dict(enumerate(node.args[1:])) | cast(dict[int | str, Any], node.kwargs)


def _over_places(arguments: dict[int | str, Any]) -> bool:
    """Whether a mean is over the dimensions of an image's places, and no other type is asked for."""
    dims = arguments.get(0, arguments.get("dim"))
    known = set(arguments) <= {0, 1, "dim", "keepdim"}
    return known and isinstance(dims, (tuple, list)) and sorted(dims, key=str) in ([2, 3], [-1, -2])


def _keeps(arguments: dict[int | str, Any]) -> bool:
    return bool(arguments.get(1, arguments.get("keepdim", False)))


def _kind(name: str, layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d):
        square = all(
            isinstance(each, tuple) and len(set(each)) == 1
            for each in (layer.kernel_size, layer.stride, layer.padding)
        )
        depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
        plain = layer.groups == 1 or depthwise
        if not square or not plain or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
            raise SettingsError(
                f"{name} is a convolution with dilation, sides that differ, or groups of several channels"
            )
        return DEPTHWISE if depthwise else CONVOLUTION
    return NORM if isinstance(layer, nn.GroupNorm) else DENSE


def _side(name: str, layer: nn.MaxPool2d) -> int:
    side = layer.kernel_size
    plain = layer.padding == 0 and layer.dilation == 1 and not layer.ceil_mode and not layer.return_indices
    if not isinstance(side, int) or layer.stride != side or not plain or not 1 <= side <= LARGEST_POOL:
        raise SettingsError(f"{name} pools over windows that overlap, are padded or not square")
    return side
