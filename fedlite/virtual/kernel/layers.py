"""From a torch module to the kernel's list of layers, or the reason why there is none.

Known are chains of Linear and Conv2d with ReLU and, after a convolution, non-overlapping max-pooling.
"""

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional as F

from fedlite.compress import quantize
from fedlite.errors import DataError, SettingsError

DENSE, CONVOLUTION, FLATTEN = 0, 1, 2
ALIGNMENT = 16  # floats: tensors begin on a cache line
LARGEST_POOL = 15  # a place in the window is one byte

_FIELDS = (
    *("kind", "relu", "channels", "height", "width", "outputs", "kernel", "stride", "padding", "pool"),
    *("weight", "bias", "range"),
)
_RELU = {F.relu, torch.relu, "relu", "relu_"}
_FLATTEN = {torch.flatten, "flatten"}


class Layer(ctypes.Structure):
    """As in src/job.hpp."""

    _fields_ = tuple((name, ctypes.c_int64) for name in _FIELDS)


@dataclass(frozen=True)
class Block:
    """A layer with weights and what follows it; or a flattening, which has no name."""

    name: str
    layer: nn.Linear | nn.Conv2d | None
    relu: bool = False
    pool: int = 1


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in a client's row of parameters."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """One past its last float."""
        return self.start + math.prod(self.shape)


@dataclass(frozen=True)
class Program:
    """What the kernel runs for one model and one shape of example; `stride` floats hold its parameters."""

    layers: "ctypes.Array[Layer]"
    slots: tuple[Slot, ...]
    stride: int
    classes: int


def blocks(model: nn.Module) -> tuple[Block, ...]:
    """The model's layers in order. SettingsError, with the first thing that is not known, where it is no chain."""
    float_model = quantize.at(model, 32)
    found: list[Block] = []
    for kind, name, layer in _chain(float_model):
        _append(found, kind, name, layer)
    if not found or not isinstance(found[-1].layer, nn.Linear) or found[-1].relu:
        raise SettingsError("the last layer is not Linear")
    names = {f"{block.name}.{name}" for block in found if block.layer for name in block.layer.state_dict()}
    if odd := set(float_model.state_dict()) - names:
        raise SettingsError(f"{min(odd)} has no part in the result")
    return tuple(found)


def _chain(model: nn.Module) -> Iterator[tuple[str, str, nn.Module | None]]:
    """(kind, name, layer) of each operation, which takes the one before it alone."""
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # whatever a forward pass does that a tracer cannot follow
        raise SettingsError(f"its forward pass is not a fixed chain of layers ({error})"[:200]) from error
    last: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder" and last is None:
            last = node
            continue
        if node.all_input_nodes != [last]:
            raise SettingsError(f"{node.name} is not in a chain")
        if node.op != "output":
            yield _operation(node, model)
        last = node


def _operation(node: fx.Node, model: nn.Module) -> tuple[str, str, nn.Module | None]:
    if node.op == "call_module":
        layer = model.get_submodule(cast(str, node.target))
        if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
            return "flatten", "", None
        return type(layer).__name__, cast(str, node.target), layer
    if node.target in _RELU and not node.args[1:]:
        return "ReLU", "", None
    if node.target in _FLATTEN and node.args[1:] == (1,) and not node.kwargs:
        return "flatten", "", None
    raise SettingsError(f"{node.name} is not known")


def _append(found: list[Block], kind: str, name: str, layer: nn.Module | None) -> None:
    last = found[-1] if found else None
    if kind in ("Linear", "Conv2d"):
        if any(block.name == name for block in found):
            raise SettingsError(f"{name} is used twice")
        if isinstance(layer, nn.Conv2d):
            _check_convolution(name, layer)
        found.append(Block(name, cast(Any, layer)))
    elif kind == "flatten":
        found.append(Block("", None))
    elif kind == "ReLU" and last and last.layer:
        found[-1] = Block(last.name, last.layer, True, last.pool)
    elif isinstance(layer, nn.MaxPool2d) and last and isinstance(last.layer, nn.Conv2d) and last.pool == 1:
        found[-1] = Block(last.name, last.layer, last.relu, _side(name, layer))
    else:
        raise SettingsError(f"{kind}{f' ({name})' if name else ''} is not known there")


def _check_convolution(name: str, layer: nn.Conv2d) -> None:
    square = all(
        isinstance(each, tuple) and len(set(each)) == 1
        for each in (layer.kernel_size, layer.stride, layer.padding)
    )
    if not square or layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        raise SettingsError(f"{name} is a convolution with groups, dilation, or sides that differ")


def _side(name: str, layer: nn.MaxPool2d) -> int:
    side = layer.kernel_size
    plain = layer.padding == 0 and layer.dilation == 1 and not layer.ceil_mode and not layer.return_indices
    if not isinstance(side, int) or layer.stride != side or not plain or not 1 <= side <= LARGEST_POOL:
        raise SettingsError(f"{name} pools over windows that overlap, are padded or not square")
    return side


def program(chain: tuple[Block, ...], shape: tuple[int, ...], bits: int) -> Program:
    """The chain for examples of `shape`. DataError if it takes none such."""
    layers: list[Layer] = []
    slots: list[Slot] = []
    for block in chain:
        layer, after = _laid(block, shape)
        if block.layer is not None:
            for name, tensor in block.layer.state_dict().items():
                setattr(layer, name, _place(slots, f"{block.name}.{name}", tuple(tensor.shape)))
            if bits == 8:
                layer.range = _place(slots, f"{block.name}.act_range", (2,))
        if block.layer is not None or _moves(shape):
            layers.append(layer)
        shape = after
    stride = _aligned(slots[-1].stop) + ALIGNMENT  # read past, never used
    return Program((Layer * len(layers))(*layers), tuple(slots), stride, shape[0])


def _laid(block: Block, shape: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]]:
    """The layer on an input of `shape`, and the shape of its output."""
    wrong = DataError(f"the model takes no examples that are {shape} at {block.name or 'flatten'!r}")
    common = {"relu": block.relu, "pool": block.pool, "weight": -1, "bias": -1, "range": -1}
    match block.layer:
        case nn.Linear() as dense:
            if shape != (dense.in_features,):
                raise wrong
            size = {"channels": shape[0], "height": 1, "width": 1, "outputs": dense.out_features, "kernel": 1}
            return Layer(kind=DENSE, **size, **common), (dense.out_features,)
        case nn.Conv2d() as convolution:
            if len(shape) != 3 or shape[0] != convolution.in_channels:
                raise wrong
            kernel, stride, padding = (
                cast(tuple[int, int], each)[0]
                for each in (convolution.kernel_size, convolution.stride, convolution.padding)
            )
            height, width = (
                ((side + 2 * padding - kernel) // stride + 1) // block.pool for side in shape[1:]
            )
            if min(height, width) < 1 or min(shape[1:]) + 2 * padding < kernel:
                raise wrong
            channels = {"channels": shape[0], "height": shape[1], "width": shape[2]}
            geometry = {"kernel": kernel, "stride": stride, "padding": padding}
            outputs = convolution.out_channels
            return Layer(kind=CONVOLUTION, outputs=outputs, **channels, **geometry, **common), (
                outputs,
                height,
                width,
            )
    channels = {"channels": shape[0], "height": math.prod(shape[1:]), "width": 1}
    return Layer(kind=FLATTEN, kernel=1, **channels, **common), (math.prod(shape),)


def _moves(shape: tuple[int, ...]) -> bool:
    """Whether flattening changes the order of numbers: images are kept channels last."""
    return len(shape) == 3 and shape[0] > 1 and math.prod(shape[1:]) > 1


def _place(slots: list[Slot], name: str, shape: tuple[int, ...]) -> int:
    start = _aligned(slots[-1].stop) if slots else 0
    slots.append(Slot(name, shape, start))
    return start


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
