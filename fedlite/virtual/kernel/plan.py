"""What every call of the kernel begins with: the model's program, its parameters in one row, checked data."""

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlite.compress import quantize
from fedlite.errors import SettingsError
from fedlite.models.bridge import layout
from fedlite.tensors import check_like
from fedlite.types import Array, Params, is_statistic
from fedlite.virtual.kernel.graph import Block, blocks
from fedlite.virtual.kernel.layers import ALIGNMENT, Program, program

BITS = (8, 32)  # of weights, that the kernel computes with


@dataclass
class _Known:
    """What was found out about a model: its chain, or why there is none; programs and layouts by use."""

    chain: tuple[Block, ...] | str
    programs: dict[tuple[tuple[int, ...], int], Program]
    layouts: dict[int, Params]


_known: "weakref.WeakKeyDictionary[nn.Module, _Known]" = weakref.WeakKeyDictionary()


def reason(model: nn.Module) -> str | None:
    """None when the kernel knows the model's forward pass; otherwise what it does not know, in a few words.

    A model's layers are read once: it must not gain others later.
    """
    chain = _about(model).chain
    return chain if isinstance(chain, str) else None


def _about(model: nn.Module) -> _Known:
    if model not in _known:
        try:
            chain: tuple[Block, ...] | str = blocks(model)
        except SettingsError as error:
            chain = str(error.args[0])
        _known[model] = _Known(chain, {}, {})
    return _known[model]


def plan(model: nn.Module, params: Params, shape: tuple[int, ...], bits: int) -> Program:
    """The program for examples of `shape`; UpdateError unless `params` fit the model at `bits`, one of BITS."""
    if bits not in BITS:
        raise SettingsError(f"bits is {bits}; the compiled kernel computes at 8 or 32", remedy="use torch")
    known = _about(model)
    assert not isinstance(known.chain, str)
    if bits not in known.layouts:
        known.layouts[bits] = layout(quantize.at(model, bits))
    learned = {name: value for name, value in params.items() if bits == 8 or not is_statistic(name)}
    check_like(learned, known.layouts[bits], "params")
    if (shape, bits) not in known.programs:
        known.programs[shape, bits] = program(known.chain, shape, bits)
    return known.programs[shape, bits]


def row(of: Program, values: Params) -> Array:
    """The tensors in one row, convolutions' channels last."""
    laid: Array = _floats(1, of.stride)[0]
    laid[:] = 0
    for slot in of.slots:
        value = values[slot.name]
        laid[slot.start : slot.stop] = (value.transpose(0, 2, 3, 1) if value.ndim == 4 else value).ravel()
    return laid


def _floats(rows: int, columns: int) -> Array:
    """Uninitialised rows that begin on cache lines, with one to spare after the last."""
    block = np.empty(rows * columns + 2 * ALIGNMENT, np.float32)
    skip = -(address(block) // 4) % ALIGNMENT
    used: Array = block[skip : skip + rows * columns]
    return used.reshape(rows, columns)


def address(array: NDArray[Any]) -> int:
    """Of its first byte; the array must outlive its use."""
    return int(array.__array_interface__["data"][0])


def addresses(arrays: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
    """A pointer to each array."""
    return np.array([address(array) for array in arrays], np.uint64)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
