"""From the layers of a model to what the kernel runs for one shape of example: sizes, and where weights lie."""

import ctypes
import math
from dataclasses import dataclass
from typing import cast

from torch import nn

from fedlite.errors import DataError
from fedlite.virtual.kernel.graph import (
    FLATTEN,
    INPUT,
    MEAN,
    NORM,
    NOTHING,
    Block,
    is_wide,
)

ALIGNMENT = 16  # floats: tensors begin on a cache line
ABSENT = -1  # where a tensor is that a layer has not

_FIELDS = (
    *("kind", "activation", "source", "other", "channels", "height", "width", "outputs", "kernel", "stride"),
    *("padding", "pool", "groups", "weight", "bias", "range"),
)


class Layer(ctypes.Structure):
    """As in src/job.hpp."""

    _fields_ = (*((name, ctypes.c_int64) for name in _FIELDS), ("epsilon", ctypes.c_double))


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


def program(blocks: tuple[Block, ...], shape: tuple[int, ...], bits: int) -> Program:
    """The blocks for examples of `shape`. DataError if they take none such."""
    layers: list[Layer] = []
    slots: list[Slot] = []
    shapes, at = {INPUT: shape}, {INPUT: INPUT, NOTHING: NOTHING}  # of blocks: their results, their layers
    for index, block in enumerate(blocks):
        before = [shapes[value] for value in block.reads]
        layer, shapes[index] = _laid(block, before)
        if block.kind == FLATTEN and not _moves(before[0], is_wide(blocks)):
            at[index] = at[block.source]
            continue
        layer.source, layer.other = at[block.source], at[block.other]
        _place_tensors(slots, block, layer, bits)
        at[index] = len(layers)
        layers.append(layer)
    stride = _aligned(slots[-1].stop) + ALIGNMENT  # read past, never used
    return Program((Layer * len(layers))(*layers), tuple(slots), stride, shapes[len(blocks) - 1][0])


def _laid(block: Block, before: list[tuple[int, ...]]) -> tuple[Layer, tuple[int, ...]]:
    """The layer on inputs of these shapes, and the shape of its output."""
    shape = before[0]
    channels, height, width = shape if len(shape) == 3 else (math.prod(shape), 0, 0)
    sizes = {"channels": channels, "height": height, "width": width}
    layer = Layer(kind=block.kind, activation=block.activation, outputs=channels, kernel=1, pool=1, **sizes)
    layer.weight = layer.bias = layer.range = ABSENT
    after = _result(block, layer, shape)
    if after is None or any(each != shape for each in before):
        raise DataError(f"the model takes no examples that are {before} at {block.name or block.kind!r}")
    return layer, after


def _result(block: Block, layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the output, and the layer's geometry; None if it takes no such input."""
    match block.layer:
        case nn.Linear() as dense:
            layer.outputs = dense.out_features
            return (dense.out_features,) if shape == (dense.in_features,) else None
        case nn.Conv2d() as convolution:
            fits = len(shape) == 3 and shape[0] == convolution.in_channels
            return _convolved(block, layer, shape, convolution) if fits else None
        case nn.GroupNorm() as norm:
            layer.groups, layer.epsilon = norm.num_groups, norm.eps
            return shape if len(shape) == 3 and shape[0] == norm.num_channels else None
    if block.kind == FLATTEN:
        layer.outputs = math.prod(shape)
        return (layer.outputs,)
    if block.kind == MEAN:
        layer.kernel = int(block.keeps)  # the side of its result, 0 for a vector
        shape = (shape[0], 1, 1) if block.keeps else (shape[0],)
        return shape if layer.height else None
    return shape if len(shape) in (1, 3) else None


def _convolved(
    block: Block, layer: Layer, shape: tuple[int, ...], convolution: nn.Conv2d
) -> tuple[int, ...] | None:
    kernel, stride, padding = (
        cast(tuple[int, int], each)[0]
        for each in (convolution.kernel_size, convolution.stride, convolution.padding)
    )
    layer.outputs, layer.pool = convolution.out_channels, block.pool
    layer.kernel, layer.stride, layer.padding = kernel, stride, padding
    sides = tuple(((side + 2 * padding - kernel) // stride + 1) // block.pool for side in shape[1:])
    if min(sides) < 1 or min(shape[1:]) + 2 * padding < kernel:
        return None
    return (convolution.out_channels, *sides)


def _place_tensors(slots: list[Slot], block: Block, layer: Layer, bits: int) -> None:
    if block.layer is None:
        return
    for name, tensor in block.layer.state_dict().items():
        setattr(layer, name, _place(slots, f"{block.name}.{name}", tuple(tensor.shape)))
    if bits == 8 and block.kind != NORM:
        layer.range = _place(slots, f"{block.name}.act_range", (2,))


def _moves(shape: tuple[int, ...], wide: bool) -> bool:
    """Whether flattening moves numbers: images are kept channels last, and in wide networks padded."""
    return len(shape) == 3 and (wide or (shape[0] > 1 and math.prod(shape[1:]) > 1))


def _place(slots: list[Slot], name: str, shape: tuple[int, ...]) -> int:
    start = _aligned(slots[-1].stop) if slots else 0
    slots.append(Slot(name, shape, start))
    return start


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
